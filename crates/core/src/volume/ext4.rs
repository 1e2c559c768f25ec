//! The ext4 superblock: who a file system is, and whether it is one.
//!
//! Offsets are those of struct ext4_super_block in the kernel's
//! fs/ext4/ext4.h (Documentation/filesystems/ext4/super.rst).

use core::fmt;

use super::bytes::{array, u16_at, u32_at};
use super::crc::crc32c_raw;
use crate::board::Uuid;

/// Where the superblock begins on the device, in bytes.
pub const OFFSET: u64 = 1024;
/// How long it is, in bytes.
pub const BYTES: usize = 1024;

const MAGIC: u16 = 0xef53;
/// The only revision with a UUID and feature flags; the kernel knows none above.
const DYNAMIC_REVISION: u32 = 1;
/// Blocks are 1024 << n bytes, n up to this: 64 KiB (EXT4_MAX_BLOCK_LOG_SIZE).
const LOG_BLOCK_SIZE_MAX: u32 = 6;
const INCOMPAT_64BIT: u32 = 0x80;
const RO_COMPAT_METADATA_CSUM: u32 = 0x400;
const CHECKSUM_CRC32C: u8 = 1;
const CHECKSUM_AT: usize = 0x3fc;

/// Why a device's superblock isn't one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// No ext4: this stands where the magic number should.
    Magic(u16),
    /// A revision other than 1.
    Revision(u32),
    /// The checksum in it, and the one its bytes have.
    Checksum {
        /// What it says.
        stored: u32,
        /// What it should say.
        computed: u32,
    },
    /// A block size or block count that cannot be.
    Geometry,
    /// The file system is larger than the device: both in bytes.
    LargerThanDevice {
        /// Size the superblock tells.
        filesystem: u64,
        /// Size the kernel tells.
        device: u64,
    },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Magic(found) => {
                write!(
                    f,
                    "no ext4: magic {:#06x} instead of {:#06x}",
                    u32::from(found),
                    u32::from(MAGIC)
                )
            }
            Self::Revision(found) => write!(f, "ext4 revision {} instead of 1", u64::from(found)),
            Self::Checksum { stored, computed } => {
                write!(f, "ext4 superblock checksum {stored:#010x} instead of {computed:#010x}")
            }
            Self::Geometry => f.write_str("ext4 block size or count out of range"),
            Self::LargerThanDevice { filesystem, device } => {
                write!(f, "ext4 of {filesystem} bytes on a device of {device}")
            }
        }
    }
}

/// Checks a superblock, as far as it alone allows; the size of the file system
/// in bytes.
///
/// # Errors
/// The first of magic, revision, checksum and geometry that is wrong.
pub fn check(raw: &[u8; BYTES]) -> Result<u64, Fault> {
    let magic = u16_at(raw, 0x38);
    if magic != MAGIC {
        return Err(Fault::Magic(magic));
    }
    let revision = u32_at(raw, 0x4c);
    if revision != DYNAMIC_REVISION {
        return Err(Fault::Revision(revision));
    }
    if u32_at(raw, 0x64) & RO_COMPAT_METADATA_CSUM != 0 {
        let (stored, computed) = (u32_at(raw, CHECKSUM_AT), crc32c_raw(&raw[..CHECKSUM_AT]));
        if stored != computed || raw[0x175] != CHECKSUM_CRC32C {
            return Err(Fault::Checksum { stored, computed });
        }
    }
    let log_block_size = u32_at(raw, 0x18);
    let high = if u32_at(raw, 0x60) & INCOMPAT_64BIT == 0 { 0 } else { u32_at(raw, 0x150) };
    let blocks = u64::from(high) << 32 | u64::from(u32_at(raw, 0x4));
    if log_block_size > LOG_BLOCK_SIZE_MAX || blocks == 0 {
        return Err(Fault::Geometry);
    }
    blocks.checked_mul(1024 << log_block_size).ok_or(Fault::Geometry)
}

/// The UUID in a superblock that need not be sound.
pub(super) fn uuid(raw: &[u8; BYTES]) -> Uuid {
    Uuid(array(raw, 0x68))
}

/// The volume name in a superblock that need not be sound.
pub(super) fn label(raw: &[u8; BYTES]) -> [u8; 16] {
    array(raw, 0x78)
}

/// The part of a volume name before its first NUL.
pub(super) fn trimmed(label: &[u8; 16]) -> &[u8] {
    label.split(|&byte| byte == 0).next().unwrap_or_default()
}
