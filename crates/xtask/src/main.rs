//! `cargo xtask`: the commands.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};
use xtask::aib;
use xtask::arch::Arch;
use xtask::guest::Guest;
use xtask::packages::Suite;
use xtask::progress::Steps;
use xtask::{
    bench, board, boot_time, deny, fuzz, install, latency, picture, report, rootfs, shrink, target,
    test,
};

/// Builds plimsoll, makes images, boots boards, measures.
#[derive(Parser)]
#[command(bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Boot a board and compare what was wanted with what its kernel shows
    Boot(BootArgs),
    /// Boot a board's image and run a command in it as root
    Guest(GuestArgs),
    /// Build plimsoll, for both architectures or one
    Build {
        /// Only this one
        #[arg(long)]
        arch: Option<Arch>,
    },
    /// Write a board's kernel, image and disk to a directory
    Image {
        #[command(flatten)]
        board: BoardArgs,
        /// The directory; default target/image/BOARD-KERNEL
        #[arg(long)]
        dir: Option<PathBuf>,
    },
    /// Run all tests, on the host and in booted guests
    Test {
        /// The host's alone
        #[arg(long)]
        quick: bool,
    },
    /// Measure the budgets; fails if one is broken
    Size {
        /// The Debian suite whose kernel boots
        #[arg(long, default_value = "bookworm")]
        kernel: Suite,
    },
    /// Fuzz what takes bytes from outside
    Fuzz {
        /// What of it; default all in turn
        target: Option<String>,
        /// For how long each
        #[arg(long, default_value_t = 600)]
        secs: u32,
    },
    /// Measure the memory agent beside a peer and the bare kernel
    Bench(BenchArgs),
    /// Measure what plimsoll costs a boot with systemd
    BootTime {
        /// aarch64 or x86_64
        #[arg(long, default_value = "x86_64")]
        arch: Arch,
        /// Boots with and without plimsoll each
        #[arg(long, default_value_t = 5)]
        rounds: usize,
    },
    /// Measure how late a host's process wakes up beside QM, with systemd
    Latency {
        /// aarch64 or x86_64
        #[arg(long, default_value = "x86_64")]
        arch: Arch,
        /// Boots with and without plimsoll each
        #[arg(long, default_value_t = 3)]
        rounds: usize,
        /// Seconds of each measurement; there are four in a boot
        #[arg(long, default_value_t = 20)]
        secs: u64,
    },
    /// Have a host take memory back, with virtio-mem's driver alone and with plimsoll
    Shrink(ShrinkArgs),
    /// Check licences, and what may never reach the target
    Deny,
    /// Check a board file: every fault with line and column
    Check {
        /// The board file
        file: PathBuf,
    },
    /// Make a board file of an automotive-image-builder manifest
    Import(ImportArgs),
    /// Make of a board file what automotive-image-builder takes or writes
    Export(ExportArgs),
    /// Install what is missing on this machine
    Install,
}

#[derive(Args)]
struct ImportArgs {
    /// The manifest, NAME.aib.yml
    manifest: PathBuf,
    /// Name of the board; default the manifest's
    #[arg(long)]
    name: Option<String>,
    /// Write the board file here; default standard output
    #[arg(short, long)]
    output: Option<PathBuf>,
}

#[derive(Args)]
struct ExportArgs {
    /// The board file
    board: PathBuf,
    #[arg(long, value_enum, default_value_t = Format::Aib)]
    format: Format,
    /// As aib-dev has it, QM writable
    #[arg(long)]
    package_mode: bool,
    /// With --format conf: write all the drop-ins below this directory
    #[arg(long)]
    dir: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// The manifest's part, YAML
    Aib,
    /// The drop-in of qm.container, 10-automotive.conf
    Conf,
}

/// Which board, and how it is booted.
#[derive(Args)]
struct BoardArgs {
    /// A board of boards/, without .json
    #[arg(long, default_value = "qemu-x86_64")]
    board: String,
    /// The Debian suite whose kernel boots; default bookworm, and that of the
    /// root where the board has one
    #[arg(long)]
    kernel: Option<Suite>,
    /// The guest's memory, as QEMU takes it
    #[arg(long, default_value = "2G")]
    memory: String,
    /// The initramfs is another's, without plimsoll
    #[arg(long)]
    busybox_initramfs: bool,
    /// A word for the kernel's command line
    #[arg(long, value_name = "WORD")]
    kernel_arg: Vec<String>,
}

