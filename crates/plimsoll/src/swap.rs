//! Makes swap: a file on the board's storage, or a zram device.
//!
//! Runs in a process of its own, which may be killed at any moment: each
//! begins with removing what a killed one left.

use core::ffi::CStr;
use core::fmt::Arguments;

use plimsoll_core::agent::lines::Lines;
use plimsoll_core::agent::swap::{
    AREAS_MAX, FILE_PREFIX, HEADER_AT, LABEL, LABEL_AT, MAGIC, PART_MIN, Present, Step, area,
    header, random_uuid,
};
use plimsoll_core::facts::read_text;
use plimsoll_core::kernel::{Errno, Kernel as _};
use plimsoll_core::number::decimal;
use plimsoll_core::path;
use rustix::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use rustix::fs::{Advice, AtFlags, FlockOperation, FsWord, Mode, OFlags, Stat};

use crate::file::File;
use crate::linux::{CPath, Linux, c_path, errno, open};
use crate::{start, sys};

/// What could not be done, and why.
pub(crate) type Failure = (Step, Errno);

/// Held while swap is made: a maker whose worker died may still be at it.
const LOCK: &CStr = c"/run/plimsoll";
/// A file that is not finished. One name is enough, since one is made at a time.
const NEW: &CStr = c"plimsoll.swap.new";
/// Number of the zram device that is being made.
const CLAIM: &str = "/run/plimsoll/zram";

/// Bytes a write: a file system takes them as fast as 64 KiB, and the
/// supervisor's memory is counted.
const CHUNK_BYTES: usize = 16 << 10;
/// Bytes between two waits for the disk, after which they leave the page cache:
/// so a swap file of 1 GiB never takes more memory than this.
const SYNC_BYTES: u64 = 8 << 20;
/// What stays free on a file system whatever its size, in bytes: logs and
/// databases go on for some time.
const RESERVE_BYTES: u64 = 16 << 20;
/// What stays free of a large file system: one part in so many, as ext4 keeps
/// for root.
const RESERVE_PART: u64 = 20;

/// File systems that are memory or cannot hold swap, by their magic numbers in
/// include/uapi/linux/magic.h: ramfs, tmpfs, overlayfs. Others are asked.
const UNFIT: [FsWord; 3] = [0x8584_58f6, 0x0102_1994, 0x794c_7630];

/// SWAP_FLAG_PREFER of include/linux/swap.h with priority 100, as zram-generator
/// has it: before any disk.
const FIRST: u32 = 0x8000 | 100;
/// The kernel gives each area a priority below those before it.
const IN_TURN: u32 = 0;

/// Swap of ours that is in use.
///
/// # Errors
/// Where that can't be told: nothing may be made then.
pub(crate) fn present() -> Result<Present, Errno> {
    let mut lines = Lines::new(File(open(c"/proc/swaps", OFlags::RDONLY)?));
    let mut present = Present::default();
    while let Some(line) = lines.next().map_err(|_| Errno::IO)? {
        let Some(area) = core::str::from_utf8(line.text).ok().and_then(area) else { continue };
        let mut label = *LABEL;
        if let Some(device) = area.zram {
            Linux.read_at(device, LABEL_AT, &mut label)?;
        }
        if label == *LABEL {
            present.add(area.bytes);
        }
    }
    Ok(present)
}

/// Makes a file of so many bytes in the directory `path`, and swap of it. A
/// whole file of an earlier boot is taken again rather than written anew.
///
/// # Errors
/// What failed first; nothing is left of it.
pub(crate) fn file(bytes: u64, path: &str) -> Result<(), Failure> {
    let _lock = lock()?;
    let bytes = whole_pages(bytes);
    let path = at(Step::Directory, c_path(path))?;
    let made = rustix::fs::mkdir(&*path, Mode::from_raw_mode(0o700));
    if made != Err(rustix::io::Errno::EXIST) {
        done(Step::Directory, made)?;
    }
    let used = directory(&path).and_then(|dir| file_in(dir.as_fd(), bytes));
    if used.is_err() && made.is_ok() {
        let _ = rustix::fs::rmdir(&*path);
    }
    used
}

/// Makes a zram device of so many bytes, and swap of it. With an empty
/// `algorithm` the kernel chooses.
///
/// # Errors
/// What failed first; nothing is left of it.
pub(crate) fn zram(bytes: u64, algorithm: &str) -> Result<(), Failure> {
    let _lock = lock()?;
    if let Some(left) = decimal(read_text(&mut Linux, CLAIM, &mut [0; 32]).trim_ascii()) {
        reset(left);
    }
    let (device, added) = free_device()?;
    let number = at(Step::Device, c(format_args!("{device}")))?;
    at(Step::Lock, Linux.replace(CLAIM, number.to_bytes()))?;
    let used = set_up(device, whole_pages(bytes), algorithm);
    if used.is_err() && added {
        let _ = Linux.write("/sys/class/zram-control/hot_remove", number.to_bytes());
    }
    let _ = rustix::fs::unlink(CLAIM);
    used
}

