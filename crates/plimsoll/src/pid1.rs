//! PID 1: it does as little as can be, so that nothing can stop it. A child
//! does the boot; PID 1 waits for it, with a deadline, and goes on.

use core::ffi::CStr;
use core::mem::MaybeUninit;

use heapless::{String, Vec};
use plimsoll_core::board::{self, BOARD_BYTES_MAX, Faults, PAYLOADS_MAX};
use plimsoll_core::boot::{self, STAYS};
use plimsoll_core::record::{JSON_BYTES_MAX, Outcome, Record, cut};
use plimsoll_core::root::{self, CMDLINE_BYTES, ROOT};
use plimsoll_core::{PATH_MAX, apply, systemd};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fd::{AsRawFd as _, OwnedFd};
use rustix::fs::{CWD, OFlags};
use rustix::pipe::PipeFlags;
use rustix::process::WaitOptions;

use crate::linux::{CPath, Linux, c_bytes, c_path, open};
use crate::start::Start;
use crate::sys::{self, Fork};
use crate::{init, supervisor, switch, units};

/// Times a boot that died is tried again: the second time for a passing
/// reason, the third without the board file, in case that is what kills it.
const ATTEMPTS: u32 = 3;
/// How long PID 1 waits for one attempt, in microseconds: 60 s, twice the
/// longest wait for a device that a board file may ask for.
const BOOT_DEADLINE_US: u64 = 60_000_000;
/// How much longer where the root file system is waited for, in microseconds:
/// `rootdelay=` and `rootwait=`.
const ROOT_DEADLINE_US: u64 = 2 * root::SECS_MAX * 1_000_000;
/// The next init where nobody could say which one.
const DEFAULT_INIT: &CStr = c"/sbin/init";
/// argv[0] of a PID 1 that was brought back after a fault.
const RESUMED: &CStr = c"plimsoll-resumed";

/// What the child says: the next init's path (empty: none) and a newline as
/// soon as the board file is read; this byte when the boot is done. No path has
/// a control character.
const BOOTED: u8 = 1;
/// This byte when the supervisor can be asked.
pub(crate) const READY: u8 = 2;
/// This byte after the next init's path, where the root is to be mounted.
const AWAITS_ROOT: u8 = 3;
/// This byte when the root is mounted, before the child goes into it.
const HAS_ROOT: u8 = 4;

/// PID 1's whole life; where the next init could be started, it is not
/// plimsoll's any more.
pub(crate) fn run(start: Start) -> ! {
    if start.arg(0) == RESUMED.to_str().ok() {
        init::run(start, true);
    }
    let mut heard = Heard { next: NextInit::Unknown, awaits_root: false, has_root: false };
    for attempt in 0..ATTEMPTS {
        match try_boot(When::Attempt(attempt), &mut heard) {
            Tried::Done => break,
            Tried::Late => {
                error!("the boot is not done after its deadline: going on without it");
                break;
            }
            Tried::Died => error!("the boot died (attempt {})", u64::from(attempt + 1)),
        }
        if heard.has_root {
            break;
        }
    }
    if heard.has_root {
        if let Err(errno) = switch::follow() {
            error!("root: cannot become /: {errno}");
        }
    } else if heard.awaits_root {
        // The initramfs has no init of the host's.
        error!("handoff: none, the root is not mounted");
        init::run(start, false);
    }
    let path: &CStr = match &heard.next {
        NextInit::Unknown => DEFAULT_INIT,
        NextInit::Path(path) => path,
        NextInit::Stay => init::run(start, false),
    };
    let name = path.to_str().unwrap_or("?");
    if is_self(path) {
        error!("handoff {name}: failed, it is plimsoll itself");
    } else {
        info!("handoff {name}");
        let errno = sys::exec_init(start, path);
        error!("handoff {name}: failed, error {}", i64::from(errno.into_raw()));
    }
    init::run(start, false)
}

/// The boot on a machine that is up, under another init; whether its supervisor
/// can be asked.
pub(crate) fn run_late() -> bool {
    let mut heard = Heard { next: NextInit::Unknown, awaits_root: false, has_root: false };
    matches!(try_boot(When::Late, &mut heard), Tried::Done)
}

