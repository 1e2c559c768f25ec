//! A kernel in memory, for tests: it takes and refuses what the real one does,
//! and fails where a test wants it to.
//!
//! [`FakeKernel::new`] is the machine as PID 1 meets it, with nothing mounted;
//! [`FakeKernel::mounted`] has proc, sysfs, devtmpfs, /run and cgroup2. What
//! lies below a mount point can be set at any time and is seen once the file
//! system is mounted there.

extern crate std;

mod cgroup;
mod disk;
#[cfg(test)]
mod tests;

use core::fmt;
use std::collections::{BTreeMap, BTreeSet};
use std::string::{String, ToString};
use std::vec::Vec;

pub use self::disk::{Disk, Partition, ext4_superblock};
use crate::kernel::{Errno, Kernel, Level, Mount, MountFlags, Result};
use crate::volume::ext4::{self, BYTES, Fault, OFFSET};

/// Where cgroup2 belongs.
const CGROUP: &str = "/sys/fs/cgroup";
/// Below these paths nothing is there before the file system is mounted.
const KERNEL_MOUNTS: [(&str, &str); 4] =
    [(CGROUP, "cgroup2"), ("/sys", "sysfs"), ("/proc", "proc"), ("/dev", "devtmpfs")];

const EACCES: Errno = Errno(13);
const ENOTBLK: Errno = Errno(15);
const ENOTDIR: Errno = Errno(20);
const EISDIR: Errno = Errno(21);
const EBADMSG: Errno = Errno(74);

/// A mount that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields of `Mount`, owned")]
pub struct Mounted {
    pub source: String,
    pub target: String,
    pub fstype: String,
    pub flags: MountFlags,
    pub data: String,
}

/// The kernel in memory. All of its state is open to the test.
#[derive(Clone, Debug)]
pub struct FakeKernel {
    /// Contents of regular files by path.
    pub files: BTreeMap<String, Vec<u8>>,
    /// Directories.
    pub dirs: BTreeSet<String>,
    /// What [`Self::add_disk`] attached.
    pub disks: Vec<Disk>,
    /// Disks that attach themselves when the clock reaches this many
    /// microseconds.
    pub later: Vec<(u64, Disk)>,
    /// Mounts in their order.
    pub mounts: Vec<Mounted>,
    /// File systems the kernel has.
    pub filesystems: BTreeSet<&'static str>,
    /// Controllers that cgroup2 has to give.
    pub controllers: Vec<&'static str>,
    /// Paths given to load_module.
    pub modules: Vec<String>,
    /// The kernel log.
    pub log: Vec<(Level, String)>,
    /// The clock, in microseconds; only sleep_us moves it.
    pub clock_us: u64,
    /// Bytes in a page.
    pub page_size: u64,
    /// Operations so far: all that can fail, each counted as it begins.
    pub operations: usize,
    /// Makes the operation with this number, counted from 0, fail.
    pub fail_at: Option<(usize, Errno)>,
    /// Makes each operation on a path fail.
    pub fail_path: Vec<(String, Errno)>,
}

impl FakeKernel {
    /// A machine with 2010424 kB of memory, 4 KiB pages and nothing mounted.
    #[must_use]
    pub fn new() -> Self {
        let files = [
            ("/proc/meminfo", "MemTotal:        2010424 kB\nMemAvailable:    1900000 kB\n"),
            ("/proc/cmdline", "console=ttyS0\n"),
            ("/proc/partitions", "major minor  #blocks  name\n\n"),
            ("/proc/sys/kernel/osrelease", "6.1.0\n"),
            ("/proc/self/oom_score_adj", "0\n"),
            ("/proc/1/oom_score_adj", "0\n"),
            ("/dev/kmsg", ""),
        ];
        let dirs = ["/", "/proc", "/sys", "/dev", "/run", "/var", CGROUP];
        let mut fake = Self {
            files: files.map(|(path, text)| (path.to_string(), text.into())).into(),
            dirs: dirs.map(ToString::to_string).into(),
            disks: Vec::new(),
            later: Vec::new(),
            mounts: Vec::new(),
            filesystems: ["cgroup2", "devtmpfs", "ext4", "proc", "sysfs", "tmpfs"].into(),
            controllers: ["cpuset", "cpu", "io", "memory", "pids"].into(),
            modules: Vec::new(),
            log: Vec::new(),
            clock_us: 2_000_000,
            page_size: 4096,
            operations: 0,
            fail_at: None,
            fail_path: Vec::new(),
        };
        fake.dirs.insert("/lib/modules/6.1.0".into());
        fake
    }

