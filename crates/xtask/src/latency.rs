//! `cargo xtask latency`: how late a process of the host wakes up, by cyclictest,
//! with QM quiet and with QM thrashing at its memory.high, with plimsoll and
//! without. In both QM has the same limits; without plimsoll by the image's own
//! drop-in.
//!
//! The guest has one CPU whose clock counts instructions, 4 ns each: what else this
//! machine does changes nothing, and a wait is so many instructions of the kernel
//! and of others. A figure says something beside the others of the same table
//! only; of a real board it says nothing.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Context, Result, bail, ensure};

use crate::arch::Arch;
use crate::guest::Guest;
use crate::packages::Suite;
use crate::progress::Steps;

/// The guest's memory: what QM thrashes fits on its partition, and is soon written.
const MEMORY: &str = "1100M";
/// The classes that cyclictest's thread runs in, and how it is told so.
const CLASSES: [(&str, &str); 2] =
    [("SCHED_FIFO 80", "--policy fifo --priority 80"), ("SCHED_OTHER", "--policy other")];
/// A CPU of 250 million instructions a second.
const CLOCK_SHIFT: u8 = 2;
/// What QM does meanwhile.
const LOADS: [&str; 2] = ["quiet", "thrashing"];
const BOARDS: [&str; 2] = ["without plimsoll", "with plimsoll"];
/// One wake-up in so many is later than the percentile: 99.9 %.
const ONE_IN: u64 = 1000;

/// In the guest. What QM touches is a tenth more than its memory.high, beside all
/// that it has anyway: half of it a file, round and round.
const SCRIPT: &str = r#"
systemctl is-system-running --wait >/dev/null
for _ in $(seq 30); do
    in-qm systemctl is-system-running --wait 2>/dev/null | grep -q running && break
done
qm=/sys/fs/cgroup/qm.service
measure() {
    echo "measure $1 $2"; shift 2
    cyclictest --quiet --mlockall --threads 1 --interval 1000 --duration $secs --histogram 100000 "$@" |
        grep -v ' 000000$'
}
refaults() { awk '/^workingset_refault_file / { print $2 }' $qm/memory.stat; }

measure quiet 0 $class_0; measure quiet 1 $class_1
high=$(($(cat $qm/memory.high) / 1048576))
cp /usr/bin/load /var/qm/load
in-qm "dd if=/dev/zero of=/var/thrash bs=1M count=$((high / 2)) 2>/dev/null"
in-qm "systemd-run --quiet /var/load eat $((high * 6 / 10))
    for _ in 1 2; do systemd-run --quiet /var/load thrash /var/thrash $((high / 2)) 10000; done"
before=$(refaults)
for _ in $(seq 300); do [ $(refaults) -le $((before + 1000)) ] || break; sleep 0.2; done
before=$(refaults)
measure thrashing 0 $class_0; measure thrashing 1 $class_1
echo "refaults $(($(refaults) - before))"
echo "killed $(awk '/^oom_kill / { print $2 }' $qm/memory.events)"
"#;

/// Wake-ups by how late they were, in microseconds.
#[derive(Debug, Default)]
struct Histogram {
    counts: BTreeMap<u64, u64>,
    max_us: u64,
    /// Later than cyclictest's histogram reaches.
    beyond: u64,
}

impl Histogram {
    /// Takes a line of cyclictest's output.
    fn take(&mut self, line: &str) -> Option<()> {
        let number = |text: &str| text.trim().parse::<u64>().ok();
        if let Some(max) = line.strip_prefix("# Max Latencies:") {
            self.max_us = self.max_us.max(number(max)?);
        } else if let Some(beyond) = line.strip_prefix("# Histogram Overflows:") {
            self.beyond += number(beyond)?;
        } else if !line.starts_with('#') && !line.trim().is_empty() {
            let (us, count) = line.split_once(' ')?;
            *self.counts.entry(number(us)?).or_default() += number(count)?;
        }
        Some(())
    }

    /// What all but one in [`ONE_IN`] are not later than.
    fn percentile_us(&self) -> u64 {
        let all = self.counts.values().sum::<u64>() + self.beyond;
        let mut later = all;
        for (us, count) in &self.counts {
            later -= count;
            if later <= all / ONE_IN {
                return *us;
            }
        }
        self.max_us
    }
}

/// Of the two boards, QM's two loads, the two classes.
type Figures = [[[Histogram; 2]; 2]; 2];

