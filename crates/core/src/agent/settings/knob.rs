//! The knobs that are numbers, switches or words.

use core::ops::RangeInclusive;

use super::ROOT;
use crate::board::keys::{self, Kind};
use crate::board::text;

/// The enum and its table from one list, so that they can't differ.
macro_rules! knobs {
    ($($(#[$doc:meta])+ $knob:ident, $min:literal, $max:literal, $default:expr;)+) => {
        /// A number or a switch (0 or 1).
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Knob {
            $($(#[$doc])+ $knob,)+
        }

        impl Knob {
            /// All, in order.
            pub const ALL: [Self; KNOBS] = [$(Self::$knob),+];
            /// The value of each that nobody set.
            pub(super) const DEFAULTS: [u64; KNOBS] = [$($default),+];
            /// The least and the greatest of each, and the same in words.
            const RANGES: [(u64, u64, &str); KNOBS] =
                [$(($min, $max, concat!($min, " to ", $max))),+];
        }
    };
}

/// How many there are.
pub const KNOBS: usize = 18;

knobs! {
    /// memcg.disable
    MemcgDisable, 0, 1, 0;
    /// memcg.swap
    MemcgSwap, 0, 1, 0;
    /// memcg.swappiness_max; the kernel's own swappiness ends at 200.
    MemcgSwappinessMax, 0, 200, 50;
    /// memcg.period_secs, at most a week: longer periods say `disable`.
    MemcgPeriodSecs, 1, 604_800, 600;
    /// memcg.period_psi_percent_limit
    MemcgPeriodPsiPercentLimit, 0, 100, 1;
    /// memcg.eviction_psi_percent_limit
    MemcgEvictionPsiPercentLimit, 0, 100, 1;
    /// memcg.eviction_run_aging_count_min; a million periods are never.
    MemcgEvictionRunAgingCountMin, 0, 1_000_000, 3;
    /// compact.disable
    CompactDisable, 0, 1, 0;
    /// compact.period_secs, at most a week.
    CompactPeriodSecs, 1, 604_800, 600;
    /// compact.period_psi_percent_limit
    CompactPeriodPsiPercentLimit, 0, 100, 1;
    /// compact.psi_percent_limit
    CompactPsiPercentLimit, 0, 100, 5;
    /// compact.sec_max; a compaction that takes an hour is stuck.
    CompactSecMax, 1, 3600, 180;
    /// compact.order; no kernel keeps lists of blocks of more than 2^15 pages.
    CompactOrder, 1, 15, 9;
    /// compact.threshold, in pages; 2^40 of 4 KiB are more than a machine has.
    CompactThreshold, 0, 1_099_511_627_776, 1024;
    /// compact.force_times; the greatest is never.
    CompactForceTimes, 0, 18_446_744_073_709_551_615, u64::MAX;
    /// guest_swap.enable
    GuestSwapEnable, 0, 1, 0;
    /// guest_swap.size_percent; zram's pages shrink to about a third.
    GuestSwapSizePercent, 1, 400, 100;
    /// guest_swap.create_threshold_secs; at most a day.
    GuestSwapCreateThresholdSecs, 0, 86_400, 60;
}

impl Knob {
    /// What may be set.
    #[must_use]
    pub fn range(self) -> RangeInclusive<u64> {
        let (min, max, _) = Self::RANGES.get(self as usize).copied().unwrap_or_default();
        min..=max
    }

    /// The same in words.
    pub(crate) fn allowed(self) -> &'static str {
        Self::RANGES.get(self as usize).map_or("", |range| range.2)
    }

    /// The value that nobody set.
    #[must_use]
    pub fn default(self) -> u64 {
        Self::DEFAULTS.get(self as usize).copied().unwrap_or_default()
    }

    /// Whether it is one: 0 or 1, as JSON false or true.
    pub(super) fn is_switch(self) -> bool {
        self.range() == (0..=1)
    }

    /// Its name, such as `memcg.period_secs`.
    #[must_use]
    pub fn name(self) -> &'static str {
        let of = |kind| matches!(kind, Kind::Switch(knob) | Kind::Count(knob) if knob == self);
        // The first: an entry of memcg.cgroups has it too.
        let key = keys::all().find(|key| of(key.kind));
        key.and_then(|key| key.path.strip_prefix(ROOT)).unwrap_or_default()
    }
}

/// A setting that is a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Word {
    /// guest_swap.path
    SwapPath,
    /// guest_swap.kind
    SwapKind,
    /// guest_swap.algorithm
    SwapAlgorithm,
}

/// How many there are.
pub(super) const WORDS: usize = 3;

impl Word {
    /// The value that nobody set.
    pub(super) fn default(self) -> &'static str {
        match self {
            Self::SwapPath => "/var/qm/swap",
            Self::SwapKind => "file",
            Self::SwapAlgorithm => "",
        }
    }

    /// Whether it may be set.
    pub(crate) fn accepts(self, text: &str) -> bool {
        match self {
            Self::SwapPath => text::is_directory(text),
            Self::SwapKind => matches!(text, "file" | "zram"),
            Self::SwapAlgorithm => text::is_algorithm(text),
        }
    }

    /// The same in words.
    pub(crate) fn allowed(self) -> &'static str {
        match self {
            Self::SwapPath => "an absolute path of at most 128 bytes",
            Self::SwapKind => "`file` or `zram`",
            Self::SwapAlgorithm => "at most 32 of letters, digits and '-'",
        }
    }
}