#[derive(Args)]
struct BootArgs {
    #[command(flatten)]
    board: BoardArgs,
    /// Write the report to this file too, as JSON
    #[arg(long)]
    json: Option<PathBuf>,
    /// Write the report to this file too, as a picture
    #[arg(long)]
    svg: Option<PathBuf>,
    /// Write the serial console's log to this file
    #[arg(long)]
    serial: Option<PathBuf>,
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
    /// The board has a QEMU of its own, and a guest's kernel and initramfs in /vmm
    #[arg(long)]
    qemu: bool,
    /// How long the guest may take
    #[arg(long, value_name = "SECS", default_value_t = 120)]
    timeout: u64,
    /// A program and its arguments; a single word is a line for the shell
    #[arg(last = true, required = true)]
    cmd: Vec<String>,
}

#[derive(Args)]
struct BenchArgs {
    /// A mem-agent-srv for x86_64, statically linked, to compare with
    #[arg(long)]
    peer: Option<PathBuf>,
    /// The Debian suite whose kernel boots
    #[arg(long, default_value = "bookworm")]
    kernel: Suite,
    /// Passes measured with each number of cgroups
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Write the figures to this file too
    #[arg(long)]
    json: Option<PathBuf>,
    /// Draw a chart into this file
    #[arg(long)]
    svg: Option<PathBuf>,
}

#[derive(Args)]
struct ShrinkArgs {
    /// aarch64 or x86_64; default both
    #[arg(long)]
    arch: Option<Arch>,
    /// Guests with plimsoll and without each
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Write the figures to this file too
    #[arg(long)]
    json: Option<PathBuf>,
    /// Draw a chart into this file
    #[arg(long)]
    svg: Option<PathBuf>,
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
        Command::Boot(args) => return boot(&args),
        Command::Guest(args) => return guest(&args),
        Command::Build { arch } => {
            let arches = arch.map_or(Arch::ALL.to_vec(), |arch| vec![arch]);
            for arch in arches {
                let binaries = target::build(arch, Steps::Shown)?;
                println!("{}", binaries.plimsoll.display());
            }
        }
        Command::Image { board, dir } => {
            let of_board = || {
                let name = format!("{}-{}", board.board, board.suite().name());
                Ok::<_, anyhow::Error>(target::target_dir()?.join("image").join(name))
            };
            let dir = dir.map_or_else(of_board, Ok)?;
            board.guest()?.write(&dir)?;
            println!("{}", dir.display());
        }
        Command::Test { quick: true } => test::quick(Steps::Shown)?,
        Command::Test { quick: false } => test::all(Steps::Shown)?,
        Command::Size { kernel } => {
            install::for_boards(&Arch::ALL, Steps::Shown)?;
            test::budgets(kernel, Steps::Shown)?;
        }
        Command::Fuzz { target, secs } => fuzz::run(target.as_deref(), secs)?,
        Command::Bench(args) => bench(args)?,
        Command::BootTime { arch, rounds } => {
            install::for_boards(&[arch], Steps::Shown)?;
            print!("{}", boot_time::run(arch, rounds, Steps::Shown)?);
        }
        Command::Latency { arch, rounds, secs } => {
            install::for_boards(&[arch], Steps::Shown)?;
            print!("{}", latency::run(arch, rounds, secs, Steps::Shown)?);
        }
        Command::Shrink(args) => shrink(args)?,
        Command::Deny => deny::check()?,
        Command::Check { file } => {
            board::check(&file)?;
            println!("{}: accepted", file.display());
        }
        Command::Import(args) => import(&args)?,
        Command::Export(args) => export(&args)?,
        Command::Install => install::for_boards(&Arch::ALL, Steps::Shown)?,
    }
    Ok(ExitCode::SUCCESS)
}

impl BoardArgs {
    fn suite(&self) -> Suite {
        let of_board =
            if rootfs::is_of_board(&self.board) { rootfs::SUITE } else { Suite::Bookworm };
        self.kernel.unwrap_or(of_board)
    }

    fn guest(&self) -> Result<Guest> {
        let mut guest = Guest::new(&self.board, self.suite())?;
        if self.busybox_initramfs {
            guest = guest.busybox_initramfs();
        }
        for word in &self.kernel_arg {
            guest = guest.kernel_arg(word);
        }
        install::for_boards(&[guest.board().arch], Steps::Shown)?;
        Ok(guest.memory(&self.memory).steps(Steps::Shown))
    }
}

