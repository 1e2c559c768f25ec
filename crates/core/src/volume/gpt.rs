//! The GUID partition table, as far as one entry at a time goes (UEFI
//! specification 2.10, chapter 5.3).

use super::bytes::{array, u16_at, u32_at, u64_at};
use super::crc::Crc32;
use super::devices::{self, CHUNK, Name};
use crate::board::Uuid;
use crate::kernel::{Kernel, Result};

const SIGNATURE: &[u8; 8] = b"EFI PART";
/// The fields the specification names.
const HEADER_MIN: u32 = 92;
/// The smallest logical block. A header may fill its block, but none is known
/// to be longer than `HEADER_MIN`.
const HEADER_MAX: usize = 512;
/// The one length Linux takes.
const ENTRY_BYTES: usize = 128;
/// The usual table has 128 entries and Linux makes devices for the first 255;
/// this many, 128 KiB, are summed in some 10 ms on a slow CPU.
const ENTRIES_MAX: u32 = 1024;
/// What /sys counts sizes and starts in, in bytes, whatever the disk's block.
pub(super) const SECTOR: u64 = 512;

/// A table whose checksums agree: where its entries lie.
pub(super) struct Table {
    block_bytes: u64,
    entries_offset: u64,
    entries: u32,
}

/// One used entry.
pub(super) struct Entry {
    pub(super) type_uuid: Uuid,
    pub(super) uuid: Uuid,
    /// In `SECTOR`s.
    pub(super) start: u64,
    /// UTF-16, padded with NUL.
    name: [u16; 36],
}

impl Entry {
    /// Whether this is exactly the entry's name.
    pub(super) fn is_named(&self, name: &str) -> bool {
        let mut units = self.name.iter().copied().take_while(|&unit| unit != 0);
        name.encode_utf16().all(|unit| units.next() == Some(unit)) && units.next().is_none()
    }
}

/// Whether the primary header's place is signed as one, sound or not.
pub(super) fn is_signed<K: Kernel>(kernel: &mut K, disk: &Name) -> Result<bool> {
    let block_bytes = block_bytes(kernel, disk)?;
    let mut signature = [0; SIGNATURE.len()];
    let read = devices::read(kernel, disk, block_bytes, &mut signature)?;
    Ok(read.is_some() && signature == *SIGNATURE)
}

/// The disk's table: the primary one, or where that is damaged the backup in
/// the disk's last block. `None` if neither is sound.
pub(super) fn read<K: Kernel>(kernel: &mut K, disk: &Name) -> Result<Option<Table>> {
    let block_bytes = block_bytes(kernel, disk)?;
    if let Some(table) = read_copy(kernel, disk, block_bytes, 1)? {
        return Ok(Some(table));
    }
    let sectors = devices::attribute(kernel, disk, "size")?.unwrap_or(0);
    match sectors.checked_div(block_bytes / SECTOR).and_then(|blocks| blocks.checked_sub(1)) {
        Some(last) => read_copy(kernel, disk, block_bytes, last),
        None => Ok(None),
    }
}

/// The disk's logical block; 512 where the kernel doesn't tell a plausible one.
fn block_bytes<K: Kernel>(kernel: &mut K, disk: &Name) -> Result<u64> {
    let told = devices::attribute(kernel, disk, "queue/logical_block_size")?;
    Ok(told.filter(|bytes| bytes.is_power_of_two() && *bytes >= SECTOR).unwrap_or(SECTOR))
}

fn read_copy<K: Kernel>(
    kernel: &mut K,
    disk: &Name,
    block_bytes: u64,
    lba: u64,
) -> Result<Option<Table>> {
    let mut header = [0; HEADER_MAX];
    let Some(offset) = lba.checked_mul(block_bytes) else { return Ok(None) };
    if devices::read(kernel, disk, offset, &mut header)?.is_none() {
        return Ok(None);
    }
    let Some((table, sum)) = parse_header(&mut header, block_bytes, lba) else { return Ok(None) };
    Ok((sum_entries(kernel, disk, &table)? == Some(sum)).then_some(table))
}

/// The table a header tells of, and the CRC-32 its entries should have.
fn parse_header(header: &mut [u8; HEADER_MAX], block_bytes: u64, lba: u64) -> Option<(Table, u32)> {
    let size = u32_at(header, 12);
    let stored = u32_at(header, 16);
    // The header's sum is over itself with the sum as 0.
    header[16..20].fill(0);
    if !header.starts_with(SIGNATURE) || size < HEADER_MIN {
        return None;
    }
    let mut crc = Crc32::new();
    crc.update(header.get(..usize::try_from(size).ok()?)?);
    if crc.finish() != stored || u64_at(header, 24) != lba {
        return None;
    }
    let entries = u32_at(header, 80);
    if u32_at(header, 84) as usize != ENTRY_BYTES || entries > ENTRIES_MAX {
        return None;
    }
    let entries_offset = u64_at(header, 72).checked_mul(block_bytes)?;
    // From here on an offset within the entries cannot overflow.
    entries_offset.checked_add(u64::from(entries) * ENTRY_BYTES as u64)?;
    Some((Table { block_bytes, entries_offset, entries }, u32_at(header, 88)))
}

fn sum_entries<K: Kernel>(kernel: &mut K, disk: &Name, table: &Table) -> Result<Option<u32>> {
    let mut crc = Crc32::new();
    let mut chunk = [0; CHUNK];
    let mut offset = table.entries_offset;
    let mut left = table.entries as usize * ENTRY_BYTES;
    while left > 0 {
        let part = &mut chunk[..left.min(CHUNK)];
        if devices::read(kernel, disk, offset, part)?.is_none() {
            return Ok(None);
        }
        crc.update(part);
        offset += part.len() as u64;
        left -= part.len();
    }
    Ok(Some(crc.finish()))
}

impl Table {
    /// The entry of a partition, numbered from 1; `None` if there is no such
    /// entry or it is unused.
    pub(super) fn entry<K: Kernel>(
        &self,
        kernel: &mut K,
        disk: &Name,
        number: u32,
    ) -> Result<Option<Entry>> {
        let Some(index) = number.checked_sub(1).filter(|index| *index < self.entries) else {
            return Ok(None);
        };
        let mut raw = [0; ENTRY_BYTES];
        let offset = self.entries_offset + u64::from(index) * ENTRY_BYTES as u64;
        if devices::read(kernel, disk, offset, &mut raw)?.is_none() {
            return Ok(None);
        }
        let type_uuid = guid(array(&raw, 0));
        if type_uuid == Uuid([0; 16]) {
            return Ok(None);
        }
        let start = u64_at(&raw, 32).saturating_mul(self.block_bytes / SECTOR);
        let name = core::array::from_fn(|unit| u16_at(&raw, 56 + 2 * unit));
        Ok(Some(Entry { type_uuid, uuid: guid(array(&raw, 16)), start, name }))
    }
}

/// A GUID on disk has its first three fields little-endian; a [`Uuid`] has all
/// bytes in the order of its text.
fn guid(raw: [u8; 16]) -> Uuid {
    let mut text = raw;
    text.swap(0, 3);
    text.swap(1, 2);
    text.swap(4, 5);
    text.swap(6, 7);
    Uuid(text)
}
