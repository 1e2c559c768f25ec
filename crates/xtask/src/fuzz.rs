//! `cargo xtask fuzz`: bytes that a stranger or a kernel may send, made up by
//! libFuzzer, which keeps those that reach new code.
//!
//! The flags are cargo-fuzz's without a sanitizer, since the code under test is
//! safe: so the stable compiler does. tests/corpus/TARGET holds the inputs it
//! begins with and what it ever found; they run as tests, too.

mod board;
mod control;
mod lru_gen;
mod qmp;
mod texts;

use std::fmt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::arch::Arch;
use crate::progress::Steps;
use crate::{command, repository, target};

/// Something that takes bytes from outside.
pub struct Target {
    /// Its name, and that of its directory in tests/corpus.
    pub name: &'static str,
    /// Panics where what these bytes do is wrong.
    pub check: fn(&[u8]),
}

/// All there is to fuzz.
pub const TARGETS: [Target; 10] = [
    Target { name: "board", check: board::check },
    Target { name: "control", check: control::check },
    Target { name: "lru_gen", check: lru_gen::check },
    Target { name: "qmp", check: qmp::check },
    Target { name: "psi", check: texts::psi },
    Target { name: "blocks", check: texts::blocks },
    Target { name: "lines", check: texts::lines },
    Target { name: "kmsg", check: texts::kmsg },
    Target { name: "iomem", check: texts::iomem },
    Target { name: "state", check: texts::state },
];

/// The environment variable that tells the fuzzing binary its target.
pub const TARGET_VARIABLE: &str = "PLIMSOLL_FUZZ_TARGET";

/// Bytes of an input at most: some more than the longest that is accepted
/// anywhere, a board file of 16 KiB.
const INPUT_BYTES_MAX: usize = 20 * 1024;
/// Seconds for one input. The slowest take milliseconds.
const INPUT_SECS_MAX: u32 = 10;

/// What rustc does for libFuzzer: counters at every edge, and operands of
/// comparisons reported. Folded branches would hide edges.
const FLAGS: [&str; 7] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Cllvm-args=-simplifycfg-branch-fold-threshold=0",
    "--cfg=fuzzing",
];

/// Fuzzes one target, or all in turn, for `secs` seconds each. What it found is
/// printed; a finding is the error.
pub fn run(target: Option<&str>, secs: u32) -> Result<()> {
    let is_wanted = |known: &&Target| target.is_none_or(|name| name == known.name);
    let targets: Vec<_> = TARGETS.iter().filter(is_wanted).collect();
    if targets.is_empty() {
        bail!("the targets are {}", TARGETS.map(|target| target.name).join(", "));
    }
    let dir = target::target_dir()?.join("fuzz");
    let binary = Steps::Shown.run("the fuzzing binary", || build(&dir))?;
    for target in targets {
        let name = target.name;
        let fuzz = || fuzz(&binary, &dir.join(name), name, secs);
        let found = Steps::Shown.run(format_args!("{name} for {secs} s"), fuzz)?;
        println!("{name}: {found}");
    }
    Ok(())
}

/// Builds into a directory of its own: the flags hold for every package.
fn build(dir: &Path) -> Result<PathBuf> {
    if std::env::var_os("CXX").is_none() && !command::is_there("c++") {
        bail!("libFuzzer is written in C++: install g++, or name a compiler in CXX");
    }
    let host = Arch::of_host().context("fuzzing needs x86_64 or aarch64")?;
    // With --target the flags spare build scripts, which could not be linked.
    let triple = format!("{host}-unknown-linux-gnu");
    let mut cargo = Command::new("cargo");
    cargo.current_dir(repository()).args(["build", "--release", "--target", &triple]);
    cargo.args(["--package=xtask", "--features=fuzz", "--bin=fuzz", "--target-dir"]).arg(dir);
    for check in ["debug-assertions", "overflow-checks"] {
        cargo.args(["--config", &format!("profile.release.{check}=true")]);
    }
    command::output(cargo.env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\u{1f}")))?;
    Ok(dir.join(triple).join("release/fuzz"))
}

/// Runs libFuzzer; what it learns stays in `dir` for the next time.
fn fuzz(binary: &Path, dir: &Path, name: &str, secs: u32) -> Result<Found> {
    let (learned, log) = (dir.join("corpus"), dir.join("log"));
    fs::create_dir_all(&learned)?;
    let mut fuzzer = Command::new(binary);
    fuzzer.env(TARGET_VARIABLE, name).args([&learned, &corpus(name)]);
    fuzzer.arg(format!("-artifact_prefix={}/", dir.display()));
    fuzzer.args([format!("-max_total_time={secs}"), format!("-timeout={INPUT_SECS_MAX}")]);
    fuzzer.arg(format!("-max_len={INPUT_BYTES_MAX}"));
    fuzzer.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&log)?);
    let status = fuzzer.status().context("cannot run the fuzzing binary")?;
    let log = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
    if !status.success() {
        let said = log.lines().filter(|line| !line.starts_with(['#', '\t']));
        let said = said.collect::<Vec<_>>().join("\n");
        bail!("{said}\n{name}: a finding. Keep its input in tests/corpus/{name}");
    }
    log.lines().rev().find_map(Found::parse).context("libFuzzer reported nothing")
}

/// The inputs of a target that are part of the project.
fn corpus(name: &str) -> PathBuf {
    repository().join("tests/corpus").join(name)
}

/// What fuzzing came to.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    executions: u64,
    edges: u64,
    inputs: u64,
}

impl Found {
    /// Reads libFuzzer's last line.
    fn parse(line: &str) -> Option<Self> {
        let (executions, rest) = line.strip_prefix('#')?.split_once("\tDONE ")?;
        let mut words = rest.split_whitespace();
        let mut after = |key| {
            words.find(|word| *word == key)?;
            words.next()?.split('/').next()?.parse().ok()
        };
        let (edges, inputs) = (after("cov:")?, after("corp:")?);
        Some(Self { executions: executions.parse().ok()?, edges, inputs })
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { executions, edges, inputs } = self;
        write!(f, "{executions} executions, {edges} edges reached by {inputs} inputs, no finding")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn corpora() {
        for Target { name, check } in TARGETS {
            let files: Vec<_> = fs::read_dir(corpus(name)).unwrap().map(Result::unwrap).collect();
            assert!(!files.is_empty(), "{name}");
            for file in files {
                // Shown where the check fails.
                println!("{}", file.path().display());
                check(&fs::read(file.path()).unwrap());
            }
        }
    }

    #[test]
    fn the_last_line() {
        let line = "#4194304\tDONE   cov: 312 ft: 1402 corp: 287/14Kb lim: 4096 exec/s: 67650";
        let found = Found { executions: 4_194_304, edges: 312, inputs: 287 };
        assert_eq!(Found::parse(line), Some(found));
        assert_eq!(Found::parse(&line.replace("DONE", "pulse")), None);
        assert_eq!(Found::parse(""), None);
    }
}
