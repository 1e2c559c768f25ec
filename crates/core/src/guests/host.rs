//! The board's guests as they come and go: whose limit is what, and who may
//! start.
//!
//! A guest whose cgroup has processes was started. One that was admitted before
//! has its limit at once; another is admitted now, or is told of and left alone.
//! memory.max is never written below memory.current, whoever asks for it: that
//! would kill the VMM.

use core::fmt;

use heapless::Vec;

use super::model::{Model, account};
use super::pool::{Action, Missing, Refusal, Sink};
use super::value::Field;
use super::{GUESTS_MAX, Pool};
use crate::apply::{knob_path, shows};
use crate::board::{Guest, Guests};
use crate::json::Json;
use crate::kernel::{Kernel, Level};
use crate::limit::Memory;
use crate::number::decimal;
use crate::record::cut;

/// Looks from one probing of those above their share to the next; a look is a
/// second.
const PRESS_LOOKS: u32 = 60;

/// A guest and what became of it.
pub struct Hosted<'a> {
    guest: Guest<'a>,
    /// Processes are in its cgroup.
    runs: bool,
    /// What memory.max is to be, in bytes; 0: it isn't admitted.
    limit_bytes: u64,
    /// Why it isn't.
    refusal: Option<Refusal>,
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
    /// What guests of the other models may have together, in bytes.
    rest_bytes: u64,
    probes: Vec<Probe, GUESTS_MAX>,
    looks: u32,
    /// Who would go on from here must know of it: see [`Self::changed`].
    changed: bool,
}

