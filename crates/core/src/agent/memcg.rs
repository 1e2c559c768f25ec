//! Aging and eviction: what to do with one cgroup.
//!
//! A page is cold once the kernel has not seen it used for three periods. Of
//! pages in page tables the generations tell that by their ages. Pages that
//! were read with read(2) enter an old generation at once; they are told by how
//! the old generations grew from pass to pass.

use super::counters::Counter;
use super::lru_gen::Generation;

/// Periods for which a page must not have been used.
pub const COLD_PERIODS: u64 = 3;
/// Fewer pages than this are left alone: less than the kernel takes off a list
/// at a time (MIN_LRU_BATCH is BITS_PER_LONG).
pub const PAGES_MIN: u64 = 64;
/// First and least step of an eviction, in pages: the kernel's own batch.
const STEP_MIN: u64 = 64;
/// Longest step, in pages: 32 MiB of 4 KiB pages, which an eMMC reads again in
/// about a second, should it have been a mistake.
const STEP_MAX: u64 = 8192;
/// Of pages that the kernel does not see used, a step takes no more than 1/2^n:
/// should all that is left be used, this much is lost before it shows.
const UNSEEN_SHIFT: u32 = 3;
/// So many of them in any case: 4 MiB of 4 KiB pages, so that the rest of an
/// eviction does not take a second for every batch.
const UNSEEN_MIN: u64 = 1024;
/// After a step of which nothing came back, the next one is so many times as
/// long.
const STEP_GROWTH: u64 = 4;
/// Of what was evicted, the share that may come back before an eviction is
/// taken for a mistake: one sixteenth.
const REFAULT_SHIFT: u32 = 4;
/// Refaults that are noise: a batch's worth of counting on each of some CPUs.
const REFAULT_NOISE: u64 = 8;
/// Steps in a row after which pages came back, until the eviction ends.
const BAD_STEPS_MAX: u8 = 3;
/// An eviction that was a mistake is followed by 2^n periods without one.
const BACKOFF_MAX: u8 = 6;
/// What was read in the period before the last one stands where the kernel
/// evicts first. Above one sixteenth of what is cold, a pass is left out.
const RECENT_SHIFT: u32 = 4;

/// What is remembered of a cgroup between two passes, kept with the cgroup
/// itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// When the pressure was looked at, in microseconds since the kernel's start;
    /// 0 before the first time.
    pub stall_at_us: u64,
    /// Stall until then (see [`super::psi::Stall`]), in microseconds.
    pub stall_us: u64,
    /// Refaults (workingset_refault_*) at the end of the last eviction.
    pub refaults: u64,
    /// File pages in all but the youngest generation at the last pass.
    pub older_file: u64,
    /// File pages by which the older generations grew from pass to pass, the
    /// newest first.
    pub grown: [u64; 3],
    /// Pages that the last pass evicted.
    pub evicted: u64,
    /// Pages of the next first step; 0 is the least.
    pub step: u64,
    /// Passes seen, until there were enough for an eviction.
    pub passes: u32,
    /// Periods left without an eviction.
    pub skip: u8,
    /// Mistakes in a row.
    pub backoff: u8,
}

/// Bytes of a [`State`]: a version, and its fields in little endian.
pub const STATE_BYTES: usize = 1 + 10 * 8 + 2;
/// Of [`State`] as it is kept; another version's is as good as none.
const STATE_VERSION: u8 = 1;

impl State {
    /// As it is kept.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; STATE_BYTES] {
        let mut bytes = [0; STATE_BYTES];
        let [grown0, grown1, grown2] = self.grown;
        let words = [
            self.stall_at_us,
            self.stall_us,
            self.refaults,
            self.older_file,
            grown0,
            grown1,
            grown2,
            self.evicted,
            self.step,
            u64::from(self.passes),
        ];
        let [version, fields @ .., skip, backoff] = &mut bytes;
        (*version, *skip, *backoff) = (STATE_VERSION, self.skip, self.backoff);
        for (to, word) in fields.chunks_exact_mut(8).zip(words) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// As it was kept; `None` where that is not what [`Self::to_bytes`] made.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (version, rest) = bytes.split_first()?;
        let mut words = [0; 10];
        let (fields, rest) = rest.split_at_checked(words.len() * 8)?;
        for (word, bytes) in words.iter_mut().zip(fields.chunks_exact(8)) {
            *word = u64::from_le_bytes(bytes.try_into().ok()?);
        }
        let [at_us, total_us, refaults, older_file, g0, g1, g2, evicted, step, passes] = words;
        let &[skip, backoff, ..] = rest else { return None };
        (*version == STATE_VERSION && bytes.len() == STATE_BYTES).then_some(Self {
            stall_at_us: at_us,
            stall_us: total_us,
            refaults,
            older_file,
            grown: [g0, g1, g2],
            evicted,
            step,
            passes: u32::try_from(passes).ok()?,
            skip,
            backoff,
        })
    }
}

/// What one memory node of a cgroup has that is cold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cold {
    /// Youngest generation of which all is cold.
    pub seq: u64,
    /// File pages.
    pub file_pages: u64,
    /// Anonymous pages.
    pub anon_pages: u64,
}

