//! What the loops did, counted.

use core::fmt;

use crate::json::Json;

/// One thing that is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Counter {
    /// Passes over the cgroups.
    MemcgPasses,
    /// Cgroups looked at, each memory node for itself.
    MemcgSeen,
    /// Of those, with too few pages to be worth a command.
    MemcgSmall,
    /// Agings commanded.
    MemcgAged,
    /// Pages asked of the kernel.
    MemcgAskedPages,
    /// Pages that were evicted.
    MemcgEvictedPages,
    /// Pages of managed cgroups that came back after they had been evicted.
    MemcgRefaultedPages,
    /// Left alone for a period: pressure since the last pass.
    StopPeriodPressure,
    /// Eviction stopped: pressure while it was under way.
    StopEvictionPressure,
    /// Eviction stopped: what it took came back.
    StopRefaults,
    /// Left alone for a period: what earlier evictions took came back.
    StopBackedOff,
    /// Eviction stopped at memory.min or memory.low.
    StopProtected,
    /// Left alone for a period: too much was read lately to tell old from new.
    StopRecentReads,
    /// Left alone: the kernel would swap out what is not to be (before 6.11
    /// memory.reclaim takes no swappiness).
    StopNoSwappiness,
    /// Eviction stopped: the kernel found nothing more to evict.
    StopNothing,
    /// Eviction stopped: its share of the period was over.
    StopTime,
    /// Everything cold was evicted.
    StopDone,
    /// Cgroups that were gone when they were to be commanded.
    ErrorGone,
    /// Commands refused as stale (EINVAL): the kernel had given the id or the
    /// generation up.
    ErrorStale,
    /// Commands that a signal ended.
    ErrorInterrupted,
    /// Everything else that the kernel refused.
    ErrorRefused,
    /// Parts of a kernel's text that could not be understood.
    ErrorMalformed,
    /// Cgroups past a capacity of the program: too deep, too long a path.
    ErrorTooLarge,
    /// Children that had to be killed at their deadline, or that died.
    ErrorJob,
    /// Looks at fragmentation.
    CompactLooks,
    /// Compactions begun because they were needed.
    CompactNeeded,
    /// Compactions begun because they were forced.
    CompactForced,
    /// Compactions left out: pressure since the last look.
    CompactPeriodPressure,
    /// Compactions ended by pressure.
    CompactAbortedPressure,
    /// Compactions ended by compact.sec_max.
    CompactAbortedTime,
    /// Free memory that compactions put together to blocks of compact.order,
    /// in pages.
    CompactGainedPages,
    /// Bytes of swap made.
    SwapMadeBytes,
    /// Swap areas that could not be made.
    SwapFailed,
    /// Memory blocks given back to the host.
    BlocksGiven,
    /// Memory blocks that the kernel did not let go, in time or at all.
    BlocksRefused,
}

/// How many are counted.
pub const COUNTERS: usize = Counter::BlocksRefused as usize + 1;
/// All of them as they go through a pipe, in bytes; below PIPE_BUF, so that
/// they arrive as one.
pub const FRAME_BYTES: usize = COUNTERS * 8;

/// The counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counters([u64; COUNTERS]);

impl Default for Counters {
    fn default() -> Self {
        Self([0; COUNTERS])
    }
}

impl Counters {
    /// Counts `n` more.
    #[inline(never)]
    pub fn add(&mut self, counter: Counter, n: u64) {
        if let Some(count) = self.0.get_mut(counter as usize) {
            *count = count.saturating_add(n);
        }
    }

    /// One of them.
    #[must_use]
    pub fn get(&self, counter: Counter) -> u64 {
        self.0.get(counter as usize).copied().unwrap_or(0)
    }

    /// Counts what another counted.
    pub fn merge(&mut self, other: &Self) {
        for (count, more) in self.0.iter_mut().zip(other.0) {
            *count = count.saturating_add(more);
        }
    }

    /// As they go through a pipe.
    #[must_use]
    pub fn to_frame(&self) -> [u8; FRAME_BYTES] {
        let mut frame = [0; FRAME_BYTES];
        for (bytes, count) in frame.chunks_exact_mut(8).zip(self.0) {
            bytes.copy_from_slice(&count.to_le_bytes());
        }
        frame
    }

