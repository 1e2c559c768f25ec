//! Boots a board and runs a command in it.
//!
//! The command's output comes over virtio ports, byte for byte and apart from
//! the serial console; qemu/guest-run is the other end.

mod host;
mod media;
mod virtio_mem;
mod vmm;
mod wait;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use serde_json::Value;
use tempfile::TempDir;
use uuid::Uuid;

pub use self::host::Host;
use self::host::Lines;
use self::wait::{accept, check_alive, explained, next, wait_for};

use crate::board::BoardFile;
use crate::disk::{Disk, Root};
use crate::image::unpack;
use crate::packages::{self, Flavour, Suite};
use crate::progress::Steps;
use crate::qemu::qmp::Qmp;
use crate::qemu::{Machine, Running};
use crate::rootfs;
use crate::stream::{read_control, spool};

/// Memory of a guest unless said otherwise: the 2 GiB of the documented board.
const MEMORY: &str = "2G";
/// A guest that says nothing for so long is given up: 15 min. The longest scenario
/// takes three to five, and how busy a machine is proves nothing.
const TIMEOUT: Duration = Duration::from_mins(15);
/// From the last answer to power-off: file systems of a few hundred MiB.
const POWER_OFF: Duration = Duration::from_secs(60);
/// The same where systemd stops QM and all else first.
const SYSTEMD_POWER_OFF: Duration = Duration::from_secs(120);
/// The virtio ports, as guest-run knows them.
const PORTS: [&str; 3] = ["plimsoll.stdout", "plimsoll.stderr", "plimsoll.control"];
/// The socket of QEMU's monitor.
const MONITOR: &str = "monitor";

/// Gets each line of the serial console.
type LineTaker = Box<dyn FnMut(&str) + Send>;

/// A board about to be booted.
pub struct Guest {
    board: BoardFile,
    suite: Suite,
    flavour: Flavour,
    steps: Steps,
    memory: String,
    board_text: Option<String>,
    modules: Vec<String>,
    disks: Option<Vec<Disk>>,
    host_root: Option<Root>,
    kernel_args: Vec<String>,
    qemu_args: Vec<String>,
    put: Vec<(PathBuf, String)>,
    get: Vec<String>,
    timeout: Duration,
    streamed: bool,
    on_serial: Option<LineTaker>,
    busybox_initramfs: bool,
    root: bool,
    qemu: bool,
}

/// What came of a command in a guest.
#[derive(Debug)]
pub struct Outcome {
    /// The command's exit status, 128 + signal where it was killed.
    pub status: i32,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
    /// The serial console, from the kernel's first line to its last.
    pub serial: String,
    /// The files that were asked for and could be read.
    pub files: BTreeMap<String, Vec<u8>>,
    /// From QEMU's start to its end.
    pub elapsed: Duration,
    /// Whether the guest powered itself off after its last answer.
    pub powered_off: bool,
}

impl Outcome {
    /// Standard output as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard error as text.
    #[must_use]
    pub fn stderr_text(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }
}

impl Guest {
    /// The board of that name in boards/, with the kernel of `suite`.
    pub fn new(board: &str, suite: Suite) -> Result<Self> {
        let root = rootfs::is_of_board(board);
        Ok(Self {
            board: BoardFile::load(board)?,
            suite,
            flavour: Flavour::Cloud,
            steps: Steps::Quiet,
            memory: MEMORY.into(),
            board_text: None,
            modules: Vec::new(),
            disks: None,
            host_root: None,
            kernel_args: if root { rootfs::KERNEL_ARGS.map(Into::into).into() } else { Vec::new() },
            qemu_args: Vec::new(),
            put: Vec::new(),
            get: Vec::new(),
            timeout: TIMEOUT,
            streamed: false,
            on_serial: None,
            busybox_initramfs: false,
            root,
            qemu: false,
        })
    }

    /// The board as it is in boards/.
    #[must_use]
    pub fn board(&self) -> &BoardFile {
        &self.board
    }

    /// Says what is done on the way.
    #[must_use]
    pub fn steps(mut self, steps: Steps) -> Self {
        self.steps = steps;
        self
    }

    /// The guest's memory as QEMU takes it: `512M`, `1G,maxmem=4G`.
    #[must_use]
    pub fn memory(mut self, memory: &str) -> Self {
        self.memory = memory.into();
        self
    }