/// What a pass does with one memory node of a cgroup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// What to evict.
    pub cold: Cold,
    /// The generation to age, if it is time.
    pub age: Option<u64>,
    /// Why something is not evicted although it seems cold.
    pub held: Option<Counter>,
}

/// What rules a pass.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// From one pass to the next, in milliseconds.
    pub period_ms: u64,
    /// Agings before the first eviction.
    pub agings_min: u64,
    /// Somebody wants this pass now: age although it is not time.
    pub forced: bool,
}

/// A pass over one memory node of a cgroup, whose generations these are. Moves
/// the state on.
pub fn pass(state: &mut State, generations: &[Generation], rule: Rule) -> Plan {
    let mut plan = Plan::default();
    let Some(youngest) = generations.last() else { return plan };
    // A pass may be late by what the one before took, evictions included.
    let slack_ms = rule.period_ms / 4;
    let due = youngest.age_ms.saturating_add(slack_ms) >= rule.period_ms;
    if !due && !rule.forced {
        return plan;
    }
    plan.age = Some(youngest.seq);
    state.grow(generations, due);
    // No further than anybody asks: the state of an idle cgroup then stays as it
    // is, and need not be kept again.
    if due && u64::from(state.passes) <= rule.agings_min {
        state.passes = state.passes.saturating_add(1);
    }
    let cold_ms = COLD_PERIODS.saturating_mul(rule.period_ms).saturating_sub(slack_ms);
    let cold = cold(generations, cold_ms);
    if cold == Cold::default() || u64::from(state.passes) <= rule.agings_min {
        return plan;
    }
    if state.skip > 0 {
        state.skip -= u8::from(due);
        plan.held = Some(Counter::StopBackedOff);
        return plan;
    }
    let [_, before_last, _] = state.grown;
    let recent = state.grown.iter().fold(0_u64, |sum, pages| sum.saturating_add(*pages));
    plan.cold = Cold { file_pages: cold.file_pages.saturating_sub(recent), ..cold };
    if before_last > cold.file_pages >> RECENT_SHIFT {
        plan.cold.file_pages = 0;
    }
    if plan.cold.file_pages == 0 && recent > 0 {
        plan.held = Some(Counter::StopRecentReads);
    }
    plan
}

/// What was not used for so long: a generation's pages were not used since the
/// next one was begun. The two youngest the kernel never evicts.
fn cold(generations: &[Generation], cold_ms: u64) -> Cold {
    let mut cold = Cold::default();
    let (mut file_pages, mut anon_pages) = (0_u64, 0_u64);
    let evictable = generations.len().saturating_sub(2);
    let after = generations.iter().skip(1);
    for (generation, next) in generations.iter().zip(after).take(evictable) {
        file_pages = file_pages.saturating_add(generation.file_pages);
        anon_pages = anon_pages.saturating_add(generation.anon_pages);
        if next.age_ms < cold_ms {
            break;
        }
        cold = Cold { seq: generation.seq, file_pages, anon_pages };
    }
    if file_pages_and_anon(cold) == 0 { Cold::default() } else { cold }
}

fn file_pages_and_anon(cold: Cold) -> u64 {
    cold.file_pages.saturating_add(cold.anon_pages)
}

impl State {
    /// Notes by how much the old generations grew, evictions apart: by pages
    /// that were read, since pages in page tables come into the youngest.
    fn grow(&mut self, generations: &[Generation], shift: bool) {
        let older = |than: u64| {
            let older = generations.iter().filter(|generation| generation.seq < than);
            older.fold(0_u64, |sum, generation| sum.saturating_add(generation.file_pages))
        };
        let youngest = generations.last().map_or(0, |generation| generation.seq);
        let grown = if *self == Self::default() {
            // Nothing is known of them: as if all were read just now.
            older(youngest)
        } else {
            // The youngest of the last pass has been aged once since. Where it was
            // more than that, by the kernel, more seems new than is.
            let left = self.older_file.saturating_sub(self.evicted);
            older(youngest.saturating_sub(1)).saturating_sub(left)
        };
        let [last, before_last, _] = self.grown;
        self.grown = if shift {
            [grown, last, before_last]
        } else {
            let [_, _, earlier] = self.grown;
            [last.saturating_add(grown), before_last, earlier]
        };
        self.older_file = older(youngest);
        self.evicted = 0;
    }

    /// What came back since the last eviction, in pages; a mistake is followed
    /// by periods without one. To be called before [`pass`] where the last pass
    /// evicted something.
    pub fn settle(&mut self, refaults: u64) -> u64 {
        let back = refaults.saturating_sub(self.refaults);
        self.refaults = refaults;
        if is_mistake(back, self.evicted) {
            self.backoff = self.backoff.saturating_add(1).min(BACKOFF_MAX);
            self.skip = 1 << self.backoff;
            self.step = 0;
        } else {
            self.backoff = self.backoff.saturating_sub(1);
        }
        back
    }
}

/// Whether too much of what was evicted came back.
fn is_mistake(back: u64, evicted: u64) -> bool {
    back > REFAULT_NOISE.max(evicted >> REFAULT_SHIFT)
}