/// A PID 1 that met a bug of its own begins anew, as one that stays. Its
/// children are still its own: their PIDs go along as arguments.
pub(crate) fn recover() -> ! {
    let mut texts: Vec<CPath, PAYLOADS_MAX> = Vec::new();
    for pid in init::pids() {
        let text: String<16> = cut(format_args!("{}", i64::from(pid)));
        let _ = texts.push(c_path(&text).unwrap_or_default());
    }
    let mut words: Vec<&CStr, { PAYLOADS_MAX + 1 }> = Vec::new();
    let _ = words.push(RESUMED);
    for text in &texts {
        let _ = words.push(text);
    }
    sys::exec_self(&words);
    // Nothing is left but to be there and reap: the kernel must have a PID 1.
    loop {
        let _ = rustix::process::wait(WaitOptions::empty());
        sys::sleep_us(1_000_000);
    }
}

#[expect(clippy::large_enum_variant, reason = "there is no allocator to box it with")]
enum NextInit {
    Unknown,
    Path(CPath),
    Stay,
}

/// What the child said so far.
struct Heard {
    next: NextInit,
    awaits_root: bool,
    has_root: bool,
}

/// What the boot is for.
#[derive(Clone, Copy)]
enum When {
    /// PID 1's, counted from 0.
    Attempt(u32),
    /// Another init runs already.
    Late,
}

enum Tried {
    Done,
    Died,
    Late,
}

fn try_boot(when: When, heard: &mut Heard) -> Tried {
    let Ok((reader, writer)) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC) else {
        return Tried::Died;
    };
    match sys::fork() {
        Ok(Fork::Child) => {
            drop(reader);
            boot_child(when, writer)
        }
        Ok(Fork::Parent(child)) => {
            drop(writer);
            let tried = listen(&reader, heard);
            // If it has ended; what ends later is the next init's to reap.
            let _ = rustix::process::waitpid(Some(child), WaitOptions::NOHANG);
            tried
        }
        Err(_) => Tried::Died,
    }
}

/// Hears what the child says until it is done, dead, or late.
fn listen(reader: &OwnedFd, heard: &mut Heard) -> Tried {
    let mut deadline = sys::now_us() + BOOT_DEADLINE_US;
    let mut said: Vec<u8, { PATH_MAX + 2 }> = Vec::new();
    let mut booted = false;
    loop {
        let left = deadline.saturating_sub(sys::now_us());
        let timeout = timespec(left);
        let mut fds = [PollFd::new(reader, PollFlags::IN)];
        match rustix::event::poll(&mut fds, Some(&timeout)) {
            Ok(0) if left == 0 => return Tried::Late,
            Ok(0) | Err(_) => continue,
            Ok(_) => {}
        }
        let mut byte = [0];
        match rustix::io::read(reader, &mut byte) {
            Ok(0) if booted => {
                error!("the supervisor died at its start");
                return Tried::Done;
            }
            Ok(0) => return Tried::Died,
            Ok(_) if byte == [BOOTED] => booted = true,
            Ok(_) if byte == [READY] => return Tried::Done,
            Ok(_) if byte == [AWAITS_ROOT] => {
                heard.awaits_root = true;
                deadline = deadline.saturating_add(ROOT_DEADLINE_US);
            }
            Ok(_) if byte == [HAS_ROOT] => heard.has_root = true,
            // An earlier attempt that read the board file knew it better.
            Ok(_) if byte == *b"\n" && !matches!(heard.next, NextInit::Unknown) => {}
            Ok(_) if byte == *b"\n" => {
                heard.next = match c_bytes(&said) {
                    Ok(path) if !said.is_empty() => NextInit::Path(path),
                    _ => NextInit::Stay,
                };
            }
            Ok(_) => {
                let [byte] = byte;
                // A path as long as this was refused before it was sent.
                let _ = said.push(byte);
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return Tried::Died,
        }
    }
}

/// Microseconds as the kernel takes them.
pub(crate) fn timespec(us: u64) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(us / 1_000_000).unwrap_or(i64::MAX),
        tv_nsec: i64::try_from(us % 1_000_000 * 1000).unwrap_or(0),
    }
}

/// Whether the next init is this very program, or one of its name: it would
/// start itself for ever.
fn is_self(path: &CStr) -> bool {
    match (rustix::fs::stat(path), rustix::fs::stat(c"/proc/self/exe")) {
        (Ok(one), Ok(other)) if (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino) => true,
        _ => is_named_plimsoll(path),
    }
}

