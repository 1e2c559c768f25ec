//! `cargo xtask test`: everything that has to hold, in the order in which it
//! fails soonest.

use std::process::Command;

use anyhow::{Result, bail};

use crate::arch::Arch;
use crate::packages::Suite;
use crate::progress::Steps;
use crate::target::Toolchain;
use crate::{command, deny, install, repository, size};

/// Guests at once: one for each of two CPUs.
const GUESTS: &str = "--test-threads=2";

/// What runs on the host alone: format, lints, unit tests.
pub fn quick(steps: Steps) -> Result<()> {
    install::rust_components(steps)?;
    run(steps, "rustfmt", cargo(&["fmt", "--all", "--check"]))?;
    let lints = ["clippy", "--package=plimsoll-core", "--package=xtask", "--all-targets"];
    run(steps, "clippy", cargo(&[&lints[..], &["--", "-Dwarnings"]].concat()))?;
    let lints = ["clippy", "--package=xtask", "--test=boot", "--", "-Dwarnings"];
    run(steps, "clippy of the scenarios", cargo(&lints))?;
    for arch in Arch::ALL {
        let toolchain = Toolchain::find(arch, steps)?;
        // Debian's compiler, the last resort, comes without clippy.
        if !toolchain.is_foreign() {
            let mut clippy = toolchain.cargo("clippy", &[])?;
            clippy.args(["--package=plimsoll", "--bins", "--", "-Dwarnings"]);
            run(steps, &format!("clippy for {arch}"), clippy)?;
        }
    }
    run(steps, "tests of plimsoll-core", cargo(&["test", "--package=plimsoll-core"]))?;
    run(steps, "tests of xtask", cargo(&["test", "--package=xtask", "--lib", "--bins"]))
}

/// All of it: also licences and bans, budgets, and the scenarios in booted
/// guests.
pub fn all(steps: Steps) -> Result<()> {
    quick(steps)?;
    steps.run("licences and bans", deny::check)?;
    install::for_boards(&Arch::ALL, steps)?;
    budgets(Suite::Bookworm, steps)?;
    command::run(&mut cargo(&["test", "--package=xtask", "--test=boot", "--", GUESTS]))
}

/// Measures and prints all budgets; an error if one is broken.
pub fn budgets(suite: Suite, steps: Steps) -> Result<()> {
    let mut budgets = Vec::new();
    for arch in Arch::ALL {
        budgets.append(&mut size::of_binary(arch, steps)?);
        let boot = || size::of_boot(&format!("qemu-{arch}"), suite, Steps::Quiet);
        budgets.append(&mut steps.run(format_args!("boot of qemu-{arch}"), boot)?);
    }
    print!("{}", size::table(&budgets));
    if budgets.iter().any(|budget| !budget.is_kept()) {
        bail!("a budget is broken");
    }
    Ok(())
}

fn cargo(args: &[&str]) -> Command {
    let mut cargo = Command::new("cargo");
    cargo.current_dir(repository()).args(args);
    cargo
}

fn run(steps: Steps, what: &str, mut command: Command) -> Result<()> {
    steps.run(what, || command::output(&mut command).map(drop))
}