fn lock() -> Result<OwnedFd, Failure> {
    let lock = at(Step::Lock, open(LOCK, OFlags::RDONLY | OFlags::DIRECTORY))?;
    done(Step::Lock, rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive))?;
    Ok(lock)
}

fn at<T>(step: Step, result: Result<T, Errno>) -> Result<T, Failure> {
    result.map_err(|errno| (step, errno))
}

fn done<T>(step: Step, result: rustix::io::Result<T>) -> Result<T, Failure> {
    at(step, result.map_err(errno))
}

/// A text as the kernel takes it.
fn c(text: Arguments<'_>) -> Result<CPath, Errno> {
    c_path(&path(text)?)
}

#[inline(never)]
fn whole_pages(bytes: u64) -> u64 {
    let page = start::page_bytes();
    bytes.checked_div(page).unwrap_or(0).saturating_mul(page)
}

/// The directory, if it can hold swap and nobody but root can exchange a file
/// in it.
fn directory(path: &CPath) -> Result<OwnedFd, Failure> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    let dir = at(Step::Directory, open(path, flags))?;
    if UNFIT.contains(&done(Step::FileSystem, rustix::fs::fstatfs(&dir))?.f_type) {
        return Err((Step::FileSystem, Errno::INVAL));
    }
    let stat = done(Step::Directory, rustix::fs::fstat(&dir))?;
    if stat.st_uid != 0 || stat.st_mode & 0o022 != 0 {
        return Err((Step::Shared, Errno::PERM));
    }
    Ok(dir)
}

fn file_in(dir: BorrowedFd<'_>, bytes: u64) -> Result<(), Failure> {
    let _ = rustix::fs::unlinkat(dir, NEW, AtFlags::empty());
    let (name, earlier) = slot(dir, bytes)?;
    let file = match earlier {
        Some(file) => file,
        None => create(dir, &name, bytes)?,
    };
    let used = activate(&file, IN_TURN);
    if used.is_err() {
        let _ = rustix::fs::unlinkat(dir, &*name, AtFlags::empty());
    }
    used
}

/// A name for the file. Behind it is nothing, or a file of an earlier boot that
/// is about as large, ready for use. Other files of earlier boots are removed:
/// a later making would count their space as taken.
fn slot(dir: BorrowedFd<'_>, bytes: u64) -> Result<(CPath, Option<OwnedFd>), Failure> {
    let (mut free, mut found) = (None, None);
    for number in 0..AREAS_MAX as u64 {
        let name = at(Step::Names, c(format_args!("{FILE_PREFIX}{number}")))?;
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let gone = match rustix::fs::openat(dir, &*name, flags, Mode::empty()) {
            Err(rustix::io::Errno::NOENT) => true,
            // The kernel refuses to write to, and to remove, what is in use.
            Ok(file) if found.is_none() && fits(&file, bytes) => {
                found = Some((name, Some(file)));
                continue;
            }
            _ => rustix::fs::unlinkat(dir, &*name, AtFlags::empty()).is_ok(),
        };
        if gone {
            free.get_or_insert((name, None));
        }
    }
    found.or(free).ok_or((Step::Names, Errno::NOSPC))
}

/// Whether a file has about so many bytes, is whole, and took a header.
fn fits(file: &OwnedFd, bytes: u64) -> bool {
    rustix::fs::fstat(file).is_ok_and(|stat| {
        size(&stat).abs_diff(bytes) <= bytes / PART_MIN
            && is_whole(&stat)
            && stamp(file, size(&stat)).is_ok()
    })
}

fn size(stat: &Stat) -> u64 {
    whole_pages(u64::try_from(stat.st_size).unwrap_or(0))
}

/// Without holes: swapon(2) refuses those.
fn is_whole(stat: &Stat) -> bool {
    const BLOCK_BYTES: i64 = 512;
    stat.st_blocks.saturating_mul(BLOCK_BYTES) >= stat.st_size
}

/// Writes a new file. It has its name once it is whole, so that what has that
/// name after a crash is whole too.
fn create(dir: BorrowedFd<'_>, name: &CStr, bytes: u64) -> Result<OwnedFd, Failure> {
    let fs = done(Step::Space, rustix::fs::fstatfs(dir))?;
    let block = u64::try_from(fs.f_bsize).unwrap_or(0);
    let reserve = RESERVE_BYTES.max(fs.f_blocks.saturating_mul(block) / RESERVE_PART);
    if fs.f_bavail.saturating_mul(block) < bytes.saturating_add(reserve) {
        return Err((Step::Space, Errno::NOSPC));
    }
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let file = done(Step::Write, rustix::fs::openat(dir, NEW, flags, Mode::from_raw_mode(0o600)))?;
    let made = fill(&file, bytes).and_then(|()| stamp(&file, bytes)).and_then(|()| {
        let stat = done(Step::Check, rustix::fs::fstat(&file))?;
        if size(&stat) != bytes || !is_whole(&stat) {
            return Err((Step::Check, Errno::INVAL));
        }
        done(Step::Write, rustix::fs::renameat(dir, NEW, dir, name))
    });
    if made.is_err() {
        let _ = rustix::fs::unlinkat(dir, NEW, AtFlags::empty());
    }
    made.map(|()| file)
}

