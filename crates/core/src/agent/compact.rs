//! Compaction: when it is worth it.
//!
//! Kata's conditions (compact_order, compact_threshold, compact_force_times).
//! The cheap file, buddyinfo, comes first; pagetypeinfo, for which the kernel
//! walks lists under a lock, only where it can make a difference.

mod blocks;
#[cfg(test)]
mod tests;

pub use self::blocks::{Blocks, ORDERS_MAX, all_types, movable};
use super::settings::{Knob, Settings};

/// [`Conditions::force_times`] that never forces.
const NEVER: u64 = u64::MAX;

/// What makes a compaction worth it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conditions {
    /// Order of the blocks that compaction is to make; those below are small.
    pub order: u64,
    /// Change since the last compaction that is put up with, in pages.
    pub threshold_pages: u64,
    /// Periods in a row without one, after which it is forced; the greatest
    /// number: never.
    pub force_times: u64,
}

impl Conditions {
    /// Those in force.
    #[must_use]
    pub fn of(settings: &Settings) -> Self {
        Self {
            order: settings.get(Knob::CompactOrder),
            threshold_pages: settings.get(Knob::CompactThreshold),
            force_times: settings.get(Knob::CompactForceTimes),
        }
    }
}

/// The free memory at some moment, in pages of the kernel's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// All of it (MemFree of /proc/meminfo).
    pub free_pages: u64,
    /// The order below which blocks are small here.
    pub order: u64,
    /// In small blocks, of all types.
    pub small_pages: u64,
    /// In small movable blocks, at most `small_pages`; `None` where
    /// pagetypeinfo was not read, or can't be.
    pub small_movable_pages: Option<u64>,
}

impl Look {
    /// Nothing free, as before the first compaction.
    const NOTHING: Self =
        Self { free_pages: 0, order: 0, small_pages: 0, small_movable_pages: Some(0) };

    /// What buddyinfo says.
    #[must_use]
    pub fn cheap(free_pages: u64, order: u64, all: &Blocks) -> Self {
        let small_pages = all.pages_below(order);
        Self { free_pages, order, small_pages, small_movable_pages: None }
    }

    /// And what pagetypeinfo says.
    #[must_use]
    pub fn closer(self, movable: &Blocks) -> Self {
        // Read later, so it may know of blocks that were not free before.
        let pages = movable.pages_below(self.order).min(self.small_pages);
        Self { small_movable_pages: Some(pages), ..self }
    }

    /// This look after a compaction, as what the next one is compared with:
    /// blocks that were not there `before` were freed meanwhile, maybe where
    /// the compaction had been already.
    #[must_use]
    pub fn after(self, before: &Self) -> Self {
        let least = |now: Option<u64>, then: Option<u64>| Some(now?.min(then.unwrap_or(u64::MAX)));
        Self {
            small_pages: self.small_pages.min(before.small_pages),
            small_movable_pages: least(self.small_movable_pages, before.small_movable_pages),
            ..self
        }
    }
}

/// Why to compact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Too many periods passed without it.
    Forced,
    /// Memory became scarcer than it was after the last one.
    FreeFell,
    /// More free memory is in small movable blocks than after the last one, or
    /// where there was none yet, too much is.
    SmallGrew,
}

/// What is remembered from one period to the next.
#[derive(Clone, Copy, Debug)]
pub struct History {
    /// Right after the last compaction.
    last: Look,
    /// Periods since then.
    periods_without: u64,
}

impl Default for History {
    fn default() -> Self {
        Self { last: Look::NOTHING, periods_without: 0 }
    }
}

impl History {
    /// Whether a cheap look leaves open what [`Self::decide`] would say of a
    /// closer one.
    #[must_use]
    pub fn needs_types(&self, conditions: &Conditions, cheap: &Look) -> bool {
        // Movable blocks are a part of all: what all don't exceed, they don't.
        let could_exceed = self
            .last_of(cheap.order)
            .small_movable_pages
            .is_some_and(|then| grew(then, cheap.small_pages, conditions));
        could_exceed && self.whatever_the_types(conditions, cheap).is_none()
    }

    /// Whether to compact now. Without the types, all small blocks stand in for
    /// the movable ones.
    #[must_use]
    pub fn decide(&self, conditions: &Conditions, look: &Look) -> Option<Why> {
        let last = self.last_of(look.order);
        let (then, now) = match (last.small_movable_pages, look.small_movable_pages) {
            (Some(then), Some(now)) => (then, now),
            _ => (last.small_pages, look.small_pages),
        };
        let small_grew = grew(then, now, conditions).then_some(Why::SmallGrew);
        self.whatever_the_types(conditions, look).or(small_grew)
    }

    /// A period passed without a compaction that came to its end, be it that
    /// none began or that it was stopped.
    pub fn passed_without(&mut self) {
        self.periods_without = self.periods_without.saturating_add(1);
    }

    /// One came to its end; `after` is a closer look, where there can be one.
    pub fn compacted(&mut self, after: Look) {
        *self = Self { last: after, periods_without: 0 };
    }

    fn whatever_the_types(&self, conditions: &Conditions, look: &Look) -> Option<Why> {
        let Conditions { force_times, .. } = *conditions;
        if force_times != NEVER && self.periods_without >= force_times {
            Some(Why::Forced)
        } else if grew(look.free_pages, self.last.free_pages, conditions) {
            Some(Why::FreeFell)
        } else {
            None
        }
    }

    /// What to compare with. Where another order was small then, nothing was.
    fn last_of(&self, order: u64) -> Look {
        if self.last.order == order { self.last } else { Look::NOTHING }
    }
}

fn grew(from: u64, to: u64, conditions: &Conditions) -> bool {
    to.saturating_sub(from) > conditions.threshold_pages
}
