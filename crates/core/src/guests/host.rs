//! The board's guests as they come and go: whose limit is what, and who may
//! start.
//!
//! A guest whose cgroup has processes was started. One that was admitted before
//! has its limit at once; another is admitted now, or is told of and left alone.
//! memory.max is never written below memory.current, whoever asks for it: that
//! would kill the VMM.

mod limit;
mod peak;
mod show;
mod size;

use heapless::Vec;

use self::limit::{current, grant, refuse, write_limit};
pub use self::size::Resizing;
use super::model::{Model, account};
use super::pool::{Action, Missing, Refusal, Sink};
use super::resize::Resize;
use super::value::{Field, Values};
use super::{GUESTS_MAX, Pool};
use crate::apply::{knob_path, shows};
use crate::board::{Guest, Guests};
use crate::kernel::{Kernel, Level};
use crate::limit::Memory;
use crate::record::cut_text;

/// Looks from one probing of those above their share to the next; a look is a
/// second.
const PRESS_LOOKS: u32 = 60;

/// A guest and what became of it.
pub struct Hosted<'a> {
    guest: Guest<'a>,
    /// Processes are in its cgroup.
    runs: bool,
    /// Its memory: what the board file says, until the VMM says otherwise.
    memory_bytes: u64,
    /// What memory.max is to be, in bytes; 0: it isn't admitted.
    limit_bytes: u64,
    /// What the kernel shows, as far as was seen, in bytes.
    shown_bytes: u64,
    /// What its unit was told, in bytes.
    told_bytes: u64,
    /// Why it isn't admitted.
    refusal: Option<Refusal>,
    /// What it can have, in bytes; to nothing while its VMM does not say.
    sizes: core::ops::RangeInclusive<u64>,
    resize: Option<Resize>,
    peak: peak::Peak,
}

/// A cgroup to be asked for memory.
#[derive(Clone, Copy)]
struct Probe {
    guest: usize,
    limit_bytes: u64,
}

/// Everyone who is hosted.
pub struct Hosting<'a> {
    hosted: Vec<Hosted<'a>, GUESTS_MAX>,
    pool: Pool,
    /// The pool's reserve, in permyriad of the machine's memory; 0 without one.
    reserve_permyriad: u64,
    /// The machine's memory, in bytes.
    host_bytes: u64,
    probes: Vec<Probe, GUESTS_MAX>,
    looks: u32,
    /// Who would go on from here must know of it: see [`Self::changed`].
    changed: bool,
}

/// Whether a guest may start.
pub enum Admission<'h, 'a> {
    /// The board file has none of that name.
    Unknown,
    /// Others are still asked for memory, or the disk for its peak.
    Waits,
    /// It may not.
    Refused(Refusal),
    /// It may.
    Admitted(&'h Hosted<'a>),
}

impl<'a> Hosting<'a> {
    /// The guests of the board file, none of them admitted.
    #[must_use]
    pub fn new(guests: Guests<'a>, memory: Memory) -> Self {
        let any = guests.list.iter().any(|guest| guest.model == Model::Pool);
        let reserve_permyriad = if any { guests.values.get(Field::Reserve) } else { 0 };
        let keeps = !guests.peaks.is_empty();
        let mut hosted = Vec::new();
        for guest in &guests.list {
            // As many as there may be.
            let _ = hosted.push(Hosted::new(guest.clone(), keeps));
        }
        Self {
            hosted,
            pool: Pool::new(0, 0, guests.values.get(Field::Margin)),
            reserve_permyriad,
            host_bytes: memory.total_pages.saturating_mul(memory.page_bytes),
            probes: Vec::new(),
            looks: 0,
            changed: false,
        }
    }

    /// One look at every guest's cgroup, on a machine that has this memory now.
    pub fn look<K: Kernel>(&mut self, kernel: &mut K, memory: Memory) {
        if self.hosted.is_empty() {
            return;
        }
        if memory.total_pages > 0 {
            self.host_bytes = memory.total_pages.saturating_mul(memory.page_bytes);
        }
        let presses = self.looks.is_multiple_of(PRESS_LOOKS);
        self.looks = self.looks.wrapping_add(1);
        for at in 0..self.hosted.len() {
            let Some(hosted) = self.hosted.get_mut(at) else { break };
            let (name, cgroup) = (hosted.guest.name, hosted.guest.cgroup);
            let runs = knob_path(cgroup, "cgroup.events")
                .is_ok_and(|file| shows(kernel, &file).starts_with("populated 1"));
            let turned = runs != hosted.runs;
            hosted.runs = runs;
            if turned {
                self.changed = true;
                let what = if runs { "runs" } else { "is gone" };
                kernel.log(Level::Info, format_args!("guest {name}: {what}"));
            }
            hosted.peak.look(kernel, cgroup, runs, presses || turned);
            if runs {
                let fresh = core::mem::take(&mut hosted.peak.fresh);
                self.keep(kernel, at, turned || presses || fresh);
            } else if turned {
                self.leave(kernel, at);
            }
        }
        if presses {
            self.pooled(kernel, &mut |pool, sink| pool.press(sink));
        }
    }

