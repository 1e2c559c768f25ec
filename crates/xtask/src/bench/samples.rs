//! What the guest printed, and its medians.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use serde::Serialize;

use super::script::Burst;

/// What of a burst's cold memory has to be given back until it counts, in percent.
pub(super) const GIVEN_BACK_PERCENT: u64 = 80;
/// Whose figure it is. Ordered as the table's columns are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Tool {
    Plimsoll,
    Peer,
    /// The kernel alone: reading the list of generations.
    KernelList,
    /// The kernel alone: executing the commands.
    KernelCommands,
}

impl Tool {
    fn of(word: &str) -> Result<Self> {
        Ok(match word {
            "plimsoll" => Self::Plimsoll,
            "peer" => Self::Peer,
            _ => bail!("no tool {word}"),
        })
    }
}

/// What one pass over many cgroups took.
#[derive(Debug, Serialize)]
pub(super) struct Pass {
    tool: Tool,
    /// Whether each cgroup has a process and pages.
    live: bool,
    cgroups: u64,
    /// CPU time, in microseconds.
    us: u64,
}

/// What the processes of a tool took together at most.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Peak {
    pub(super) threads: u64,
    /// Peak resident set sizes, summed, in KiB.
    pub(super) rss_kib: u64,
    /// Proportional set sizes, in KiB.
    pub(super) pss_kib: u64,
}

/// One burst: a cgroup whose process read a file once and uses a part of it on.
#[derive(Debug, Default, Serialize)]
pub(super) struct Seen {
    /// Time since the bursts' end in hundredths of a second, and
    /// memory.current in bytes.
    #[serde(skip)]
    memory: Vec<(u64, u64)>,
    /// Pages that came back.
    pub(super) refaults: u64,
}

/// All that the guest printed.
#[derive(Debug, Default, Serialize)]
pub(super) struct Samples {
    pub(super) kernel: String,
    /// CPU time of plimsoll in a second without a pass, in microseconds.
    pub(super) idle_us: u64,
    pub(super) passes: Vec<Pass>,
    pub(super) peaks: BTreeMap<Tool, Peak>,
    /// Of each tool, by the burst's name: MODE-N.
    pub(super) bursts: BTreeMap<Tool, BTreeMap<String, Seen>>,
    /// CPU time while the bursts were watched, in microseconds.
    pub(super) spent_us: BTreeMap<Tool, u64>,
    #[serde(skip)]
    whole: bool,
}

impl Samples {
    /// Whether all was measured.
    pub(super) fn is_whole(&self) -> bool {
        self.whole
    }

    /// Takes a line.
    pub(super) fn take(&mut self, line: &str) -> Result<()> {
        let words: Vec<_> = line.split_whitespace().collect();
        let number = |word: &str| word.parse::<u64>().context("no number");
        match *words.as_slice() {
            ["kernel", release] => self.kernel = release.into(),
            ["idle", us] => self.idle_us = number(us)?,
            ["memory", tool, burst, at, bytes] => {
                let sample = (number(at)?, number(bytes)?);
                self.burst(tool, burst)?.memory.push(sample);
            }
            ["refaults", tool, burst, pages] => {
                self.burst(tool, burst)?.refaults = number(pages)?;
            }
            ["burst", tool, us, secs] => {
                let tool = Tool::of(tool)?;
                let watch_us = if tool == Tool::Plimsoll { self.idle_us } else { 0 };
                let spent = number(us)?.saturating_sub(watch_us * number(secs)?);
                self.spent_us.insert(tool, spent);
            }
            ["pass", tool, kind, cgroups, us] => {
                self.pass(Tool::of(tool)?, kind, number(cgroups)?, number(us)?);
            }
            ["bare", kind, cgroups, "read", read, "write", write, "commands", _] => {
                let cgroups = number(cgroups)?;
                self.pass(Tool::KernelList, kind, cgroups, number(read)?);
                self.pass(Tool::KernelCommands, kind, cgroups, number(write)?);
            }
            ["peak", tool, "threads", threads, "peak_kib", rss, "pss_kib", pss] => {
                let (threads, rss_kib, pss_kib) = (number(threads)?, number(rss)?, number(pss)?);
                self.peaks.insert(Tool::of(tool)?, Peak { threads, rss_kib, pss_kib });
            }
            ["done"] => self.whole = true,
            ["#", ..] => {}
            _ => bail!("not understood"),
        }
        Ok(())
    }