/// Writes zeros: what is merely allocated is read and written in other ways by
/// some file systems, and a full disk shows now.
fn fill(file: &OwnedFd, bytes: u64) -> Result<(), Failure> {
    let zeros = [0; CHUNK_BYTES];
    let (mut written, mut synced) = (0, 0);
    while written < bytes {
        let len = usize::try_from(bytes - written).unwrap_or(CHUNK_BYTES);
        let chunk = zeros.get(..len).unwrap_or(&zeros);
        match rustix::io::pwrite(file, chunk, written) {
            Ok(0) => return Err((Step::Write, Errno::IO)),
            Ok(more) => written += more as u64,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err((Step::Write, errno(error))),
        }
        if written - synced >= SYNC_BYTES {
            flush(file)?;
            synced = written;
        }
    }
    Ok(())
}

/// Waits until the disk has it, and drops it from the page cache.
fn flush(file: &OwnedFd) -> Result<(), Failure> {
    done(Step::Write, rustix::fs::fdatasync(file))?;
    done(Step::Write, rustix::fs::fadvise(file, 0, None, Advice::DontNeed))
}

/// Writes the header of an area of so many bytes, and reads it back from the
/// disk.
fn stamp(file: &OwnedFd, bytes: u64) -> Result<(), Failure> {
    let page = start::page_bytes();
    let mut random = [0; 16];
    at(Step::Header, Linux.read_at("/dev/urandom", 0, &mut random))?;
    let fields = header(bytes.checked_div(page).unwrap_or(0), random_uuid(random));
    let parts: [(u64, &[u8]); 2] =
        [(HEADER_AT, &fields), (page.saturating_sub(MAGIC.len() as u64), MAGIC)];
    for (offset, part) in parts {
        if done(Step::Header, rustix::io::pwrite(file, part, offset))? != part.len() {
            return Err((Step::Header, Errno::IO));
        }
    }
    flush(file)?;
    for (offset, part) in parts {
        let mut found = [0; 64];
        let read = done(Step::Header, rustix::io::pread(file, &mut found, offset))?;
        if !found.get(..read).unwrap_or_default().starts_with(part) {
            return Err((Step::Header, Errno::IO));
        }
    }
    Ok(())
}

/// Swaps to the very file that was checked, whatever its name leads to now.
fn activate(file: &OwnedFd, flags: u32) -> Result<(), Failure> {
    let path = at(Step::Swapon, c(format_args!("/proc/self/fd/{}", i64::from(file.as_raw_fd()))))?;
    sys::swapon(&path, flags).map_err(|errno| {
        (Step::Swapon, Errno(u16::try_from(errno.into_raw()).unwrap_or(Errno::IO.0)))
    })
}

/// A zram device that nobody uses, and whether it was added for it.
fn free_device() -> Result<(u64, bool), Failure> {
    let mut buf = [0; 32];
    for device in 0..AREAS_MAX as u64 {
        let size = at(Step::Device, path(format_args!("/sys/block/zram{device}/disksize")))?;
        if read_text(&mut Linux, &size, &mut buf).trim_ascii() == "0" {
            return Ok((device, false));
        }
    }
    // Reading it adds one.
    let added = read_text(&mut Linux, "/sys/class/zram-control/hot_add", &mut buf).trim_ascii();
    decimal(added).map(|device| (device, true)).ok_or((Step::Device, Errno::NODEV))
}

fn set_up(device: u64, bytes: u64, algorithm: &str) -> Result<(), Failure> {
    if !algorithm.is_empty() {
        at(Step::Algorithm, knob(device, "comp_algorithm", format_args!("{algorithm}")))?;
    }
    // Where somebody else was faster this is refused, and the device is theirs.
    at(Step::Size, knob(device, "disksize", format_args!("{bytes}")))?;
    let used = swap_to(device, bytes);
    if used.is_err() {
        reset(device);
    }
    used
}

fn swap_to(device: u64, bytes: u64) -> Result<(), Failure> {
    let node = c(format_args!("/dev/zram{device}")).and_then(|node| open(&node, OFlags::RDWR));
    let node = at(Step::Device, node)?;
    stamp(&node, bytes)?;
    activate(&node, FIRST)
}

/// Gives back what a device holds; refused where it is in use.
fn reset(device: u64) {
    let _ = knob(device, "reset", format_args!("1"));
}

/// Writes a file of a zram device in /sys.
fn knob(device: u64, name: &str, value: Arguments<'_>) -> Result<(), Errno> {
    let (path, value) = (path(format_args!("/sys/block/zram{device}/{name}"))?, path(value)?);
    Linux.write(&path, value.as_bytes())
}
