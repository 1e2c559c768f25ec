//! A disk for boards that host virtual machines: Debian's QEMU for the board's own
//! architecture, and a Linux guest for it that has booted already.
//!
//! Of the packages only what that QEMU loads is taken: its libraries as its ELF
//! files name them, and firmware. Emulated twice, a boot would take minutes: this
//! machine does it with the same QEMU, and the guest goes on in the board.

use std::collections::BTreeSet;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use object::elf::DT_NEEDED;
use object::read::elf::ElfFile64;

use crate::arch::Arch;
use crate::image::Archive;
use crate::packages::{self, Flavour, Needs, Suite};
use crate::progress::Steps;
use crate::{cache, command, disk};

mod saved;

/// Where QEMU is from.
const SUITE: Suite = Suite::Trixie;
/// Whose kernel the guest in the guest has.
const KERNEL: Suite = Suite::Bookworm;
/// Label of the disk's file system; guest-run mounts it at [`MOUNT`].
const LABEL: &str = "vmm";
/// Where a board has it.
const MOUNT: &str = "/vmm";
/// What the file system needs besides its files, in KiB.
const SPARE_KIB: u64 = 8 << 10;

/// Debian's package with that QEMU.
const fn package(arch: Arch) -> &'static str {
    match arch {
        Arch::X86_64 => "qemu-system-x86",
        Arch::Aarch64 => "qemu-system-arm",
    }
}

/// In it, the directory with the libraries of programs for `arch`.
fn libraries(arch: Arch) -> String {
    format!("usr/lib/{arch}-linux-gnu")
}

/// The dynamic linker, where programs look for it.
const fn linker(arch: Arch) -> &'static str {
    match arch {
        Arch::X86_64 => "lib64/ld-linux-x86-64.so.2",
        Arch::Aarch64 => "lib/ld-linux-aarch64.so.1",
    }
}

/// Firmware below usr/share; a machine of aarch64 can do without.
const fn firmware(arch: Arch) -> &'static [&'static str] {
    match arch {
        Arch::X86_64 => &["seabios/bios-256k.bin", "qemu/kvmvapic.bin"],
        Arch::Aarch64 => &[],
    }
}

/// The disk, built once for all that goes in: an ext4 image to be read only.
pub fn disk(arch: Arch, steps: Steps) -> Result<PathBuf> {
    let host = Arch::of_host().context("QEMU is there for x86_64 and aarch64")?;
    let qemu = packages::unpacked(package(arch), Needs::All, SUITE, arch, steps)?;
    let hosts = packages::unpacked(package(arch), Needs::All, SUITE, host, steps)?;
    let kernel = packages::kernel(KERNEL, Flavour::Cloud, arch, steps)?;
    let busybox = packages::busybox(arch, steps)?;
    let sources = [include_str!("vmm.rs"), include_str!("vmm/saved.rs"), saved::INIT];
    let mut hasher = DefaultHasher::new();
    (&qemu, &hosts, &kernel.image, &busybox, sources).hash(&mut hasher);
    let dir = cache::root()?.join(format!("vmm/{arch}-{:016x}", hasher.finish()));
    let _lock = cache::lock(&format!("vmm-{arch}"))?;
    cache::dir(&dir, |into| {
        steps.run(format_args!("disk with QEMU for {arch}"), || {
            let tree = tempfile::tempdir_in(into)?;
            put_qemu(&qemu, arch, tree.path())?;
            let qemu = saved::Qemu { unpacked: &hosts, host, arch };
            saved::write(&qemu, &kernel, &busybox, &tree.path().join("guest"))?;
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
    archive.directory(MOUNT.trim_start_matches('/'));
    let name = linker(arch).rsplit('/').next().unwrap_or_default();
    archive.symlink(linker(arch), &format!("{MOUNT}/{}/{name}", libraries(arch)));
    let qemu = format!("usr/bin/qemu-system-{arch}");
    for path in [&libraries(arch), &qemu, "usr/share/qemu", "usr/share/seabios"] {
        archive.symlink(path, &format!("{MOUNT}/{path}"));
    }
}

fn put_qemu(unpacked: &Path, arch: Arch, tree: &Path) -> Result<()> {
    let program = format!("usr/bin/qemu-system-{arch}");
    put(&unpacked.join(&program), &tree.join(&program))?;
    for file in firmware(arch) {
        put(&unpacked.join("usr/share").join(file), &tree.join("usr/share").join(file))?;
    }
    let mut wanted = needed(&unpacked.join(&program))?;
    let mut there = BTreeSet::new();
    while let Some(name) = wanted.pop() {
        let from = unpacked.join(libraries(arch)).join(&name);
        if there.insert(name.clone()) {
            wanted.extend(needed(&from)?);
            put(&from, &tree.join(libraries(arch)).join(&name))?;
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
