//! Guests that grow and shrink: what their VMMs say, and what they are asked.

use super::limit::{current, grant};
use super::{Hosting, Probe};
use crate::guests::model::Model;
use crate::guests::pool::Missing;
use crate::guests::qmp::Sizes;
use crate::guests::resize::{Gate, Resize, State};
use crate::kernel::{Kernel, Level};
use crate::systemd::split;

/// A limit is lowered by at least this, unless to where it belongs, in bytes: a
/// VMM's use is never still.
const STEP_BYTES: u64 = 1 << 20;

/// What there is to say of a change of size.
pub enum Resizing<'h> {
    /// No guest of that name runs, or its VMM has not said what it has.
    Unknown,
    /// It may have so many bytes at least and at most.
    Range(u64, u64),
    /// How it stands.
    Stands(&'h str, &'h Resize),
}

impl<'a> Hosting<'a> {
    /// The QMP socket of a guest that runs and has one.
    #[must_use]
    pub fn qmp(&self, at: usize) -> Option<(&'a str, &'a str, &'a str)> {
        let hosted = self.hosted.get(at).filter(|hosted| hosted.runs)?;
        let guest = &hosted.guest;
        (!guest.qmp.is_empty()).then_some((guest.name, guest.cgroup, guest.qmp))
    }

    /// What stays free above a use that was seen, in bytes.
    #[must_use]
    pub fn margin_bytes(&self) -> u64 {
        self.pool.margin_bytes()
    }

    /// Whether a guest's memory is being changed.
    #[must_use]
    pub fn moves(&self, at: usize) -> bool {
        let resize = self.hosted.get(at).and_then(|hosted| hosted.resize.as_ref());
        resize.is_some_and(|resize| !resize.is_over())
    }

    /// A guest's VMM does not answer any more.
    pub fn silent(&mut self, at: usize) {
        let Some(hosted) = self.hosted.get_mut(at) else { return };
        hosted.sizes = 0..=0;
        if let Some(resize) = hosted.resize.as_mut().filter(|resize| !resize.is_over()) {
            resize.state = State::Silent;
        }
    }

    /// A guest's VMM has said what it has: its limit follows. What it is to be
    /// asked now, for which there is a limit then.
    pub fn sized<K: Kernel>(
        &mut self,
        kernel: &mut K,
        at: usize,
        sizes: &Sizes,
        gate: Gate,
        now: u64,
    ) -> Option<Sizes> {
        let most = sizes.fixed.saturating_add(sizes.max());
        let hosted = self.hosted.get_mut(at)?;
        hosted.sizes = sizes.fixed..=most.min(hosted.guest.memory_max.max(sizes.fixed));
        // What does not fit is the guest's, which has no limit for it.
        let _ = self.set_memory(kernel, at, sizes.claimed());
        let asked = self.hosted.get_mut(at)?.resize.as_mut()?.next(sizes, gate, now)?;
        let Err(missing) = self.set_memory(kernel, at, asked.claimed()) else { return Some(asked) };
        if let Some(resize) = self.hosted.get_mut(at)?.resize.as_mut() {
            resize.state = State::Promised(missing.bytes);
        }
        None
    }

    /// Has a guest's memory changed to so many bytes; without a number only says
    /// how that stands.
    pub fn resize(&mut self, name: &str, bytes: Option<u64>) -> Resizing<'_> {
        let Some(hosted) = self.find(name).and_then(|at| self.hosted.get_mut(at)) else {
            return Resizing::Unknown;
        };
        if let Some(bytes) = bytes {
            let (least, most) = (*hosted.sizes.start(), *hosted.sizes.end());
            if most == 0 {
                return Resizing::Unknown;
            }
            if !hosted.sizes.contains(&bytes) {
                return Resizing::Range(least, most);
            }
            hosted.resize = Some(Resize::new(hosted.memory_bytes, bytes));
            self.changed = true;
        }
        match &hosted.resize {
            Some(resize) => Resizing::Stands(hosted.guest.name, resize),
            None => Resizing::Unknown,
        }
    }

    /// Ends a change of a guest's memory where it is.
    pub fn stop(&mut self, name: &str) -> Resizing<'_> {
        let at = self.find(name);
        if let Some(hosted) = at.and_then(|at| self.hosted.get_mut(at))
            && let Some(resize) = &mut hosted.resize
        {
            resize.stop();
            self.changed = true;
        }
        self.resize(name, None)
    }

    /// A unit to be told its limit, and the limit in bytes: systemd, which writes
    /// a unit's limits, would bring back the old one.
    pub fn next_unit(&mut self) -> Option<(&'a str, u64)> {
        let is_unit = |cgroup: &str| {
            [".service", ".scope", ".slice"].iter().any(|kind| cgroup.ends_with(kind))
        };
        let hosted = self.hosted.iter_mut().find(|hosted| {
            let shown = hosted.shown_bytes;
            hosted.runs && shown > 0 && shown != hosted.told_bytes && is_unit(hosted.guest.cgroup)
        })?;
        hosted.told_bytes = hosted.shown_bytes;
        Some((split(hosted.guest.cgroup).1, hosted.told_bytes))
    }

    /// A guest has this memory, or is about to: its limit follows, down as far as
    /// its use allows.
    fn set_memory<K: Kernel>(
        &mut self,
        kernel: &mut K,
        at: usize,
        bytes: u64,
    ) -> Result<(), Missing> {
        let Some(hosted) = self.hosted.get_mut(at) else { return Ok(()) };
        let (name, cgroup, most) =
            (hosted.guest.name, hosted.guest.cgroup, hosted.guest.memory_max);
        if bytes > most && hosted.memory_bytes <= most {
            kernel.log(
                Level::Warning,
                format_args!("guest {name}: memory {bytes}, allowed is {most}: not followed"),
            );
        }
        // Remembered as it is, so that it is said once.
        let asked = bytes;
        let (bytes, had) = (bytes.min(most), hosted.limit_bytes);
        if had == 0 {
            hosted.memory_bytes = asked;
            return Ok(());
        }
        let used = current(kernel, cgroup).unwrap_or(u64::MAX);
        if hosted.guest.model == Model::Pool {
            let mut done = Ok(());
            self.pooled(kernel, &mut |pool, sink| done = pool.resize(name, bytes, used, sink));
            if let (Ok(()), Some(hosted)) = (&done, self.hosted.get_mut(at)) {
                hosted.memory_bytes = asked;
            }
            return done;
        }
        let aim = hosted.formula(bytes);
        if aim > had
            && let Some(missing) = self.missing(at, aim)
        {
            return Err(missing);
        }
        let margin = self.pool.margin_bytes();
        let needed = aim.max(used.saturating_add(margin).min(had));
        let Some(hosted) = self.hosted.get_mut(at) else { return Ok(()) };
        let is_new = hosted.memory_bytes != asked;
        hosted.memory_bytes = asked;
        if needed.abs_diff(had) >= STEP_BYTES || needed == aim && aim != had {
            grant(kernel, hosted, needed);
            self.changed = true;
        }
        if needed > aim && is_new && !self.probes.iter().any(|probe| probe.guest == at) {
            let _ = self.probes.push(Probe { guest: at, limit_bytes: aim });
        }
        Ok(())
    }
}
