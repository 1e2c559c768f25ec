//! The initramfs that QEMU boards boot: a cpio archive written without root.
//!
//! It is not compressed: unpacking would cost an emulated CPU more time than
//! reading the bytes costs QEMU.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::io::{Read as _, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use cpio::newc;

use crate::modules::Modules;

/// Applets of Debian's busybox-static, one to a line: `busybox --list`. The
/// binary of another architecture cannot be asked.
const APPLETS: &str = include_str!("../../../qemu/busybox-applets");
/// Scripts of the guest.
const SCRIPTS: [(&str, &str); 3] = [
    ("usr/lib/plimsoll/guest-run", include_str!("../../../qemu/guest-run")),
    ("usr/lib/plimsoll/qm-run", include_str!("../../../qemu/qm-run")),
    ("usr/bin/in-qm", include_str!("../../../qemu/in-qm")),
];
/// /init of an image without plimsoll.
const BUSYBOX_INIT: &str = include_str!("../../../qemu/busybox-init");
/// What busybox init starts on boards that hand over to it.
const INITTAB: &str = include_str!("../../../qemu/inittab");

const FILE: u32 = 0o100_000;
const DIRECTORY: u32 = 0o040_000;
const SYMLINK: u32 = 0o120_000;
const CHARACTER_DEVICE: u32 = 0o020_000;

/// What an image is made of.
pub struct Image<'a> {
    /// plimsoll: /init.
    pub plimsoll: &'a Path,
    /// The load generator of the scenarios.
    pub load: &'a Path,
    /// busybox for the board's architecture.
    pub busybox: &'a Path,
    /// As `uname -r` says it.
    pub release: &'a str,
    /// The board's modules.
    pub modules: &'a Modules,
    /// Content of /etc/plimsoll/board.json.
    pub board: &'a str,
    /// Whether /init is qemu/busybox-init, which knows nothing of plimsoll.
    pub busybox_init: bool,
}

impl Image<'_> {
    /// The image as an archive to which more may be added.
    pub fn archive(&self) -> Result<Archive> {
        let mut archive = Archive::default();
        // One directory for programs, under all its usual names.
        archive.symlink("bin", "usr/bin");
        archive.symlink("sbin", "usr/bin");
        for dir in ["dev", "proc", "sys", "run", "tmp", "mnt", "root", "var/qm"] {
            archive.directory(dir);
        }
        archive.console();
        archive.device("dev/null", 1, 3);
        if self.busybox_init {
            archive.file("init", 0o755, BUSYBOX_INIT.as_bytes());
            let order = self.modules.files.iter().map(|(name, _)| format!("{name}\n"));
            archive.file("etc/modules", 0o644, order.collect::<String>().as_bytes());
        } else {
            archive.symlink("init", "usr/bin/plimsoll");
            archive.host_file("usr/bin/plimsoll", self.plimsoll, 0o755)?;
            archive.file("etc/plimsoll/board.json", 0o644, self.board.as_bytes());
        }
        archive.host_file("usr/bin/load", self.load, 0o755)?;
        archive.host_file("usr/bin/busybox", self.busybox, 0o755)?;
        for applet in APPLETS.split_whitespace().filter(|name| *name != "busybox") {
            archive.symlink(&format!("usr/bin/{applet}"), "busybox");
        }
        for (path, text) in SCRIPTS {
            archive.file(path, 0o755, text.as_bytes());
        }
        archive.file("etc/inittab", 0o644, INITTAB.as_bytes());
        self.modules_into(&mut archive);
        Ok(archive)
    }

    /// What a root has of this guest: the binaries, the board file, the modules.
    pub fn root_files(&self) -> Result<Archive> {
        let mut archive = Archive::default();
        archive.host_file("usr/sbin/plimsoll", self.plimsoll, 0o755)?;
        archive.host_file("usr/bin/load", self.load, 0o755)?;
        let [(guest_run, text), ..] = SCRIPTS;
        archive.file(guest_run, 0o755, text.as_bytes());
        archive.file("etc/plimsoll/board.json", 0o644, self.board.as_bytes());
        self.modules_into(&mut archive);
        Ok(archive)
    }

    fn modules_into(&self, archive: &mut Archive) {
        let modules = format!("lib/modules/{}", self.release);
        for (name, content) in &self.modules.files {
            archive.file(&format!("{modules}/{name}"), 0o644, content);
        }
        let builtin = self.modules.builtin.as_bytes();
        archive.file(&format!("{modules}/modules.builtin"), 0o644, builtin);
    }
}

/// A cpio archive in the kernel's format (newc). Paths are without a '/' at
/// their start; parent directories appear by themselves.
#[derive(Default)]
pub struct Archive {
    entries: Vec<(newc::Builder, Vec<u8>)>,
    directories: BTreeSet<String>,
}

