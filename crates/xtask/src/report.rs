//! `cargo xtask boot`: what was wanted beside what the kernel shows.
//!
//! What was wanted is computed here, from the board file, the guest's memory
//! and its page size; what is shown is read from the kernel's files by `cat`.
//! plimsoll's own words are not asked.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Context, Result, anyhow};
use plimsoll_core::board::{Board, Payload, Side};
use plimsoll_core::facts::{CGROUP_ROOT, Controllers, Facts};
use plimsoll_core::limit::Memory;
use plimsoll_core::plan::{self, Step, Value};
use plimsoll_core::systemd;
use plimsoll_core::var_qm::MOUNT_POINT;
use serde::Serialize;

use crate::rootfs;

/// OOM score of the supervisor's processes: never killed.
const SUPERVISOR_SCORE: i32 = -1000;
/// What cgroup2 must be mounted with.
const CGROUP2_OPTIONS: [&str; 2] = ["nsdelegate", "memory_recursiveprot"];
/// QM's partition is the first on the first disk, or on the second where the
/// first holds the root.
const VAR_QM_DEVICES: [&str; 2] = ["/dev/vda1", "/dev/vdb1"];

/// The report of one boot.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The board's name.
    pub board: String,
    /// `uname -r`.
    pub kernel: String,
    /// MemTotal, in KiB.
    pub mem_total_kib: u64,
    /// Bytes in a page.
    pub page_bytes: u64,
    /// Whether all lines agree.
    pub agrees: bool,
    /// The lines.
    pub lines: Vec<Line>,
}

/// One thing that was wanted.
#[derive(Debug, Serialize)]
pub struct Line {
    /// What it is.
    pub what: String,
    /// What was wanted.
    pub wanted: String,
    /// What the kernel shows; empty where it shows nothing.
    pub found: String,
    /// Whether they are the same.
    pub agrees: bool,
}

/// The shell script that reads the guest. Each line of its output is a key and
/// a value with a tab between; files go through one process for all of them,
/// as each costs an emulated CPU 20 ms.
pub fn script(board: &Board<'_>) -> Result<String> {
    let mut script = String::from(
        r#"
show() { printf '%s\t%s\n' "$1" "$2"; }
score() { show "$1" "$(cat "/proc/$2/oom_score_adj")"; }
show kernel "$(uname -r)"
show mem_total_kib "$(awk '/^MemTotal:/ { print $2 }' /proc/meminfo)"
show page_kib "$(awk '/^KernelPageSize:/ { print $2; exit }' /proc/self/smaps)"
show cgroup2 "$(awk '$3 == "cgroup2" { print $4 }' /proc/mounts)"
show var_qm "$(awk '$2 == "/var/qm" { print $1, $3, $4 }' /proc/mounts)"
score init 1
for file in $(grep -l '^@' /proc/[0-9]*/cmdline); do
    pid=$(basename "${file%/cmdline}")
    score "supervisor $pid" "$pid"
done
"#,
    );
    for (payload, cgroup) in payloads(board) {
        writeln!(
            script,
            "n=0; until grep -q . {cgroup}/cgroup.procs || [ $n = 50 ]; do sleep 0.1; n=$((n + 1)); done\n\
             for pid in $(cat {cgroup}/cgroup.procs); do score 'payload {}' \"$pid\"; break; done",
            payload.name
        )?;
    }
    // A slice has no cgroup before something is in it, or it is started.
    let slices = board.host.cgroups.iter().filter_map(|cgroup| systemd::slice_of(cgroup));
    for slice in slices.filter(|_| board.qm.unit.is_some()) {
        writeln!(script, "systemctl start {slice}")?;
    }
    let files: Vec<_> =
        knobs(board, Memory::default())?.into_iter().map(|(file, _)| file).collect();
    writeln!(script, "grep -H '' {} | sed 's/:/\\t/'", files.join(" "))?;
    Ok(script)
}

