//! The kernel as plimsoll sees it: the few operations everything is made of.
//!
//! What decides never sees this trait. What applies (`boot`, `apply`, `watch`)
//! is generic over it, so that a test can make each single operation fail.

use core::fmt;

/// An error number as the kernel returns it (`ENOENT` is 2).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Errno(pub u16);

impl Errno {
    /// Operation not permitted.
    pub const PERM: Self = Self(1);
    /// No such file or directory.
    pub const NOENT: Self = Self(2);
    /// Input/output error.
    pub const IO: Self = Self(5);
    /// No such device or address.
    pub const NXIO: Self = Self(6);
    /// Interrupted by a signal.
    pub const INTR: Self = Self(4);
    /// Try again: also what memory.reclaim says where less was to be had.
    pub const AGAIN: Self = Self(11);
    /// Permission denied: also what a write-protected device says to a mount.
    pub const ACCES: Self = Self(13);
    /// Device or resource busy.
    pub const BUSY: Self = Self(16);
    /// File exists.
    pub const EXIST: Self = Self(17);
    /// No such device.
    pub const NODEV: Self = Self(19);
    /// Invalid argument.
    pub const INVAL: Self = Self(22);
    /// No space left on device.
    pub const NOSPC: Self = Self(28);
    /// Read-only file system.
    pub const ROFS: Self = Self(30);
    /// File name too long: also what a path beyond [`crate::PATH_MAX`] gives.
    pub const NAMETOOLONG: Self = Self(36);

    /// The symbol (`ENOENT`), or `None` for a number without a name here.
    #[must_use]
    pub const fn name(self) -> Option<&'static str> {
        Some(match self.0 {
            1 => "EPERM",
            2 => "ENOENT",
            4 => "EINTR",
            5 => "EIO",
            6 => "ENXIO",
            8 => "ENOEXEC",
            11 => "EAGAIN",
            12 => "ENOMEM",
            13 => "EACCES",
            14 => "EFAULT",
            16 => "EBUSY",
            17 => "EEXIST",
            19 => "ENODEV",
            20 => "ENOTDIR",
            21 => "EISDIR",
            22 => "EINVAL",
            28 => "ENOSPC",
            30 => "EROFS",
            34 => "ERANGE",
            36 => "ENAMETOOLONG",
            38 => "ENOSYS",
            74 => "EBADMSG",
            95 => "EOPNOTSUPP",
            110 => "ETIMEDOUT",
            117 => "EUCLEAN",
            _ => return None,
        })
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "errno {}", u64::from(self.0)),
        }
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Result of a kernel operation.
pub type Result<T> = core::result::Result<T, Errno>;

/// One mount, in the words of mount(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mount<'a> {
    /// Device, or a word for file systems that have none.
    pub source: &'a str,
    /// Where; the directory must exist.
    pub target: &'a str,
    /// File system type.
    pub fstype: &'a str,
    /// Flags, see [`MountFlags`].
    pub flags: MountFlags,
    /// Options of the file system, comma-separated; may be empty.
    pub data: &'a str,
}

/// The mount(2) flags that plimsoll uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MountFlags {
    /// MS_NOSUID: set-user-ID bits have no effect.
    pub nosuid: bool,
    /// MS_NODEV: device files have no effect.
    pub nodev: bool,
    /// MS_NOEXEC: nothing can be executed.
    pub noexec: bool,
    /// MS_STRICTATIME: access times are always kept.
    pub strictatime: bool,
    /// MS_NOATIME: access times are never kept.
    pub noatime: bool,
    /// MS_RDONLY: nothing can be written.
    pub rdonly: bool,
}

/// The operations. Each is one or two system calls, blocks no longer than the
/// kernel does, and never allocates.
pub trait Kernel {
    /// Monotonic time since the kernel started, in microseconds
    /// (CLOCK_BOOTTIME).
    fn now_us(&mut self) -> u64;
    /// Sleeps for `us` microseconds.
    fn sleep_us(&mut self, us: u64);
    /// Reads from `offset` until `buf` is full or the file ends; how many
    /// bytes came.
    fn read_at(&mut self, path: &str, offset: u64, buf: &mut [u8]) -> Result<usize>;
    /// Writes `data` to an existing file in a single write(2): how sysfs,
    /// procfs and cgroupfs take a value.
    fn write(&mut self, path: &str, data: &[u8]) -> Result<()>;
    /// Makes `path` hold `data`, atomically: a temporary file, then rename(2).
    fn replace(&mut self, path: &str, data: &[u8]) -> Result<()>;
    /// Makes a directory with mode 0755; `EEXIST` if there is one.
    fn mkdir(&mut self, path: &str) -> Result<()>;
    /// Whether something is mounted exactly there (statx STATX_ATTR_MOUNT_ROOT).
    fn is_mount_point(&mut self, path: &str) -> Result<bool>;
    /// Mounts.
    fn mount(&mut self, mount: &Mount<'_>) -> Result<()>;
    /// Loads a module file (finit_module, no parameters). `EEXIST` if it is
    /// loaded already.
    fn load_module(&mut self, path: &str) -> Result<()>;
    /// Bytes in a page of the running kernel.
    fn page_size(&mut self) -> u64;
    /// A line for the kernel log and the console.
    fn log(&mut self, level: Level, line: fmt::Arguments<'_>);
}

/// Kernel log levels, as in `<N>` before a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// 3: something was not done.
    Error = 3,
    /// 4: something differs from what was wanted.
    Warning = 4,
    /// 6: what was done.
    Info = 6,
}
