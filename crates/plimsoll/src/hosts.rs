//! The guests' limits: looked after once a second, and memory asked back by a
//! child, which the kernel may hold up for as long as it likes.

use plimsoll_core::board::Guests;
use plimsoll_core::facts::CGROUP_ROOT;
use plimsoll_core::guests::host::Hosting;
use plimsoll_core::kernel::Kernel as _;
use plimsoll_core::limit::Memory;
use plimsoll_core::path;
use plimsoll_core::record::cut;
use rustix::fd::{AsFd as _, BorrowedFd};

use crate::linux::Linux;
use crate::units::Child;

/// How long giving memory back may take, in microseconds: 2 s; page cache goes
/// at gigabytes a second, and what is slower (swap) may go on at the next probe.
const PROBE_US: u64 = 2_000_000;
/// What is asked for at once, in bytes: memory.reclaim fails as a whole, so that
/// a part of it is better asked for in pieces.
const PIECE_BYTES: u64 = 16 << 20;

/// What the worker has to do with guests.
pub(crate) struct Hosts<'a> {
    pub(crate) hosting: Hosting<'a>,
    /// The child, and the cgroup that it asks.
    probe: Option<(Child, &'a str)>,
}

impl<'a> Hosts<'a> {
    pub(crate) fn new(guests: Guests<'a>, memory: Memory) -> Self {
        Self { hosting: Hosting::new(guests, memory), probe: None }
    }

    /// Another process goes on with this one's memory: the child was not its,
    /// and what it did is asked for again.
    pub(crate) fn forget_child(&mut self) {
        self.probe = None;
    }

    /// Minds the child, or begins the next probe.
    pub(crate) fn tick(&mut self, now: u64) {
        if let Some((child, cgroup)) = &mut self.probe {
            let cgroup = *cgroup;
            let was_killed = child.killed;
            let ended = child.end(now);
            // It is there until the kernel lets it go, and no other before.
            if ended.is_none() || (child.killed && !was_killed) {
                return;
            }
            self.probe = None;
            self.hosting.probed(&mut Linux, cgroup);
        }
        let Some((cgroup, bytes)) = self.hosting.next_probe(&mut Linux) else { return };
        let child = Child::run("guest: probe", PROBE_US, &mut || reclaim(cgroup, bytes));
        self.probe = child.map(|child| (child, cgroup));
        if self.probe.is_none() {
            self.hosting.probed(&mut Linux, cgroup);
        }
    }

    /// When [`Self::tick`] has something to do besides what [`Self::source`] tells.
    pub(crate) fn deadline_us(&self) -> u64 {
        match &self.probe {
            Some((child, _)) if !child.killed => child.deadline_us,
            _ => u64::MAX,
        }
    }

    /// What wakes the worker before that.
    pub(crate) fn source(&self) -> Option<BorrowedFd<'_>> {
        Some(self.probe.as_ref()?.0.pidfd.as_ref()?.as_fd())
    }
}

/// Asks a cgroup for so many bytes, as far as it has them. That it has not is no
/// failure.
fn reclaim(cgroup: &str, mut bytes: u64) -> u8 {
    let Ok(file) = path(format_args!("{CGROUP_ROOT}{cgroup}/memory.reclaim")) else { return 1 };
    while bytes > 0 {
        let piece = bytes.min(PIECE_BYTES);
        let text = cut::<32>(format_args!("{piece}"));
        if Linux.write(&file, text.as_bytes()).is_err() {
            break;
        }
        bytes -= piece;
    }
    0
}
