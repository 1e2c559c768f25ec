//! `cargo xtask size`: the budgets, measured.

use std::fs;

use anyhow::{Context, Result};
use plimsoll_core::boot::RECORD_PATH;
use plimsoll_core::record::Record;

use crate::arch::Arch;
use crate::elf;
use crate::guest::Guest;
use crate::packages::Suite;
use crate::progress::Steps;
use crate::target;

/// The stripped binary, what fits beside a boot loader in a small flash: 160 KiB
/// with the agent, 16 for the root, switch_root and systemd, 16 for guests.
const FILE_BYTES: u64 = 192 * 1024;
/// All processes of the supervisor together, proportional set size: 320 KiB with
/// the agent, 64 for guests.
const PSS_KIB: u64 = 384;
/// From the start of user space to the last limit read back, in microseconds of
/// an emulated guest's time by [`CLOCK_SHIFT`]; module loading counts apart.
const LIMITS_US: u64 = 40_000;

/// An instruction of the guest takes 2^2 ns: 250 million a second, about what the
/// emulator does.
const CLOCK_SHIFT: u8 = 2;

/// One budget of one board.
#[derive(Debug)]
pub struct Budget {
    /// What is measured.
    pub what: String,
    /// What it may be at most.
    pub allowed: u64,
    /// What it is.
    pub measured: u64,
    /// Of both.
    pub unit: &'static str,
}

impl Budget {
    fn of(
        owner: &impl std::fmt::Display,
        what: &str,
        allowed: u64,
        measured: u64,
        unit: &'static str,
    ) -> Self {
        Self { what: format!("{owner}: {what}"), allowed, measured, unit }
    }

    /// Whether it is kept.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        self.measured <= self.allowed
    }
}

/// Measures the binary for `arch`: its size, and what must not be in it, each
/// of which is printed.
pub fn of_binary(arch: Arch, steps: Steps) -> Result<Vec<Budget>> {
    let binaries = target::build(arch, steps)?;
    let file = fs::metadata(&binaries.plimsoll)?.len();
    let found = elf::inspect(&target::build_with_symbols(arch, steps)?, arch)?;
    for found in &found {
        eprintln!("plimsoll for {arch} {found}");
    }
    let budget = |what, allowed, measured, unit| Budget::of(&arch, what, allowed, measured, unit);
    Ok(vec![
        budget("stripped binary", FILE_BYTES, file, "B"),
        budget("libc, allocator, float code", 0, found.len() as u64, "places"),
    ])
}

/// Boots `board`, and measures the supervisor and the boot, by a clock that counts
/// instructions: what else this machine does changes nothing.
pub fn of_boot(board: &str, suite: Suite, steps: Steps) -> Result<Vec<Budget>> {
    let guest = Guest::new(board, suite)?.steps(steps).get(RECORD_PATH);
    // As automotive images boot: an emulated UART would cost more than the work.
    let guest = guest.kernel_arg("loglevel=4").virtual_time(CLOCK_SHIFT);
    // The keeper and the worker may still be starting.
    let script = "sleep 1; for file in $(grep -l '^@' /proc/[0-9]*/cmdline); do \
                  awk '/^Pss:/ { print $2 }' ${file%cmdline}smaps_rollup; done";
    let outcome = guest.run(script)?;
    let pss =
        outcome.text().lines().map(|line| Ok(line.trim().parse::<u64>()?)).sum::<Result<_>>()?;
    let record = outcome.files.get(RECORD_PATH).context("the guest has no record of its boot")?;
    let record: Record = serde_json::from_slice(record).context("the record of the boot")?;
    let budget = |what, allowed, measured, unit| Budget::of(&board, what, allowed, measured, unit);
    Ok(vec![
        budget("supervisor, Pss", PSS_KIB, pss, "KiB"),
        budget("start to last limit", LIMITS_US, limits_us(&record), "us"),
    ])
}

/// From the start of user space to the last limit read back, without the time
/// that loading modules took.
fn limits_us(record: &Record) -> u64 {
    let (mut before, mut counted, mut last) = (record.start_us, 0, 0);
    for entry in &record.entries {
        if entry.step != "module" {
            counted += entry.t_us.saturating_sub(before);
        }
        if entry.step == "limit" {
            last = counted;
        }
        before = entry.t_us;
    }
    last
}

/// The budgets as a table.
#[must_use]
pub fn table(budgets: &[Budget]) -> String {
    let width = budgets.iter().map(|budget| budget.what.len()).max().unwrap_or(0);
    let line = |budget: &Budget| {
        let Budget { what, allowed, measured, unit } = budget;
        let mark = if budget.is_kept() { "kept" } else { "BROKEN" };
        format!("{what:width$}  {measured:>8} of {allowed:>8} {unit:<6}  {mark}\n")
    };
    budgets.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_count_apart() {
        let entry = |t_us: u64, step: &str| {
            format!(
                r#"{{"t_us":{t_us},"step":"{step}","target":"","wanted":"","found":"","outcome":"agrees"}}"#
            )
        };
        let entries = [
            entry(110, "mount"),
            entry(150, "module"),
            entry(250, "module"),
            entry(260, "limit"),
            entry(270, "cgroup"),
            entry(275, "limit"),
            entry(900, "var-qm"),
        ];
        let text = format!(
            r#"{{"version":1,"board":"","kernel":"","mem_total_kib":0,"page_bytes":0,"start_us":100,
                "waited_us":0,"qm_start":true,"qm_reason":"","dropped":0,"entries":[{}]}}"#,
            entries.join(",")
        );
        let record: Record = serde_json::from_str(&text).unwrap();
        assert_eq!(limits_us(&record), 10 + 10 + 10 + 5);
        assert_eq!(limits_us(&Record::new()), 0);
    }
}