/// The files of all limits, with what each shall show.
fn knobs(board: &Board<'_>, memory: Memory) -> Result<Vec<(String, Value)>> {
    let controllers = Controllers { memory: true, pids: true, cpu: true };
    let facts = Facts { memory, controllers, release: Default::default() };
    let plan = plan::plan(board, &facts).map_err(|_| anyhow!("the plan is too long"))?;
    let knobs = plan.iter().filter_map(|step| match step {
        Step::Write { path, knob, value, .. } => {
            Some((format!("{CGROUP_ROOT}{path}/{knob}"), *value))
        }
        Step::Cgroup { .. } | Step::Enable { .. } => None,
    });
    Ok(knobs.collect())
}

/// The payloads that plimsoll runs, with the directory of their cgroup.
fn payloads<'a>(board: &'a Board<'_>) -> impl Iterator<Item = (&'a Payload<'a>, String)> {
    let runs = board.next_init.is_none();
    board.payloads.iter().filter(move |_| runs).map(|payload| {
        let side = match payload.side {
            Side::Qm => board.qm.cgroup,
            Side::Host => board.host.cgroups.first().copied().unwrap_or_default(),
        };
        (payload, format!("{CGROUP_ROOT}{side}/{}", payload.name))
    })
}

/// Compares what the script printed with what the board file wants.
pub fn report(name: &str, board: &Board<'_>, printed: &str) -> Result<Report> {
    let shown: BTreeMap<&str, &str> =
        printed.lines().filter_map(|line| line.split_once('\t')).collect();
    let text =
        |key: &str| shown.get(key).copied().with_context(|| format!("no {key} in the guest"));
    let number = |key: &str| Ok::<u64, anyhow::Error>(text(key)?.parse()?);
    let mem_total_kib = number("mem_total_kib")?;
    let page_bytes = number("page_kib")? * 1024;
    let memory = Memory { total_pages: mem_total_kib * 1024 / page_bytes, page_bytes };
    let mut lines = Lines { shown: &shown, lines: Vec::new() };
    lines.mounts(board, VAR_QM_DEVICES[usize::from(rootfs::is_of_board(name))]);
    lines.limits(board, memory)?;
    lines.scores(board);
    let lines = lines.lines;
    Ok(Report {
        board: name.into(),
        kernel: text("kernel")?.into(),
        mem_total_kib,
        page_bytes,
        agrees: lines.iter().all(|line| line.agrees),
        lines,
    })
}

struct Lines<'a> {
    shown: &'a BTreeMap<&'a str, &'a str>,
    lines: Vec<Line>,
}

impl Lines<'_> {
    /// A line that agrees if the kernel shows exactly what was wanted.
    fn equal(&mut self, what: &str, key: &str, wanted: impl ToString) {
        let found = self.shown.get(key).copied().unwrap_or_default().to_string();
        let wanted = wanted.to_string();
        let agrees = wanted == found;
        self.lines.push(Line { what: what.into(), wanted, found, agrees });
    }

    /// A line that agrees if `wanted` are all among the words shown.
    fn among(&mut self, what: &str, key: &str, wanted: &[&str]) {
        let found = self.shown.get(key).copied().unwrap_or_default();
        let words: Vec<_> = found.split([' ', ',']).collect();
        let agrees = wanted.iter().all(|word| words.contains(word));
        let (wanted, found) = (wanted.join(" "), found.to_string());
        self.lines.push(Line { what: what.into(), wanted, found, agrees });
    }

    fn mounts(&mut self, board: &Board<'_>, device: &str) {
        self.among(CGROUP_ROOT, "cgroup2", &CGROUP2_OPTIONS);
        if let Some(var_qm) = &board.var_qm {
            let mut wanted = vec![device, var_qm.fstype, "nodev", "nosuid"];
            wanted.extend(var_qm.options.split(',').filter(|option| !option.is_empty()));
            self.among(MOUNT_POINT, "var_qm", &wanted);
        }
    }

    fn limits(&mut self, board: &Board<'_>, memory: Memory) -> Result<()> {
        for (file, value) in knobs(board, memory)? {
            let what = file.strip_prefix(CGROUP_ROOT).unwrap_or(&file).to_string();
            self.equal(&what, &file, value);
        }
        Ok(())
    }

    fn scores(&mut self, board: &Board<'_>) {
        self.equal("OOM score of PID 1", "init", board.init_oom_score_adj);
        let keys: Vec<_> = self.shown.keys().filter(|k| k.starts_with("supervisor ")).collect();
        if keys.is_empty() {
            self.equal("OOM score of the supervisor", "", SUPERVISOR_SCORE);
        }
        for key in keys {
            self.equal(&format!("OOM score of {key}"), key, SUPERVISOR_SCORE);
        }
        for (payload, _) in payloads(board) {
            let key = format!("payload {}", payload.name);
            self.equal(&format!("OOM score of {key}"), &key, payload.oom_score_adj);
        }
    }
}

