//! The way to cgroups without MGLRU's list: down the directories, to those that
//! have none below them.

use core::ffi::CStr;
use core::mem::MaybeUninit;

use heapless::{String, Vec};
use plimsoll_core::agent::counters::Counter;
use plimsoll_core::agent::lru_gen::CGROUP_PATH_MAX;
use plimsoll_core::kernel::{Errno, Result};
use rustix::fd::AsFd as _;
use rustix::fs::{FileType, RawDir, SeekFrom};

use crate::cgroup::Cgroup;
use crate::linux::{CPath, c_bytes, errno};

/// Levels of cgroups that are followed; each has an open directory.
const LEVELS_MAX: usize = 64;
/// Directory entries read at once, in bytes: about 30 of a cgroup's names.
const ENTRIES_BYTES: usize = 1024;

/// A directory on the way down.
struct Level {
    cgroup: Cgroup,
    /// Where its next entry is.
    next: u64,
    /// Bytes of the path that are its own.
    path_len: usize,
    is_leaf: bool,
}

/// Calls `leaf` with each cgroup below `top`, and that one itself, that has none
/// below it, and its path; `lost` with what could not be looked at.
pub(crate) fn leaves(top: &str, leaf: &mut dyn FnMut(Cgroup, &str), lost: &mut dyn FnMut(Counter)) {
    let mut path: String<CGROUP_PATH_MAX> = String::new();
    let mut levels: Vec<Level, LEVELS_MAX> = Vec::new();
    let Ok(cgroup) = Cgroup::open(top) else { return lost(Counter::ErrorGone) };
    // The root's own name adds nothing to a path.
    let _ = path.push_str(if top == "/" { "" } else { top });
    let _ = levels.push(Level { cgroup, next: 0, path_len: path.len(), is_leaf: true });
    while let Some(level) = levels.last_mut() {
        path.truncate(level.path_len);
        let name = match next_directory(level) {
            Ok(Some(name)) => name,
            Ok(None) => {
                if let Some(Level { cgroup, is_leaf: true, .. }) = levels.pop() {
                    leaf(cgroup, &path);
                }
                continue;
            }
            Err(errno) => {
                lost(kind_of(errno));
                levels.pop();
                continue;
            }
        };
        level.is_leaf = false;
        let below =
            name.to_str().is_ok_and(|name| path.push('/').is_ok() && path.push_str(name).is_ok());
        if !below || levels.is_full() {
            lost(Counter::ErrorTooLarge);
            continue;
        }
        let opened = levels.last().map(|level| Cgroup::at(level.cgroup.as_fd(), &name));
        match opened {
            Some(Ok(cgroup)) => {
                let path_len = path.len();
                let _ = levels.push(Level { cgroup, next: 0, path_len, is_leaf: true });
            }
            Some(Err(errno)) => lost(kind_of(errno)),
            None => {}
        }
    }
}

/// What it counts as that a cgroup could not be looked at.
pub(crate) fn kind_of(errno: Errno) -> Counter {
    match errno {
        Errno::NAMETOOLONG => Counter::ErrorTooLarge,
        Errno::NOENT | Errno::NODEV => Counter::ErrorGone,
        _ => Counter::ErrorRefused,
    }
}

/// Name of the next directory below; `None` at the end. The longest that there is
/// just fits.
fn next_directory(level: &mut Level) -> Result<Option<CPath>> {
    rustix::fs::seek(&level.cgroup, SeekFrom::Start(level.next)).map_err(errno)?;
    let mut buf = [MaybeUninit::uninit(); ENTRIES_BYTES];
    let mut entries = RawDir::new(level.cgroup.as_fd(), &mut buf);
    while let Some(entry) = entries.next() {
        let entry = entry.map_err(errno)?;
        level.next = entry.next_entry_cookie();
        let found: &CStr = entry.file_name();
        if entry.file_type() == FileType::Directory && !matches!(found.to_bytes(), b"." | b"..") {
            return c_bytes(found.to_bytes()).map(Some);
        }
    }
    Ok(None)
}
