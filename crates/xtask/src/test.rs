//! `cargo xtask test`: everything that has to hold, in the order in which it
//! fails soonest.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

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
    scenarios()
}

/// The scenarios, and at the end what failed in few words: each shows all that its
/// guest said.
fn scenarios() -> Result<()> {
    let mut command = cargo(&["test", "--package=xtask", "--test=boot", "--", GUESTS]);
    let mut child = command.stdout(Stdio::piped()).spawn().context("cannot run cargo")?;
    let mut failures = Failures::default();
    for line in BufReader::new(child.stdout.take().context("it is piped")?).lines() {
        let line = line?;
        println!("{line}");
        failures.hear(&line);
    }
    if !child.wait()?.success() {
        bail!("scenarios failed\n{}", failures.said);
    }
    Ok(())
}

/// Where scenarios failed, out of what the test harness says.
#[derive(Default)]
struct Failures {
    said: String,
    /// The next line is what a panic said.
    panicked: bool,
}

impl Failures {
    fn hear(&mut self, line: &str) {
        let of = |begin: &str, end: &str| line.strip_prefix(begin)?.strip_suffix(end);
        if let Some(name) = of("---- ", " stdout ----") {
            self.said += &format!("{name}\n");
        } else if line.starts_with("thread '") && line.contains("panicked at ") {
            let at = line.split("panicked at ").last().unwrap_or_default();
            self.said += &format!("    at {at}\n");
            self.panicked = true;
            return;
        } else if self.panicked || line.starts_with("  left: ") || line.starts_with(" right: ") {
            self.said += &format!("    {line}\n");
        }
        self.panicked = false;
    }
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

#[cfg(test)]
mod tests {
    use super::Failures;

    #[test]
    fn what_failed_in_few_words() {
        let said = "test a::b ... FAILED\n\nfailures:\n\n---- a::b stdout ----\n\n\
            thread 'a::b' (7) panicked at tests/x.rs:9:5:\n\
            assertion `left == right` failed: --- the guest printed\n\
            key 1\n\n  left: 1\n right: 2\n\n\nfailures:\n    a::b\n";
        let mut failures = Failures::default();
        said.lines().for_each(|line| failures.hear(line));
        let wanted = [
            "a::b",
            "    at tests/x.rs:9:5:",
            "    assertion `left == right` failed: --- the guest printed",
            "      left: 1",
            "     right: 2",
        ];
        assert_eq!(failures.said.lines().collect::<Vec<_>>(), wanted);
    }
}
