//! The agent's knobs: what may be set, what is set, and by whom.
//!
//! One table, [`keys`], and one reader, in [`change`], for the board file and
//! for what is set on the running board.

mod change;
mod knob;
mod show;

use heapless::{String, Vec};

pub use self::change::set;
use self::knob::WORDS;
pub use self::knob::{KNOBS, Knob, Word};
use crate::board::keys::{self, AGENT};
use crate::board::text::{CGROUP_MAX, is_inside};
use crate::plan::SUPERVISOR_CGROUP;

/// Entries of memcg.cgroups: a board's slices and a few of its services.
pub const CGROUPS_MAX: usize = 16;
/// Rules a cgroup may be under: memcg.* for QM's subtree, and the entries.
pub const RULES_MAX: usize = 1 + CGROUPS_MAX;
/// Knobs that an entry of memcg.cgroups may give: the first of [`Knob`].
const MEMCG_KNOBS: usize = 7;
/// Where the keys are in the board file and in a request.
const ROOT: &str = "agent.";

/// All knobs, checked, and where each came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    values: [u64; KNOBS],
    /// Empty where it is the default.
    words: [String<CGROUP_MAX>; WORDS],
    cgroups: Vec<Entry, CGROUPS_MAX>,
    /// Of each of [`keys::all`] from [`AGENT`] on.
    origins: [Origin; keys::COUNT - AGENT],
}

/// Who gave a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody: it is the default.
    Default,
    /// The board file.
    Board,
    /// A `set` on the running board.
    Set,
}

/// What swap is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SwapKind {
    /// Files in a directory.
    File,
    /// Memory of its own, compressed.
    Zram,
}

/// What holds for one cgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memcg {
    /// Neither aged nor evicted.
    pub disable: bool,
    /// Whether anonymous pages are aged and evicted too.
    pub swap: bool,
    /// Cap of the swappiness that is worked out, 0..=200.
    pub swappiness_max: u64,
    /// From one pass to the next, in seconds, 1..=604800.
    pub period_secs: u64,
    /// Pressure since the last pass above which this one is left out, in
    /// percent of the time, 0..=100.
    pub period_psi_percent_limit: u64,
    /// Pressure above which an eviction stops, in percent of the time, 0..=100.
    pub eviction_psi_percent_limit: u64,
    /// Agings before the first eviction.
    pub eviction_run_aging_count_min: u64,
    /// Which rule this is: 0 is memcg.* for QM's subtree, 1 + i the entry i of
    /// memcg.cgroups. Below [`RULES_MAX`].
    pub rule: usize,
}

/// One entry of memcg.cgroups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Entry {
    /// Empty until it is read.
    path: String<CGROUP_MAX>,
    exact: bool,
    /// In the order of [`Knob`]; `None` is that of memcg.*.
    values: [Option<u32>; MEMCG_KNOBS],
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            values: Knob::DEFAULTS,
            words: [const { String::new() }; WORDS],
            cgroups: Vec::new(),
            origins: [Origin::Default; keys::COUNT - AGENT],
        }
    }
}

impl Settings {
    /// A knob's value, within its range; of a switch 0 or 1.
    #[must_use]
    pub fn get(&self, knob: Knob) -> u64 {
        self.values.get(knob as usize).copied().unwrap_or_default()
    }

    /// Whether a switch is on.
    #[must_use]
    pub fn is_on(&self, knob: Knob) -> bool {
        self.get(knob) != 0
    }

    /// Directory of swap files, absolute, without a '/' at its end; for those
    /// made from now on.
    #[must_use]
    pub fn swap_path(&self) -> &str {
        self.word(Word::SwapPath)
    }

    /// What swap is made of from now on.
    #[must_use]
    pub fn swap_kind(&self) -> SwapKind {
        if self.word(Word::SwapKind) == "zram" { SwapKind::Zram } else { SwapKind::File }
    }

    /// For comp_algorithm of zram; empty: the kernel's own choice.
    #[must_use]
    pub fn swap_algorithm(&self) -> &str {
        self.word(Word::SwapAlgorithm)
    }

    fn word(&self, word: Word) -> &str {
        let given = self.words.get(word as usize).filter(|text| !text.is_empty());
        given.map_or(word.default(), |text| text)
    }

