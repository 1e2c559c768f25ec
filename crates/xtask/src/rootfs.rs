//! Root file systems for boards whose init is systemd: Debian packages unpacked
//! by mmdebstrap and made into an ext4 image by qemu/systemd/build. No package's
//! script is run, so both architectures take the same way, and no right of root
//! is needed.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

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
/// The kernel's words for the root on disk0, and a console that systemd leaves to
/// the kernel: an emulated serial line takes its time.
pub const KERNEL_ARGS: [&str; 4] =
    ["root=LABEL=root", "rw", "systemd.show_status=error", "systemd.log_color=no"];

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
    mmdebstrap.arg("--skip=chroot/mount,check/signed-by,cleanup");
    // It looks at no configuration of the machine's apt: proxies are to be told.
    let config = command::output(Command::new("apt-config").args(["dump", "--no-empty"]))?;
    let http = config.lines().filter(|line| line.starts_with("Acquire::http"));
    mmdebstrap.args(http.map(|line| format!("--aptopt={line}")));
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
    let mut entries = Vec::new();
    let mut rest = archive.as_slice();
    loop {
        let mut reader = newc::Reader::new(rest)?;
        if reader.entry().is_trailer() {
            break;
        }
        let (path, mode) = (in_root(reader.entry().name())?, reader.entry().mode());
        let mut content = Vec::new();
        reader.read_to_end(&mut content)?;
        rest = reader.finish()?;
        entries.push((path, mode, content));
    }

    let stats: String = entries.iter().map(|(path, ..)| format!("stat {path}\n")).collect();
    let missing = debugfs(image, &[], &stats, contents.path())?;
    let is_missing = |path: &str| missing.iter().any(|said| said.starts_with(&format!("{path}: ")));
    let paths = entries.iter().map(|(path, ..)| path.clone());
    let mut there: BTreeSet<_> = paths.filter(|path| !is_missing(path)).collect();
    let mut commands = String::new();
    for (i, (path, mode, content)) in entries.into_iter().enumerate() {
        let kind = mode & 0o170_000;
        let is_new = there.insert(path.clone());
        if !is_new && kind != 0o040_000 {
            writeln!(commands, "rm {path}")?;
        }
        match kind {
            0o040_000 if !is_new => {}
            0o040_000 => writeln!(commands, "mkdir {path}")?,
            0o100_000 => {
                let local = contents.path().join(i.to_string());
                fs::write(&local, content)?;
                writeln!(commands, "write {} {path}\nsif {path} mode 0{mode:o}", local.display())?;
                writeln!(commands, "sif {path} uid 0\nsif {path} gid 0")?;
            }
            other => bail!("{path}: file type {other:o} can't be put into a root"),
        }
    }
    let complaints = debugfs(image, &["-w"], &commands, contents.path())?;
    if !complaints.is_empty() {
        bail!("debugfs on {}: {}", image.display(), complaints.join("\n"));
    }
    Ok(())
}

/// The absolute path of what an initramfs has under `name`. Debian's root has the
/// old places as links, which debugfs does not follow to a file's directory.
fn in_root(name: &str) -> Result<String> {
    if name.contains(|c: char| c.is_whitespace() || c == '"') {
        bail!("{name:?}: a name with blanks or quotes can't be put into a root");
    }
    let first = name.split('/').next().unwrap_or_default();
    let is_link = ["bin", "sbin", "lib", "lib64"].contains(&first);
    Ok(format!("{}{name}", if is_link { "/usr/" } else { "/" }))
}

/// Runs debugfs's commands on an image; what it complained about. Its exit status
/// says nothing.
fn debugfs(image: &Path, args: &[&str], commands: &str, dir: &Path) -> Result<Vec<String>> {
    let script = dir.join("commands");
    fs::write(&script, commands)?;
    let mut debugfs = Command::new("debugfs");
    // Administrators' directories are not on everybody's PATH.
    let path = std::env::var("PATH").unwrap_or_default();
    debugfs.env("PATH", format!("{path}:/usr/sbin:/sbin"));
    debugfs.args(args).arg("-f").arg(&script).arg(image).stdin(Stdio::null());
    let output = debugfs.output().context("cannot run debugfs")?;
    let said = String::from_utf8_lossy(&output.stderr);
    // Its name and version come first.
    Ok(said.lines().skip(1).map(Into::into).collect())
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
    fn places_of_a_merged_root() {
        assert_eq!(in_root("lib/modules/6").unwrap(), "/usr/lib/modules/6");
        assert_eq!(in_root("etc/guest/run").unwrap(), "/etc/guest/run");
        assert_eq!(in_root("library").unwrap(), "/library");
        assert!(in_root("a b").is_err() && in_root("a\nrm b").is_err());
    }
}