impl Archive {
    /// A directory.
    pub fn directory(&mut self, path: &str) {
        if !path.is_empty() && !self.directories.contains(path) {
            self.directories.insert(path.into());
            self.entry(path, DIRECTORY | 0o755, Vec::new());
        }
    }

    /// A regular file.
    pub fn file(&mut self, path: &str, mode: u32, content: &[u8]) {
        self.entry(path, FILE | mode & 0o7777, content.to_vec());
    }

    /// A symbolic link.
    pub fn symlink(&mut self, path: &str, target: &str) {
        self.entry(path, SYMLINK | 0o777, target.as_bytes().to_vec());
    }

    /// A copy of a file of this machine.
    pub fn host_file(&mut self, path: &str, from: &Path, mode: u32) -> Result<()> {
        let content = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
        self.file(path, mode, &content);
        Ok(())
    }

    /// A copy of a file or a whole directory of this machine, modes kept.
    pub fn host_tree(&mut self, path: &str, from: &Path) -> Result<()> {
        let about = fs::metadata(from).with_context(|| format!("no {}", from.display()))?;
        if !about.is_dir() {
            return self.host_file(path, from, about.permissions().mode());
        }
        self.directory(path);
        let mut entries: Vec<PathBuf> =
            fs::read_dir(from)?.map(|e| Ok(e?.path())).collect::<Result<_>>()?;
        entries.sort();
        for entry in entries {
            let name = entry.file_name().and_then(|n| n.to_str());
            let name = name.with_context(|| format!("odd file name: {}", entry.display()))?;
            self.host_tree(&format!("{path}/{name}"), &entry)?;
        }
        Ok(())
    }

    /// /dev/console, which the first process has as its standard streams.
    pub fn console(&mut self) {
        self.device("dev/console", 5, 1);
    }

    fn device(&mut self, path: &str, major: u32, minor: u32) {
        self.parents(path);
        let builder = newc::Builder::new(path).mode(CHARACTER_DEVICE | 0o600).nlink(1);
        self.entries.push((builder.rdev_major(major).rdev_minor(minor), Vec::new()));
    }

    fn entry(&mut self, path: &str, mode: u32, content: Vec<u8>) {
        self.parents(path);
        self.entries.push((newc::Builder::new(path).mode(mode).nlink(1), content));
    }

    fn parents(&mut self, path: &str) {
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.directory(parent);
        }
    }

    /// Writes the archive.
    pub fn write(self, mut to: impl Write) -> Result<()> {
        // An inode number of its own each, or the kernel takes files for links.
        for ((builder, content), ino) in self.entries.into_iter().zip(1..) {
            let size = u32::try_from(content.len()).context("file too large for cpio")?;
            let mut writer = builder.ino(ino).write(&mut to, size);
            writer.write_all(&content)?;
            writer.finish()?;
        }
        newc::trailer(&mut to)?;
        to.flush()?;
        Ok(())
    }
}

/// Writes what an archive holds below a directory, devices excepted.
pub fn unpack(archive: &[u8], dir: &Path) -> Result<()> {
    let mut rest = archive;
    loop {
        let mut reader = newc::Reader::new(rest)?;
        if reader.entry().is_trailer() {
            return Ok(());
        }
        let (path, mode) = (dir.join(reader.entry().name()), reader.entry().mode());
        let mut content = Vec::new();
        reader.read_to_end(&mut content)?;
        match mode & !0o7777 {
            DIRECTORY => fs::create_dir_all(&path)?,
            SYMLINK => symlink(String::from_utf8(content)?, &path)?,
            FILE => {
                fs::write(&path, content)?;
                fs::set_permissions(&path, Permissions::from_mode(mode & 0o7777))?;
            }
            _ => {}
        }
        rest = reader.finish()?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archive_reads_back() {
        let mut archive = Archive::default();
        archive.file("a/b/c", 0o755, b"text");
        archive.symlink("a/d", "b/c");
        archive.directory("a");
        let mut bytes = Vec::new();
        archive.write(&mut bytes).unwrap();

        let mut names = Vec::new();
        let mut rest = bytes.as_slice();
        loop {
            let reader = newc::Reader::new(rest).unwrap();
            if reader.entry().is_trailer() {
                break;
            }
            names.push((reader.entry().name().to_string(), reader.entry().mode()));
            rest = reader.finish().unwrap();
        }
        let wanted = [("a", 0o40755), ("a/b", 0o40755), ("a/b/c", 0o100755), ("a/d", 0o120777)];
        assert_eq!(names, wanted.map(|(name, mode)| (name.to_string(), mode)));
    }
}
