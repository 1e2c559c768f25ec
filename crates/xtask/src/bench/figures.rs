//! The figures: what follows from the samples, as a table.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Context, Result};
use serde::Serialize;

use super::samples::{GIVEN_BACK_PERCENT, Samples, Seen, Tool, median};
use super::script::{Burst, LIVE_KIB, MODES, PERIOD_SECS, WATCHED_PERIODS};

/// Bytes of a page of the guest's kernel.
const PAGE_BYTES: u64 = 4096;

/// How it was measured.
#[derive(Debug, Serialize)]
pub(super) struct About {
    pub(super) date: String,
    pub(super) command: String,
    pub(super) plimsoll_bytes: u64,
    pub(super) peer_bytes: Option<u64>,
}

/// One figure.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    /// What it is, and its unit.
    what: String,
    plimsoll: Option<u64>,
    peer: Option<u64>,
    /// The kernel's own cost of the same: its list read once and the commands.
    kernel: Option<u64>,
    /// Of that, the commands alone.
    kernel_commands: Option<u64>,
}

/// What came of it.
#[derive(Debug, Serialize)]
pub struct Report {
    #[serde(flatten)]
    about: About,
    rows: Vec<Row>,
    /// Memory after the bursts, see [`Samples::curve`].
    pub(super) memory: BTreeMap<Tool, Vec<(u64, u64)>>,
    pub(super) samples: Samples,
}

impl Report {
    pub(super) fn new(about: About, samples: Samples) -> Result<Self> {
        let curve = |tool| (tool, samples.curve(tool));
        let memory = [Tool::Plimsoll, Tool::Peer].map(curve).into();
        let mut report = Self { about, rows: Vec::new(), memory, samples };
        report.row("stripped binary, B", |report, tool| match tool {
            Tool::Plimsoll => Some(report.about.plimsoll_bytes),
            Tool::Peer => report.about.peer_bytes,
            _ => None,
        });
        let most = *report.samples.counts().last().context("no pass was measured")?;
        let peak = |report: &Self, tool| report.samples.peaks.get(&tool).copied();
        report.row("threads of all processes during a pass", move |report, tool| {
            Some(peak(report, tool)?.threads)
        });
        report.row(&format!("peak RSS, {most} cgroups, KiB"), move |report, tool| {
            Some(peak(report, tool)?.rss_kib)
        });
        report.row(&format!("peak Pss, {most} cgroups, KiB"), move |report, tool| {
            Some(peak(report, tool)?.pss_kib)
        });
        for live in [false, true] {
            for cgroups in report.samples.counts() {
                let kind = if live { format!("of {LIVE_KIB} KiB") } else { "empty".into() };
                let what = format!("CPU per pass, {cgroups} cgroups {kind}, us");
                report.row(&what, move |report, tool| report.samples.pass_us(tool, live, cgroups));
            }
        }
        report.row("CPU per second between passes, us", |report, tool| {
            (tool == Tool::Plimsoll).then_some(report.samples.idle_us)
        });
        report.bursts();
        Ok(report)
    }

    fn bursts(&mut self) {
        self.row("memory given back after bursts, MiB", |report, tool| {
            Some(report.given_back_kib(tool)? >> 10)
        });
        self.row("CPU for that, ms", |report, tool| {
            Some(report.samples.spent_us.get(&tool)? / 1000)
        });
        self.row("given back per CPU second, MiB", |report, tool| {
            let us = *report.samples.spent_us.get(&tool)?;
            (report.given_back_kib(tool)? * 1_000_000 / 1024).checked_div(us)
        });
        for burst in MODES {
            let Burst { mode, all_mib, hot_mib } = burst;
            let of = format!("{all_mib} MiB by {mode}, {hot_mib} of them hot");
            let what = format!("{of}: until {GIVEN_BACK_PERCENT} % of the cold are back, s");
            self.row(&what, move |report, tool| {
                let times = report.samples.of_mode(tool, mode);
                let never = |time: Option<u64>| time.unwrap_or(u64::MAX);
                let times = times.map(|seen| never(seen.secs_until_given_back(burst)));
                median(times).filter(|secs| *secs != u64::MAX)
            });
            self.row(&format!("{of}: refaults, per mille of the hot"), move |report, tool| {
                let pages = (hot_mib << 20) / PAGE_BYTES;
                let bursts = report.samples.of_mode(tool, mode);
                median(bursts.map(|seen| seen.refaults * 1000 / pages))
            });
            // Of what comes back the kernel calls only a part refaults.
            self.row(
                &format!("{of}: missing at worst, per mille of the hot"),
                move |report, tool| {
                    let bursts = report.samples.of_mode(tool, mode);
                    median(bursts.filter_map(|seen| seen.missing_per_mille(hot_mib << 20)))
                },
            );
        }
    }

    fn given_back_kib(&self, tool: Tool) -> Option<u64> {
        self.samples.bursts.get(&tool)?.values().map(Seen::given_back_kib).sum()
    }

    fn row(&mut self, what: &str, value: impl Fn(&Self, Tool) -> Option<u64>) {
        let of = |tool| value(self, tool);
        let (list, commands) = (of(Tool::KernelList), of(Tool::KernelCommands));
        let row = Row {
            what: what.into(),
            plimsoll: of(Tool::Plimsoll),
            peer: of(Tool::Peer),
            kernel: list.zip(commands).map(|(list, commands)| list + commands),
            kernel_commands: commands,
        };
        self.rows.push(row);
    }

