//! Disks of the kernel in memory: a GPT and superblocks on sparse bytes.
//!
//! The formats are written here from their specifications, sharing nothing
//! with what reads them in `volume`.

extern crate std;

use std::collections::BTreeMap;
use std::format;
use std::string::String;
use std::vec;
use std::vec::Vec;

use super::FakeKernel;
use crate::board::Uuid;

/// What /sys counts in, whatever the disk's block, in bytes.
const SECTOR: u64 = 512;
/// Entries of a GPT, each of 128 bytes.
const ENTRIES: u32 = 128;

/// A partition of a [`Disk`].
#[derive(Clone, Debug)]
pub struct Partition {
    /// Type in the GPT.
    pub type_uuid: Uuid,
    /// UUID in the GPT.
    pub uuid: Uuid,
    /// Name in the GPT, up to 36 UTF-16 units.
    pub name: String,
    /// Length in bytes.
    pub bytes: u64,
    /// What its superblock's place holds: [`ext4_superblock`], or nothing.
    pub superblock: Vec<u8>,
}

/// A block device and the partitions the kernel made of it.
#[derive(Clone, Debug)]
pub struct Disk {
    name: String,
    bytes: u64,
    block_bytes: u64,
    /// Bytes that aren't zero, by offset.
    contents: BTreeMap<u64, u8>,
    /// First byte and length of each partition.
    partitions: Vec<(u64, u64)>,
}

impl Disk {
    /// A disk of zeros, with 512-byte blocks.
    #[must_use]
    pub fn new(name: &str, bytes: u64) -> Self {
        let (contents, partitions) = (BTreeMap::new(), Vec::new());
        Self { name: name.into(), bytes, block_bytes: SECTOR, contents, partitions }
    }

    /// A disk with a GPT, its partitions one after the other from 1 MiB on.
    #[must_use]
    pub fn with_gpt(name: &str, bytes: u64, block_bytes: u64, partitions: &[Partition]) -> Self {
        let mut disk = Self { block_bytes, ..Self::new(name, bytes) };
        let mut entries = Vec::new();
        let mut start = 1 << 20;
        for partition in partitions {
            let last_block = (start + partition.bytes) / block_bytes - 1;
            entries.extend(guid(partition.type_uuid));
            entries.extend(guid(partition.uuid));
            entries.extend((start / block_bytes).to_le_bytes());
            entries.extend(last_block.to_le_bytes());
            entries.extend([0; 8]);
            let name: Vec<u16> = partition.name.encode_utf16().collect();
            entries.extend((0..36).flat_map(|i| name.get(i).unwrap_or(&0).to_le_bytes()));
            disk.write(start + 1024, &partition.superblock);
            disk.set_partition(start, partition.bytes);
            start += partition.bytes;
        }
        entries.resize(ENTRIES as usize * 128, 0);
        let entries_blocks = entries.len() as u64 / block_bytes;
        let last = bytes / block_bytes - 1;
        let sum = !crc(0xedb8_8320, &entries);
        for (lba, other, entries_lba) in [(1, last, 2), (last, 1, last - entries_blocks)] {
            disk.write(entries_lba * block_bytes, &entries);
            let header = header(lba, other, entries_lba, entries_blocks, sum);
            disk.write(lba * block_bytes, &header);
        }
        disk
    }

    /// Tells the kernel of a partition, whatever table there is.
    pub fn set_partition(&mut self, start_byte: u64, bytes: u64) {
        self.partitions.push((start_byte, bytes));
    }

    /// Writes bytes to the disk.
    pub fn write(&mut self, offset: u64, data: &[u8]) {
        for (at, byte) in (offset..).zip(data) {
            self.contents.insert(at, *byte);
        }
        self.contents.retain(|_, byte| *byte != 0);
    }

    /// Reads bytes of the disk; what lies beyond its end reads as 0.
    ///
    /// # Panics
    /// Never: the offset within the result is below its length.
    #[must_use]
    pub fn bytes(&self, offset: u64, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        for (at, byte) in self.contents.range(offset..offset.saturating_add(count as u64)) {
            bytes[usize::try_from(at - offset).expect("below count")] = *byte;
        }
        bytes
    }

    /// Name, first byte and length of the disk and of each of its partitions.
    fn devices(&self) -> impl Iterator<Item = (String, u64, u64)> {
        let separator = if self.name.ends_with(|c: char| c.is_ascii_digit()) { "p" } else { "" };
        let partition = move |(index, &(start, bytes)): (usize, &(u64, u64))| {
            (format!("{}{separator}{}", self.name, index + 1), start, bytes)
        };
        let whole = (self.name.clone(), 0, self.bytes);
        [whole].into_iter().chain(self.partitions.iter().enumerate().map(partition))
    }
}

