//! What is measured, and the table of it.

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use crate::bench::median;

/// A moment after the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Point {
    pub(super) ms: u64,
    pub(super) total_kib: u64,
    pub(super) available_kib: u64,
    /// So many were killed for want of memory by then.
    pub(super) kills: u64,
}

/// One guest.
#[derive(Debug, Serialize)]
pub(super) struct Run {
    kernel: String,
    /// MemTotal without any of virtio-mem.
    alone_kib: u64,
    /// Nobody holds anything: until all is given back.
    idle_ms: u64,
    /// Of the ten, before any was to leave.
    alive: u64,
    pub(super) points: Vec<Point>,
}

impl Run {
    /// Of what the guest printed.
    pub(super) fn new(text: &str) -> Result<Self> {
        let get = |key: &str| {
            let found = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
            found.with_context(|| format!("no {key}"))
        };
        let point = |line: &str| {
            let mut numbers = line.split(' ').map_while(|word| word.parse::<u64>().ok());
            let mut next = || numbers.next().with_context(|| format!("a moment of {line:?}"));
            let (ms, total_kib) = (next()?, next()?);
            Ok(Point { ms, total_kib, available_kib: next()?, kills: next()? })
        };
        let points = text.lines().filter_map(|line| line.strip_prefix("at ")).map(point);
        let points = points.collect::<Result<Vec<_>>>()?;
        ensure!(!points.is_empty(), "no moments");
        Ok(Self {
            kernel: get("kernel")?.into(),
            alone_kib: get("alone")?.parse()?,
            idle_ms: get("shrink_ms")?.parse()?,
            alive: get("held_alive")?.parse()?,
            points,
        })
    }

    fn kills(&self) -> u64 {
        self.points.last().map_or(0, |last| last.kills)
            - self.points.first().map_or(0, |first| first.kills)
    }

    /// MiB above what is not virtio-mem's, so long after the request.
    fn mib_at(&self, secs: u64) -> u64 {
        let before = self.points.iter().take_while(|point| point.ms < secs * 1000).last();
        before.map_or(0, |point| point.total_kib.saturating_sub(self.alone_kib) >> 10)
    }

    /// From a moment until all is given back, in milliseconds.
    fn back_ms(&self, secs: u64) -> Option<u64> {
        let is_back = |point: &&Point| point.total_kib <= self.alone_kib + PAGES_KIB;
        let back = self.points.iter().find(is_back)?;
        Some(back.ms.saturating_sub(secs * 1000))
    }
}

/// What the kernel may count of MemTotal more or less after a block went, in KiB.
const PAGES_KIB: u64 = 8;

/// An architecture.
#[derive(Debug, Serialize)]
pub(super) struct Compared {
    pub(super) arch: &'static str,
    pub(super) alone: Vec<Run>,
    pub(super) plimsoll: Vec<Run>,
}

/// What came of it.
#[derive(Debug, Serialize)]
pub struct Report {
    pub(super) date: String,
    pub(super) command: String,
    /// When five left, and how long after that the others.
    pub(super) held_secs: u64,
    pub(super) left_secs: u64,
    pub(super) compared: Vec<Compared>,
}

impl Report {
    /// As a Markdown table of medians, with what it says of its making.
    #[must_use]
    pub fn table(&self) -> String {
        let Self { date, command, held_secs, left_secs, compared } = self;
        let all = held_secs + left_secs;
        let kernel = self.runs().flatten().next().map_or("", |run| &run.kernel);
        let arches =
            compared.iter().map(|it| format!(" {}: driver alone | with plimsoll |", it.arch));
        [
            format!("{date}, kernel {kernel}: `{command}`\n\n| |{}\n", arches.collect::<String>()),
            format!("|---|{}\n", "---|---|".repeat(compared.len())),
            self.row("killed for want of memory", |run| Some(run.kills()), number),
            self.row(
                &format!("of the ten alive after {held_secs} s"),
                |run| Some(run.alive),
                number,
            ),
            self.row("MiB not given back by then", |run| Some(run.mib_at(*held_secs)), number),
            self.row(
                &format!("MiB not given back {left_secs} s after five have left"),
                |run| Some(run.mib_at(all)),
                number,
            ),
            self.row("all back after all have left, s", |run| run.back_ms(all), seconds),
            self.row("nobody holds anything: all back after, s", |run| Some(run.idle_ms), seconds),
        ]
        .concat()
    }

    fn runs(&self) -> impl Iterator<Item = &Vec<Run>> {
        self.compared.iter().flat_map(|it| [&it.alone, &it.plimsoll])
    }

    fn row(
        &self,
        what: &str,
        value: impl Fn(&Run) -> Option<u64>,
        shown: fn(u64) -> String,
    ) -> String {
        let mut text = format!("| {what} |");
        for runs in self.runs() {
            // What never came is later than all that did.
            let values = runs.iter().map(|run| value(run).unwrap_or(u64::MAX));
            let middle = median(values).filter(|value| *value != u64::MAX);
            text += &format!(" {} |", middle.map_or_else(|| "never".into(), shown));
        }
        text + "\n"
    }
}

fn number(value: u64) -> String {
    value.to_string()
}

/// Of milliseconds, with one decimal.
fn seconds(ms: u64) -> String {
    format!("{}.{}", ms / 1000, ms % 1000 / 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "alone 1000\nkernel 6.12\nshrink_ms 650\nheld_alive 9\n\
        at 0 9192 500 1\nat 2500 5096 400 3\nat 4500 1008 300 3\n";

    #[test]
    fn what_a_guest_printed() {
        let run = Run::new(TEXT).unwrap();
        assert_eq!((run.kills(), run.alive, run.idle_ms, run.points.len()), (2, 9, 650, 3));
        assert_eq!([0, 1, 3, 9].map(|secs| run.mib_at(secs)), [0, 8, 4, 0]);
        assert_eq!([2, 5].map(|secs| run.back_ms(secs)), [Some(2500), Some(0)]);
        for wrong in ["alone 1000\n", "at 1 2 3\n", &TEXT.replace("at ", "it ")] {
            assert!(Run::new(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_table_of_medians() {
        let run = |from: &str, to: &str| Run::new(&TEXT.replace(from, to)).unwrap();
        let never = || run("1008", "1009");
        let compared = Compared {
            arch: "x86_64",
            alone: vec![run("alive 9", "alive 3"), never(), never()],
            plimsoll: vec![run("650", "7"), run("650", "1280"), run("at 4500", "at 7500")],
        };
        let report = Report {
            date: "2026-01-01".into(),
            command: "x".into(),
            held_secs: 1,
            left_secs: 2,
            compared: vec![compared],
        };
        let table = report.table();
        for row in [
            "alive after 1 s | 9 | 9 |",
            "2 s after five have left | 4 | 4 |",
            "have left, s | never | 1.5 |",
            "all back after, s | 0.6 | 0.6 |",
        ] {
            assert!(table.contains(row), "{row}\n{table}");
        }
    }
}