    /// As a Markdown table, with what it says of its making.
    #[must_use]
    pub fn table(&self) -> String {
        let About { date, command, .. } = &self.about;
        let mut text = format!(
            "{date}, kernel {}, one emulated CPU of a nanosecond per instruction:\n`{command}`\n\n\
             Medians. Passes every {PERIOD_SECS} s; bursts watched for {WATCHED_PERIODS} of them; \
             `-`: none, or not within that time.\n\n",
            self.samples.kernel
        );
        let heads = [
            "",
            "plimsoll",
            "peer",
            "peer / plimsoll",
            "kernel alone",
            "plimsoll / kernel",
            "commands alone",
            "plimsoll / commands",
        ];
        let cells: Vec<_> = self.rows.iter().map(Row::cells).collect();
        let width = |n: usize| cells.iter().map(|row| row[n].len()).chain([heads[n].len()]).max();
        let widths: Vec<_> = (0..heads.len()).filter_map(width).collect();
        let mut line = |cells: &[String]| {
            let padded = cells.iter().zip(&widths).enumerate().map(|(n, (cell, width))| match n {
                0 => format!("{cell:width$}"),
                _ => format!("{cell:>width$}"),
            });
            let _infallible = writeln!(text, "| {} |", padded.collect::<Vec<_>>().join(" | "));
        };
        line(&heads.map(String::from));
        let rules = widths.iter().enumerate().map(|(n, width)| match n {
            0 => "-".repeat(*width),
            _ => "-".repeat(width - 1) + ":",
        });
        line(&rules.collect::<Vec<_>>());
        cells.iter().for_each(|row| line(row));
        text
    }
}

impl Row {
    fn cells(&self) -> [String; 8] {
        let Self { what, plimsoll, peer, kernel, kernel_commands } = self;
        let number = |value: &Option<u64>| value.map_or("-".into(), |value| value.to_string());
        [
            what.clone(),
            number(plimsoll),
            number(peer),
            ratio(*peer, *plimsoll),
            number(kernel),
            ratio(*plimsoll, *kernel),
            number(kernel_commands),
            ratio(*plimsoll, *kernel_commands),
        ]
    }
}

fn ratio(of: Option<u64>, to: Option<u64>) -> String {
    let ratio = of.zip(to).and_then(|(of, to)| (of * 100).checked_div(to));
    ratio.map_or("-".into(), |hundredths| format!("{}.{:02}", hundredths / 100, hundredths % 100))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "\
kernel 6.1
idle 100
# words
memory plimsoll map-1 100 1073741824
memory plimsoll map-1 6000 879755264
memory plimsoll map-1 12100 860880896
memory plimsoll read-1 100 25165824
memory plimsoll read-1 6000 25165824
memory plimsoll read-1 12100 25165824
burst plimsoll 112000 120
refaults plimsoll map-1 1536
refaults plimsoll read-1 0
pass plimsoll live 10 30
pass plimsoll live 10 10
pass plimsoll live 10 20
bare live 10 read 5 write 11 commands 10
peak plimsoll threads 3 peak_kib 300 pss_kib 250
done";

    fn report(said: &str) -> Report {
        let mut samples = Samples::default();
        said.lines().for_each(|line| samples.take(line).unwrap());
        assert!(samples.is_whole());
        let (date, command) = ("2026-11-21".into(), "cargo xtask bench".into());
        let about = About { date, command, plimsoll_bytes: 100, peer_bytes: Some(4000) };
        Report::new(about, samples).unwrap()
    }

    fn find<'a>(report: &'a Report, what: &str) -> &'a Row {
        report.rows.iter().find(|row| row.what.contains(what)).unwrap()
    }

    #[test]
    fn what_follows() {
        let report = report(SAID);
        assert_eq!(
            find(&report, "binary").cells()[..4],
            ["stripped binary, B", "100", "4000", "40.00"]
        );
        let pass = find(&report, "10 cgroups of");
        assert_eq!(
            (pass.plimsoll, pass.kernel, pass.kernel_commands),
            (Some(20), Some(16), Some(11))
        );
        assert_eq!(pass.cells()[5], "1.25");
        // 203 of 240 MiB are more than 80 %; the watch's 12 ms are not the agent's.
        assert_eq!(find(&report, "by map, 60 of them hot: until").plimsoll, Some(121));
        assert_eq!(find(&report, "by map, 60 of them hot: refaults").plimsoll, Some(100));
        assert_eq!(find(&report, "by read, 4 of them hot: until").plimsoll, None);
        assert_eq!(find(&report, "per CPU second").plimsoll, Some(2030));
        assert_eq!(report.memory[&Tool::Plimsoll], [(1, 1048), (60, 863), (121, 845)]);
    }

    #[test]
    fn the_chart_is_a_picture_with_a_peer_or_without() {
        let words = |svg: &str, name: &str| svg.lines().any(|line| line == name);
        let alone = report(SAID).chart().unwrap();
        assert!(alone.starts_with("<svg") && words(&alone, "plimsoll") && !words(&alone, "peer"));
        let peer = "pass peer live 10 900\npass peer live 100 9000\n";
        assert!(words(&report(&format!("{peer}{SAID}")).chart().unwrap(), "peer"));
    }

    #[test]
    fn what_is_not_understood_is_an_error() {
        for line in
            ["", "pass peer live 10", "pass nobody live 10 1", "idle x", "failed no debugfs"]
        {
            assert!(Samples::default().take(line).is_err(), "{line}");
        }
    }
}
