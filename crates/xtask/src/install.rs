//! The programs that xtask needs and a machine with only Rust lacks.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use crate::arch::Arch;
use crate::command;
use crate::progress::Steps;

/// Programs that boards need, and Debian's packages that have them.
const MKE2FS: (&str, &str) = ("mke2fs", "e2fsprogs");
const DEBUGFS: (&str, &str) = ("debugfs", "e2fsprogs");
const MMDEBSTRAP: (&str, &str) = ("mmdebstrap", "mmdebstrap");
const FAKEROOT: (&str, &str) = ("fakeroot", "fakeroot");
const SETPRIV: (&str, &str) = ("setpriv", "util-linux");

const fn qemu(arch: Arch) -> (&'static str, &'static str) {
    match arch {
        Arch::X86_64 => ("qemu-system-x86_64", "qemu-system-x86"),
        Arch::Aarch64 => ("qemu-system-aarch64", "qemu-system-arm"),
    }
}

/// Installs what is missing to boot boards of these architectures: says it
/// first, then does it as root or through sudo. Where neither is possible the
/// error is the command to run.
pub fn for_boards(arches: &[Arch], steps: Steps) -> Result<()> {
    let programs = arches
        .iter()
        .map(|arch| qemu(*arch))
        .chain([MKE2FS, SETPRIV, DEBUGFS, MMDEBSTRAP, FAKEROOT]);
    let missing = programs.filter(|(program, _)| !command::is_there(program));
    let mut packages: Vec<_> = missing.map(|(_, package)| package).collect();
    packages.sort_unstable();
    packages.dedup();
    if packages.is_empty() {
        return Ok(());
    }
    let list = packages.join(" ");
    if !command::is_there("apt-get") {
        bail!("install the programs of Debian's packages {list}: there is no apt-get here");
    }
    let by_hand = format!("apt-get install --no-install-recommends {list}");
    let Some(root) = root() else {
        bail!("{list} must be installed, and only root can do that. Run:\n    sudo {by_hand}");
    };
    eprintln!("installing {list}: {by_hand}");
    if packages.iter().any(|package| !is_known(package)) {
        steps.run("apt-get update", || apt_get(root, &["update"]))?;
    }
    let install = [&["install", "--yes", "--no-install-recommends"], packages.as_slice()].concat();
    steps.run(format_args!("apt-get install {list}"), || apt_get(root, &install))
}

/// rustup's components that the tests need.
pub fn rust_components(steps: Steps) -> Result<()> {
    for (program, component) in [("cargo-fmt", "rustfmt"), ("cargo-clippy", "clippy")] {
        if command::is_there(program)
            && command::output(Command::new(program).arg("--version")).is_ok()
        {
            continue;
        }
        steps.run(format_args!("rustup component add {component}"), || {
            command::output(Command::new("rustup").args(["component", "add", component]))
        })?;
    }
    Ok(())
}

/// The words before a command that has to run as root, if there is a way.
fn root() -> Option<&'static [&'static str]> {
    let id = command::output(Command::new("id").arg("-u"));
    if id.is_ok_and(|id| id.trim() == "0") {
        return Some(&["env"]);
    }
    let sudo = Command::new("sudo").args(["-n", "true"]).output();
    sudo.is_ok_and(|output| output.status.success()).then_some(&["sudo", "-n", "env"])
}

fn apt_get(root: &[&str], args: &[&str]) -> Result<()> {
    let [program, before @ ..] = root else { bail!("no command") };
    let mut command = Command::new(program);
    command.args(before).args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "--quiet"]).args(args);
    command::output(&mut command)?;
    Ok(())
}

/// Whether the package lists of this machine have a version to install.
fn is_known(package: &str) -> bool {
    Path::new("/var/lib/apt/lists").is_dir()
        && command::output(Command::new("apt-cache").args(["show", package])).is_ok()
}