    /// As they came through a pipe.
    #[must_use]
    pub fn from_frame(frame: &[u8; FRAME_BYTES]) -> Self {
        let mut counters = Self::default();
        for (count, bytes) in counters.0.iter_mut().zip(frame.chunks_exact(8)) {
            *count = bytes.try_into().map_or(0, u64::from_le_bytes);
        }
        counters
    }
}

/// Counters of one kind: a metric, its parts told apart by a label.
struct Family {
    /// Name in metrics and status, without the program's name before it; by its
    /// end one knows the unit.
    name: &'static str,
    help: &'static str,
    /// Name of the label, where there is more than one part.
    label: &'static str,
    parts: &'static [(&'static str, Counter)],
}

/// What is published; pages as bytes.
static FAMILIES: &[Family] = &[
    Family {
        name: "memcg_passes",
        help: "Passes over the cgroups.",
        label: "",
        parts: &[("", Counter::MemcgPasses)],
    },
    Family {
        name: "memcg_cgroups",
        help: "Cgroups met in passes: looked at, and left alone as too small.",
        label: "what",
        parts: &[("seen", Counter::MemcgSeen), ("small", Counter::MemcgSmall)],
    },
    Family {
        name: "memcg_agings",
        help: "Agings commanded.",
        label: "",
        parts: &[("", Counter::MemcgAged)],
    },
    Family {
        name: "memcg_asked_bytes",
        help: "Memory that the kernel was asked to evict.",
        label: "",
        parts: &[("", Counter::MemcgAskedPages)],
    },
    Family {
        name: "memcg_evicted_bytes",
        help: "Memory evicted.",
        label: "",
        parts: &[("", Counter::MemcgEvictedPages)],
    },
    Family {
        name: "memcg_refaulted_bytes",
        help: "Memory that came back after an eviction.",
        label: "",
        parts: &[("", Counter::MemcgRefaultedPages)],
    },
    Family {
        name: "memcg_stops",
        help: "Evictions not begun or ended, by reason.",
        label: "reason",
        parts: &[
            ("period_pressure", Counter::StopPeriodPressure),
            ("eviction_pressure", Counter::StopEvictionPressure),
            ("refaults", Counter::StopRefaults),
            ("backed_off", Counter::StopBackedOff),
            ("protected", Counter::StopProtected),
            ("recent_reads", Counter::StopRecentReads),
            ("no_swappiness", Counter::StopNoSwappiness),
            ("nothing", Counter::StopNothing),
            ("time", Counter::StopTime),
            ("done", Counter::StopDone),
        ],
    },
    Family {
        name: "errors",
        help: "What went wrong, by kind.",
        label: "kind",
        parts: &[
            ("gone", Counter::ErrorGone),
            ("stale", Counter::ErrorStale),
            ("interrupted", Counter::ErrorInterrupted),
            ("refused", Counter::ErrorRefused),
            ("malformed", Counter::ErrorMalformed),
            ("too_large", Counter::ErrorTooLarge),
            ("job", Counter::ErrorJob),
        ],
    },
    Family {
        name: "compact_looks",
        help: "Looks at fragmentation.",
        label: "",
        parts: &[("", Counter::CompactLooks)],
    },
    Family {
        name: "compact_runs",
        help: "Compactions begun, by reason.",
        label: "reason",
        parts: &[("needed", Counter::CompactNeeded), ("forced", Counter::CompactForced)],
    },
    Family {
        name: "compact_stops",
        help: "Compactions not begun or ended, by reason.",
        label: "reason",
        parts: &[
            ("period_pressure", Counter::CompactPeriodPressure),
            ("pressure", Counter::CompactAbortedPressure),
            ("sec_max", Counter::CompactAbortedTime),
        ],
    },
    Family {
        name: "compact_gained_bytes",
        help: "Free memory that compaction took out of blocks smaller than compact.order.",
        label: "",
        parts: &[("", Counter::CompactGainedPages)],
    },
    Family {
        name: "swap_made_bytes",
        help: "Swap made.",
        label: "",
        parts: &[("", Counter::SwapMadeBytes)],
    },
    Family {
        name: "swap_failures",
        help: "Swap areas that could not be made.",
        label: "",
        parts: &[("", Counter::SwapFailed)],
    },
    Family {
        name: "virtio_mem_blocks",
        help: "Memory blocks to be given back to the host, by what came of it.",
        label: "result",
        parts: &[("given", Counter::BlocksGiven), ("refused", Counter::BlocksRefused)],
    },
];