/// Measures for `secs` each, so many times with plimsoll and without, in turn.
pub fn run(arch: Arch, rounds: usize, secs: u64, steps: Steps) -> Result<String> {
    let [class_0, class_1] = CLASSES.map(|(_, options)| options);
    let script = format!("secs={secs} class_0='{class_0}' class_1='{class_1}'\n{SCRIPT}");
    let mut figures = Figures::default();
    for round in 1..=rounds {
        for (figures, board) in figures.iter_mut().zip(BOARDS) {
            let mut guest = Guest::new(&format!("qemu-systemd-{arch}"), Suite::Trixie)?;
            guest = guest.memory(MEMORY).virtual_time(CLOCK_SHIFT);
            if board == BOARDS[0] {
                guest = guest.busybox_initramfs();
            }
            let what = format!("round {round} of {rounds}, {board}");
            let outcome = steps.run(format_args!("{what}"), || guest.run(&script))?;
            take(figures, &outcome.text()).with_context(|| {
                format!("the guest said:\n{}{}", outcome.text(), outcome.stderr_text())
            })?;
        }
    }
    let what = format!("qemu-systemd-{arch}, {rounds} x {secs} s each");
    table(&what, &figures)
}

/// Takes what one guest printed.
fn take(figures: &mut [[Histogram; 2]; 2], text: &str) -> Result<()> {
    let mut at = None;
    let mut refaults = 0;
    for line in text.lines() {
        if let Some(what) = line.strip_prefix("measure ") {
            let (load, class) = what.split_once(' ').context("a load and a class")?;
            let load = LOADS.iter().position(|name| *name == load);
            at = load.zip(class.parse::<usize>().ok());
        } else if let Some(count) = line.strip_prefix("refaults ") {
            (refaults, at) = (count.parse::<u64>()?, None);
        } else if let Some(count) = line.strip_prefix("killed ") {
            ensure!(count == "0", "QM was killed, not throttled");
        } else if let Some((load, class)) = at {
            let histogram = figures.get_mut(load).and_then(|classes| classes.get_mut(class));
            let taken = histogram.and_then(|histogram| histogram.take(line));
            taken.with_context(|| format!("cyclictest said {line:?}"))?;
        }
    }
    if refaults == 0 {
        bail!("QM did not thrash");
    }
    Ok(())
}

fn table(what: &str, figures: &Figures) -> Result<String> {
    let mut text = format!("Wake-up of a host's process in microseconds, {what}\n{:34}", "");
    for (class, _) in CLASSES {
        write!(text, "{:>13} 99.9 % {:>9}", class, "max")?;
    }
    text.push('\n');
    for (board, loads) in BOARDS.iter().zip(figures) {
        for (load, classes) in LOADS.iter().zip(loads) {
            write!(text, "{:34}", format!("{board}, QM {load}"))?;
            for histogram in classes {
                write!(text, "{:>20} {:>9}", histogram.percentile_us(), histogram.max_us)?;
            }
            text.push('\n');
        }
    }
    let [[quiet, thrashing], [quiet_with, thrashing_with]] = figures;
    for (what, of, to) in [
        ("thrashing to quiet, without", thrashing, quiet),
        ("thrashing to quiet, with", thrashing_with, quiet_with),
        ("with to without, QM quiet", quiet_with, quiet),
        ("with to without, QM thrashing", thrashing_with, thrashing),
    ] {
        write!(text, "{what:34}")?;
        for (of, to) in of.iter().zip(to) {
            let percentile = ratio(of.percentile_us(), to.percentile_us());
            write!(text, "{percentile:>20} {:>9}", ratio(of.max_us, to.max_us))?;
        }
        text.push('\n');
    }
    Ok(text)
}

/// `of` in `to`, with two decimals.
fn ratio(of: u64, to: u64) -> String {
    let hundredths = of * 100 / to.max(1);
    format!("{}.{:02}", hundredths / 100, hundredths % 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_of_cyclictests_histogram() {
        let mut histogram = Histogram::default();
        let text = "# /dev/cpu_dma_latency set to 0us\n# Histogram\n000031 000900\n000040 001098\n\
                    000700 000001\n\n# Max Latencies: 12345\n# Histogram Overflows: 00001\n";
        for line in text.lines() {
            histogram.take(line).unwrap();
        }
        // Two of 2000 may be later.
        assert_eq!((histogram.percentile_us(), histogram.max_us), (40, 12345));
        histogram.take("# Histogram Overflows: 1").unwrap();
        assert_eq!(histogram.percentile_us(), 700);
        for wrong in ["31", "31 x", "# Max Latencies: -1"] {
            assert_eq!(histogram.take(wrong), None, "{wrong}");
        }
        assert_eq!(Histogram::default().percentile_us(), 0);
    }

    #[test]
    fn a_ratio_has_two_decimals() {
        assert_eq!([ratio(150, 100), ratio(1, 3), ratio(7, 0)], ["1.50", "0.33", "7.00"]);
    }
}