    /// [`Self::new`] with the kernel's file systems and /run mounted.
    ///
    /// # Panics
    /// Never: nothing is set to fail yet.
    #[must_use]
    pub fn mounted() -> Self {
        let mut fake = Self::new();
        let run = ("/run", "tmpfs");
        for (target, fstype) in KERNEL_MOUNTS.into_iter().rev().chain([run]) {
            let flags = MountFlags::default();
            let mount = Mount { source: fstype, target, fstype, flags, data: "" };
            // /sys/fs/cgroup comes after /sys.
            fake.mount(&mount).expect("nothing is set to fail");
        }
        fake.operations = 0;
        fake
    }

    /// Sets a file's contents, whatever is mounted; nothing fails.
    pub fn set(&mut self, path: &str, contents: impl Into<Vec<u8>>) {
        self.files.insert(path.into(), contents.into());
    }

    /// A file's contents as text, empty where there is no such file.
    #[must_use]
    pub fn text(&self, path: &str) -> String {
        self.files.get(path).map(|bytes| String::from_utf8_lossy(bytes).into()).unwrap_or_default()
    }

    fn is_mounted(&self, target: &str, fstype: &str) -> bool {
        self.mounts.iter().any(|mount| mount.target == target && mount.fstype == fstype)
    }

    /// Whether the file system that a path would lie on is mounted.
    fn is_visible(&self, path: &str) -> bool {
        let mut above = KERNEL_MOUNTS.iter().filter(|(target, _)| is_below(path, target));
        above.all(|(target, fstype)| self.is_mounted(target, fstype))
    }

    /// Counts an operation on a path, and fails it if a test wants that.
    fn begin(&mut self, path: &str) -> Result<()> {
        let number = self.operations;
        self.operations += 1;
        if let Some((at, errno)) = self.fail_at
            && at == number
        {
            return Err(errno);
        }
        match self.fail_path.iter().find(|(failing, _)| failing == path) {
            Some((_, errno)) => Err(*errno),
            None => Ok(()),
        }
    }

    fn is_dir(&self, path: &str) -> bool {
        self.dirs.contains(path) && self.is_visible(path)
    }

    fn mount_ext4(&self, source: &str) -> Result<()> {
        let mut raw = [0; BYTES];
        match self.read_disk(source, OFFSET, &mut raw) {
            Some(BYTES) => match ext4::check(&raw) {
                Ok(_) => Ok(()),
                Err(Fault::Checksum { .. }) => Err(EBADMSG),
                Err(_) => Err(Errno::INVAL),
            },
            Some(_) => Err(Errno::INVAL),
            None if self.files.contains_key(source) => Err(ENOTBLK),
            None => Err(Errno::NOENT),
        }
    }
}

impl Default for FakeKernel {
    fn default() -> Self {
        Self::new()
    }
}

/// Whether a path lies below a directory; the directory itself does not.
fn is_below(path: &str, dir: &str) -> bool {
    path.strip_prefix(dir).is_some_and(|rest| rest.starts_with('/'))
}

fn parent(path: &str) -> &str {
    match path.rsplit_once('/') {
        Some((parent, _)) if !parent.is_empty() => parent,
        _ => "/",
    }
}

impl Kernel for FakeKernel {
    fn now_us(&mut self) -> u64 {
        self.clock_us
    }

    fn sleep_us(&mut self, us: u64) {
        self.clock_us = self.clock_us.saturating_add(us);
        let now = self.clock_us;
        for (_, disk) in self.later.extract_if(.., |(at, _)| *at <= now).collect::<Vec<_>>() {
            self.add_disk(disk);
        }
    }

