//! The two ways to the kernel's lists of pages: commands to MGLRU through
//! debugfs, and memory.reclaim.

use core::fmt::{self, Write as _};

use heapless::String;
use plimsoll_core::agent::counters::{Counter, Counters};
use plimsoll_core::kernel::{Errno, Kernel as _, Result};
use plimsoll_core::number::in_radix;
use plimsoll_core::split::lines;
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};

use crate::file::File;
use crate::linux::{Linux, errno};

/// What MGLRU has switched on, as bits; the first one is all that is needed
/// (Documentation/admin-guide/mm/multigen_lru.rst).
const ENABLED: &str = "/sys/kernel/mm/lru_gen/enabled";
/// Commands of one write, in bytes: about 40 of them, so that a write's own
/// cost no longer counts.
const BATCH_BYTES: usize = 1024;

/// MGLRU's file in debugfs.
pub(crate) struct LruGen {
    dir: OwnedFd,
}

impl LruGen {
    /// Switches MGLRU on, where it is off, and mounts debugfs where nobody else
    /// sees it: it isn't for QM, and the next init may mount its own.
    pub(crate) fn open() -> Result<Self> {
        if !is_enabled()? {
            Linux.write(ENABLED, b"y")?;
            if !is_enabled()? {
                return Err(Errno::NODEV);
            }
        }
        let context =
            rustix::mount::fsopen(c"debugfs", FsOpenFlags::FSOPEN_CLOEXEC).map_err(errno)?;
        rustix::mount::fsconfig_create(&context).map_err(errno)?;
        let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        let dir = rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
            .map_err(errno)?;
        let lru_gen = Self { dir };
        // Where the kernel is locked down, the mount is allowed but not the file.
        lru_gen.file(OFlags::RDWR)?;
        Ok(lru_gen)
    }

    fn file(&self, flags: OFlags) -> Result<OwnedFd> {
        let flags = flags | OFlags::CLOEXEC;
        rustix::fs::openat(&self.dir, c"lru_gen", flags, Mode::empty()).map_err(errno)
    }

    /// The list of generations, as a stream.
    pub(crate) fn dump(&self) -> Result<File> {
        self.file(OFlags::RDONLY).map(File)
    }

    /// Where commands go.
    pub(crate) fn commands(&self) -> Result<Commands> {
        Ok(Commands { file: self.file(OFlags::WRONLY)?, text: String::new(), singly: false })
    }
}

fn is_enabled() -> Result<bool> {
    let mut buf = [0; 16];
    let read = Linux.read_at(ENABLED, 0, &mut buf)?;
    let bits = core::str::from_utf8(buf.get(..read).unwrap_or_default()).unwrap_or_default();
    let bits = bits.trim_ascii_end();
    let digits = bits.strip_prefix("0x").unwrap_or(bits);
    Ok(in_radix(digits, 16).is_some_and(|bits| bits & 1 != 0))
}

/// Commands that are written together: either agings or evictions.
pub(crate) struct Commands {
    file: OwnedFd,
    text: String<BATCH_BYTES>,
    /// Since a batch failed: each command is written for itself.
    singly: bool,
}

impl Commands {
    /// Adds the aging of a generation.
    pub(crate) fn age(&mut self, lruvec: (u64, u32), seq: u64, swap: bool, to: &mut Counters) {
        let (id, node) = (lruvec.0, u64::from(lruvec.1));
        // The last word: look at every page table, also of those that were
        // idle the last time.
        self.push(format_args!("+ {id} {node} {seq} {} 1\n", u64::from(swap)), to);
        to.add(Counter::MemcgAged, 1);
    }

    /// Adds the eviction of so many pages from the generations up to one.
    pub(crate) fn evict(
        &mut self,
        lruvec: (u64, u32),
        seq: u64,
        swappiness: u64,
        pages: u64,
        to: &mut Counters,
    ) {
        let (id, node) = (lruvec.0, u64::from(lruvec.1));
        self.push(format_args!("- {id} {node} {seq} {swappiness} {pages}\n"), to);
        to.add(Counter::MemcgAskedPages, pages);
    }

    fn push(&mut self, command: fmt::Arguments<'_>, to: &mut Counters) {
        let before = self.text.len();
        if self.text.write_fmt(command).is_err() {
            self.text.truncate(before);
            self.flush(to);
            // One command is far shorter than a batch.
            let _ = self.text.write_fmt(command);
        }
        if self.singly {
            self.flush(to);
        }
    }

    /// Writes what was added; whether the kernel took all of it. It stops at the
    /// first command that fails and doesn't say which. Agings are then written
    /// one by one, since a second one of the same generation does nothing.
    /// Evictions are not: those that are left come in the next round.
    pub(crate) fn flush(&mut self, to: &mut Counters) -> bool {
        if self.text.is_empty() {
            return true;
        }
        let result = rustix::io::write(&self.file, self.text.as_bytes());
        let many = lines(&self.text).nth(1).is_some();
        if result.is_err() && many && self.text.starts_with('+') {
            for command in lines(&self.text) {
                count(rustix::io::write(&self.file, command.as_bytes()), to);
            }
        } else {
            count(result, to);
        }
        self.singly |= result.is_err();
        self.text.clear();
        result.is_ok()
    }
}

/// Counts a refusal. An aging that somebody else did first is none.
fn count(result: rustix::io::Result<usize>, to: &mut Counters) {
    let counter = match result {
        Ok(_) | Err(rustix::io::Errno::EXIST) => return,
        Err(rustix::io::Errno::INVAL) => Counter::ErrorStale,
        Err(rustix::io::Errno::INTR) => Counter::ErrorInterrupted,
        Err(_) => Counter::ErrorRefused,
    };
    to.add(counter, 1);
}
