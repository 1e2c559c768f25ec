//! Root file systems for boards whose init is systemd: Debian packages unpacked
//! by mmdebstrap and made into an ext4 image by qemu/systemd/build. No package's
//! script is run, so both architectures take the same way, and no right of root
//! is needed.

use std::fmt::Write as _;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use cpio::newc;

use crate::apt::Apt;
use crate::arch::Arch;
use crate::image::Archive;
use crate::packages::Suite;
use crate::progress::Steps;
use crate::{cache, command, repository};

/// Boards with this name and an architecture have such a root.
const BOARD: &str = "qemu-systemd-";
/// Where the packages are from: podman has Quadlet from 4.4 on.
pub const SUITE: Suite = Suite::Trixie;
/// The kernel's words for the root on disk0.
pub const KERNEL_ARGS: [&str; 2] = ["root=LABEL=root", "rw"];

/// Whether the board of that name has a root of its own on disk0.
#[must_use]
pub fn is_of_board(name: &str) -> bool {
    let arch = name.strip_prefix(BOARD);
    arch.is_some_and(|arch| Arch::ALL.iter().any(|known| known.name() == arch))
}

/// The image, built once for all that goes in. Nobody may write to it.
pub fn base(arch: Arch, steps: Steps) -> Result<PathBuf> {
    let from = repository().join("qemu/systemd");
    let mut hasher = DefaultHasher::new();
    hash(&from, &mut hasher)?;
    hash(&repository().join("qemu/busybox-applets"), &mut hasher)?;
    let dir = cache::root()?.join(format!("roots/{arch}-{:016x}", hasher.finish()));
    let _lock = cache::lock(&format!("root-{arch}"))?;
    cache::dir(&dir, |into| {
        steps.run(format_args!("root of {} for {arch}", SUITE.name()), || build(&from, arch, into))
    })?;
    Ok(dir.join("root.ext4"))
}

fn build(from: &Path, arch: Arch, into: &Path) -> Result<()> {
    let sources = {
        let _lock = cache::lock(&format!("apt-{}-{arch}", SUITE.name()))?;
        Apt::update(SUITE.name(), arch)?.sources()
    };
    let packages = fs::read_to_string(from.join("packages"))?;
    let packages: Vec<_> = packages.lines().filter(|line| !line.starts_with('#')).collect();
    // Owners as they shall be, whoever builds.
    let mut mmdebstrap = Command::new("fakeroot");
    mmdebstrap.env("BUILD", from.join("build")).env("IMAGE", into.join("root.ext4"));
    mmdebstrap.args(["mmdebstrap", "--mode=root", "--quiet", "--variant=extract"]);
    mmdebstrap.arg("--format=null");
    mmdebstrap.arg("--skip=chroot/mount,cleanup");
    mmdebstrap.arg(format!("--architectures={}", arch.debian()));
    mmdebstrap.arg(format!("--include={}", packages.join(",")));
    mmdebstrap.arg(format!("--extract-hook=\"$BUILD\" \"$1\" {} \"$IMAGE\"", arch.debian()));
    command::output(mmdebstrap.args([SUITE.name(), "-"]).arg(sources))?;
    Ok(())
}

/// Names, modes and contents of a file or of all below a directory.
fn hash(path: &Path, hasher: &mut DefaultHasher) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let about = fs::symlink_metadata(path).with_context(|| format!("no {}", path.display()))?;
    path.file_name().hash(hasher);
    if about.is_symlink() {
        fs::read_link(path)?.hash(hasher);
    } else if about.is_dir() {
        let mut entries: Vec<PathBuf> =
            fs::read_dir(path)?.map(|e| Ok(e?.path())).collect::<Result<_>>()?;
        entries.sort();
        entries.len().hash(hasher);
        entries.iter().try_for_each(|entry| hash(entry, hasher))?;
    } else {
        // Of the mode only what Git keeps.
        (about.permissions().mode() & 0o100).hash(hasher);
        fs::read(path)?.hash(hasher);
    }
    Ok(())
}

/// A guest's own copy of the image at `base`, with these files in it besides.
pub fn copy(base: &Path, files: Archive, to: &Path) -> Result<()> {
    let mut cp = Command::new("cp");
    command::output(cp.args(["--sparse=always", "--reflink=auto"]).arg(base).arg(to))?;
    put(files, to)
}

/// Writes files into an ext4 image that nobody has mounted.
fn put(files: Archive, image: &Path) -> Result<()> {
    let mut archive = Vec::new();
    files.write(&mut archive)?;
    let contents = tempfile::tempdir()?;
    let mut commands = String::new();
    let mut written = Vec::new();
    let mut rest = archive.as_slice();
    for i in 0.. {
        let mut reader = newc::Reader::new(rest)?;
        if reader.entry().is_trailer() {
            break;
        }
        let (path, mode) = (format!("/{}", reader.entry().name()), reader.entry().mode());
        if path.contains(|c: char| c.is_whitespace() || c == '"') {
            bail!("{path}: no place in a root for a name with blanks or quotes");
        }
        let mut content = Vec::new();
        reader.read_to_end(&mut content)?;
        rest = reader.finish()?;
        match mode & 0o170_000 {
            // One that is there already is left as it is.
            0o040_000 => writeln!(commands, "mkdir {path}")?,
            0o120_000 => {
                let target = String::from_utf8(content).context("odd symbolic link")?;
                writeln!(commands, "rm {path}\nsymlink {path} {target}")?;
            }
            0o100_000 => {
                let local = contents.path().join(i.to_string());
                fs::write(&local, content)?;
                writeln!(commands, "rm {path}\nwrite {} {path}", local.display())?;
                writeln!(
                    commands,
                    "sif {path} mode 0{mode:o}\nsif {path} uid 0\nsif {path} gid 0"
                )?;
                written.push(path);
            }
            other => bail!("{path}: file type {other:o} can't be put into a root"),
        }
    }
    let script = contents.path().join("commands");
    fs::write(&script, commands)?;
    let mut debugfs = Command::new("debugfs");
    // Administrators' directories are not on everybody's PATH.
    let path = std::env::var("PATH").unwrap_or_default();
    debugfs.env("PATH", format!("{path}:/usr/sbin:/sbin"));
    let said = command::output(debugfs.args(["-w", "-f"]).arg(&script).arg(image))?;
    if let Some(path) = written.iter().find(|path| !is_written(path, &said)) {
        bail!("debugfs did not write {path}:\n{said}");
    }
    Ok(())
}

/// Whether debugfs wrote that file. Its exit status does not tell; it answers each
/// `write` with the new inode.
fn is_written(path: &str, said: &str) -> bool {
    let lines: Vec<_> = said.lines().collect();
    lines.windows(2).any(|pair| {
        pair[0].starts_with("debugfs: write ")
            && pair[0].ends_with(&format!(" {path}"))
            && pair[1].starts_with("Allocated inode")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boards_with_a_root() {
        assert!(is_of_board("qemu-systemd-x86_64") && is_of_board("qemu-systemd-aarch64"));
        assert!(!is_of_board("qemu-x86_64") && !is_of_board("qemu-systemd-"));
    }

    #[test]
    fn what_debugfs_wrote() {
        let said = "debugfs: rm /a\ndebugfs: write /tmp/0 /a\nAllocated inode: 12\n\
                    debugfs: write /tmp/1 /b\ndebugfs: sif /b uid 0\n";
        assert!(is_written("/a", said));
        assert!(!is_written("/b", said) && !is_written("/c", said));
    }
}