/// Whether it counts pages, which are published as bytes.
const fn is_pages(counter: Counter) -> bool {
    matches!(
        counter,
        Counter::MemcgAskedPages
            | Counter::MemcgEvictedPages
            | Counter::MemcgRefaultedPages
            | Counter::CompactGainedPages
    )
}

/// Counters ready to be shown.
#[derive(Clone, Copy)]
pub struct Shown<'a> {
    /// The counts.
    pub counters: &'a Counters,
    /// Bytes in a page.
    pub page_bytes: u64,
}

impl Shown<'_> {
    fn value(&self, counter: Counter) -> u64 {
        let count = self.counters.get(counter);
        if is_pages(counter) { count.saturating_mul(self.page_bytes) } else { count }
    }
}

/// As a part of the status: `{"memcg_passes":1,"memcg_stops":{"done":2,...},...}`.
impl fmt::Display for Json<Shown<'_>> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut comma = "{";
        for family in FAMILIES {
            write!(f, "{comma}\"{}\":", family.name)?;
            comma = if family.label.is_empty() { "" } else { "{" };
            for (part, counter) in family.parts {
                if family.label.is_empty() {
                    write!(f, "{}", self.0.value(*counter))?;
                } else {
                    write!(f, "{comma}\"{part}\":{}", self.0.value(*counter))?;
                }
                comma = ",";
            }
            f.write_str(if family.label.is_empty() { "" } else { "}" })?;
            comma = ",";
        }
        f.write_str("}")
    }
}

/// As OpenMetrics text, without its end.
impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Family { name, help, label, parts } in FAMILIES {
            writeln!(
                f,
                "# HELP plimsoll_{name}_total {help}\n# TYPE plimsoll_{name}_total counter"
            )?;
            for (part, counter) in *parts {
                let value = self.value(*counter);
                if label.is_empty() {
                    writeln!(f, "plimsoll_{name}_total {value}")?;
                } else {
                    writeln!(f, "plimsoll_{name}_total{{{label}=\"{part}\"}} {value}")?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_brings_every_count() {
        let mut counters = Counters::default();
        for at in 0..COUNTERS {
            counters.0[at] = u64::MAX - at as u64;
        }
        assert_eq!(Counters::from_frame(&counters.to_frame()), counters);
        counters.merge(&counters.clone());
        assert_eq!(counters.get(Counter::SwapFailed), u64::MAX);
    }

    #[test]
    fn every_counter_is_published_once() {
        let mut published: Vec<_> =
            FAMILIES.iter().flat_map(|family| family.parts).map(|part| part.1 as usize).collect();
        published.sort_unstable();
        assert_eq!(published, (0..COUNTERS).collect::<Vec<_>>());
    }

    #[test]
    fn as_json_and_as_metrics() {
        let mut counters = Counters::default();
        counters.add(Counter::MemcgEvictedPages, 3);
        counters.add(Counter::StopDone, 7);
        let shown = Shown { counters: &counters, page_bytes: 4096 };
        let json: serde_json::Value = serde_json::from_str(&Json(shown).to_string()).unwrap();
        assert_eq!(json["memcg_evicted_bytes"], 3 * 4096);
        assert_eq!(json["memcg_stops"]["done"], 7);
        assert_eq!(json["errors"]["gone"], 0);
        let text = shown.to_string();
        assert!(text.contains("\nplimsoll_memcg_evicted_bytes_total 12288\n"));
        assert!(text.contains("\nplimsoll_memcg_stops_total{reason=\"done\"} 7\n"));
    }
}
