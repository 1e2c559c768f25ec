//! PID 1: it does as little as can be, so that nothing can stop it. A child
//! does the boot; PID 1 waits for it, with a deadline, and goes on.

use core::ffi::CStr;

use heapless::{String, Vec};
use plimsoll_core::board::{self, BOARD_BYTES_MAX, Faults, PAYLOADS_MAX};
use plimsoll_core::boot;
use plimsoll_core::record::{JSON_BYTES_MAX, Outcome, Record, cut};
use plimsoll_core::{PATH_MAX, apply};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fd::OwnedFd;
use rustix::pipe::PipeFlags;
use rustix::process::WaitOptions;

use crate::linux::{CPath, Linux, c_bytes, c_path};
use crate::start::Start;
use crate::sys::{self, Fork};
use crate::{init, supervisor};

/// Times a boot that died is tried again: the second time for a passing
/// reason, the third without the board file, in case that is what kills it.
const ATTEMPTS: u32 = 3;
/// How long PID 1 waits for one attempt, in microseconds: 60 s, twice the
/// longest wait for a device that a board file may ask for.
const BOOT_DEADLINE_US: u64 = 60_000_000;
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

/// PID 1's whole life; where the next init could be started, it is not
/// plimsoll's any more.
pub(crate) fn run(start: Start) -> ! {
    if start.arg(0) == RESUMED.to_str().ok() {
        init::run(start, true);
    }
    let mut next = NextInit::Unknown;
    for attempt in 0..ATTEMPTS {
        match try_boot(attempt, &mut next) {
            Tried::Done => break,
            Tried::Late => {
                error!("the boot is not done after its deadline: going on without it");
                break;
            }
            Tried::Died => error!("the boot died (attempt {})", u64::from(attempt + 1)),
        }
    }
    let path: &CStr = match &next {
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
    words.extend(texts.iter().map(|text| &**text));
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

enum Tried {
    Done,
    Died,
    Late,
}

fn try_boot(attempt: u32, next: &mut NextInit) -> Tried {
    let Ok((reader, writer)) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC) else {
        return Tried::Died;
    };
    match sys::fork() {
        Ok(Fork::Child) => {
            drop(reader);
            boot_child(attempt, writer)
        }
        Ok(Fork::Parent(child)) => {
            drop(writer);
            let tried = listen(&reader, next);
            // If it has ended; what ends later is the next init's to reap.
            let _ = rustix::process::waitpid(Some(child), WaitOptions::NOHANG);
            tried
        }
        Err(_) => Tried::Died,
    }
}

/// Hears what the child says until it is done, dead, or late.
fn listen(reader: &OwnedFd, next: &mut NextInit) -> Tried {
    let deadline = sys::now_us() + BOOT_DEADLINE_US;
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
            // An earlier attempt that read the board file knew it better.
            Ok(_) if byte == *b"\n" && !matches!(next, NextInit::Unknown) => {}
            Ok(_) if byte == *b"\n" => {
                *next = match c_bytes(&said) {
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

/// Whether the next init is this very program: it would start itself for ever.
fn is_self(path: &CStr) -> bool {
    match (rustix::fs::stat(path), rustix::fs::stat(c"/proc/self/exe")) {
        (Ok(one), Ok(other)) => (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino),
        _ => false,
    }
}

static RECORD: sys::Once<Record> = sys::Once::new(Record::new());
static TEXT: sys::Once<[u8; BOARD_BYTES_MAX + 1]> = sys::Once::new([0; BOARD_BYTES_MAX + 1]);
static JSON: sys::Once<[u8; JSON_BYTES_MAX]> = sys::Once::new([0; JSON_BYTES_MAX]);

/// The boot, in the child; then the supervisor.
fn boot_child(attempt: u32, to_pid1: OwnedFd) -> ! {
    let kernel = &mut Linux;
    let (Some(record), Some(text), Some(json)) = (RECORD.take(), TEXT.take(), JSON.take()) else {
        sys::exit(1)
    };
    record.start_us = sys::now_us();
    boot::mounts(kernel, record);
    if attempt > 0 {
        apply::noted(kernel, record, "boot", "attempt", Outcome::Failed, "the one before died");
    }
    let with_board_file = attempt + 1 < ATTEMPTS;
    let (mut board, accepted) = if with_board_file {
        boot::read_board(kernel, record, text)
    } else {
        (board::read(&mut [], board::decode_core, &mut Faults::default()), false)
    };
    let path = board.next_init.unwrap_or_default();
    let _ = rustix::io::write(&to_pid1, path.as_bytes());
    let _ = rustix::io::write(&to_pid1, b"\n");
    boot::modules(kernel, record, &board);
    boot::limits(kernel, record, &mut board, accepted);
    supervisor::protect(record);
    boot::var_qm(kernel, record, &board);
    if !with_board_file {
        boot::hold(kernel, record, "the boot died twice with its board file");
    }
    boot::finish(kernel, record, &board, json);
    let _ = rustix::io::write(&to_pid1, &[BOOTED]);
    supervisor::become_supervisor(to_pid1)
}