    /// Another text, right or wrong, for the board file in the image. The
    /// image's modules and the disk stay those of the board.
    #[must_use]
    pub fn board_text(mut self, text: impl Into<String>) -> Self {
        self.board_text = Some(text.into());
        self
    }

    /// Another board file, as JSON.
    #[must_use]
    pub fn board_json(self, json: &Value) -> Self {
        self.board_text(json.to_string())
    }

    /// A kernel module in the image, named by the board file after its own.
    /// What it depends on comes before it: `zram` after `zsmalloc`.
    #[must_use]
    pub fn module(mut self, name: &str) -> Self {
        self.modules.push(name.into());
        self
    }

    /// The initramfs is another's: qemu/busybox-init loads the modules, mounts
    /// the root and hands over to the `init=` of the kernel's command line.
    #[must_use]
    pub fn busybox_initramfs(mut self) -> Self {
        self.busybox_initramfs = true;
        self
    }

    /// The disks, instead of the one that the board file describes. A root that
    /// the board has comes before them.
    #[must_use]
    pub fn disks(mut self, disks: impl IntoIterator<Item = Disk>) -> Self {
        self.disks = Some(disks.into_iter().collect());
        self
    }

    /// The host's partition of the first disk is this one, and holds all that the
    /// initramfs does: a root file system.
    #[must_use]
    pub fn with_root(mut self, root: Root) -> Self {
        self.host_root = Some(root);
        self
    }

    /// A word for the kernel's command line.
    #[must_use]
    pub fn kernel_arg(mut self, arg: &str) -> Self {
        self.kernel_args.push(arg.into());
        self
    }