    /// Whether anything is other than when this was last asked.
    pub fn changed(&mut self) -> bool {
        core::mem::take(&mut self.changed)
    }

    /// Has a guest admitted, or says how that stands. A refusal is told once.
    pub fn admit<K: Kernel>(&mut self, kernel: &mut K, name: &str) -> Admission<'_, 'a> {
        let Some(at) = self.find(name) else { return Admission::Unknown };
        let is_new = |of: &Hosted<'_>| of.limit_bytes == 0 && of.refusal.is_none();
        if self.hosted.get(at).is_some_and(is_new) && !self.pool.knows(name) {
            self.start(kernel, at);
        }
        let Some(hosted) = self.hosted.get_mut(at) else { return Admission::Unknown };
        match hosted.refusal.take() {
            Some(refusal) => Admission::Refused(refusal),
            None if hosted.limit_bytes > 0 => Admission::Admitted(hosted),
            None => Admission::Waits,
        }
    }

    /// Takes an admission back; false where there is no such guest or it runs.
    pub fn remove<K: Kernel>(&mut self, kernel: &mut K, name: &str) -> bool {
        let Some(at) = self.find(name) else { return false };
        if self.hosted.get(at).is_none_or(|hosted| hosted.runs) {
            return false;
        }
        self.leave(kernel, at);
        true
    }

    /// The cgroup to be asked for memory next, and for how many bytes.
    pub fn next_probe<K: Kernel>(&mut self, kernel: &mut K) -> Option<(&'a str, u64)> {
        loop {
            let Probe { guest, limit_bytes } = *self.probes.first()?;
            let cgroup = self.hosted.get(guest)?.guest.cgroup;
            let margin = self.pool.margin_bytes();
            let used = current(kernel, cgroup).unwrap_or(0).saturating_add(margin);
            if let Some(bytes @ 1..) = used.checked_sub(limit_bytes) {
                return Some((cgroup, bytes));
            }
            self.probed(kernel, cgroup);
        }
    }

    /// The probe of a cgroup is done, or can't be. Who was admitted but doesn't
    /// run yet uses nothing.
    pub fn probed<K: Kernel>(&mut self, kernel: &mut K, cgroup: &str) {
        let of = |hosted: &Hosted<'_>| hosted.guest.cgroup == cgroup;
        let Some(at) = self.hosted.iter().position(of) else { return };
        self.probes.retain(|probe| probe.guest != at);
        let Some(Hosted { guest, runs, .. }) = self.hosted.get(at) else { return };
        let (name, used) = (guest.name, if *runs { current(kernel, cgroup) } else { Some(0) });
        self.pooled(kernel, &mut |pool, sink| pool.probed(name, used, sink));
    }

    fn find(&self, name: &str) -> Option<usize> {
        self.hosted.iter().position(|hosted| hosted.guest.name == name)
    }

    /// A guest that runs: its limit as wanted, its use to the pool. What is amiss
    /// is not said at every look.
    fn keep<K: Kernel>(&mut self, kernel: &mut K, at: usize, says: bool) {
        let Some(hosted) = self.hosted.get_mut(at) else { return };
        let Guest { name, cgroup, model, .. } = hosted.guest;
        if hosted.limit_bytes > 0 {
            write_limit(kernel, hosted, says);
        } else if says && !self.pool.knows(name) {
            self.start(kernel, at);
        }
        if let Some(used) = current(kernel, cgroup).filter(|_| model == Model::Pool) {
            self.pooled(kernel, &mut |pool, sink| pool.seen(name, used, sink));
        }
    }

    fn start<K: Kernel>(&mut self, kernel: &mut K, at: usize) {
        let Some(hosted) = self.hosted.get_mut(at) else { return };
        let (name, memory) = (hosted.guest.name, hosted.memory_bytes);
        if hosted.guest.model == Model::Pool {
            return self.pooled(kernel, &mut |pool, sink| pool.start(name, memory, sink));
        }
        if hosted.peak.is_unknown() {
            return hosted.peak.wanted();
        }
        let limit = hosted.formula(memory);
        let missing = self.missing(at, limit);
        let Some(hosted) = self.hosted.get_mut(at) else { return };
        match missing.map(Refusal::Memory) {
            Some(why) => refuse(kernel, hosted, &why),
            None => grant(kernel, hosted, limit),
        };
        self.changed = true;
    }