    fn burst(&mut self, tool: &str, burst: &str) -> Result<&mut Seen> {
        Ok(self.bursts.entry(Tool::of(tool)?).or_default().entry(burst.into()).or_default())
    }

    fn pass(&mut self, tool: Tool, kind: &str, cgroups: u64, us: u64) {
        self.passes.push(Pass { tool, live: kind == "live", cgroups, us });
    }

    /// Median CPU time of a tool's passes, in microseconds.
    pub(super) fn pass_us(&self, tool: Tool, live: bool, cgroups: u64) -> Option<u64> {
        let of = |pass: &&Pass| (pass.tool, pass.live, pass.cgroups) == (tool, live, cgroups);
        median(self.passes.iter().filter(of).map(|pass| pass.us))
    }

    /// A tool's bursts of one kind.
    pub(super) fn of_mode(&self, tool: Tool, mode: &str) -> impl Iterator<Item = &Seen> {
        let bursts = self.bursts.get(&tool).into_iter().flatten();
        bursts.filter(move |(name, _)| name.starts_with(mode)).map(|(_, seen)| seen)
    }

    /// Memory of all bursts together over time, in seconds and MiB, without what
    /// lies on a level line.
    pub(super) fn curve(&self, tool: Tool) -> Vec<(u64, u64)> {
        let Some(bursts) = self.bursts.get(&tool) else { return Vec::new() };
        let points = bursts.values().map(|seen| seen.memory.len()).min().unwrap_or(0);
        let at = |n: usize| bursts.values().filter_map(move |seen| seen.memory.get(n));
        let point = |n| {
            let secs = at(n).map(|(at, _)| at / 100).min().unwrap_or(0);
            (secs, at(n).map(|(_, bytes)| bytes).sum::<u64>() >> 20)
        };
        let all: Vec<_> = (0..points).map(point).collect();
        let level = |n: usize| {
            let around = n.checked_sub(1).and_then(|before| all.get(before..n + 2));
            around.is_some_and(|points| points.iter().all(|point| point.1 == points[0].1))
        };
        (0..points).filter(|n| !level(*n)).map(|n| all[n]).collect()
    }

    /// CPU time per pass over live cgroups: their number and microseconds.
    pub(super) fn costs(&self, tools: &[Tool]) -> Vec<(u64, u64)> {
        let point = |cgroups| {
            let us = tools.iter().map(|tool| self.pass_us(*tool, true, cgroups));
            Some((cgroups, us.sum::<Option<u64>>()?))
        };
        self.counts().into_iter().filter_map(point).collect()
    }

    pub(super) fn counts(&self) -> Vec<u64> {
        let mut counts: Vec<_> = self.passes.iter().map(|pass| pass.cgroups).collect();
        counts.sort_unstable();
        counts.dedup();
        counts
    }
}

impl Seen {
    /// Seconds from the burst's end until enough was given back.
    pub(super) fn secs_until_given_back(&self, burst: Burst) -> Option<u64> {
        let cold = (burst.all_mib - burst.hot_mib) << 20;
        let (_, first) = self.memory.first()?;
        let enough = first.saturating_sub(cold * GIVEN_BACK_PERCENT / 100);
        self.memory.iter().find(|(_, bytes)| *bytes <= enough).map(|(at, _)| at / 100)
    }

    /// How much less than the hot memory there was at the worst moment.
    pub(super) fn missing_per_mille(&self, hot: u64) -> Option<u64> {
        let least = self.memory.iter().map(|(_, bytes)| *bytes).min()?;
        Some(hot.saturating_sub(least) * 1000 / hot)
    }

    pub(super) fn given_back_kib(&self) -> Option<u64> {
        let ((_, first), (_, last)) = (self.memory.first()?, self.memory.last()?);
        Some(first.saturating_sub(*last) >> 10)
    }
}

/// The middle one; of two in the middle the smaller.
pub(crate) fn median(values: impl Iterator<Item = u64>) -> Option<u64> {
    let mut values: Vec<_> = values.collect();
    values.sort_unstable();
    values.get(values.len().checked_sub(1)? / 2).copied()
}