    /// Who gave the value called `name`, such as `guest_swap.path`,
    /// `memcg.cgroups` or [`Knob::name`].
    #[must_use]
    pub fn origin(&self, name: &str) -> Origin {
        let mut keys = keys::all().skip(AGENT);
        let at = keys.position(|key| key.path.strip_prefix(ROOT) == Some(name));
        at.and_then(|at| self.origins.get(at)).copied().unwrap_or(Origin::Default)
    }

    /// What holds for the cgroup at `path` ("/" is the root); `None` where it is
    /// none of the agent's.
    ///
    /// Managed are QM's cgroup and all below it, and what an entry covers: its
    /// path and all below, or with `exact` that path alone. "/" covers all but
    /// the root cgroup itself, which holds what is nobody's: only an exact entry
    /// takes that. The nearest wins: of two paths the longer, of two entries
    /// with one path the exact one, and an entry before QM's own rule.
    /// plimsoll's own cgroups are nobody's.
    #[must_use]
    pub fn for_cgroup(&self, qm_cgroup: &str, path: &str) -> Option<Memcg> {
        if is_inside(path, SUPERVISOR_CGROUP) {
            return None;
        }
        // Twice the length of the path that covers, and one more if exact.
        let mut nearest = if is_inside(path, qm_cgroup) { 2 * qm_cgroup.len() } else { 0 };
        let mut rule = 0;
        for (at, entry) in self.cgroups.iter().enumerate() {
            let near = 2 * entry.path.len() + usize::from(entry.exact);
            if entry.covers(path) && near >= nearest {
                (nearest, rule) = (near, 1 + at);
            }
        }
        if nearest > 0 { self.rule(rule) } else { None }
    }

    /// Path of the cgroup at the top of a rule.
    #[must_use]
    pub fn rule_path<'a>(&'a self, rule: usize, qm_cgroup: &'a str) -> &'a str {
        let entry = rule.checked_sub(1).and_then(|entry| self.cgroups.get(entry));
        entry.map_or(qm_cgroup, |entry| &*entry.path)
    }

    /// The cgroups below which all managed ones are; none is below another.
    pub fn tops<'a>(&'a self, qm_cgroup: &'a str) -> impl Iterator<Item = &'a str> {
        let rules = 0..=self.cgroups.len();
        rules.clone().filter_map(move |at| {
            let path = self.rule_path(at, qm_cgroup);
            let within = rules.clone().any(|other_at| {
                let other = self.rule_path(other_at, qm_cgroup);
                let above = path != other && (other == "/" || is_inside(path, other));
                above || (path == other && other_at < at)
            });
            (!within).then_some(path)
        })
    }

    /// The rules in order, [`Memcg::rule`] counting up from 0. Cgroups under one
    /// rule have one period.
    pub fn rules(&self) -> impl Iterator<Item = Memcg> {
        (0..RULES_MAX).map_while(|rule| self.rule(rule))
    }

    fn rule(&self, rule: usize) -> Option<Memcg> {
        let entry = match rule.checked_sub(1) {
            Some(entry) => Some(self.cgroups.get(entry)?),
            None => None,
        };
        let value = |knob| entry.and_then(|entry| entry.get(knob)).unwrap_or(self.get(knob));
        Some(Memcg {
            disable: value(Knob::MemcgDisable) != 0,
            swap: value(Knob::MemcgSwap) != 0,
            swappiness_max: value(Knob::MemcgSwappinessMax),
            period_secs: value(Knob::MemcgPeriodSecs),
            period_psi_percent_limit: value(Knob::MemcgPeriodPsiPercentLimit),
            eviction_psi_percent_limit: value(Knob::MemcgEvictionPsiPercentLimit),
            eviction_run_aging_count_min: value(Knob::MemcgEvictionRunAgingCountMin),
            rule,
        })
    }
}

impl Entry {
    fn get(&self, knob: Knob) -> Option<u64> {
        self.values.get(knob as usize).copied().flatten().map(u64::from)
    }

    fn covers(&self, path: &str) -> bool {
        let same = self.path == path;
        match &*self.path {
            _ if self.exact => same,
            "/" => !same,
            of => is_inside(path, of),
        }
    }
}