impl FakeKernel {
    /// Attaches a disk: /dev, /sys/class/block and /proc/partitions have it,
    /// where they are mounted.
    pub fn add_disk(&mut self, disk: Disk) {
        let mut list = self.text("/proc/partitions");
        let major = 254 + self.disks.len();
        for (index, (name, start, bytes)) in disk.devices().enumerate() {
            let sys = format!("/sys/class/block/{name}");
            self.set(&format!("{sys}/size"), format!("{}\n", bytes / SECTOR));
            if index == 0 {
                let block_bytes = format!("{}\n", disk.block_bytes);
                self.set(&format!("{sys}/queue/logical_block_size"), block_bytes);
            } else {
                self.set(&format!("{sys}/partition"), format!("{index}\n"));
                self.set(&format!("{sys}/start"), format!("{}\n", start / SECTOR));
            }
            list += &format!("{major:4}  {index:7} {:10} {name}\n", bytes / 1024);
        }
        self.set("/proc/partitions", list);
        self.disks.push(disk);
    }

    /// Reads a block device up to its end; `None` if the path is none.
    pub(super) fn read_disk(&self, path: &str, offset: u64, buf: &mut [u8]) -> Option<usize> {
        let wanted = path.strip_prefix("/dev/")?;
        let mut all = self.disks.iter().flat_map(|disk| disk.devices().map(move |d| (disk, d)));
        let (disk, (_, start, bytes)) = all.find(|(_, (name, ..))| name == wanted)?;
        let left = bytes.saturating_sub(offset);
        let count = usize::try_from(left).unwrap_or(usize::MAX).min(buf.len());
        if count > 0 {
            buf[..count].copy_from_slice(&disk.bytes(start + offset, count));
        }
        Some(count)
    }
}

/// A sound ext4 superblock of 4 KiB blocks, metadata_csum and 64bit.
///
/// # Panics
/// If the label has more than 16 bytes.
#[must_use]
pub fn ext4_superblock(uuid: Uuid, label: &str, bytes: u64) -> Vec<u8> {
    let mut raw = [0; 1024];
    let mut put = |at: usize, field: &[u8]| raw[at..at + field.len()].copy_from_slice(field);
    let blocks = (bytes / 4096).to_le_bytes();
    assert!(label.len() <= 16, "label too long");
    put(0x4, &blocks[..4]);
    put(0x18, &2_u32.to_le_bytes());
    put(0x38, &0xef53_u16.to_le_bytes());
    put(0x3a, &1_u16.to_le_bytes());
    put(0x4c, &1_u32.to_le_bytes());
    put(0x60, &0x2c2_u32.to_le_bytes());
    put(0x64, &0x46b_u32.to_le_bytes());
    put(0x68, &uuid.0);
    put(0x78, label.as_bytes());
    put(0x150, &blocks[4..]);
    put(0x175, &[1]);
    let sum = crc(0x82f6_3b78, &raw[..0x3fc]);
    raw[0x3fc..].copy_from_slice(&sum.to_le_bytes());
    raw.to_vec()
}

fn header(lba: u64, other: u64, entries_lba: u64, entries_blocks: u64, sum: u32) -> Vec<u8> {
    let last = lba.max(other);
    let mut raw = b"EFI PART\0\0\x01\0".to_vec();
    raw.extend([92_u32, 0, 0].map(u32::to_le_bytes).as_flattened());
    let usable = [2 + entries_blocks, last - entries_blocks - 1];
    raw.extend([lba, other, usable[0], usable[1]].map(u64::to_le_bytes).as_flattened());
    raw.extend([0x55; 16]);
    raw.extend(entries_lba.to_le_bytes());
    raw.extend([ENTRIES, 128, sum].map(u32::to_le_bytes).as_flattened());
    let sum = !crc(0xedb8_8320, &raw);
    raw[16..20].copy_from_slice(&sum.to_le_bytes());
    raw
}

fn guid(uuid: Uuid) -> [u8; 16] {
    let [a, b, c, d, e, f, g, h, rest @ ..] = uuid.0;
    let mut raw = [d, c, b, a, f, e, h, g, 0, 0, 0, 0, 0, 0, 0, 0];
    raw[8..].copy_from_slice(&rest);
    raw
}

/// Bit by bit, reflected, from ~0, not inverted at the end.
fn crc(polynomial: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(!0, |crc: u32, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            if crc & 1 == 1 { crc >> 1 ^ polynomial } else { crc >> 1 }
        })
    })
}
