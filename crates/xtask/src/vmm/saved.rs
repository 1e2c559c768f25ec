//! The guest in the guest: booted here, saved, and begun again in a board.

use std::fs::{self, File};
use std::io::BufWriter;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::{libraries, linker};
use crate::arch::Arch;
use crate::image::Archive;
use crate::modules;
use crate::packages::Kernel;
use crate::qemu::qmp::Qmp;

/// Its /init.
pub(super) const INIT: &str = include_str!("../../../../qemu/vmm-init");
/// Its modules, as far as they aren't built in.
const MODULES: [&str; 7] = [
    "virtio_ring",
    "virtio",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "virtio_mem",
    "virtio_balloon",
];
/// Its memory: 256 MiB, and 1 GiB that it may be given. Its balloon tells what is
/// available.
const MEMORY: &str = "-m 256M,maxmem=4G \
    -object memory-backend-ram,id=vmem-ram,size=1G \
    -device virtio-mem-pci,id=vmem,memdev=vmem-ram,requested-size=0 \
    -device virtio-balloon-pci,id=balloon0";
/// Longest time for its boot, or for saving it: 7 s of CPU time.
const PATIENCE: Duration = Duration::from_secs(120);
/// How often it is looked at.
const POLL: Duration = Duration::from_millis(100);

/// QEMU for `arch` as this machine runs it, out of its unpacked package.
pub(super) struct Qemu<'a> {
    pub(super) unpacked: &'a Path,
    pub(super) host: Arch,
    pub(super) arch: Arch,
}

/// The machine, as it has to be where the guest goes on.
fn machine(arch: Arch) -> String {
    let machine = match arch {
        Arch::X86_64 => "-M q35 -cpu qemu64",
        Arch::Aarch64 => "-M virt -cpu cortex-a72",
    };
    format!("{machine} {MEMORY}")
}

/// Writes `machine`, QEMU's arguments, and `state`, what `-incoming` takes: Linux
/// that runs, with virtio-mem's driver loaded.
pub(super) fn write(qemu: &Qemu<'_>, kernel: &Kernel, busybox: &Path, dir: &Path) -> Result<()> {
    fs::create_dir_all(dir)?;
    fs::write(dir.join("machine"), machine(qemu.arch))?;
    let temp = tempfile::tempdir()?;
    let initramfs = temp.path().join("initramfs");
    write_initramfs(kernel, busybox, &initramfs)?;
    let console = temp.path().join("console");
    let (ours, theirs) = UnixStream::pair()?;
    let mut running = Running(qemu.start(kernel, &initramfs, &console, theirs)?);
    let mut qmp = Qmp::new(ours)?;
    running.until("it boots", || Ok(fs::read_to_string(&console)?.contains("\ntotal ")))?;
    let uri = format!("file:{}", dir.join("state").display());
    qmp.run("migrate", json!({ "uri": uri }))?;
    running.until("it is saved", || {
        let progress = qmp.run("query-migrate", json!({}))?;
        match progress.get("status").and_then(Value::as_str) {
            Some("failed") => bail!("QEMU can't save its guest: {progress}"),
            status => Ok(status == Some("completed")),
        }
    })
}

/// Killed when dropped.
struct Running(Child);

impl Running {
    fn until(&mut self, what: &str, mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !is_so()? {
            if let Some(status) = self.0.try_wait()? {
                bail!("QEMU ended before {what}: {status}");
            }
            if Instant::now() >= deadline {
                bail!("QEMU's guest takes too long until {what}");
            }
            std::thread::sleep(POLL);
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _status = self.0.wait();
    }
}

impl Qemu<'_> {
    fn start(
        &self,
        kernel: &Kernel,
        initramfs: &Path,
        console: &Path,
        monitor: UnixStream,
    ) -> Result<Child> {
        let Self { unpacked, host, arch } = self;
        let monitor = OwnedFd::from(monitor);
        // The kernel ends it when we end, however we end.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).arg(unpacked.join("usr").join(linker(*host)));
        command.arg("--library-path").arg(unpacked.join(libraries(*host)));
        command.arg(unpacked.join(format!("usr/bin/qemu-system-{arch}")));
        for data in ["usr/share/qemu", "usr/share/seabios"] {
            command.arg("-L").arg(unpacked.join(data));
        }
        command.args(["-nodefaults", "-no-user-config", "-display", "none"]);
        command.args(["-accel", "tcg,thread=single"]).args(machine(*arch).split_whitespace());
        command.arg("-kernel").arg(&kernel.image).arg("-initrd").arg(initramfs);
        let port = match arch {
            Arch::X86_64 => "ttyS0",
            Arch::Aarch64 => "ttyAMA0",
        };
        // The counter of x86 has another rate where the guest goes on.
        let words = "panic=-1 cryptomgr.notests init_on_alloc=0 tsc=unstable";
        command.args(["-append", &format!("console={port} {words}")]);
        command.arg("-serial").arg(format!("file:{}", console.display()));
        command.args(["-qmp", "stdio"]).stdin(monitor.try_clone()?).stdout(monitor);
        command.spawn().context("cannot run setpriv and QEMU")
    }
}

fn write_initramfs(kernel: &Kernel, busybox: &Path, path: &Path) -> Result<()> {
    let mut archive = Archive::default();
    for mount in ["dev", "proc", "sys"] {
        archive.directory(mount);
    }
    archive.console();
    archive.file("init", 0o755, INIT.as_bytes());
    archive.host_file("usr/bin/busybox", busybox, 0o755)?;
    for applet in ["insmod", "mount", "sleep"] {
        archive.symlink(&format!("usr/bin/{applet}"), "busybox");
    }
    // In the order of their numbers, which is the shell's too.
    for (i, (_, content)) in modules::select(kernel, MODULES.into_iter())?.files.iter().enumerate()
    {
        archive.file(&format!("modules/{i}.ko"), 0o644, content);
    }
    archive.write(BufWriter::new(File::create(path)?))
}