impl Report {
    /// The report as a table.
    #[must_use]
    pub fn table(&self) -> String {
        let mut table = format!(
            "{} on {}: {} KiB in pages of {} B\n\n",
            self.board, self.kernel, self.mem_total_kib, self.page_bytes
        );
        let width = |cell: fn(&Line) -> &str, head: &str| {
            self.lines.iter().map(|line| cell(line).len()).chain([head.len()]).max().unwrap_or(0)
        };
        let (what, wanted, found) = ("what", "wanted", "the kernel shows");
        let (a, b, c) = (
            width(|line| &line.what, what),
            width(|line| &line.wanted, wanted),
            width(|line| &line.found, found),
        );
        let mut row = |x: &str, y: &str, z: &str, mark: &str| {
            let _infallible = writeln!(table, "{x:a$}  {y:b$}  {z:c$}  {mark}");
        };
        row(what, wanted, found, "");
        for line in &self.lines {
            let mark = if line.agrees { "agree" } else { "DIFFER" };
            row(&line.what, &line.wanted, &line.found, mark);
        }
        let differ = self.lines.iter().filter(|line| !line.agrees).count();
        let _infallible = match differ {
            0 => writeln!(table, "\nall {} agree", self.lines.len()),
            _ => writeln!(table, "\n{differ} of {} differ", self.lines.len()),
        };
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::board;

    const BOARD: &str = r#"{ "name": "b", "qm": { "memory_limit": { "max": "40%" }, "cgroup": "/qm" },
        "host": { "cgroups": ["/host"] }, "handoff": { "init": "none" } }"#;
    const SHOWN: &str = "kernel\t6.1\nmem_total_kib\t2010424\npage_kib\t4\n\
        cgroup2\trw,nsdelegate,memory_recursiveprot\ninit\t0\nsupervisor 9\t-1000\n\
        /sys/fs/cgroup/qm/memory.max\t823468032\n";

    fn find<'a>(report: &'a Report, what: &str) -> &'a Line {
        report.lines.iter().find(|line| line.what == what).unwrap()
    }

    #[test]
    fn wanted_beside_shown() {
        let (board, faults) = board::read(BOARD);
        assert!(faults.is_empty());
        let report = report("b", &board, SHOWN).unwrap();
        assert!(find(&report, "/qm/memory.max").agrees);
        assert!(find(&report, CGROUP_ROOT).agrees);
        assert!(find(&report, "OOM score of supervisor 9").agrees);
        // Nothing shown is a difference.
        assert!(!find(&report, "/qm/pids.max").agrees);
        assert!(!report.agrees);
    }

    #[test]
    fn a_guest_that_shows_nothing_is_an_error() {
        let (board, _) = board::read(BOARD);
        assert!(report("b", &board, "").is_err());
        assert!(report("b", &board, "mem_total_kib\tx\n").is_err());
    }
}
