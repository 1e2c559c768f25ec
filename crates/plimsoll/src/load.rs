//! load: what scenarios do to a booted board. Not part of any shipped image.
//!
//! It shares the start-up code with plimsoll, so that it runs on both
//! architectures without a C library.
#![no_std]
#![no_main]
#![deny(unsafe_code)]

#[path = "load/bench.rs"]
mod bench;
#[path = "load/cgroups.rs"]
mod cgroups;
#[path = "load/client.rs"]
mod client;
#[path = "load/files.rs"]
mod files;
#[path = "load/memory.rs"]
mod memory;
#[path = "load/pages.rs"]
mod pages;
// Each program uses its part of these.
#[allow(dead_code)]
mod file;
#[allow(dead_code, unreachable_pub)]
mod start;
#[allow(dead_code)]
mod sys;

use core::fmt::Arguments;
use core::panic::PanicInfo;

use plimsoll_core::number::decimal;
use rustix::fd::BorrowedFd;
use rustix::io::Errno;

const HELP: &str = "\
load eat MIB [SECS]   takes MIB of anonymous memory, touches every page, says
                      'resident', keeps it for SECS (default: for ever),
                      touching it again each second
load anon MIB HOT_MIB SECS [random]
                      fills MIB of anonymous memory, each page with a number or
                      wholly with random bytes, says 'resident', then writes to
                      the pages of the first HOT_MIB each second, for SECS;
                      says 'rounds N'
load file PATH MIB HOT_MIB SECS [read|map]
                      the same with the first MIB of a file, by read(2) or
                      (default) through a shared mapping, without writing
load thrash PATH MIB SECS [RESTS]
                      maps the first MIB of a file and touches its pages round
                      and round for SECS, resting half of the time, or RESTS
                      times as long; says 'thrashing', then 'touched N'
load fragment MIB SECS
                      takes MIB of anonymous memory in single pages, gives back
                      every second one, says 'fragmented', stays for SECS
load churn PARENT COUNT SECS [work]
                      makes COUNT cgroups in the directory PARENT each second
                      and removes those of the second before; 'work': in each a
                      child touches 1 MiB and ends; says 'made N' when the last
                      ones are removed
load cgroups PARENT COUNT [KIB]
                      makes COUNT cgroups in the directory PARENT, in each a
                      process that touched KIB of anonymous memory (0, the
                      default: no process), says 'made COUNT', stays
load charge PARENT COUNT PATH KIB
                      charges each of these cgroups with KIB of a file, its own
                      part each; says 'charged COUNT'
load bare PATH OWN    ages the cgroups below PATH (/qm/x) that have 64 file
                      pages; says 'read US write US commands N': the CPU time,
                      by the cgroup whose directory OWN is, of reading lru_gen
                      and of writing N commands to it
load peak DIR SECS    watches the processes of the cgroup with that directory;
                      says 'threads N peak_kib N pss_kib N', the most together
load client MODE [N]  N times (default 1) a client of the supervisor that is
                      silent, flood (asks at once again), long (64 KiB), slow
                      (3 s), dead (gone at once) or garbage; says
                      'answers A refused R errors E'
load fork N           makes up to N processes that sleep; says how many came
                      and which error ended it, then ends them all
load bomb SECS        forks as fast as it may, and so does each child, for SECS;
                      says 'refused E' when it is refused for the first time
load scheduler POLICY PRIORITY
                      asks for that policy, by number, with sched_setscheduler
";

