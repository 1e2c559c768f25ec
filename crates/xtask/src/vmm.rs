//! A disk for boards that host virtual machines: Debian's QEMU for the board's own
//! architecture, and a kernel and an initramfs for its guest.
//!
//! Of the packages only what that QEMU loads is taken: its libraries as the linker
//! finds them in the ELF files, and the firmware that boots a kernel.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use object::elf::DT_NEEDED;
use object::read::elf::ElfFile64;

use crate::arch::Arch;
use crate::image::Archive;
use crate::packages::{self, Flavour, Kernel, Needs, Suite};
use crate::progress::Steps;
use crate::{cache, command, disk, modules};

/// Where QEMU is from.
const SUITE: Suite = Suite::Trixie;
/// Whose kernel the guest in the guest boots.
const KERNEL: Suite = Suite::Bookworm;
/// Label of the disk's file system; guest-run mounts it at [`MOUNT`].
const LABEL: &str = "vmm";
/// Where a board has it.
const MOUNT: &str = "/vmm";
/// /init of the guest in the guest.
const INIT: &str = include_str!("../../../qemu/vmm-init");
/// Modules of the guest in the guest, as far as they aren't built in.
const MODULES: [&str; 6] = [
    "virtio_ring",
    "virtio",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "virtio_mem",
];
/// What the file system needs besides its files, in KiB.
const SPARE_KIB: u64 = 8 << 10;

/// Debian's package, the triplet in its paths, the linker where QEMU looks for it,
/// and the firmware of machines that are given a kernel.
const fn of(arch: Arch) -> (&'static str, &'static str, &'static str, &'static [&'static str]) {
    match arch {
        Arch::X86_64 => (
            "qemu-system-x86",
            "x86_64-linux-gnu",
            "lib64/ld-linux-x86-64.so.2",
            &["seabios/bios-256k.bin", "qemu/linuxboot_dma.bin", "qemu/kvmvapic.bin"],
        ),
        Arch::Aarch64 => ("qemu-system-arm", "aarch64-linux-gnu", "lib/ld-linux-aarch64.so.1", &[]),
    }
}

/// The disk, built once for all that goes in: an ext4 image to be read only.
pub fn disk(arch: Arch, steps: Steps) -> Result<PathBuf> {
    let (package, ..) = of(arch);
    let qemu = packages::unpacked(package, Needs::All, SUITE, arch, steps)?;
    let kernel = packages::kernel(KERNEL, Flavour::Cloud, arch, steps)?;
    let busybox = packages::busybox(arch, steps)?;
    let mut hasher = DefaultHasher::new();
    (&qemu, &kernel.image, &busybox, INIT, include_str!("vmm.rs")).hash(&mut hasher);
    let dir = cache::root()?.join(format!("vmm/{arch}-{:016x}", hasher.finish()));
    let _lock = cache::lock(&format!("vmm-{arch}"))?;
    cache::dir(&dir, |into| {
        steps.run(format_args!("disk with QEMU for {arch}"), || {
            let tree = tempfile::tempdir_in(into)?;
            put_qemu(&qemu, arch, tree.path())?;
            put_guest(&kernel, &busybox, &tree.path().join("guest"))?;
            let kib = size(tree.path())? / 1024 * 17 / 16 + SPARE_KIB;
            let mut mke2fs = disk::mke2fs(LABEL);
            mke2fs.args(["-O", "^has_journal", "-m", "0", "-d"]).arg(tree.path());
            command::output(mke2fs.arg(into.join("disk")).arg(format!("{kib}k")))?;
            Ok(())
        })
    })?;
    Ok(dir.join("disk"))
}

/// Arguments with which a board's QEMU has the disk. Others may have it too.
#[must_use]
pub fn qemu_args(disk: &Path) -> [String; 4] {
    let drive = format!("file={},format=raw,if=none,id={LABEL},readonly=on", disk.display());
    ["-drive".into(), drive, "-device".into(), format!("virtio-blk-pci,drive={LABEL}")]
}

/// What a board's image has so that what is on the disk runs as if it were
/// installed: links to where it will be mounted.
pub fn links(arch: Arch, archive: &mut Archive) {
    let (_, triplet, linker, _) = of(arch);
    archive.directory(MOUNT.trim_start_matches('/'));
    let name = linker.rsplit('/').next().unwrap_or_default();
    archive.symlink(linker, &format!("{MOUNT}/usr/lib/{triplet}/{name}"));
    let qemu = format!("usr/bin/qemu-system-{arch}");
    for path in [&format!("usr/lib/{triplet}"), &qemu, "usr/share/qemu", "usr/share/seabios"] {
        archive.symlink(path, &format!("{MOUNT}/{path}"));
    }
}

fn put_qemu(unpacked: &Path, arch: Arch, tree: &Path) -> Result<()> {
    let (_, triplet, _, firmware) = of(arch);
    let program = format!("usr/bin/qemu-system-{arch}");
    put(&unpacked.join(&program), &tree.join(&program))?;
    for file in firmware {
        put(&unpacked.join("usr/share").join(file), &tree.join("usr/share").join(file))?;
    }
    let libraries = Path::new("usr/lib").join(triplet);
    let mut wanted = needed(&unpacked.join(&program))?;
    let mut there = BTreeSet::new();
    while let Some(name) = wanted.pop() {
        let from = unpacked.join(&libraries).join(&name);
        if there.insert(name.clone()) {
            wanted.extend(needed(&from)?);
            put(&from, &tree.join(&libraries).join(&name))?;
        }
    }
    Ok(())
}

/// Names of the libraries that an ELF file is linked with.
fn needed(path: &Path) -> Result<Vec<String>> {
    let data = fs::read(path).with_context(|| format!("no {}", path.display()))?;
    let elf: ElfFile64 = ElfFile64::parse(data.as_slice())?;
    let table = elf.elf_dynamic_table()?;
    let names = table.iter().filter(|entry| entry.tag == DT_NEEDED);
    names.map(|name| Ok(String::from_utf8(table.string(name)?.into())?)).collect()
}

/// The kernel and the initramfs of a guest in the guest.
fn put_guest(kernel: &Kernel, busybox: &Path, dir: &Path) -> Result<()> {
    put(&kernel.image, &dir.join("vmlinuz"))?;
    let mut archive = Archive::default();
    for mount in ["dev", "proc", "sys"] {
        archive.directory(mount);
    }
    archive.console();
    archive.file("init", 0o755, INIT.as_bytes());
    archive.host_file("usr/bin/busybox", busybox, 0o755)?;
    for applet in ["awk", "cut", "insmod", "mount", "sh", "sleep"] {
        archive.symlink(&format!("usr/bin/{applet}"), "busybox");
    }
    let modules = modules::select(kernel, MODULES.into_iter())?;
    for ((_, content), i) in modules.files.iter().zip(10..) {
        archive.file(&format!("modules/{i}.ko"), 0o644, content);
    }
    archive.write(BufWriter::new(File::create(dir.join("initramfs"))?))
}

fn put(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to.parent().context("a file is in a directory")?)?;
    fs::copy(from, to).with_context(|| format!("no {}", from.display()))?;
    Ok(())
}

/// Bytes of all files below a directory.
fn size(dir: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let about = entry.metadata()?;
        bytes += if about.is_dir() { size(&entry.path())? } else { about.len() };
    }
    Ok(bytes)
}
