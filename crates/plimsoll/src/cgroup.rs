//! One cgroup, held open: whatever becomes of its path, this stays the same
//! cgroup, or fails once it is gone.

use core::ffi::CStr;

use plimsoll_core::agent::lru_gen::CGROUP_PATH_MAX;
use plimsoll_core::agent::memcg::{STATE_BYTES, Sample, State};
use plimsoll_core::agent::psi::Stall;
use plimsoll_core::facts::CGROUP_ROOT;
use plimsoll_core::kernel::{Errno, Result};
use plimsoll_core::number::decimal;
use plimsoll_core::path;
use plimsoll_core::status::keyed_value;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags, XattrFlags};

use crate::linux::{CPath, c_path, errno};
use crate::pressure::Source;
use crate::start;

/// As much of memory.stat as is read, in bytes: 7.2's has 2 KiB.
const STAT_BYTES: usize = 4096;

/// In place of a memory node's number: the state of a rule, at its top.
pub(crate) const RULE: u32 = u32::MAX;

/// A cgroup's directory.
pub(crate) struct Cgroup(OwnedFd);

impl Cgroup {
    /// Opens the cgroup at a path below the cgroup2 mount, beginning with '/'.
    pub(crate) fn open(path: &str) -> Result<Self> {
        Self::at(rustix::fs::CWD, join(CGROUP_ROOT, path, &mut [0; _])?)
    }

    /// Opens a cgroup by its name in another, or `..`.
    pub(crate) fn at(parent: BorrowedFd<'_>, name: &CStr) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        rustix::fs::openat(parent, name, flags, Mode::empty()).map(Self).map_err(errno)
    }

    /// Reads the beginning of one of its files, as much as fits and is UTF-8.
    pub(crate) fn read<'b>(&self, name: &CStr, buf: &'b mut [u8]) -> Result<&'b str> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.0, name, flags, Mode::empty()).map_err(errno)?;
        let mut filled = 0;
        while let Some(rest) = buf.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match rustix::io::read(&file, rest).map_err(errno)? {
                0 => break,
                read => filled += read,
            }
        }
        Ok(core::str::from_utf8(buf.get(..filled).unwrap_or_default()).unwrap_or_default())
    }

    /// A file of a single number; "max" is the greatest there is.
    pub(crate) fn number(&self, name: &CStr) -> Option<u64> {
        let mut buf = [0; 32];
        match self.read(name, &mut buf).ok()?.trim_ascii_end() {
            "max" => Some(u64::MAX),
            number => decimal(number),
        }
    }

    /// Writes one of its files, in a single write(2).
    pub(crate) fn write(&self, name: &CStr, data: &[u8]) -> Result<()> {
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.0, name, flags, Mode::empty()).map_err(errno)?;
        rustix::io::write(&file, data).map(drop).map_err(errno)
    }

    /// What was remembered of one of its memory nodes.
    pub(crate) fn state(&self, node: u32) -> Option<State> {
        let mut bytes = [0; STATE_BYTES];
        let read = rustix::fs::fgetxattr(&self.0, &*state_name(node).ok()?, &mut bytes[..]).ok()?;
        State::from_bytes(bytes.get(..read)?)
    }

    /// Remembers it.
    pub(crate) fn keep(&self, node: u32, state: &State) -> Result<()> {
        let name = state_name(node)?;
        rustix::fs::fsetxattr(&self.0, &*name, &state.to_bytes(), XattrFlags::empty())
            .map_err(errno)
    }

    /// Its pressure, see [`Source::stall`].
    pub(crate) fn stall(&self) -> Option<Stall> {
        Source::Cgroup(self.0.as_fd()).stall()
    }

    /// Counts of reclaim; `None` where memory.stat can't be read.
    pub(crate) fn sample(&self) -> Option<Sample> {
        let mut buf = [0; STAT_BYTES];
        let stat = self.read(c"memory.stat", &mut buf).ok()?;
        let value = |key| keyed_value(stat, key).unwrap_or(0);
        let refaults =
            value("workingset_refault_anon").saturating_add(value("workingset_refault_file"));
        let unmapped = value("file").saturating_sub(value("file_mapped")) / start::page_bytes();
        Some(Sample { stolen: value("pgsteal"), refaults, unmapped })
    }

    /// Anonymous and file pages that can be reclaimed at all.
    pub(crate) fn reclaimable_pages(&self) -> Option<(u64, u64)> {
        let mut buf = [0; STAT_BYTES];
        let stat = self.read(c"memory.stat", &mut buf).ok()?;
        let pages = |active, inactive| {
            let bytes = keyed_value(stat, active)?.saturating_add(keyed_value(stat, inactive)?);
            Some(bytes / start::page_bytes())
        };
        Some((pages("active_anon", "inactive_anon")?, pages("active_file", "inactive_file")?))
    }

    /// Bytes that may be taken without going below memory.min or memory.low, its
    /// own or that of a cgroup around it: what debugfs doesn't look at.
    pub(crate) fn unprotected_bytes(&self) -> u64 {
        /// Levels looked at; deeper ones the kernel allows only if asked to.
        const LEVELS_MAX: usize = 64;
        let mut allowed = self.unprotected_here().unwrap_or(0);
        let Ok(mut around) = Self::at(self.0.as_fd(), c"..") else { return 0 };
        for _ in 0..LEVELS_MAX {
            // The root has no such files.
            let Some(here) = around.unprotected_here() else { return allowed };
            allowed = allowed.min(here);
            match Self::at(around.0.as_fd(), c"..") {
                Ok(next) => around = next,
                Err(_) => return 0,
            }
        }
        0
    }

    fn unprotected_here(&self) -> Option<u64> {
        let kept = self.number(c"memory.min")?.max(self.number(c"memory.low")?);
        if kept == 0 {
            return Some(u64::MAX);
        }
        Some(self.number(c"memory.current")?.saturating_sub(kept))
    }
}