/// Whether a guest may start.
pub enum Admission<'h, 'a> {
    /// The board file has none of that name.
    Unknown,
    /// Others are still asked for memory.
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
        let host = memory.total_pages.saturating_mul(memory.page_bytes);
        let values = guests.values;
        let pooled = |guest: &Guest<'_>| guest.model == Model::Pool;
        let any = guests.list.iter().any(pooled);
        let part = host.saturating_mul(values.get(Field::Reserve)) / 10_000;
        let reserve = if any { part } else { 0 };
        let memory = |guest: &Guest<'_>| guest.values.get(Field::Memory);
        let all = guests
            .list
            .iter()
            .filter(|guest| pooled(guest))
            .map(memory)
            .fold(0, u64::saturating_add);
        let own = all.min(host.saturating_sub(reserve));
        let pool = Pool::new(reserve, own, values.get(Field::Margin));
        let rest_bytes = host.saturating_sub(reserve).saturating_sub(own);
        let mut hosted = Vec::new();
        for guest in guests.list {
            // As many as there may be.
            let _ = hosted.push(Hosted { guest, runs: false, limit_bytes: 0, refusal: None });
        }
        Self { hosted, pool, rest_bytes, probes: Vec::new(), looks: 0, changed: false }
    }

    /// One look at every guest's cgroup.
    pub fn look<K: Kernel>(&mut self, kernel: &mut K) {
        if self.hosted.is_empty() {
            return;
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
            if runs {
                self.keep(kernel, at, turned || presses);
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
        let Some(hosted) = self.hosted.get(at) else { return };
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
        let Some(Hosted { guest, .. }) = self.hosted.get(at) else { return };
        let (name, memory) = (guest.name, guest.values.get(Field::Memory));
        if guest.model == Model::Pool {
            return self.pooled(kernel, &mut |pool, sink| pool.start(name, memory, sink));
        }
        let limit = account(guest.model, &guest.values, &mut |_| ()).map(|sum| sum.limit_bytes);
        let limit = limit.unwrap_or(u64::MAX);
        let others = || self.hosted.iter().filter(|other| other.guest.model != Model::Pool);
        let had = others().map(|other| other.limit_bytes).fold(0, u64::saturating_add);
        let missing = limit.saturating_sub(self.rest_bytes.saturating_sub(had));
        let most = others().max_by_key(|other| other.limit_bytes);
        let most = most.filter(|other| other.limit_bytes > 0);
        let refusal = (missing > 0).then(|| {
            let holder = cut(format_args!("{}", most.map_or("", |other| other.guest.name)));
            let held_bytes = most.map_or(0, |other| other.limit_bytes);
            Refusal::Memory(Missing { bytes: missing, holder, held_bytes })
        });
        let Some(hosted) = self.hosted.get_mut(at) else { return };
        match refusal {
            Some(why) => refuse(kernel, hosted, &why),
            None => grant(kernel, hosted, limit),
        };
        self.changed = true;
    }

    fn leave<K: Kernel>(&mut self, kernel: &mut K, at: usize) {
        let Some(hosted) = self.hosted.get_mut(at) else { return };
        (hosted.limit_bytes, hosted.refusal) = (0, None);
        self.changed = true;
        let name = hosted.guest.name;
        self.probes.retain(|probe| probe.guest != at);
        self.pooled(kernel, &mut |pool, sink| pool.stop(name, sink));
    }

    /// An input of the pool, and its outputs done.
    fn pooled<K: Kernel>(&mut self, kernel: &mut K, input: &mut dyn FnMut(&mut Pool, Sink<'_>)) {
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

/// Whether the limit is there; one that could not be lowered stays what it was.
fn grant<K: Kernel>(kernel: &mut K, hosted: &mut Hosted<'_>, bytes: u64) -> bool {
    let had = core::mem::replace(&mut hosted.limit_bytes, bytes);
    hosted.refusal = None;
    let done = !hosted.runs || write_limit(kernel, hosted, true);
    if !done && bytes < had {
        hosted.limit_bytes = had;
    }
    let (name, limit) = (hosted.guest.name, hosted.limit_bytes);
    kernel.log(Level::Info, format_args!("guest {name}: limit {limit}"));
    done
}

fn refuse<K: Kernel>(kernel: &mut K, hosted: &mut Hosted<'_>, why: &Refusal) -> bool {
    kernel.log(Level::Warning, format_args!("guest {}: refused, {why}", hosted.guest.name));
    hosted.refusal = Some(why.clone());
    true
}

/// Writes memory.max, unless it is there or would kill; whether it is there.
fn write_limit<K: Kernel>(kernel: &mut K, hosted: &Hosted<'_>, says: bool) -> bool {
    let Hosted { guest: Guest { name, cgroup, .. }, limit_bytes, .. } = *hosted;
    let Ok(file) = knob_path(cgroup, "memory.max") else { return false };
    let shown = decimal(&shows(kernel, &file));
    // The kernel rounds down to a page, of 64 KiB at most.
    if shown.is_some_and(|shown| shown <= limit_bytes && limit_bytes - shown < 65536) {
        return true;
    }
    let kills = current(kernel, cgroup).is_none_or(|used| used > limit_bytes);
    let text = cut::<32>(format_args!("{limit_bytes}"));
    if !kills && kernel.write(&file, text.as_bytes()).is_ok() {
        return true;
    }
    if says {
        let why = if kills { "is used above it" } else { "refused" };
        kernel.log(Level::Error, format_args!("guest {name}: {file}: wanted {text}, {why}"));
    }
    false
}

fn current<K: Kernel>(kernel: &mut K, cgroup: &str) -> Option<u64> {
    decimal(&shows(kernel, &knob_path(cgroup, "memory.current").ok()?))
}

impl fmt::Display for Json<&Hosted<'_>> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Hosted { guest, runs, limit_bytes, .. } = self.0;
        let (name, model) = (guest.name, guest.model.name());
        let memory = guest.values.get(Field::Memory);
        let overhead = limit_bytes.saturating_sub(memory);
        write!(f, r#"{{"name":"{name}","model":"{model}","runs":{runs},"memory_bytes":{memory},"#)?;
        write!(f, r#""overhead_bytes":{overhead},"limit_bytes":{limit_bytes}}}"#)
    }
}

/// As a list of guests.
impl fmt::Display for Json<&Hosting<'_>> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut comma = r#"{"guests":["#;
        for hosted in &self.0.hosted {
            write!(f, "{comma}{}", Json(hosted))?;
            comma = ",";
        }
        if comma != "," {
            f.write_str(comma)?;
        }
        write!(f, r#"],"reserve_free_bytes":{}}}"#, self.0.pool.free_bytes())
    }
}

#[cfg(test)]
mod tests;
