//! `cargo xtask shrink`: a host takes all of a guest's virtio-mem back while ten
//! processes hold most of it, with the kernel's driver alone and with plimsoll.
//!
//! The guests' clock counts instructions: what else this machine does changes
//! nothing, so both architectures are measured at once.

mod chart;
mod figures;

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;

pub use self::figures::Report;
use self::figures::{Compared, Run};
use crate::arch::Arch;
use crate::command;
use crate::guest::Guest;
use crate::packages::Suite;
use crate::progress::Steps;

/// For scripts of such a guest: what grows it, shrinks it and holds its memory.
pub const LOAD: &str = include_str!("shrink/load.sh");
const COMPARE: &str = include_str!("shrink/compare.sh");
/// What plimsoll keeps available: what comes and goes takes 100 MiB.
const MIN_AVAILABLE: &str = "160M";
/// A CPU of 250 million instructions a second, about what the emulator does.
const CLOCK_SHIFT: u8 = 2;
/// From the request to the end of five of the ten, in the guest's seconds.
const HELD_SECS: u64 = 60;
/// From there to the end of all.
const LEFT_SECS: u64 = 30;
/// From there to the end of patience: the driver tries again after 300 s at most.
const LATE_SECS: u64 = 320;
/// How long a guest may take, in this machine's time: a killer's last breaths are
/// many instructions.
const TIMEOUT: Duration = Duration::from_mins(30);
const MIB: u64 = 1 << 20;

/// A guest of 512 MiB and as much as 1536 MiB more, whose memory plimsoll minds, or
/// the driver alone.
fn guest(arch: Arch, plimsoll: bool) -> Result<Guest> {
    let mut guest = Guest::new(&format!("qemu-{arch}"), Suite::Trixie)?;
    let mut board: serde_json::Value = serde_json::from_str(&guest.board().text)?;
    board["virtio_mem"] = json!({ "enable": plimsoll, "min_available": MIN_AVAILABLE });
    if !plimsoll {
        guest = guest.kernel_arg("memhp_default_state=online_movable");
    }
    guest = guest.virtio_mem("512M", "1536M").board_json(&board).virtual_time(CLOCK_SHIFT);
    Ok(guest.timeout(TIMEOUT))
}

/// Runs both so many times on each of these architectures.
pub fn run(arches: &[Arch], rounds: usize, steps: Steps) -> Result<Report> {
    let compared: Result<Vec<_>> = std::thread::scope(|scope| {
        let run = |arch: Arch| scope.spawn(move || compare(arch, rounds, steps));
        let threads: Vec<_> = arches.iter().map(|arch| run(*arch)).collect();
        threads.into_iter().map(|thread| thread.join().expect("it does not panic")).collect()
    });
    let arch = if let [arch] = arches { format!(" --arch {arch}") } else { String::new() };
    Ok(Report {
        date: command::output(Command::new("date").arg("+%F"))?.trim().into(),
        command: format!("cargo xtask shrink{arch} --rounds {rounds}"),
        held_secs: HELD_SECS,
        left_secs: LEFT_SECS,
        compared: compared?,
    })
}

fn compare(arch: Arch, rounds: usize, steps: Steps) -> Result<Compared> {
    let mut compared = Compared { arch: arch.name(), alone: Vec::new(), plimsoll: Vec::new() };
    for round in 1..=rounds {
        for (name, with, runs) in [
            ("the driver alone", false, &mut compared.alone),
            ("with plimsoll", true, &mut compared.plimsoll),
        ] {
            let guest = guest(arch, with)?;
            let what = format!("{arch}, round {round} of {rounds}, {name}");
            runs.push(steps.run(what, || once(guest))?);
        }
    }
    Ok(compared)
}

fn once(guest: Guest) -> Result<Run> {
    let script = format!("held={HELD_SECS} left={LEFT_SECS} late={LATE_SECS}\n{LOAD}{COMPARE}");
    let outcome = guest.run_with(&script, |line, host| match line.strip_prefix("want ") {
        Some(mib) => host.request_memory(mib.parse::<u64>()? * MIB),
        None => Ok(()),
    })?;
    let (text, errors) = (outcome.text(), outcome.stderr_text());
    Run::new(&text).with_context(|| format!("the guest said:\n{text}{errors}"))
}
