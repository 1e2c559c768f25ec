//! Swap: how much, when, and the header that makes it.
//!
//! What is there already is read from the kernel, never remembered: a file by
//! its name, a zram device by its label. So it counts whoever made it, before
//! the supervisor was revived or while another path was set, and nothing is
//! made twice.

use crate::board::Uuid;
use crate::limit::Limit;
use crate::number::decimal;

/// Areas of ours at once. The kernel has 32 (MAX_SWAPFILES_SHIFT in
/// include/linux/swap.h) less the up to 9 that it uses itself: as many remain
/// to the image as ours leave.
pub const AREAS_MAX: usize = 16;
/// An area's least size, in bytes: each takes one of the kernel's numbers, and
/// one of the pages is the header.
pub const AREA_BYTES_MIN: u64 = 1 << 20;
/// Growth below this part of what is there makes no area of its own: kernels
/// differ by some pages in MemTotal, and growing is over after [`AREAS_MAX`].
pub const PART_MIN: u64 = 16;
/// How files are called, before their number: distinctive, so that no other
/// file of the directory is ever taken for ours.
pub const FILE_PREFIX: &str = "plimsoll.swap";

/// Where the header's fields begin in the first page: behind the boot sector
/// (bootbits of union swap_header in include/linux/swap.h).
pub const HEADER_AT: u64 = 1024;
/// What ends the first page: format 2, the only one since Linux 2.5.
pub const MAGIC: &[u8; 10] = b"SWAPSPACE2";
/// Where the label is in the first page: behind three 32-bit words and a UUID.
pub const LABEL_AT: u64 = HEADER_AT + 28;
/// The label (sws_volume) of areas of ours.
pub const LABEL: &[u8; 16] = b"plimsoll\0\0\0\0\0\0\0\0";
/// Version, last page, bad pages, UUID, label.
const HEADER_BYTES: usize = 12 + 16 + 16;

/// From one look at the memory's size to the next, in microseconds: 10 s. Memory
/// is plugged in within seconds, and nothing tells of it.
const LOOK_US: u64 = 10_000_000;
/// After a failure, in microseconds: 120 s, as Kata's runtime has it.
const RETRY_US: u64 = 120_000_000;
/// After many, each wait having been twice the last: an hour. A disk that is
/// full for a day costs 28 attempts.
const RETRY_US_MAX: u64 = 3_600_000_000;

/// Swap that a machine with this memory is to have, in bytes.
#[must_use]
pub fn wanted_bytes(mem_total_bytes: u64, percent: u64) -> u64 {
    (mem_total_bytes / 100).saturating_mul(percent)
}

/// What one more area must have, in bytes; 0 where none is worth it.
#[must_use]
pub fn missing_bytes(wanted_bytes: u64, present: Present) -> u64 {
    let missing = wanted_bytes.saturating_sub(present.bytes);
    let least = AREA_BYTES_MIN.max(present.bytes / PART_MIN);
    if missing < least || present.areas >= AREAS_MAX { 0 } else { missing }
}

/// memory.swap.max of QM beside this much swap of ours: what the board file
/// says, and where it says nothing, all of it.
#[must_use]
pub fn qm_swap_max(named: Option<Limit>, present: Present) -> Limit {
    named.unwrap_or(Limit::Bytes(present.bytes))
}

/// The fields of the header at [`HEADER_AT`], of an area of so many pages of the
/// running kernel, the header's own among them. [`MAGIC`] goes to the page's
/// end; all else in it is 0.
#[must_use]
pub fn header(pages: u64, uuid: Uuid) -> [u8; HEADER_BYTES] {
    let last_page = u32::try_from(pages.saturating_sub(1)).unwrap_or(u32::MAX);
    let mut header = [0; HEADER_BYTES];
    header[..4].copy_from_slice(&1_u32.to_ne_bytes());
    header[4..8].copy_from_slice(&last_page.to_ne_bytes());
    header[12..28].copy_from_slice(&uuid.0);
    header[28..].copy_from_slice(LABEL);
    header
}

/// 16 random bytes as a UUID (version 4 of RFC 9562).
#[must_use]
pub fn random_uuid(mut bytes: [u8; 16]) -> Uuid {
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    Uuid(bytes)
}

/// Swap of ours that the kernel uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Present {
    /// Bytes that can be swapped to.
    pub bytes: u64,
    /// How many areas.
    pub areas: usize,
}

impl Present {
    /// With one more.
    pub fn add(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_add(bytes);
        self.areas = self.areas.saturating_add(1);
    }
}