    /// Arguments for QEMU: `["-device", "virtio-rng-pci"]`.
    #[must_use]
    pub fn qemu_args<'a>(mut self, args: impl IntoIterator<Item = &'a str>) -> Self {
        self.qemu_args.extend(args.into_iter().map(String::from));
        self
    }

    /// One CPU whose clock counts instructions, 2^`shift` nanoseconds each, and
    /// jumps where the CPU is idle: what else this machine does changes nothing
    /// in the guest, and waiting takes no time. Two CPUs cannot start that way.
    #[must_use]
    pub fn virtual_time(self, shift: u8) -> Self {
        self.qemu_args(["-smp", "1", "-icount", &format!("shift={shift},sleep=off")])
    }

    /// A kernel with pages of 16 KiB, and an aarch64 CPU that has them.
    #[must_use]
    pub fn pages_16k(mut self) -> Self {
        self.flavour = Flavour::Pages16k;
        self.qemu_args(["-cpu", "cortex-a76"])
    }

    /// What the guest's kernel has free goes back to this machine.
    #[must_use]
    pub fn free_page_reporting(self) -> Self {
        self.qemu_args(["-device", "virtio-balloon-pci,free-page-reporting=on"])
            .module("virtio_balloon")
    }

    /// A file or directory of this machine that the guest has at `path`.
    #[must_use]
    pub fn put(mut self, local: impl Into<PathBuf>, path: &str) -> Self {
        self.put.push((local.into(), path.into()));
        self
    }

    /// A file of the guest, read after the command has ended.
    #[must_use]
    pub fn get(mut self, path: &str) -> Self {
        self.get.push(path.into());
        self
    }

    /// How long the guest may take from QEMU's start to its last answer.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The command's output also goes to our own, as it comes.
    #[must_use]
    pub fn streamed(mut self) -> Self {
        self.streamed = true;
        self
    }

    /// `line` gets each line of the serial console as it comes.
    #[must_use]
    pub fn on_serial(mut self, line: impl FnMut(&str) + Send + 'static) -> Self {
        self.on_serial = Some(Box::new(line));
        self
    }

    /// Boots, runs `script` with the guest's shell, and powers off.
    ///
    /// An error means that the guest never reported: it panicked, it hung, it
    /// could not be built. A command that fails is an [`Outcome`].
    pub fn run(self, script: &str) -> Result<Outcome> {
        self.run_with(script, |_, _| Ok(()))
    }

    /// As [`run`](Self::run); `on_line` gets each line of the command's standard
    /// output as it comes, and the host. The guest runs on meanwhile; what
    /// `on_line` fails with, the run fails with.
    pub fn run_with(
        mut self,
        script: &str,
        mut on_line: impl FnMut(&str, &mut Host) -> Result<()>,
    ) -> Result<Outcome> {
        let dir = TempDir::with_prefix("plimsoll-")?;
        let end = format!("{}\n", Uuid::new_v4());
        self.attach_qemu()?;
        let kernel = packages::kernel(self.suite, self.flavour, self.board.arch, self.steps)?;
        let initramfs = dir.path().join("initramfs");
        let files = self.write_image(&kernel, script, &end, &initramfs)?;
        if let Some(root) = &mut self.host_root {
            let content = dir.path().join("root");
            fs::create_dir(&content)?;
            unpack(&fs::read(&initramfs)?, &content)?;
            root.content = Some(content);
        }
        let disks = self.write_disks(files, dir.path())?;

        let sockets = PORTS.map(|name| (name, dir.path().join(name)));
        let monitor = dir.path().join(MONITOR);
        let paths = sockets.iter().map(|(_, path)| path).chain([&monitor]);
        let listeners: Vec<_> =
            paths.map(|path| Ok(UnixListener::bind(path)?)).collect::<Result<_>>()?;
        let machine = Machine {
            arch: self.board.arch,
            memory: &self.memory,
            kernel: &kernel.image,
            initramfs: &initramfs,
            kernel_args: &self.kernel_args,
            disks: &disks,
            ports: &sockets,
            monitor: &monitor,
            args: &self.qemu_args,
        };
        let start = Instant::now();
        let deadline = start + self.timeout;
        let on_serial = self.on_serial.take().unwrap_or_else(|| Box::new(|_| ()));
        let mut running = machine.start(on_serial)?;
        let mut said = String::new();
        let report = self.listen(&listeners, &mut running, &end, deadline, |line, host| {
            said += &format!("{line}\n");
            on_line(line, host)
        });
        let report = report.map_err(|error| explained(&error, &said, &mut running))?;
        let power_off = if self.root { SYSTEMD_POWER_OFF } else { POWER_OFF };
        let powered_off = running.wait(Instant::now() + power_off)?;
        Ok(Outcome {
            status: report.status,
            stdout: report.stdout,
            stderr: report.stderr,
            serial: running.serial(),
            files: report.files,
            elapsed: start.elapsed(),
            powered_off,
        })
    }

    /// Writes what QEMU would boot to `dir`: vmlinuz, initramfs, disk0, further disks.
    pub fn write(&self, dir: &Path) -> Result<()> {
        fs::create_dir_all(dir)?;
        let kernel = packages::kernel(self.suite, self.flavour, self.board.arch, self.steps)?;
        fs::copy(&kernel.image, dir.join("vmlinuz"))?;
        let files = self.write_image(&kernel, "", "", &dir.join("initramfs"))?;
        self.write_disks(files, dir)?;
        Ok(())
    }

    /// Takes what the guest reports until it has reported all.
    fn listen(
        &self,
        listeners: &[UnixListener],
        running: &mut Running,
        end: &str,
        deadline: Instant,
        mut on_line: impl FnMut(&str, &mut Host) -> Result<()>,
    ) -> Result<Report> {
        let mut streams = Vec::new();
        for listener in listeners {
            streams.push(accept(listener, running, deadline)?);
        }
        let [stdout, stderr, control, monitor] = <[UnixStream; 4]>::try_from(streams)
            .map_err(|_| anyhow!("one stream for each socket"))?;
        let mut answer = control.try_clone()?;
        let mut host = Host::new(running.id(), Qmp::new(monitor)?, control.try_clone()?);
        let (to, lines) = channel();
        let stdout = spool(stdout, end, Some(Lines::new(to, self.streamed.then(std::io::stdout))));
        let stderr = spool(stderr, end, self.streamed.then(std::io::stderr));
        let control = read_control(control, end, self.get.clone());

        while let Some(line) = next(&lines, running, deadline)? {
            on_line(&line, &mut host)?;
            // Lines without end are no report either.
            check_alive(running, deadline)?;
        }
        let stdout = wait_for(&stdout, running, deadline)?;
        let stderr = wait_for(&stderr, running, deadline)?;
        let (status, files) = wait_for(&control, running, deadline)?;
        answer.write_all(b"done\n")?;
        Ok(Report { status, stdout, stderr, files })
    }
}

struct Report {
    status: i32,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    files: BTreeMap<String, Vec<u8>>,
}
