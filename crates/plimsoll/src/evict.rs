//! Evictions of several cgroups at once, step by step: after each step it is
//! seen whether the cgroup is under pressure and whether pages come back.

use heapless::{String, Vec};
use plimsoll_core::agent::counters::Counter;
use plimsoll_core::agent::memcg::{Eviction, State, Step};
use plimsoll_core::agent::psi::Gate;
use plimsoll_core::kernel::Errno;
use plimsoll_core::record::cut;

use crate::agent::Report;
use crate::cgroup::Cgroup;
use crate::lru::Commands;
use crate::sys;

/// Cgroups evicted at once; with more, the first ones have their turn before
/// the rest is looked at.
pub(crate) const CANDIDATES_MAX: usize = 16;

/// The swappiness with which the kernel evicts anonymous pages alone.
const ANON_ONLY: u64 = 200;

/// A cgroup that has something to evict.
pub(crate) struct Candidate {
    pub(crate) cgroup: Cgroup,
    pub(crate) way: Way,
    /// Name of its state.
    pub(crate) node: u32,
    pub(crate) state: State,
    pub(crate) eviction: Eviction,
    pub(crate) gate: Option<Gate>,
}

/// How its pages are evicted.
pub(crate) enum Way {
    /// Commands to MGLRU.
    LruGen {
        id: u64,
        /// Youngest generation to evict from.
        seq: u64,
        /// Generation to age afterwards.
        age: Option<u64>,
        /// Whether its anonymous pages are aged too.
        swap: bool,
    },
    /// memory.reclaim; whether it takes a swappiness.
    Reclaim { swappiness: bool },
}

/// What is under way.
pub(crate) struct Evictions<'a> {
    pub(crate) candidates: Vec<Candidate, CANDIDATES_MAX>,
    /// The aging of those that are done.
    pub(crate) agings: Option<Commands>,
    pub(crate) commands: Option<Commands>,
    pub(crate) report: &'a mut Report,
    /// Some had their turn.
    pub(crate) begun: bool,
    /// When all steps have to be over, in microseconds since the kernel's start.
    pub(crate) end_us: u64,
    /// Between two steps, in microseconds: time for pages to come back.
    pub(crate) pause_us: u64,
    pub(crate) page_bytes: u64,
}

impl Evictions<'_> {
    /// Adds a cgroup; where there is no room, the others have their turn first.
    pub(crate) fn add(&mut self, candidate: Candidate) {
        if self.candidates.is_full() {
            self.run();
        }
        let _ = self.candidates.push(candidate);
    }

    /// Evicts until each cgroup is done or has to stop, then ages them.
    pub(crate) fn run(&mut self) {
        self.flush();
        // Whatever the time, the first ones of a pass have a step.
        let mut over = self.begun && sys::now_us() >= self.end_us;
        self.begun = true;
        loop {
            self.step(over);
            self.flush();
            self.report.send();
            if self.candidates.is_empty() {
                return;
            }
            if self.candidates.iter().any(|candidate| candidate.eviction.has_more()) {
                sys::sleep_us(self.pause_us);
            }
            // What is commanded next is judged a pause later.
            over = sys::now_us().saturating_add(self.pause_us) > self.end_us;
        }
    }

    /// One step of each cgroup; those that are over leave.
    fn step(&mut self, over: bool) {
        for at in (0..self.candidates.len()).rev() {
            let Some(candidate) = self.candidates.get_mut(at) else { continue };
            let stop = match candidate.next(over) {
                Ok(Step::Stop(reason)) => Some(reason),
                Ok(step) => {
                    candidate.command(step, self.commands.as_mut(), self.report, self.page_bytes)
                }
                Err(reason) => Some(reason),
            };
            if let Some(reason) = stop {
                let candidate = self.candidates.swap_remove(at);
                self.leave(candidate, reason);
            }
        }
    }

    fn leave(&mut self, mut candidate: Candidate, reason: Counter) {
        let counters = &mut self.report.counters;
        counters.add(reason, 1);
        counters.add(Counter::MemcgEvictedPages, candidate.eviction.evicted);
        counters.add(Counter::MemcgRefaultedPages, candidate.eviction.refaulted);
        candidate.eviction.finish(&mut candidate.state);
        if candidate.cgroup.keep(candidate.node, &candidate.state).is_err() {
            counters.add(Counter::ErrorGone, 1);
        }
        if let (Way::LruGen { id, age: Some(seq), swap, .. }, Some(commands)) =
            (&candidate.way, &mut self.agings)
        {
            commands.age((*id, candidate.node), *seq, *swap, counters);
        }
    }

    fn flush(&mut self) {
        for commands in [&mut self.commands, &mut self.agings].into_iter().flatten() {
            commands.flush(&mut self.report.counters);
        }
    }
}

impl Candidate {
    /// What comes next.
    fn next(&mut self, over: bool) -> Result<Step, Counter> {
        let sample = self.cgroup.sample().ok_or(Counter::ErrorGone)?;
        let pressed = match (&mut self.gate, self.cgroup.stall()) {
            (Some(gate), Some(stall)) => gate.trips(stall),
            _ => false,
        };
        Ok(match self.eviction.next(sample, pressed) {
            Step::File(_) | Step::Anon(_) if over => Step::Stop(Counter::StopTime),
            step => step,
        })
    }

    /// Commands a step; the reason if that ends the eviction.
    fn command(
        &mut self,
        step: Step,
        commands: Option<&mut Commands>,
        report: &mut Report,
        page_bytes: u64,
    ) -> Option<Counter> {
        let counters = &mut report.counters;
        let (pages, swappiness) = match step {
            Step::File(pages) => (pages, 0),
            Step::Anon(pages) => (pages, ANON_ONLY),
            Step::Stop(reason) => return Some(reason),
        };
        match (&self.way, commands) {
            (Way::LruGen { id, seq, .. }, Some(commands)) => {
                commands.evict((*id, self.node), *seq, swappiness, pages, counters);
                None
            }
            (Way::Reclaim { swappiness: known }, _) => {
                counters.add(Counter::MemcgAskedPages, pages);
                let bytes = pages.saturating_mul(page_bytes);
                let text: String<48> = if *known {
                    cut(format_args!("{bytes} swappiness={swappiness}"))
                } else {
                    cut(format_args!("{bytes}"))
                };
                match self.cgroup.write(c"memory.reclaim", text.as_bytes()) {
                    // EAGAIN: less than that was to be had.
                    Ok(()) | Err(Errno::AGAIN) => None,
                    Err(Errno::INTR) => Some(Counter::ErrorInterrupted),
                    Err(Errno::NOENT | Errno::NODEV) => Some(Counter::ErrorGone),
                    Err(_) => Some(Counter::ErrorRefused),
                }
            }
            (Way::LruGen { .. }, None) => Some(Counter::ErrorRefused),
        }
    }
}