    fn read_at(&mut self, path: &str, offset: u64, buf: &mut [u8]) -> Result<usize> {
        self.begin(path)?;
        if self.is_dir(path) {
            return Err(EISDIR);
        }
        if !self.is_visible(path) {
            return Err(Errno::NOENT);
        }
        if let Some(count) = self.read_disk(path, offset, buf) {
            return Ok(count);
        }
        let file = self.files.get(path).ok_or(Errno::NOENT)?;
        let rest = usize::try_from(offset).ok().and_then(|at| file.get(at..)).unwrap_or_default();
        let count = rest.len().min(buf.len());
        buf[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    /// In /proc and /sys a value reads back with a newline at its end.
    fn write(&mut self, path: &str, data: &[u8]) -> Result<()> {
        self.begin(path)?;
        if self.is_dir(path) {
            return Err(EISDIR);
        }
        if !self.is_visible(path) || !self.files.contains_key(path) {
            return Err(Errno::NOENT);
        }
        if is_below(path, CGROUP) {
            return self.write_cgroup(path, data);
        }
        let mut data = data.to_vec();
        if is_below(path, "/proc") || is_below(path, "/sys") {
            data.truncate(data.trim_ascii_end().len());
            data.push(b'\n');
        }
        self.files.insert(path.into(), data);
        Ok(())
    }

    fn replace(&mut self, path: &str, data: &[u8]) -> Result<()> {
        self.begin(path)?;
        if self.is_dir(path) {
            return Err(EISDIR);
        }
        if !self.is_dir(parent(path)) {
            return Err(Errno::NOENT);
        }
        if is_below(path, "/proc") || is_below(path, "/sys") {
            return Err(EACCES);
        }
        self.files.insert(path.into(), data.into());
        Ok(())
    }

    fn mkdir(&mut self, path: &str) -> Result<()> {
        self.begin(path)?;
        if self.is_dir(path) || (self.is_visible(path) && self.files.contains_key(path)) {
            return Err(Errno::EXIST);
        }
        let in_cgroup = is_below(path, CGROUP) && self.is_mounted(CGROUP, "cgroup2");
        if !in_cgroup && (is_below(path, "/proc") || is_below(path, "/sys")) {
            return Err(Errno::PERM);
        }
        if !self.is_dir(parent(path)) {
            return Err(Errno::NOENT);
        }
        self.dirs.insert(path.into());
        if in_cgroup {
            self.fill_cgroup(path);
        }
        Ok(())
    }

    fn is_mount_point(&mut self, path: &str) -> Result<bool> {
        self.begin(path)?;
        let exists = self.is_dir(path) || (self.is_visible(path) && self.files.contains_key(path));
        if exists {
            Ok(path == "/" || self.mounts.iter().any(|mount| mount.target == path))
        } else {
            Err(Errno::NOENT)
        }
    }

    fn mount(&mut self, mount: &Mount<'_>) -> Result<()> {
        self.begin(mount.target)?;
        if !self.is_dir(mount.target) {
            let is_file = self.is_visible(mount.target) && self.files.contains_key(mount.target);
            return Err(if is_file { ENOTDIR } else { Errno::NOENT });
        }
        if !self.filesystems.contains(mount.fstype) {
            return Err(Errno::NODEV);
        }
        // A new tmpfs may lie on an old one; all others have one instance.
        if mount.fstype != "tmpfs" && self.is_mounted(mount.target, mount.fstype) {
            return Err(Errno::BUSY);
        }
        if mount.fstype == "ext4" {
            self.mount_ext4(mount.source)?;
        }
        self.mounts.push(Mounted {
            source: mount.source.into(),
            target: mount.target.into(),
            fstype: mount.fstype.into(),
            flags: mount.flags,
            data: mount.data.into(),
        });
        if mount.fstype == "cgroup2" {
            self.fill_cgroup(CGROUP);
        }
        Ok(())
    }

    /// The file must be in [`FakeKernel::files`].
    fn load_module(&mut self, path: &str) -> Result<()> {
        self.begin(path)?;
        if !self.files.contains_key(path) {
            return Err(Errno::NOENT);
        }
        if self.modules.iter().any(|loaded| loaded == path) {
            return Err(Errno::EXIST);
        }
        self.modules.push(path.into());
        Ok(())
    }

    fn page_size(&mut self) -> u64 {
        self.page_size
    }

    fn log(&mut self, level: Level, line: fmt::Arguments<'_>) {
        self.log.push((level, line.to_string()));
    }
}
