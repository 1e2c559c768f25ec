//! What guests used in earlier runs: seen while they run, kept on disk by who
//! can wait for it.

use super::Hosting;
use super::limit::current;
use crate::apply::{knob_path, shows};
use crate::kernel::Kernel;
use crate::number::decimal;

/// A peak that grew by less is not worth a write, in bytes: 1 MiB.
const GROWN_BYTES: u64 = 1 << 20;

/// The greatest memory.peak of a guest.
pub(super) struct Peak {
    /// Whether it is kept.
    keeps: bool,
    /// Of this run and earlier ones, in bytes, as if its memory had been the
    /// board file's.
    bytes: u64,
    /// What the disk has; `None` while that is not known.
    kept: Option<u64>,
    /// It is to be kept now.
    due: bool,
    /// It was not known, and is now: whoever waited for it may start.
    pub(super) fresh: bool,
}

impl Peak {
    pub(super) fn new(keeps: bool) -> Self {
        Self { keeps, bytes: 0, kept: None, due: false, fresh: false }
    }

    pub(super) fn bytes(&self) -> u64 {
        // That of this run is none of an earlier one.
        self.kept.unwrap_or(0)
    }

    pub(super) fn is_unknown(&self) -> bool {
        self.keeps && self.kept.is_none()
    }

    pub(super) fn wanted(&mut self) {
        self.due = true;
    }

    /// Reads memory.peak, which kernels before 5.19 don't have.
    pub(super) fn look<K: Kernel>(&mut self, kernel: &mut K, cgroup: &str, runs: bool, due: bool) {
        if !self.keeps {
            return;
        }
        if runs {
            let file = knob_path(cgroup, "memory.peak").ok();
            let peak = file.and_then(|file| decimal(&shows(kernel, &file)));
            let now = peak.or_else(|| current(kernel, cgroup)).unwrap_or(0);
            self.bytes = self.bytes.max(now);
        }
        self.due |= due && self.bytes > self.kept.unwrap_or(0).saturating_add(GROWN_BYTES);
    }
}

impl<'a> Hosting<'a> {
    /// The guest whose peak is to be kept next, and what it is, in bytes.
    pub fn next_peak(&self) -> Option<(&'a str, u64)> {
        let hosted = self.hosted.iter().find(|hosted| hosted.peak.due)?;
        Some((hosted.guest.name, hosted.peak.bytes))
    }

    /// What the disk has of it now: the greater one of what it had and was given;
    /// `None` where it has nothing.
    pub fn kept(&mut self, name: &str, bytes: Option<u64>) {
        let Some(at) = self.find(name) else { return };
        let Some(hosted) = self.hosted.get_mut(at) else { return };
        hosted.peak.due = false;
        hosted.peak.fresh = hosted.peak.kept.is_none();
        hosted.peak.kept = Some(bytes.or(hosted.peak.kept).unwrap_or(0));
        self.changed = true;
    }
}