/// An eviction under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Eviction {
    /// File pages still to evict.
    file_pages: u64,
    /// Anonymous pages still to evict, after the file pages.
    anon_pages: u64,
    /// Pages of the next step.
    step: u64,
    /// Pages that the step before was to evict.
    asked: u64,
    /// Counts at the begin of the step before, if there was one.
    before: Option<Sample>,
    bad_steps: u8,
    /// Pages evicted in all.
    pub evicted: u64,
    /// Pages that came back while it was under way.
    pub refaulted: u64,
}

/// Counts of the cgroup, from memory.stat.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// Pages reclaimed (pgsteal).
    pub stolen: u64,
    /// Pages that came back (workingset_refault_anon and _file).
    pub refaults: u64,
    /// File pages in no page table: the kernel does not see them used, since
    /// that is done with read(2) if at all (file less file_mapped).
    pub unmapped: u64,
}

/// The next step of an eviction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Evict so many file pages.
    File(u64),
    /// Evict so many anonymous pages.
    Anon(u64),
    /// It is over.
    Stop(Counter),
}

impl Eviction {
    /// An eviction of what is cold, but no more than `allowed` pages.
    /// `swappiness_max` (0..=200) is the share of anonymous pages in 200ths, as
    /// far as there are file pages to choose instead.
    #[must_use]
    pub fn new(state: &State, cold: Cold, swappiness_max: u64, allowed: u64) -> Self {
        let file_pages = cold.file_pages.min(allowed);
        let share = file_pages_and_anon(cold).saturating_mul(swappiness_max) / 200;
        let most = match (cold.file_pages, swappiness_max) {
            (0, 1..) => cold.anon_pages,
            _ => cold.anon_pages.min(share),
        };
        let anon_pages = most.min(allowed - file_pages);
        // Nothing but what is protected: a step of nothing.
        let step = if allowed == 0 { 0 } else { state.step.clamp(STEP_MIN, STEP_MAX) };
        Self {
            file_pages,
            anon_pages,
            step,
            asked: 0,
            before: None,
            bad_steps: 0,
            evicted: 0,
            refaulted: 0,
        }
    }

    /// Whether more is to be evicted than the step just given takes: then that
    /// one's outcome must be waited for.
    #[must_use]
    pub fn has_more(&self) -> bool {
        self.file_pages.saturating_add(self.anon_pages) > self.asked
    }

    /// Judges the step before by the counts now, and says the next one.
    pub fn next(&mut self, now: Sample, pressed: bool) -> Step {
        if let Some(before) = self.before.replace(now) {
            let stolen = now.stolen.saturating_sub(before.stolen);
            let back = now.refaults.saturating_sub(before.refaults);
            self.evicted = self.evicted.saturating_add(stolen);
            self.refaulted = self.refaulted.saturating_add(back);
            let left = stolen.saturating_sub(self.file_pages);
            self.file_pages = self.file_pages.saturating_sub(stolen);
            self.anon_pages = self.anon_pages.saturating_sub(left);
            if is_mistake(back, stolen) {
                self.bad_steps += 1;
                self.step = STEP_MIN;
            } else {
                self.bad_steps = 0;
                self.step = self.step.saturating_mul(STEP_GROWTH).min(STEP_MAX);
            }
            if self.bad_steps >= BAD_STEPS_MAX {
                return Step::Stop(Counter::StopRefaults);
            }
            if stolen == 0 && self.file_pages > 0 && self.anon_pages > 0 {
                // No file page is left that the kernel would give.
                self.file_pages = 0;
            } else if stolen == 0 {
                return Step::Stop(Counter::StopNothing);
            }
        }
        if pressed {
            // The next pass learns of the pressure only after its first step.
            self.step = STEP_MIN;
            return Step::Stop(Counter::StopEvictionPressure);
        }
        let step = match (self.file_pages, self.anon_pages) {
            (0, 0) if self.step == 0 => return Step::Stop(Counter::StopProtected),
            (0, 0) => return Step::Stop(Counter::StopDone),
            (0, anon) => Step::Anon(anon.min(self.step)),
            (file, _) => {
                let seen = file.saturating_sub(now.unmapped);
                let most = seen.max(file >> UNSEEN_SHIFT).max(UNSEEN_MIN);
                Step::File(file.min(self.step).min(most))
            }
        };
        if let Step::File(pages) | Step::Anon(pages) = step {
            self.asked = pages;
        }
        step
    }

    /// Leaves what the next pass has to know.
    pub fn finish(&self, state: &mut State) {
        state.evicted = self.evicted;
        state.step = self.step;
        state.refaults = self.before.map_or(state.refaults, |sample| sample.refaults);
        // One that its time ended had no chance to go wrong so often in a row.
        if self.bad_steps >= BAD_STEPS_MAX || is_mistake(self.refaulted, self.evicted) {
            state.backoff = state.backoff.saturating_add(1).min(BACKOFF_MAX);
            state.skip = 1 << state.backoff;
            state.step = 0;
        }
    }
}

#[cfg(test)]
mod tests;
