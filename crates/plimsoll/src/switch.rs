//! From the initramfs to the root file system, which the boot mounted.
//!
//! The boot's process goes first, so that the supervisor lives in the root; PID
//! 1 follows when that one can be asked. What either does stands for itself:
//! PID 1 completes what the other had no time for.

use core::ffi::CStr;
use core::mem::MaybeUninit;

use plimsoll_core::kernel::{Errno, Result};
use plimsoll_core::root::MOVED;
use rustix::fd::{AsFd as _, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir};

use crate::linux::{errno, open};
use crate::sys::{self, Fork};

/// `root::ROOT`, as the kernel takes it.
const ROOT_PATH: &CStr = c"/sysroot";
/// Directories below each other that are emptied; each has an open descriptor
/// and [`ENTRIES_BYTES`] on the stack. Trees of kernel modules have eight.
const LEVELS_MAX: u32 = 32;
/// Directory entries read at once, in bytes.
const ENTRIES_BYTES: usize = 1024;

/// The boot's process: moves the kernel's file systems and /run, and goes into
/// the root.
pub(crate) fn enter() -> Result<()> {
    move_mounts();
    rustix::process::chroot(ROOT_PATH).map_err(errno)?;
    rustix::process::chdir(c"/").map_err(errno)
}

/// PID 1: the root becomes `/`, and the initramfs's memory is given back.
pub(crate) fn follow() -> Result<()> {
    move_mounts();
    let old = open(c"/", OFlags::RDONLY | OFlags::DIRECTORY)?;
    rustix::process::chdir(ROOT_PATH).map_err(errno)?;
    rustix::mount::mount_move(c".", c"/").map_err(errno)?;
    rustix::process::chroot(c".").map_err(errno)?;
    rustix::process::chdir(c"/").map_err(errno)?;
    // By a child: the next init need not wait for it.
    if let Ok(Fork::Child) = sys::fork() {
        if let Ok(about) = rustix::fs::fstat(&old) {
            empty(old.as_fd(), about.st_dev, LEVELS_MAX);
        }
        sys::exit(0)
    }
    Ok(())
}

fn move_mounts() {
    for (from, to) in MOVED {
        match rustix::mount::mount_move(from, to).map_err(errno) {
            // No mount point: it was moved already.
            Ok(()) | Err(Errno::INVAL) => {}
            Err(errno) => {
                error!("root: {} cannot be moved: {errno}", from.to_str().unwrap_or_default());
            }
        }
    }
}

/// Removes what is in a directory, but nothing of other file systems.
fn empty(dir: BorrowedFd<'_>, device: u64, levels: u32) {
    let mut buf = [MaybeUninit::uninit(); ENTRIES_BYTES];
    let mut entries = RawDir::new(dir, &mut buf);
    while let Some(Ok(entry)) = entries.next() {
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let mut flags = AtFlags::empty();
        if entry.file_type() == FileType::Directory {
            match below(dir, name, device) {
                Some(below) if levels > 0 => empty(below.as_fd(), device, levels - 1),
                _ => continue,
            }
            flags = AtFlags::REMOVEDIR;
        }
        let _ = rustix::fs::unlinkat(dir, name, flags);
    }
}

fn below(dir: BorrowedFd<'_>, name: &CStr, device: u64) -> Option<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let below = rustix::fs::openat(dir, name, flags, Mode::empty()).ok()?;
    (rustix::fs::fstat(&below).ok()?.st_dev == device).then_some(below)
}
