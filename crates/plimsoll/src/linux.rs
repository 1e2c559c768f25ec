//! The running kernel, through rustix.

use core::ffi::CStr;
use core::fmt;

use heapless::CString;
use plimsoll_core::PATH_MAX;
use plimsoll_core::kernel::{Errno, Kernel, Level, Mount, MountFlags, Result};
use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, Mode, OFlags, Statx, StatxAttributes, StatxFlags};
use rustix::mount::MountFlags as RawFlags;

use crate::sys;

/// The kernel this process runs on.
pub(crate) struct Linux;

/// A path as the kernel takes it.
pub(crate) type CPath = CString<{ PATH_MAX + 1 }>;

/// See [`CPath`].
pub(crate) fn c_path(path: &str) -> Result<CPath> {
    c_bytes(path.as_bytes())
}

/// See [`CPath`]; paths need not be UTF-8.
pub(crate) fn c_bytes(path: &[u8]) -> Result<CPath> {
    let mut c = CString::new();
    c.extend_from_bytes(path).map_err(|_| Errno::NAMETOOLONG)?;
    Ok(c)
}

/// Our error number for rustix's.
pub(crate) fn errno(errno: rustix::io::Errno) -> Errno {
    Errno(u16::try_from(errno.raw_os_error()).unwrap_or(Errno::IO.0))
}

/// Opens a file; never a controlling terminal, never kept across exec.
pub(crate) fn open(path: &CStr, flags: OFlags) -> Result<OwnedFd> {
    let flags = flags | OFlags::CLOEXEC | OFlags::NOCTTY;
    rustix::fs::open(path, flags, Mode::from_raw_mode(0o644)).map_err(errno)
}

impl Kernel for Linux {
    fn now_us(&mut self) -> u64 {
        sys::now_us()
    }

    fn sleep_us(&mut self, us: u64) {
        sys::sleep_us(us);
    }

    fn read_at(&mut self, path: &str, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let file = open(&c_path(path)?, OFlags::RDONLY | OFlags::NONBLOCK)?;
        let mut filled = 0;
        while let Some(rest) = buf.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match rustix::io::pread(&file, rest, offset + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(errno(error)),
            }
        }
        Ok(filled)
    }

    fn write(&mut self, path: &str, data: &[u8]) -> Result<()> {
        let file = open(&c_path(path)?, OFlags::WRONLY)?;
        match rustix::io::write(&file, data) {
            Ok(written) if written == data.len() => Ok(()),
            Ok(_) => Err(Errno::IO),
            Err(error) => Err(errno(error)),
        }
    }

    fn replace(&mut self, path: &str, data: &[u8]) -> Result<()> {
        let path = c_path(path)?;
        let mut new = path.clone();
        new.extend_from_bytes(b".new").map_err(|_| Errno::NAMETOOLONG)?;
        let file = open(&new, OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC)?;
        let mut rest = data;
        while !rest.is_empty() {
            let written = rustix::io::write(&file, rest).map_err(errno)?;
            rest = rest.get(written..).unwrap_or_default();
        }
        rustix::fs::rename(&*new, &*path).map_err(errno)
    }

    fn mkdir(&mut self, path: &str) -> Result<()> {
        rustix::fs::mkdir(&*c_path(path)?, Mode::from_raw_mode(0o755)).map_err(errno)
    }

    fn is_mount_point(&mut self, path: &str) -> Result<bool> {
        let stat = |path: &CStr| {
            let flags = AtFlags::NO_AUTOMOUNT;
            rustix::fs::statx(rustix::fs::CWD, path, flags, StatxFlags::empty()).map_err(errno)
        };
        let here = stat(&c_path(path)?)?;
        if here.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT) {
            return Ok(here.stx_attributes.contains(StatxAttributes::MOUNT_ROOT));
        }
        // Kernels before 5.8 do not tell: another device than the parent's does.
        let parent = stat(&c_path(&plimsoll_core::path(format_args!("{path}/.."))?)?)?;
        let device = |stat: &Statx| (stat.stx_dev_major, stat.stx_dev_minor);
        Ok(device(&here) != device(&parent))
    }

    fn mount(&mut self, mount: &Mount<'_>) -> Result<()> {
        let (source, target) = (c_path(mount.source)?, c_path(mount.target)?);
        let (fstype, data) = (c_path(mount.fstype)?, c_path(mount.data)?);
        rustix::mount::mount(&*source, &*target, &*fstype, raw_flags(mount.flags), Some(&*data))
            .map_err(errno)
    }

    fn load_module(&mut self, path: &str) -> Result<()> {
        let file = open(&c_path(path)?, OFlags::RDONLY)?;
        rustix::system::finit_module(&file, c"", 0).map_err(errno)
    }

    fn page_size(&mut self) -> u64 {
        crate::start::page_bytes()
    }

    fn log(&mut self, level: Level, line: fmt::Arguments<'_>) {
        let level = match level {
            Level::Error => log::Level::Error,
            Level::Warning => log::Level::Warn,
            Level::Info => log::Level::Info,
        };
        crate::kmsg::say(level, line);
    }
}

fn raw_flags(flags: MountFlags) -> RawFlags {
    let mut raw = RawFlags::empty();
    for (wanted, flag) in [
        (flags.nosuid, RawFlags::NOSUID),
        (flags.nodev, RawFlags::NODEV),
        (flags.noexec, RawFlags::NOEXEC),
        (flags.strictatime, RawFlags::STRICTATIME),
        (flags.noatime, RawFlags::NOATIME),
        (flags.rdonly, RawFlags::RDONLY),
    ] {
        raw.set(flag, wanted);
    }
    raw
}
