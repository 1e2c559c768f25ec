//! The kernel's block devices: their names, a few attributes, their bytes.

use heapless::{String, Vec};

use super::VolumeError;
use crate::kernel::{Errno, Kernel, Result};
use crate::number::decimal;
use crate::path;

/// A device's name below /dev; the kernel allows 31 bytes (BDEVNAME_SIZE).
pub type Name = String<32, u8>;

/// Devices looked at. A UFS store with eight logical units and A/B firmware
/// slots has about 110 partitions, and an SD card or a USB stick may join them.
pub const DEVICES_MAX: usize = 256;

/// Read at once: four reads make the usual 16 KiB of GPT entries, and
/// /proc/partitions fits into one up to about 150 devices.
pub(super) const CHUNK: usize = 4096;

/// A line of /proc/partitions: two device numbers, a size of 20 digits, a name.
const LINE_MAX: usize = 96;

/// What cannot be QM's own partition, or shows one a second time:
/// - ram, zram: forgotten at power-off;
/// - loop: a file that may well be an image of the partition;
/// - dm-, md: built from other devices, which carry the same file system or
///   parts of it; nothing assembles them before plimsoll runs;
/// - nbd: another machine's disk;
/// - fd, sr: seconds for a motor to start, and nothing QM could write to;
/// - mtdblock: raw flash, which has no place for ext4, and whose bad blocks
///   read as errors.
const SKIPPED: [&str; 9] = ["dm-", "fd", "loop", "md", "mtdblock", "nbd", "ram", "sr", "zram"];

fn is_skipped(name: &str) -> bool {
    let numbered = |rest: &str| rest.starts_with(|c: char| c.is_ascii_digit());
    SKIPPED.iter().any(|prefix| name.strip_prefix(prefix).is_some_and(numbered))
}

/// The device of one line of /proc/partitions, unless it is skipped. Names
/// with other characters (old RAID controllers' "cciss/c0d0") would need
/// another spelling below /sys; no board has them.
fn parse_line(line: &[u8]) -> Option<Name> {
    let mut words = core::str::from_utf8(line).ok()?.split_ascii_whitespace();
    for _ in 0..3 {
        decimal(words.next()?)?;
    }
    let name = words.next()?;
    let plain = name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-' || c == b'_');
    if !plain || is_skipped(name) {
        return None;
    }
    Name::try_from(name).ok()
}

/// All devices worth a look, in the kernel's order: a disk, then its partitions.
pub(super) fn list<K: Kernel>(
    kernel: &mut K,
) -> core::result::Result<Vec<Name, DEVICES_MAX>, VolumeError> {
    let mut devices = Vec::new();
    let mut line: Vec<u8, LINE_MAX> = Vec::new();
    let mut chunk = [0; CHUNK];
    let mut offset = 0_u64;
    loop {
        let count = kernel.read_at("/proc/partitions", offset, &mut chunk);
        let bytes = chunk.get(..count.map_err(VolumeError::List)?).unwrap_or(&chunk);
        for &byte in bytes {
            if byte != b'\n' {
                // What is cut here is longer than any line with a name of ours.
                let _ = line.push(byte);
                continue;
            }
            if let Some(name) = parse_line(&line) {
                devices.push(name).map_err(|_| VolumeError::TooManyDevices)?;
            }
            line.clear();
        }
        if bytes.len() < CHUNK {
            return Ok(devices);
        }
        offset = offset.saturating_add(CHUNK as u64);
    }
}

/// The number of a partition by its name, the kernel's way: the disk's name,
/// a "p" if that ends in a digit, the number.
pub(super) fn partition_number(disk: &str, name: &str) -> Option<u32> {
    let rest = name.strip_prefix(disk)?;
    let digits =
        if disk.ends_with(|c: char| c.is_ascii_digit()) { rest.strip_prefix('p')? } else { rest };
    // decimal() would take a sign.
    if !digits.bytes().all(|c| c.is_ascii_digit()) || digits.starts_with('0') {
        return None;
    }
    u32::try_from(decimal(digits)?).ok()
}

/// /sys/class/block/NAME/ATTRIBUTE as a number; `None` where it isn't there.
pub(super) fn attribute<K: Kernel>(
    kernel: &mut K,
    name: &Name,
    attribute: &str,
) -> Result<Option<u64>> {
    let path = path(format_args!("/sys/class/block/{name}/{attribute}"))?;
    // 20 digits and the line's end.
    let mut text = [0; 24];
    let count = match kernel.read_at(&path, 0, &mut text) {
        Ok(count) => count,
        Err(Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(errno),
    };
    let text = text.get(..count).and_then(|text| core::str::from_utf8(text).ok());
    Ok(text.and_then(|text| decimal(text.trim_ascii_end())))
}

/// Fills `buf` from the device; `None` if the device has gone, or hasn't its
/// node yet, or ends before.
pub(super) fn read<K: Kernel>(
    kernel: &mut K,
    name: &Name,
    offset: u64,
    buf: &mut [u8],
) -> Result<Option<()>> {
    /// No medium found.
    const NOMEDIUM: Errno = Errno(123);
    let path = path(format_args!("/dev/{name}"))?;
    match kernel.read_at(&path, offset, buf) {
        Ok(count) => Ok((count >= buf.len()).then_some(())),
        Err(Errno::NOENT | Errno::NXIO | Errno::NODEV | NOMEDIUM) => Ok(None),
        Err(errno) => Err(errno),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let name = |line: &str| parse_line(line.as_bytes()).map(|name| name.to_string());
        assert_eq!(name(" 254        1    1048576 vda1").as_deref(), Some("vda1"));
        assert_eq!(name(" 179        0 18446744073709551615 mmcblk0").as_deref(), Some("mmcblk0"));
        for line in [
            "major minor  #blocks  name",
            "",
            " 254 1 1",
            " 254 1 x vda1",
            " 104 0 1 cciss/c0d0",
            " 1 0 1 ../../etc/passwd",
            " 1 0 1 ram0",
            " 7 0 1 loop0p1",
            " 253 0 1 dm-0",
            " 2 0 1 fd0",
            " 11 0 1 sr0",
            " 1 0 1 a-name-longer-than-the-thirty-one-bytes-of-the-kernel",
        ] {
            assert_eq!(name(line), None, "{line}");
        }
        assert_eq!(name(" 8 0 1 ramdisk").as_deref(), Some("ramdisk"));
    }

    #[test]
    fn numbers() {
        for (disk, name, number) in [
            ("vda", "vda1", Some(1)),
            ("vda", "vda12", Some(12)),
            ("mmcblk0", "mmcblk0p3", Some(3)),
            ("nvme0n1", "nvme0n1p128", Some(128)),
            ("vda", "vda", None),
            ("vda", "vdaa", None),
            ("vda", "vda0", None),
            ("vda", "vda01", None),
            ("vda", "vda+1", None),
            ("vda", "vdb1", None),
            ("mmcblk0", "mmcblk0boot0", None),
            ("mmcblk1", "mmcblk12", None),
            ("mmcblk0", "mmcblk0p", None),
            ("vda", "vda99999999999", None),
        ] {
            assert_eq!(partition_number(disk, name), number, "{disk} {name}");
        }
    }
}
