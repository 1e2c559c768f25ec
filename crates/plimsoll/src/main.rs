//! plimsoll: the first thing a car's computer runs.
//!
//! As PID 1 it has a child do the boot (`pid1`), and becomes the next init, or
//! stays (`init`). The child becomes the supervisor (`supervisor`). Under any
//! other PID it is a command (`cli`).
#![no_std]
#![no_main]
#![deny(unsafe_code)]

#[macro_use]
mod kmsg;

mod agent;
mod cgroup;
mod cli;
mod compact;
mod control;
mod evict;
mod file;
mod guest;
mod hosts;
mod init;
mod linux;
mod lru;
mod pair;
mod pass;
mod pid1;
mod power;
mod pressure;
mod qmp;
mod start;
mod supervisor;
mod swap;
mod switch;
mod sys;
mod units;
mod virtio_mem;
mod walk;

use core::panic::{Location, PanicInfo};

/// Where `_start` goes on.
fn main(start: start::Start) -> ! {
    kmsg::init();
    let name = start.arg(0).unwrap_or_default();
    if rustix::process::getpid().is_init() {
        pid1::run(start)
    } else if name.starts_with('@') {
        supervisor::run(start)
    } else {
        cli::run(start)
    }
}

/// A bug. What follows is hidden behind a pointer: so the compiler sees that no
/// message is ever read, and leaves out all that makes them, 8 KB. The place is
/// enough.
#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    let bug: fn(Option<&Location<'_>>) -> ! = core::hint::black_box(bug);
    bug(info.location())
}

/// Says where, and then as for any other death of the process. PID 1 never
/// ends: see [`pid1::recover`].
fn bug(place: Option<&Location<'_>>) -> ! {
    match place {
        Some(place) => error!("panic at {}:{}", place.file(), u64::from(place.line())),
        None => error!("panic"),
    }
    if rustix::process::getpid().is_init() {
        pid1::recover()
    }
    sys::exit(101)
}
