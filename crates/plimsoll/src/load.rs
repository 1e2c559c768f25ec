//! load: what scenarios do to a booted board. Not part of any shipped image.
//!
//! It shares the start-up code with plimsoll, so that it runs on both
//! architectures without a C library.
#![no_std]
#![no_main]
#![deny(unsafe_code)]

// Each program uses its part of these.
#[allow(dead_code, unreachable_pub)]
mod start;
#[allow(dead_code)]
mod sys;

use core::panic::PanicInfo;

use rustix::fd::BorrowedFd;

const HELP: &str = "\
load eat MIB [SECS]   takes MIB of anonymous memory, touches every page, says
                      'resident', keeps it for SECS (default: for ever),
                      touching it again each second
load fork N           makes up to N processes that sleep; says how many came
                      and which error ended it, then ends them all
";

fn main(start: start::Start) -> ! {
    let number = |n| start.arg(n).and_then(|text| text.parse::<u64>().ok());
    let status = match (start.arg(1), number(2)) {
        (Some("eat"), Some(mib)) => eat(mib, number(3)),
        (Some("fork"), Some(count)) => fork(count),
        _ => {
            say(sys::STDERR, HELP.as_bytes());
            2
        }
    };
    sys::exit(status)
}

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    sys::exit(101)
}

fn say(to: BorrowedFd<'_>, text: &[u8]) {
    let _ = rustix::io::write(to, text);
}

/// Bytes between two touches: no page is smaller.
const STRIDE: usize = 4096;

fn eat(mib: u64, secs: Option<u64>) -> u8 {
    let Some(memory) = usize::try_from(mib).ok().and_then(|mib| anonymous(mib << 20)) else {
        say(sys::STDERR, b"no such amount of memory\n");
        return 1;
    };
    let begin = sys::now_us();
    let mut round: u8 = 0;
    loop {
        round = round.wrapping_add(1).max(1);
        for byte in memory.iter_mut().step_by(STRIDE) {
            // Not optimised away: another process looks at the effect.
            core::hint::black_box(core::mem::replace(byte, round));
        }
        if round == 1 {
            say(sys::STDOUT, b"resident\n");
        }
        let age = sys::now_us().saturating_sub(begin) / 1_000_000;
        if secs.is_some_and(|secs| age >= secs) {
            return 0;
        }
        sys::sleep_us(1_000_000);
    }
}

#[allow(unsafe_code)]
fn anonymous(bytes: usize) -> Option<&'static mut [u8]> {
    use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};
    let prot = ProtFlags::READ | ProtFlags::WRITE;
    let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
    // SAFETY: a new mapping at an address of the kernel's choice.
    let at = unsafe { mmap_anonymous(core::ptr::null_mut(), bytes, prot, flags) }.ok()?;
    // SAFETY: the mapping has that many bytes, all zero, and is never unmapped.
    Some(unsafe { core::slice::from_raw_parts_mut(at.cast(), bytes) })
}

fn fork(count: u64) -> u8 {
    let mut made: u64 = 0;
    let mut refused = None;
    while made < count {
        match sys::fork() {
            Ok(sys::Fork::Child) => loop {
                sys::sleep_us(60_000_000);
            },
            Ok(sys::Fork::Parent(_)) => made += 1,
            Err(errno) => {
                refused = Some(errno.into_raw());
                break;
            }
        }
    }
    let mut line: heapless::String<64> = heapless::String::new();
    let errno = refused.unwrap_or(0);
    let _ = core::fmt::write(&mut line, format_args!("made {made} errno {errno}\n"));
    say(sys::STDOUT, line.as_bytes());
    let _ = rustix::process::kill_current_process_group(rustix::process::Signal::KILL);
    0
}