/// An area that may be ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Area<'a> {
    /// The zram device, whose label tells whose it is; `None` is a file called
    /// as ours are.
    pub zram: Option<&'a str>,
    /// Bytes that can be swapped to.
    pub bytes: u64,
}

/// Reads a line of /proc/swaps (swap_show() in mm/swapfile.c): name, type, size
/// and use in KiB, priority. The name has its blanks in octal, so that words
/// are fields; the names looked for have none. `None` is what is not ours.
#[must_use]
pub fn area(line: &str) -> Option<Area<'_>> {
    let mut words = line.split_ascii_whitespace();
    let (name, kib) = (words.next()?, words.nth(1)?);
    let zram = name.starts_with("/dev/zram");
    let file = name.as_bytes().rsplit(|byte| *byte == b'/').next()?;
    if !zram && !file.starts_with(FILE_PREFIX.as_bytes()) {
        return None;
    }
    Some(Area { zram: zram.then_some(name), bytes: decimal(kib)?.saturating_mul(1024) })
}

/// What making an area can fail at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Another is being made still.
    Lock,
    /// The directory can't be had.
    Directory,
    /// Others than root can write to the directory.
    Shared,
    /// The file system can't hold swap files.
    FileSystem,
    /// All names are taken.
    Names,
    /// There is not enough free space.
    Space,
    /// The file can't be written.
    Write,
    /// The file is not what was written.
    Check,
    /// The header can't be written, or is not there afterwards.
    Header,
    /// The kernel takes no more swap, or not this.
    Swapon,
    /// No zram device can be had, such as where the module is not loaded.
    Device,
    /// The kernel doesn't have the algorithm.
    Algorithm,
    /// The kernel refuses the size.
    Size,
}

impl Step {
    /// What a person is told.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Lock => "another is being made",
            Self::Directory => "directory",
            Self::Shared => "directory that others can write",
            Self::FileSystem => "file system without swap files",
            Self::Names => "all names in use",
            Self::Space => "free space",
            Self::Write => "write",
            Self::Check => "file with holes",
            Self::Header => "header",
            Self::Swapon => "swapon",
            Self::Device => "no zram device; is the module loaded?",
            Self::Algorithm => "zram algorithm",
            Self::Size => "zram size",
        }
    }
}

/// Decides when an area is made. One per worker, from its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swap {
    mem_total_bytes: u64,
    /// Since when the memory has had this size.
    since_us: u64,
    making: bool,
    /// Wait of the last failure, 0 after a success.
    retry_us: u64,
    /// When it is over.
    retry_at_us: u64,
    /// See [`Self::next_us`].
    next_us: u64,
}

impl Swap {
    /// How many bytes to make now, with [`Self::made`] called at the end; `None`
    /// is nothing. May be called at any time, and must be at
    /// [`Self::next_us`]. `threshold_secs` is how long the memory's size must
    /// have been seen unchanged. Where it isn't known what is `present`, nothing
    /// is made.
    pub fn tick(
        &mut self,
        now_us: u64,
        mem_total_bytes: u64,
        present: Option<Present>,
        percent: u64,
        threshold_secs: u64,
    ) -> Option<u64> {
        if self.mem_total_bytes != mem_total_bytes {
            self.mem_total_bytes = mem_total_bytes;
            self.since_us = now_us;
        }
        self.next_us = now_us.saturating_add(LOOK_US);
        let missing = missing_bytes(wanted_bytes(mem_total_bytes, percent), present?);
        if missing == 0 || self.making {
            return None;
        }
        let stable_us = self.since_us.saturating_add(threshold_secs.saturating_mul(1_000_000));
        let due_us = stable_us.max(self.retry_at_us);
        if now_us < due_us {
            self.next_us = self.next_us.min(due_us);
            return None;
        }
        self.making = true;
        Some(missing)
    }

    /// The making that [`Self::tick`] asked for is over.
    pub fn made(&mut self, now_us: u64, succeeded: bool) {
        self.making = false;
        self.retry_us = match self.retry_us {
            _ if succeeded => 0,
            0 => RETRY_US,
            last => last.saturating_mul(2).min(RETRY_US_MAX),
        };
        self.retry_at_us = now_us.saturating_add(self.retry_us);
        self.next_us = now_us;
    }

    /// A setting changed: what failed before may succeed now. The next
    /// [`Self::tick`] is due.
    pub fn changed(&mut self) {
        (self.retry_us, self.retry_at_us, self.next_us) = (0, 0, 0);
    }

    /// When the next [`Self::tick`] is due; 0 is at once.
    #[must_use]
    pub fn next_us(&self) -> u64 {
        self.next_us
    }
}

#[cfg(test)]
mod tests;