/// Whether that is the name behind all links: another copy is another file.
fn is_named_plimsoll(path: &CStr) -> bool {
    let Ok(file) = open(path, OFlags::PATH) else { return false };
    let link: String<32> = cut(format_args!("/proc/self/fd/{}", i64::from(file.as_raw_fd())));
    let mut target = [MaybeUninit::uninit(); PATH_MAX];
    c_path(&link)
        .ok()
        .and_then(|link| Some(rustix::fs::readlinkat_raw(CWD, &*link, &mut target).ok()?.0))
        .is_some_and(|target| target.ends_with(b"/plimsoll"))
}

static RECORD: sys::Once<Record> = sys::Once::new(Record::new());
static TEXT: sys::Once<[u8; BOARD_BYTES_MAX + 1]> = sys::Once::new([0; BOARD_BYTES_MAX + 1]);
static JSON: sys::Once<[u8; JSON_BYTES_MAX]> = sys::Once::new([0; JSON_BYTES_MAX]);
static CMDLINE: sys::Once<[u8; CMDLINE_BYTES]> = sys::Once::new([0; CMDLINE_BYTES]);

/// The boot, in the child; then the supervisor.
fn boot_child(when: When, to_pid1: OwnedFd) -> ! {
    let kernel = &mut Linux;
    let (Some(record), Some(text), Some(json)) = (RECORD.take(), TEXT.take(), JSON.take()) else {
        sys::exit(1)
    };
    // Where PID 1 went on without it, it goes on without PID 1.
    sys::block(&[sys::SIGPIPE]);
    let is_late = matches!(when, When::Late);
    if is_late {
        // Nothing of whoever started it is to be held or to end it.
        let _ = rustix::process::setsid();
        let _ = rustix::process::chdir(c"/");
    }
    record.start_us = sys::now_us();
    boot::mounts(kernel, record);
    if matches!(when, When::Attempt(1..)) {
        apply::noted(kernel, record, "boot", "attempt", Outcome::Failed, "the one before died");
    }
    let with_board_file = !matches!(when, When::Attempt(attempt) if attempt + 1 >= ATTEMPTS);
    let (mut board, accepted) = if with_board_file {
        boot::read_board(kernel, record, text)
    } else {
        (board::read(&mut [], board::decode_core, &mut Faults::default()), false)
    };
    let cmdline: &mut [u8] = CMDLINE.take().map_or(&mut [], |cmdline| cmdline);
    let wanted = if is_late { None } else { root::wanted(kernel, record, cmdline) };
    if let Some(init) = wanted.as_ref().and_then(|wanted| wanted.init) {
        board.next_init = Some(init);
    }
    let path = board.next_init.unwrap_or_default();
    let _ = rustix::io::write(&to_pid1, path.as_bytes());
    let _ = rustix::io::write(&to_pid1, b"\n");
    if wanted.is_some() {
        let _ = rustix::io::write(&to_pid1, &[AWAITS_ROOT]);
    }
    boot::modules(kernel, record, &board);
    let has_root = wanted.map(|wanted| root::mount(kernel, record, &wanted));
    let plan = boot::limits(kernel, record, &mut board, accepted);
    supervisor::protect(record);
    let root = if has_root == Some(true) { ROOT } else { "" };
    boot::var_qm(kernel, record, &board, root);
    if !with_board_file {
        boot::hold(kernel, record, "the boot died twice with its board file");
    }
    systemd::drop_ins(kernel, record, &board, &plan, accepted, root);
    let next = match board.next_init {
        _ if is_late => "as it is: it was there before plimsoll",
        Some(path) if has_root != Some(false) => path,
        _ => STAYS,
    };
    boot::finish(kernel, record, &board, next, json);
    if is_late {
        units::reload();
    }
    // A PID 1 that went on without this process stays where it is.
    if has_root == Some(true)
        && rustix::io::write(&to_pid1, &[HAS_ROOT]).is_ok()
        && let Err(errno) = switch::enter()
    {
        error!("root: the supervisor cannot go there: {errno}");
    }
    let _ = rustix::io::write(&to_pid1, &[BOOTED]);
    supervisor::become_supervisor(to_pid1)
}