/// Why a command could not do what it says: what failed, and how.
pub(crate) struct Failed(&'static str, Errno);

/// How a command ended.
pub(crate) type Done = Result<(), Failed>;

/// For `map_err`: the error of doing `what`.
pub(crate) fn failed(what: &'static str) -> impl Fn(Errno) -> Failed {
    move |errno| Failed(what, errno)
}

fn main(start: start::Start) -> ! {
    let status = match run(start) {
        Some(Ok(())) => 0,
        Some(Err(Failed(what, errno))) => {
            say_to(sys::STDERR, format_args!("{what}: error {}", i64::from(errno.raw_os_error())));
            1
        }
        None => {
            let _ = rustix::io::write(sys::STDERR, HELP.as_bytes());
            2
        }
    };
    sys::exit(status)
}

/// Runs the command; `None` if there is none like it.
fn run(start: start::Start) -> Option<Done> {
    let text = |n| start.arg(n);
    let number = |n| decimal(start.arg(n)?);
    let word = |n, word| start.arg(n).is_some_and(|arg| arg == word);
    Some(match text(1)? {
        "eat" => pages::eat(number(2)?, number(3)),
        "anon" => pages::anon(number(2)?, number(3)?, number(4)?, word(5, "random")),
        "file" => {
            files::hold(text(2)?, number(3)?, number(4)?, number(5)?, files::Mode::of(text(6))?)
        }
        "thrash" => files::thrash(text(2)?, number(3)?, number(4)?, number(5).unwrap_or(1)),
        "fragment" => pages::fragment(number(2)?, number(3)?),
        "churn" => cgroups::churn(text(2)?, number(3)?, number(4)?, word(5, "work")),
        "cgroups" => cgroups::stay(text(2)?, number(3)?, number(4).unwrap_or(0)),
        "charge" => bench::charge(text(2)?, number(3)?, text(4)?, number(5)?),
        "bare" => bench::bare(text(2)?, text(3)?),
        "peak" => bench::peak(text(2)?, number(3)?),
        "client" => client::run(client::Mode::of(text(2)?)?, number(3).unwrap_or(1)),
        "fork" => fork(number(2)?),
        "bomb" => bomb(number(2)?),
        "scheduler" => {
            let policy = u32::try_from(number(2)?).ok()?;
            sys::set_scheduler(policy, i32::try_from(number(3)?).ok()?)
                .map_err(|errno| Errno::from_raw_os_error(errno.into_raw()))
                .map_err(failed("sched_setscheduler"))
        }
        _ => return None,
    })
}

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    sys::exit(101)
}

/// Says a line on standard output, at once.
pub(crate) fn say(line: Arguments<'_>) {
    say_to(sys::STDOUT, line);
}

fn say_to(to: BorrowedFd<'_>, line: Arguments<'_>) {
    let mut text: heapless::String<128> = heapless::String::new();
    let _ = core::fmt::write(&mut text, format_args!("{line}\n"));
    let _ = rustix::io::write(to, text.as_bytes());
}

/// Runs `round` at the beginning of each second for `secs`; how often it ran.
/// One that takes longer than a second delays the next.
pub(crate) fn each_second(
    secs: u64,
    mut round: impl FnMut() -> Result<(), Failed>,
) -> Result<u64, Failed> {
    let mut next = sys::now_us();
    let end = next.saturating_add(secs.saturating_mul(1_000_000));
    let mut rounds = 0;
    while sys::now_us() < end {
        round()?;
        rounds += 1;
        let now = sys::now_us();
        next = next.saturating_add(1_000_000).max(now);
        sys::sleep_us(next.min(end).saturating_sub(now));
    }
    Ok(rounds)
}

/// Numbers that don't compress and are no JSON: xorshift64, not for secrets.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// The next one; never 0.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

fn fork(count: u64) -> Done {
    let mut made: u64 = 0;
    let mut refused = None;
    while made < count {
        match sys::fork() {
            Ok(sys::Fork::Child) => sleep_for_ever(),
            Ok(sys::Fork::Parent(_)) => made += 1,
            Err(errno) => {
                refused = Some(errno.into_raw());
                break;
            }
        }
    }
    say(format_args!("made {made} errno {}", refused.unwrap_or(0)));
    let _ = rustix::process::kill_current_process_group(rustix::process::Signal::KILL);
    Ok(())
}

fn bomb(secs: u64) -> Done {
    let end = sys::now_us().saturating_add(secs.saturating_mul(1_000_000));
    // One of them says it, not thousands.
    let mut first = true;
    while sys::now_us() < end {
        match sys::fork() {
            Ok(sys::Fork::Child) => first = false,
            Ok(sys::Fork::Parent(_)) => {}
            Err(errno) if first => {
                first = false;
                say(format_args!("refused {}", errno.into_raw()));
            }
            Err(_) => {}
        }
    }
    Ok(())
}

/// Stays, asleep.
pub(crate) fn sleep_for_ever() -> ! {
    loop {
        sys::sleep_us(60_000_000);
    }
}