    /// What a guest of a formula can't have of a limit.
    fn missing(&self, at: usize, limit_bytes: u64) -> Option<Missing> {
        let others = || self.formulas().filter(|(other, _)| *other != at).map(|(_, hosted)| hosted);
        let had = others().map(|other| other.limit_bytes).fold(0, u64::saturating_add);
        let had = had.saturating_add(self.pool.memory());
        let room = self.host_bytes.saturating_sub(self.reserve()).saturating_sub(had);
        let bytes = limit_bytes.checked_sub(room).filter(|bytes| *bytes > 0)?;
        let most = others().max_by_key(|other| other.limit_bytes);
        let most = most.filter(|other| other.limit_bytes > 0);
        let holder = cut_text(most.map_or("", |other| other.guest.name));
        Some(Missing { bytes, holder, held_bytes: most.map_or(0, |other| other.limit_bytes) })
    }

    /// Those whose limits are a formula's.
    fn formulas(&self) -> impl Iterator<Item = (usize, &Hosted<'a>)> {
        let all = self.hosted.iter().enumerate();
        all.filter(|(_, hosted)| hosted.guest.model != Model::Pool)
    }

    fn reserve(&self) -> u64 {
        self.host_bytes.saturating_mul(self.reserve_permyriad) / 10_000
    }

    fn leave<K: Kernel>(&mut self, kernel: &mut K, at: usize) {
        let Some(hosted) = self.hosted.get_mut(at) else { return };
        hosted.left();
        self.changed = true;
        let name = hosted.guest.name;
        self.probes.retain(|probe| probe.guest != at);
        self.pooled(kernel, &mut |pool, sink| pool.stop(name, sink));
    }

    /// An input of the pool, and its outputs done.
    fn pooled<K: Kernel>(&mut self, kernel: &mut K, input: &mut dyn FnMut(&mut Pool, Sink<'_>)) {
        let reserve = self.reserve();
        let limits = self.formulas().map(|(_, hosted)| hosted.limit_bytes);
        let taken = limits.fold(reserve, u64::saturating_add);
        self.pool.allow(reserve, self.host_bytes.saturating_sub(taken));
        let Self { hosted, pool, probes, changed, .. } = self;
        input(pool, &mut |action| {
            *changed = true;
            let (Action::Probe { name, .. }
            | Action::Limit { name, .. }
            | Action::Refuse { name, .. }) = action;
            let named = |of: &Hosted<'_>| of.guest.name == name;
            let Some(guest) = hosted.iter().position(named) else { return false };
            let Some(hosted) = hosted.get_mut(guest) else { return false };
            match action {
                // One at a time of each.
                Action::Probe { limit_bytes, .. } => {
                    probes.push(Probe { guest, limit_bytes }).is_ok()
                }
                Action::Limit { bytes, .. } => grant(kernel, hosted, bytes),
                Action::Refuse { why, .. } => refuse(kernel, hosted, why),
            }
        });
    }
}

impl<'a> Hosted<'a> {
    fn new(guest: Guest<'a>, keeps: bool) -> Self {
        let peak = peak::Peak::new(keeps && guest.model == Model::Measured);
        let memory_bytes = guest.values.get(Field::Memory);
        Self {
            guest,
            runs: false,
            memory_bytes,
            limit_bytes: 0,
            shown_bytes: 0,
            told_bytes: 0,
            refusal: None,
            sizes: 0..=0,
            resize: None,
            peak,
        }
    }

    /// memory.max with this memory, by the guest's formula.
    fn formula(&self, memory_bytes: u64) -> u64 {
        let own = self.guest.values.get(Field::Memory);
        let mut values: Values = self.guest.values;
        // What was measured is above the memory of then, which was the board file's.
        let peak = self.peak.bytes().saturating_sub(own);
        values.put(Field::Memory, memory_bytes);
        values.put(Field::Peak, if peak > 0 { memory_bytes.saturating_add(peak) } else { 0 });
        account(self.guest.model, &values, &mut |_| ()).map_or(u64::MAX, |sum| sum.limit_bytes)
    }

    /// It is gone, or will not come.
    fn left(&mut self) {
        (self.limit_bytes, self.shown_bytes, self.told_bytes) = (0, 0, 0);
        (self.refusal, self.resize, self.sizes) = (None, None, 0..=0);
        self.memory_bytes = self.guest.values.get(Field::Memory);
    }
}

#[cfg(test)]
mod tests;
