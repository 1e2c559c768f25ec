//! `cargo xtask`: the commands.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use xtask::arch::Arch;
use xtask::guest::Guest;
use xtask::packages::Suite;
use xtask::progress::Steps;
use xtask::{board, install, target};

/// Builds plimsoll, makes images, boots boards, measures.
#[derive(Parser)]
#[command(bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Boot a board's image and run a command in it as root
    Guest(GuestArgs),
    /// Build plimsoll, for both architectures or one
    Build {
        /// Only this one
        #[arg(long)]
        arch: Option<Arch>,
    },
    /// Check a board file: every fault with line and column
    Check {
        /// The board file
        file: PathBuf,
    },
    /// Install what is missing on this machine
    Install,
}

/// Which board, and how it is booted.
#[derive(Args)]
struct BoardArgs {
    /// A board of boards/, without .json
    #[arg(long, default_value = "qemu-x86_64")]
    board: String,
    /// The Debian suite whose kernel boots
    #[arg(long, default_value = "bookworm")]
    kernel: Suite,
    /// The guest's memory, as QEMU takes it
    #[arg(long, default_value = "2G")]
    memory: String,
}

#[derive(Args)]
struct GuestArgs {
    #[command(flatten)]
    board: BoardArgs,
    /// LOCAL:GUEST, a file or directory for the guest
    #[arg(long)]
    put: Vec<String>,
    /// GUEST:LOCAL, a file of the guest, fetched when CMD has ended
    #[arg(long)]
    get: Vec<String>,
    /// How long the guest may take
    #[arg(long, value_name = "SECS", default_value_t = 120)]
    timeout: u64,
    /// A program and its arguments; a single word is a line for the shell
    #[arg(last = true, required = true)]
    cmd: Vec<String>,
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Guest(args) => return guest(&args),
        Command::Build { arch } => {
            let arches = arch.map_or(Arch::ALL.to_vec(), |arch| vec![arch]);
            for arch in arches {
                let binaries = target::build(arch, Steps::Shown)?;
                println!("{}", binaries.plimsoll.display());
            }
        }
        Command::Check { file } => board::check(&file)?,
        Command::Install => install::for_boards(&Arch::ALL, Steps::Shown)?,
    }
    Ok(ExitCode::SUCCESS)
}

impl BoardArgs {
    fn guest(&self) -> Result<Guest> {
        let guest = Guest::new(&self.board, self.kernel)?;
        install::for_boards(&[guest.board().arch], Steps::Shown)?;
        Ok(guest.memory(&self.memory).steps(Steps::Shown))
    }
}

fn guest(args: &GuestArgs) -> Result<ExitCode> {
    let mut guest = args.board.guest()?.timeout(Duration::from_secs(args.timeout)).streamed();
    for put in &args.put {
        let (local, path) = put.split_once(':').context("--put takes LOCAL:GUEST")?;
        guest = guest.put(local, path);
    }
    let get = args.get.iter().map(|get| get.split_once(':').context("--get takes GUEST:LOCAL"));
    let get: Vec<_> = get.collect::<Result<_>>()?;
    for (path, _) in &get {
        guest = guest.get(path);
    }
    let outcome = guest.run(&script(&args.cmd))?;
    for (path, local) in get {
        let content = outcome.files.get(path).with_context(|| format!("the guest has no {path}"))?;
        fs::write(local, content).with_context(|| format!("cannot write {local}"))?;
    }
    Ok(u8::try_from(outcome.status).map_or(ExitCode::FAILURE, ExitCode::from))
}

/// What the guest's shell reads to run these words.
fn script(words: &[String]) -> String {
    match words {
        [line] => line.clone(),
        words => {
            let quoted = words.iter().map(|word| format!("'{}'", word.replace('\'', r"'\''")));
            quoted.collect::<Vec<_>>().join(" ")
        }
    }
}