impl AsFd for Cgroup {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Room for the path of a cgroup.
type Room = [u8; CGROUP_ROOT.len() + CGROUP_PATH_MAX + 1];

/// The path of a cgroup, from `root` on.
fn join<'b>(root: &str, path: &str, room: &'b mut Room) -> Result<&'b CStr> {
    let mut end = 0;
    for part in [root, path, "\0"] {
        let to = room.get_mut(end..end + part.len()).ok_or(Errno::NAMETOOLONG)?;
        to.copy_from_slice(part.as_bytes());
        end += part.len();
    }
    CStr::from_bytes_with_nul(room.get(..end).unwrap_or_default()).map_err(|_| Errno::INVAL)
}

/// Makes the cgroup2 mount the working directory, for [`state_at`].
pub(crate) fn enter_root() -> Result<()> {
    rustix::process::chdir(CGROUP_ROOT).map_err(errno)
}

/// What was remembered of the cgroup at a path, by the attribute's name; an error
/// where there is no such cgroup. A pass asks this of each: from the working
/// directory, which spares the kernel half of the path.
pub(crate) fn state_at(path: &str, name: &CStr) -> Result<State> {
    let mut bytes = [0; STATE_BYTES];
    match rustix::fs::getxattr(join(".", path, &mut [0; _])?, name, &mut bytes[..]) {
        Ok(read) => Ok(bytes.get(..read).and_then(State::from_bytes).unwrap_or_default()),
        // Nothing, or another program's: as if it were new.
        Err(rustix::io::Errno::NODATA | rustix::io::Errno::RANGE) => Ok(State::default()),
        Err(error) => Err(errno(error)),
    }
}

/// Name of the extended attribute that holds a node's [`State`].
pub(crate) fn state_name(node: u32) -> Result<CPath> {
    c_path(&path(format_args!("trusted.plimsoll.{}", u64::from(node)))?)
}
