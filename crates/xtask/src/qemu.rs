//! QEMU: boots a kernel and an initramfs directly, and never outlives us.

pub mod qmp;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::arch::Arch;

/// How often a running QEMU is asked whether it has ended.
const POLL: Duration = Duration::from_millis(5);

/// A virtual machine to be started.
#[derive(Debug)]
pub struct Machine<'a> {
    /// Its architecture.
    pub arch: Arch,
    /// Its memory, as QEMU takes it: `1G`.
    pub memory: &'a str,
    /// Kernel image.
    pub kernel: &'a Path,
    /// Initial RAM file system.
    pub initramfs: &'a Path,
    /// What is added to the kernel's command line.
    pub kernel_args: &'a [String],
    /// Raw disk images, each a virtio block device.
    pub disks: &'a [PathBuf],
    /// Virtio ports: name in the guest and the Unix socket we listen on.
    pub ports: &'a [(&'a str, PathBuf)],
    /// The Unix socket we listen on for QEMU's monitor.
    pub monitor: &'a Path,
    /// More arguments of QEMU.
    pub args: &'a [String],
}

/// A running machine; killed when dropped.
pub struct Running {
    qemu: Child,
    serial: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
}

impl Machine<'_> {
    /// Starts the machine. `line` gets each line of the serial console as it
    /// comes, from a thread.
    pub fn start(&self, line: impl FnMut(&str) + Send + 'static) -> Result<Running> {
        let mut command = self.command();
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut qemu = command.spawn().context("cannot run setpriv and QEMU")?;
        let stdout = qemu.stdout.take().context("QEMU has a standard output")?;
        let serial = Arc::default();
        let log = Arc::clone(&serial);
        let reader = std::thread::spawn(move || read_serial(stdout, &log, line));
        Ok(Running { qemu, serial, reader: Some(reader) })
    }

    fn command(&self) -> Command {
        // The kernel ends QEMU when we end, however we end.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).arg(format!("qemu-system-{}", self.arch));
        command.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
        // Emulation everywhere: times can be compared, and a /dev/kvm that opens
        // need not be one that works.
        // With a thread for each CPU, one now and then runs into a breakpoint that
        // another has taken back: x86 kernels patch themselves ("Oops: int3").
        command.args(["-accel", "tcg,thread=single"]);
        let (machine, cpu, console) = match self.arch {
            // Without the string instructions that are fast on real CPUs: emulated,
            // they take a third longer for a page than what kernels do instead.
            Arch::X86_64 => ("pc", "max,-erms", "ttyS0"),
            Arch::Aarch64 => ("virt", "cortex-a72", "ttyAMA0"),
        };
        command.args(["-M", machine, "-cpu", cpu, "-smp", "2", "-m", self.memory]);
        command.arg("-kernel").arg(self.kernel).arg("-initrd").arg(self.initramfs);
        // A panic ends the machine at once; plimsoll's lines (level 6) are shown.
        let append =
            format!("console={console} panic=-1 loglevel=7 {}", self.kernel_args.join(" "));
        command.args(["-append", &append, "-serial", "stdio"]);
        for (i, disk) in self.disks.iter().enumerate() {
            let disk = disk.display();
            command.args([
                "-drive",
                &format!("file={disk},format=raw,if=none,id=disk{i},cache=unsafe"),
            ]);
            command.args(["-device", &format!("virtio-blk-pci,drive=disk{i}")]);
        }
        command.args(["-device", "virtio-serial-pci"]);
        for (name, socket) in self.ports {
            let socket = socket.display();
            command.args(["-chardev", &format!("socket,id={name},path={socket}")]);
            command.args(["-device", &format!("virtserialport,chardev={name},name={name}")]);
        }
        command.arg("-qmp").arg(format!("unix:{}", self.monitor.display()));
        command.args(self.args);
        command
    }
}

impl Running {
    /// QEMU's process.
    #[must_use]
    pub fn id(&self) -> u32 {
        // setpriv becomes QEMU, in the same process.
        self.qemu.id()
    }

    /// What the serial console said so far.
    #[must_use]
    pub fn serial(&self) -> String {
        let bytes = self.serial.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// QEMU's exit status if it has ended.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.qemu.try_wait()?)
    }

    /// Waits until QEMU ends, or `deadline`; whether it ended.
    pub fn wait(&mut self, deadline: Instant) -> Result<bool> {
        while self.ended()?.is_none() {
            if Instant::now() >= deadline {
                return Ok(false);
            }
            std::thread::sleep(POLL);
        }
        self.join();
        Ok(true)
    }

    fn join(&mut self) {
        if let Some(reader) = self.reader.take() {
            let _panicked = reader.join();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ended = self.qemu.kill();
        let _status = self.qemu.wait();
        self.join();
    }
}

fn read_serial(stdout: ChildStdout, log: &Mutex<Vec<u8>>, mut line: impl FnMut(&str)) {
    let mut reader = BufReader::new(stdout);
    let mut bytes = Vec::new();
    while reader.read_until(b'\n', &mut bytes).is_ok_and(|n| n > 0) {
        line(String::from_utf8_lossy(&bytes).trim_end());
        log.lock().unwrap_or_else(PoisonError::into_inner).append(&mut bytes);
    }
}
