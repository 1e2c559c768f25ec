//! The shipped binary, built for a board's architecture.
//!
//! It links no C at all, so the toolchain's own rust-lld is the linker for
//! every architecture and no cross compiler is needed. Of the target's standard
//! library only `core` is used, so any Linux target of the architecture will do.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::arch::Arch;
use crate::packages::{self, Suite};
use crate::progress::Steps;
use crate::{command, repository};

/// The Cargo profile of what is shipped.
pub const PROFILE: &str = "board";

/// What is built for a board.
#[derive(Clone, Debug)]
pub struct Binaries {
    /// What is shipped.
    pub plimsoll: PathBuf,
    /// The scenarios' load generator.
    pub load: PathBuf,
}

/// A compiler that has `core` for the architecture.
#[derive(Clone, Debug)]
pub struct Toolchain {
    triple: String,
    /// rustc and its sysroot where it is not the one that built xtask.
    foreign: Option<(PathBuf, PathBuf)>,
}

/// Builds the binaries.
pub fn build(arch: Arch, steps: Steps) -> Result<Binaries> {
    let toolchain = Toolchain::find(arch, steps)?;
    let dir = steps.run(format_args!("plimsoll for {arch} ({})", toolchain.triple), || {
        let mut build = toolchain.cargo("build")?;
        build.args(["--package", "plimsoll", "--bins"]);
        command::output(&mut build)?;
        Ok(target_dir()?.join(&toolchain.triple).join(PROFILE))
    })?;
    Ok(Binaries { plimsoll: dir.join("plimsoll"), load: dir.join("load") })
}

/// Where Cargo puts what it builds.
pub fn target_dir() -> Result<PathBuf> {
    let metadata = cargo_metadata::MetadataCommand::new().no_deps().exec()?;
    Ok(metadata.target_directory.into())
}

impl Toolchain {
    /// The toolchain's own target, or one that rustup adds, or Debian's.
    pub fn find(arch: Arch, steps: Steps) -> Result<Self> {
        let sysroot = command::output(Command::new("rustc").args(["--print", "sysroot"]))?;
        let has = |triple: &String| has_core(Path::new(sysroot.trim()), triple);
        let triples = ["gnu", "musl"].map(|libc| format!("{arch}-unknown-linux-{libc}"));
        if let Some(triple) = triples.iter().find(|triple| has(triple)) {
            return Ok(Self { triple: triple.clone(), foreign: None });
        }
        let [_, musl] = triples;
        let added = steps.run(format_args!("rustup target add {musl}"), || {
            command::output(Command::new("rustup").args(["target", "add", &musl]))
        });
        match added {
            Ok(_) => Ok(Self { triple: musl, foreign: None }),
            Err(error) => Self::debian(arch, steps).context(error),
        }
    }

    /// Debian's compiler for Firefox: newer than the suite's own, with `core`
    /// for every architecture.
    fn debian(arch: Arch, steps: Steps) -> Result<Self> {
        let host = Arch::of_host().context("plimsoll is built on x86_64 or aarch64")?;
        steps.say("Debian's rustc-web and its libraries, unpacked into the cache instead");
        let compiler = packages::unpacked("rustc-web", Suite::Bookworm, host, steps)?;
        let library = packages::unpacked("libstd-rust-web-dev", Suite::Bookworm, arch, steps)?;
        let triple = format!("{arch}-unknown-linux-gnu");
        Ok(Self { triple, foreign: Some((compiler.join("usr/bin/rustc"), library.join("usr"))) })
    }

    /// A Cargo command for this target with the flags it needs.
    pub fn cargo(&self, subcommand: &str) -> Result<Command> {
        let mut flags = vec![
            "-Clinker=rust-lld",
            "-Clinker-flavor=ld.lld",
            // No start files and libraries of a libc.
            "-Clink-self-contained=no",
            "-Cdefault-linker-libraries=no",
            "-Crelocation-model=static",
            "-Ctarget-feature=+crt-static",
        ]
        .into_iter()
        .map(String::from)
        .collect::<Vec<_>>();
        let mut cargo = Command::new("cargo");
        cargo.current_dir(repository()).arg(subcommand);
        cargo.args(["--profile", PROFILE, "--target", &self.triple]);
        if let Some((rustc, sysroot)) = &self.foreign {
            flags.push(format!("--sysroot={}", sysroot.display()));
            cargo.env("RUSTC", rustc);
        }
        cargo.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"));
        Ok(cargo)
    }
}

fn has_core(sysroot: &Path, triple: &str) -> bool {
    sysroot.join("lib/rustlib").join(triple).join("lib").is_dir()
}
