//! `cargo xtask boot-time`: what plimsoll costs a boot with systemd, beside an
//! initramfs of busybox that only loads the modules and mounts the root.

use anyhow::{Context, Result};

use crate::arch::Arch;
use crate::guest::Guest;
use crate::packages::Suite;
use crate::progress::Steps;

/// In the guest, once it is up: microseconds from the kernel's start.
const SCRIPT: &str = r"
systemctl is-system-running --wait >/dev/null
systemctl show --property UserspaceTimestampMonotonic
systemctl show multi-user.target --property ActiveEnterTimestampMonotonic
";
/// What the script prints, and what that is.
const TIMES: [(&str, &str); 2] = [
    ("UserspaceTimestampMonotonic=", "kernel's start to systemd's"),
    ("ActiveEnterTimestampMonotonic=", "kernel's start to multi-user.target"),
];

/// Boots so many times with plimsoll and without, in turn, and says the medians.
pub fn run(arch: Arch, rounds: usize, steps: Steps) -> Result<String> {
    let mut taken: [[Vec<u64>; 2]; 2] = Default::default();
    for round in 1..=rounds {
        for (with, taken) in taken.iter_mut().enumerate() {
            let mut guest = Guest::new(&format!("qemu-systemd-{arch}"), Suite::Trixie)?;
            if with == 0 {
                guest = guest.busybox_initramfs();
            }
            let outcome =
                steps.run(format_args!("boot {round} of {rounds}"), || guest.run(SCRIPT))?;
            let text = outcome.text();
            for ((key, _), taken) in TIMES.iter().zip(taken) {
                let time = text.lines().find_map(|line| line.strip_prefix(key)?.parse().ok());
                taken.push(time.with_context(|| format!("the guest did not say {key}:\n{text}"))?);
            }
        }
    }
    let [without, with] = taken.map(|times| times.map(median));
    let mut table = format!("qemu-systemd-{arch}, medians of {rounds}\n");
    for (at, (_, what)) in TIMES.iter().enumerate() {
        let (without, with) = (without[at], with[at]);
        let cost = i128::from(with) - i128::from(without);
        let permille = cost * 1000 / i128::from(without.max(1));
        table += &format!(
            "{what:36} without {:6} ms, with plimsoll {:6} ms: {:+} ms, {permille:+} per mille\n",
            without / 1000,
            with / 1000,
            cost / 1000,
        );
    }
    Ok(table)
}

fn median(mut times: Vec<u64>) -> u64 {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}
