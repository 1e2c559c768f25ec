//! The shipped binary, built for a board's architecture.
//!
//! It links no C at all, so the toolchain's own rust-lld is the linker for
//! every architecture and no cross compiler is needed. Of the target's standard
//! library only `core` is used, so any Linux target of the architecture will do.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};

use crate::arch::Arch;
use crate::packages::{self, Needs, Suite};
use crate::progress::Steps;
use crate::{command, repository};

/// The Cargo profile of what is shipped.
pub const PROFILE: &str = "board";

/// Flags of rustc for every architecture.
const FLAGS: [&str; 17] = [
    "-Clinker=rust-lld",
    "-Clinker-flavor=ld.lld",
    // No libraries of a libc.
    "-Cdefault-linker-libraries=no",
    "-Crelocation-model=static",
    "-Ctarget-feature=+crt-static",
    "-Cforce-unwind-tables=no",
    "-Clink-arg=--no-eh-frame-hdr",
    // Size: functions that came out the same, and runs of instructions that
    // did, are kept once; what is called often is called, not copied. Together
    // 3 KB, measured; other thresholds than 15 give more.
    "-Clink-arg=--icf=all",
    "-Clink-arg=-O2",
    "-Cllvm-args=-enable-machine-outliner=always -machine-outliner-reruns=3",
    "-Cllvm-args=-inline-max-stacksize=512",
    "-Cllvm-args=-inline-threshold=15",
    // Jumps one after the other are smaller than a table of them, half a
    // kilobyte; and ends of blocks that are the same, however short.
    "-Cllvm-args=-min-jump-table-entries=16",
    "-Cllvm-args=-tail-merge-threshold=1000 -tail-merge-size=2",
    // What a loop doesn't change is worked out in it: kept in registers before it,
    // it drives other values onto the stack. 3 KB.
    "-Cllvm-args=-disable-machine-licm",
    // Copies and fills of more than a word or two are calls, 2 KB.
    "-Cllvm-args=-max-store-memcpy=1 -max-store-memmove=1 -max-store-memset=2",
    // Nothing is relocated at start-up that could be made read-only then.
    "-Clink-arg=-znorelro",
];

/// Of what is shipped: section headers are for linkers and debuggers.
const SHIPPED_FLAGS: [&str; 1] = ["-Clink-arg=-znosectionheader"];

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
    foreign: Option<Foreign>,
}

/// A compiler other than the one that built xtask: Debian's, unpacked.
#[derive(Clone, Debug)]
struct Foreign {
    /// Its root directory.
    root: PathBuf,
    /// The root directory of the target's standard library.
    library: PathBuf,
    /// Our own toolchain's linker; Debian's comes without.
    linker: PathBuf,
    /// Where the shared libraries are that it needs.
    libraries: PathBuf,
}

/// What Debian's compiler needs to run, beside what every machine has.
const COMPILER_PARTS: [&str; 10] = [
    "libstd-rust-web",
    "libllvm",
    "libz3-",
    "libedit",
    "libbsd",
    "libmd",
    "libxml2",
    "libicu",
    "libffi",
    "libtinfo",
];

/// What this process has built: guests of one run all boot the same binary,
/// whatever happens to the sources meanwhile.
static BUILT: Mutex<BTreeMap<Arch, Binaries>> = Mutex::new(BTreeMap::new());

/// Builds the binaries, once in the life of this process.
pub fn build(arch: Arch, steps: Steps) -> Result<Binaries> {
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(binaries) = built.get(&arch) {
        return Ok(binaries.clone());
    }
    let binaries = build_now(arch, steps)?;
    built.insert(arch, binaries.clone());
    Ok(binaries)
}

fn build_now(arch: Arch, steps: Steps) -> Result<Binaries> {
    let toolchain = Toolchain::find(arch, steps)?;
    let dir = steps.run(format_args!("plimsoll for {arch} ({})", toolchain.triple), || {
        let mut build = toolchain.cargo("build", &SHIPPED_FLAGS)?;
        build.args(["--package", "plimsoll", "--bins"]);
        command::output(&mut build)?;
        Ok(target_dir()?.join(&toolchain.triple).join(PROFILE))
    })?;
    Ok(Binaries { plimsoll: dir.join("plimsoll"), load: dir.join("load") })
}

