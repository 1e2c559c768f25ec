//! Pressure: the kernel's files of it, read, and waited for.

use core::ffi::CStr;

use heapless::String;
use plimsoll_core::agent::psi::{Stall, WINDOW_MIN_US, some_total_us};
use plimsoll_core::record::cut;
use rustix::fd::{BorrowedFd, OwnedFd};
use rustix::fs::{CWD, Mode, OFlags};

use crate::sys;

/// The files of both kinds of stall: the machine's, and a cgroup's.
static FILES: [(&CStr, &CStr); 2] =
    [(c"/proc/pressure/memory", c"memory.pressure"), (c"/proc/pressure/io", c"io.pressure")];
/// Longest text of such a file, in bytes: two lines of at most 80.
const TEXT_BYTES_MAX: usize = 256;
/// Window of a trigger, in microseconds: that of the judge. The kernel allows
/// 500 ms to 10 s.
const WINDOW_US: u64 = WINDOW_MIN_US;

/// Whose pressure.
#[derive(Clone, Copy)]
pub(crate) enum Source<'a> {
    /// The whole machine's.
    Machine,
    /// That of the cgroup whose directory this is, with all below it.
    Cgroup(BorrowedFd<'a>),
}

impl Source<'_> {
    /// What stood still until now. What has no file counts nothing; `None`
    /// where there is neither: the kernel has no PSI (psi=0, an old or a small
    /// one), or the cgroup is gone.
    pub(crate) fn stall(self) -> Option<Stall> {
        let mut sum: Option<u64> = None;
        for file in &FILES {
            let file = self.open(file, OFlags::RDONLY);
            if let Some(total_us) = file.as_ref().and_then(total_us) {
                sum = Some(sum.unwrap_or(0).saturating_add(total_us));
            }
        }
        Some(Stall { at_us: sys::now_us(), total_us: sum? })
    }

    fn open(self, &(machine, cgroup): &(&CStr, &CStr), flags: OFlags) -> Option<OwnedFd> {
        let (dir, name) = match self {
            Self::Machine => (CWD, machine),
            Self::Cgroup(dir) => (dir, cgroup),
        };
        rustix::fs::openat(dir, name, flags | OFlags::CLOEXEC, Mode::empty()).ok()
    }
}

fn total_us(file: &OwnedFd) -> Option<u64> {
    let mut text = [0; TEXT_BYTES_MAX];
    // The kernel gives all of so short a text at once.
    let read = rustix::io::retry_on_intr(|| rustix::io::read(file, &mut text)).ok()?;
    some_total_us(core::str::from_utf8(text.get(..read)?).ok()?)
}

/// Descriptors that wake a poll for `PollFlags::PRI` while pressure may be over
/// a limit. To poll takes the event; `PollFlags::ERR` means that the cgroup is
/// gone and will be told without end, until this is dropped.
///
/// The kernel wakes up to a tenth of the window late and once in a window at
/// most, and may have no triggers at all (before 5.2): who must know sooner
/// looks by the clock too. Each cgroup with triggers costs a kernel thread.
pub(crate) struct Triggers([Option<OwnedFd>; 2]);

impl Triggers {
    /// For memory and io together over `percent` of the time: then one of them
    /// is over half of that. None where the limit can't be exceeded, see
    /// [`Stall::exceeds`], or where the kernel refuses.
    pub(crate) fn new(source: Source<'_>, percent: u64) -> Self {
        if percent >= 100 {
            return Self([None, None]);
        }
        // The kernel takes no threshold of 0.
        let threshold_us = (percent.saturating_mul(WINDOW_US) / 200).max(1);
        // proc(5)'s pressure files overwrite the last byte with their own end.
        let trigger: String<32> = cut(format_args!("some {threshold_us} {WINDOW_US}\n"));
        let flags = OFlags::RDWR | OFlags::NONBLOCK;
        let mut triggers = Self([None, None]);
        for (to, file) in triggers.0.iter_mut().zip(&FILES) {
            let file = source.open(file, flags);
            *to = file.filter(|file| rustix::io::write(file, trigger.as_bytes()).is_ok());
        }
        triggers
    }

    /// To be polled.
    pub(crate) fn descriptors(&self) -> impl Iterator<Item = &OwnedFd> {
        self.0.iter().flatten()
    }
}