fn boot(args: &BootArgs) -> Result<ExitCode> {
    let guest = args.board.guest()?;
    let (name, board) = (guest.board().name.clone(), guest.board().board.clone());
    let mut booting = None;
    let guest = guest.on_serial(move |line| {
        booting.get_or_insert_with(|| Steps::Shown.wait("the kernel boots"));
        // "[    2.391877] plimsoll: ..."
        if let Some((time, said)) = line.split_once("] plimsoll: ") {
            booting = Some(None);
            eprintln!("{:>9}  guest: {said}", time.trim_start_matches(['[', ' ']));
        }
    });
    let outcome = guest.run(&report::script(&board)?)?;
    if let Some(path) = &args.serial {
        fs::write(path, &outcome.serial)?;
    }
    let report = report::report(&name, &board, &outcome.text())?;
    println!("\n{}", report.table());
    if let Some(path) = &args.json {
        fs::write(path, serde_json::to_string_pretty(&report)? + "\n")?;
    }
    if let Some(path) = &args.svg {
        fs::write(path, picture::svg(&format!("$ cargo xtask boot\n\n{}", report.table())))?;
    }
    Ok(if report.agrees { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn bench(args: BenchArgs) -> Result<()> {
    install::for_boards(&[Arch::X86_64], Steps::Shown)?;
    let BenchArgs { peer, kernel, rounds, json, svg } = args;
    let report = bench::run(&bench::Options { peer, suite: kernel, rounds }, Steps::Shown)?;
    println!("{}", report.table());
    if let Some(path) = json {
        fs::write(path, serde_json::to_string_pretty(&report)? + "\n")?;
    }
    if let Some(path) = svg {
        fs::write(path, report.chart()?)?;
    }
    Ok(())
}

fn shrink(ShrinkArgs { arch, rounds, json, svg }: ShrinkArgs) -> Result<()> {
    let arches = arch.map_or(Arch::ALL.to_vec(), |arch| vec![arch]);
    install::for_boards(&arches, Steps::Shown)?;
    let report = shrink::run(&arches, rounds, Steps::Shown)?;
    println!("{}", report.table());
    if let Some(path) = json {
        write(&path, &(serde_json::to_string(&report)? + "\n"))?;
    }
    if let Some(path) = svg {
        write(&path, &report.chart()?)?;
    }
    Ok(())
}

fn guest(args: &GuestArgs) -> Result<ExitCode> {
    let mut guest = args.board.guest()?.timeout(Duration::from_secs(args.timeout)).streamed();
    if args.qemu {
        guest = guest.with_qemu();
    }
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
        let content =
            outcome.files.get(path).with_context(|| format!("the guest has no {path}"))?;
        fs::write(local, content).with_context(|| format!("cannot write {local}"))?;
    }
    Ok(u8::try_from(outcome.status).map_or(ExitCode::FAILURE, ExitCode::from))
}

fn import(ImportArgs { manifest, name, output }: &ImportArgs) -> Result<()> {
    let text = read(manifest)?;
    let imported = aib::import(&text, name.as_deref()).map_err(|faults| {
        let path = manifest.display();
        let lines: Vec<_> = faults.iter().map(|fault| format!("{path}:{fault}")).collect();
        anyhow::anyhow!("{}", lines.join("\n"))
    })?;
    for note in &imported.notes {
        eprintln!("{note}");
    }
    match output {
        Some(path) => write(path, &imported.board)?,
        None => print!("{}", imported.board),
    }
    Ok(())
}

fn export(args: &ExportArgs) -> Result<()> {
    if args.format == Format::Aib && (args.package_mode || args.dir.is_some()) {
        bail!("--package-mode and --dir take --format conf");
    }
    let exported = aib::export(&args.board, &read(&args.board)?)?;
    for note in &exported.notes {
        eprintln!("{note}");
    }
    match (args.format, &args.dir) {
        (Format::Aib, _) => print!("{}", exported.manifest),
        (Format::Conf, None) => print!("{}", exported.quadlet(args.package_mode)),
        (Format::Conf, Some(dir)) => {
            for (path, text) in exported.drop_ins(args.package_mode) {
                let path = dir.join(path);
                if let Some(parent) = path.parent() {
                    fs::create_dir_all(parent)
                        .with_context(|| format!("cannot make {}", parent.display()))?;
                }
                write(&path, &text)?;
                println!("{}", path.display());
            }
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
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
