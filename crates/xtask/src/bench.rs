//! `cargo xtask bench`: what the memory agent costs and what it gives back,
//! beside a peer and beside the kernel's own cost.
//!
//! All is measured in one guest, one tool after the other on the same work. The
//! guest has one CPU whose clock counts instructions, a nanosecond each, and
//! jumps where the CPU is idle: so what else this machine does changes nothing,
//! and minutes of waiting take no time.

mod chart;
mod figures;
mod samples;
mod script;

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::json;

use self::figures::About;
pub use self::figures::Report;
use self::samples::Samples;
pub(crate) use self::samples::median;
use self::script::{PEER_PATH, Plan};
use crate::arch::Arch;
use crate::command;
use crate::guest::Guest;
use crate::packages::Suite;
use crate::progress::Steps;
use crate::target;

/// The board that is booted.
const BOARD: &str = "qemu-x86_64";
/// What is booted with: 5,000 cgroups and 1.5 GiB of file pages in them.
const MEMORY: &str = "6G";
/// A CPU of a billion instructions a second.
const CLOCK_SHIFT: u8 = 0;
/// Numbers of cgroups, as the peer's operators have them, and more.
const COUNTS: [u64; 4] = [10, 100, 1000, 5000];
/// QM's processes: one in each cgroup, and a few.
const PIDS_MAX: u64 = 8192;
/// How long it may take. The peer needs most of it.
const TIMEOUT: Duration = Duration::from_hours(2);

/// What to measure.
pub struct Options {
    /// mem-agent-srv, statically linked for x86_64; without it plimsoll is
    /// measured alone.
    pub peer: Option<PathBuf>,
    /// Whose kernel is booted.
    pub suite: Suite,
    /// Passes measured of each tool with each number of cgroups, 1 or more.
    pub rounds: u32,
}

/// Measures.
pub fn run(options: &Options, steps: Steps) -> Result<Report> {
    let plan = Plan { rounds: options.rounds, counts: &COUNTS, peer: options.peer.is_some() };
    let mut guest = Guest::new(BOARD, options.suite)?.steps(steps).memory(MEMORY);
    let mut board: serde_json::Value = serde_json::from_str(&guest.board().text)?;
    board["qm"]["memory_limit"] = json!({ "max": "90%" });
    board["qm"]["pids_max"] = json!(PIDS_MAX);
    guest = guest.board_json(&board).virtual_time(CLOCK_SHIFT).timeout(TIMEOUT);
    if let Some(peer) = &options.peer {
        guest = guest.put(peer, PEER_PATH);
    }
    let mut samples = Samples::default();
    let outcome = guest.run_with(&plan.script(), |line, _| {
        if let Some(what) = line.strip_prefix("# ") {
            steps.say(what);
        }
        samples.take(line).with_context(|| format!("the guest said {line:?}"))
    })?;
    if !samples.is_whole() {
        bail!("the bench did not come to its end\n{}", outcome.stderr_text());
    }
    let size = |path| fs::metadata(path).with_context(|| format!("no {path:?}")).map(|m| m.len());
    let peer_bytes = options.peer.as_ref().map(size).transpose()?;
    let about = About {
        date: command::output(Command::new("date").arg("+%F"))?.trim().into(),
        command: said(options),
        plimsoll_bytes: size(&target::build(Arch::X86_64, steps)?.plimsoll)?,
        peer_bytes,
    };
    Report::new(about, samples)
}

/// The command, without anybody's directories.
fn said(options: &Options) -> String {
    let peer = options.peer.as_ref().and_then(|peer| peer.file_name()?.to_str());
    let peer = peer.map_or_else(String::new, |name| format!(" --peer {name}"));
    let (kernel, rounds) = (options.suite.name(), options.rounds);
    format!("cargo xtask bench{peer} --kernel {kernel} --rounds {rounds}")
}