/// Builds plimsoll once more with its symbols, for looking into it. The code is
/// the same to the byte; it lies in a directory of its own.
pub fn build_with_symbols(arch: Arch, steps: Steps) -> Result<PathBuf> {
    let toolchain = Toolchain::find(arch, steps)?;
    let dir = target_dir()?.join("symbols");
    steps.run(format_args!("plimsoll for {arch} with its symbols"), || {
        let mut build = toolchain.cargo("build", &[])?;
        build.args(["--package", "plimsoll", "--bin", "plimsoll", "--target-dir"]).arg(&dir);
        build.args(["--config", &format!("profile.{PROFILE}.strip=false")]);
        command::output(&mut build)
    })?;
    Ok(dir.join(&toolchain.triple).join(PROFILE).join("plimsoll"))
}

/// Where Cargo puts what it builds.
pub fn target_dir() -> Result<PathBuf> {
    let mut cargo = Command::new("cargo");
    cargo.current_dir(repository()).args(["metadata", "--no-deps", "--format-version=1"]);
    let metadata: serde_json::Value = serde_json::from_str(&command::output(&mut cargo)?)?;
    let dir =
        metadata["target_directory"].as_str().context("cargo metadata has no target_directory")?;
    Ok(dir.into())
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
            Err(error) => Self::debian(arch, Path::new(sysroot.trim()), steps).context(error),
        }
    }

    /// Debian's compiler for Firefox: newer than the suite's own, with `core`
    /// for every architecture.
    fn debian(arch: Arch, sysroot: &Path, steps: Steps) -> Result<Self> {
        let host = Arch::of_host().context("plimsoll is built on x86_64 or aarch64")?;
        steps.say("instead: Debian's rustc-web, unpacked into the cache");
        let suite = Suite::Bookworm;
        let root = packages::unpacked("rustc-web", Needs::Of(&COMPILER_PARTS), suite, host, steps)?;
        let library =
            packages::unpacked("libstd-rust-web-dev", Needs::Of(&[]), suite, arch, steps)?;
        let linker = format!("lib/rustlib/{host}-unknown-linux-gnu/bin/rust-lld");
        let foreign = Foreign {
            libraries: root.join(format!("usr/lib/{host}-linux-gnu")),
            linker: sysroot.join(linker),
            root,
            library,
        };
        Ok(Self { triple: format!("{arch}-unknown-linux-gnu"), foreign: Some(foreign) })
    }

    /// Whether it is another one than what built xtask.
    #[must_use]
    pub fn is_foreign(&self) -> bool {
        self.foreign.is_some()
    }

    /// A Cargo command for this target with the flags it needs, and more.
    pub fn cargo(&self, subcommand: &str, more: &[&str]) -> Result<Command> {
        let mut flags: Vec<_> = FLAGS.iter().chain(more).map(|flag| (*flag).into()).collect();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("target.ld");
        flags.push(format!("-Clink-arg=-T{}", script.display()));
        flags.extend(remapped()?);
        let mut cargo = Command::new("cargo");
        cargo.current_dir(repository()).arg(subcommand);
        cargo.args(["--profile", PROFILE, "--target", &self.triple]);
        if self.triple.starts_with("aarch64") {
            // Code and data are below 1 MiB, so one instruction instead of two has
            // the address of anything: 5 KB. The linker refuses what is too far.
            flags.push("-Ccode-model=tiny".into());
        }
        if self.triple.ends_with("musl") {
            // No start files, which Rust brings along for this libc.
            flags.push("-Clink-self-contained=no".into());
        }
        if let Some(foreign) = &self.foreign {
            flags.push(format!("--sysroot={}", foreign.library.join("usr").display()));
            flags.push(format!("-Clinker={}", foreign.linker.display()));
            cargo.env("RUSTC", foreign.root.join("usr/bin/rustc"));
            cargo.env("LD_LIBRARY_PATH", &foreign.libraries);
        }
        cargo.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"));
        Ok(cargo)
    }
}

/// Flags that keep the place of this machine's crates out of the binary, where
/// places of panics name it.
fn remapped() -> Result<Vec<String>> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
    // Before the first download there are none.
    let Some(Ok(sources)) = home.map(|home| fs::read_dir(home.join("registry/src"))) else {
        return Ok(Vec::new());
    };
    let flag = |dir: std::io::Result<fs::DirEntry>| {
        Ok(format!("--remap-path-prefix={}/=", dir?.path().display()))
    };
    sources.map(flag).collect()
}

fn has_core(sysroot: &Path, triple: &str) -> bool {
    sysroot.join("lib/rustlib").join(triple).join("lib").is_dir()
}
