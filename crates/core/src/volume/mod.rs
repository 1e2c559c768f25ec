//! Finding QM's partition among the kernel's block devices.
//!
//! A device is taken only if everything that the board file says of it is
//! true, nothing else fits, and its file system is a sound ext4.

mod bytes;
mod crc;
mod devices;
pub mod ext4;
mod gpt;
#[cfg(test)]
mod tests;

use core::fmt;

use heapless::String;

pub use self::devices::{DEVICES_MAX, Name};
use self::ext4::{Fault, Superblock};
use self::gpt::{Entry, SECTOR};
use crate::board::{Identity, Uuid};
use crate::kernel::{Errno, Kernel};
use crate::{PATH_MAX, path};

/// automotive-image-builder's GPT type for QM's partition:
/// edfe9f90-3a4d-11f0-b8f8-e89c256c3906.
pub const QM_VAR: Uuid = Uuid([
    0xed, 0xfe, 0x9f, 0x90, 0x3a, 0x4d, 0x11, 0xf0, 0xb8, 0xf8, 0xe8, 0x9c, 0x25, 0x6c, 0x39, 0x06,
]);

/// The device that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// Path of the device, "/dev/vda2".
    pub device: String<PATH_MAX>,
    /// UUID of the file system.
    pub fs_uuid: Uuid,
    /// UUID of the GPT entry; `None` on a whole disk or without a GPT.
    pub partition_uuid: Option<Uuid>,
    /// Label of the file system; what isn't printable ASCII shows as '?'.
    pub label: String<16>,
    /// Size of the file system, in bytes.
    pub size_bytes: u64,
    /// The kernel noted an error in the file system: it wants a check.
    pub has_errors: bool,
}

/// Why no device was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VolumeError {
    /// No device there now fits; waiting may mend it.
    NotFound {
        /// The device that may explain it.
        hint: Option<Hint>,
    },
    /// Two devices fit, or more.
    Ambiguous {
        /// The first.
        first: Name,
        /// The second.
        second: Name,
    },
    /// One device fits, but its file system isn't a sound ext4.
    Corrupt {
        /// The device.
        device: Name,
        /// What is wrong with it.
        what: Fault,
    },
    /// A device cannot be read: whether it fits is unknown, so it can't be
    /// said that only one does.
    Io {
        /// The device.
        device: Name,
        /// The kernel's answer.
        errno: Errno,
    },
    /// /proc/partitions cannot be read.
    List(Errno),
    /// More than [`DEVICES_MAX`] devices.
    TooManyDevices,
}

/// A device that doesn't fit, but looks as if it should.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hint {
    /// A partition of type [`QM_VAR`] that differs in what the board file says.
    Differs(Name),
    /// A disk whose partition table is damaged, or isn't what the kernel goes by.
    Table(Name),
}

impl fmt::Display for VolumeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound { hint: None } => f.write_str("no such device"),
            Self::NotFound { hint: Some(Hint::Differs(name)) } => {
                write!(f, "no such device; {name} has the type qm_var, but differs")
            }
            Self::NotFound { hint: Some(Hint::Table(name)) } => {
                write!(f, "no such device; the partition table of {name} is damaged")
            }
            Self::Ambiguous { first, second } => write!(f, "both {first} and {second} fit"),
            Self::Corrupt { device, what } => write!(f, "{device}: {what}"),
            Self::Io { device, errno } => write!(f, "{device}: cannot be read: {errno}"),
            Self::List(errno) => write!(f, "/proc/partitions: {errno}"),
            Self::TooManyDevices => write!(f, "more than {DEVICES_MAX} block devices"),
        }
    }
}

/// What is looked for, in words.
impl fmt::Display for Identity<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { partition_uuid, fs_uuid, label } = self;
        let mut separator = "";
        if let Some(uuid) = partition_uuid {
            write!(f, "partition UUID {uuid}")?;
            separator = ", ";
        }
        if let Some(uuid) = fs_uuid {
            write!(f, "{separator}file-system UUID {uuid}")?;
            separator = ", ";
        }
        match label {
            Some(label) => write!(f, "{separator}label {label}"),
            None if separator.is_empty() => f.write_str("GPT type qm_var"),
            None => Ok(()),
        }
    }
}

/// Looks once at all block devices that are there, for the one that
/// `identity` tells: all of its fields must match, and without any the GPT type
/// must be [`QM_VAR`]. A label is the file system's or the GPT entry's.
///
/// Candidates are all partitions, and disks without a partition table. A GPT
/// counts only if its checksums agree, and an entry only if the kernel's
/// partition begins where the entry says.
///
/// What makes two candidates:
/// - By what the GPT says, two entries are two, whatever their contents.
/// - By file-system UUID or label, two superblocks that carry it are two, even
///   if one is damaged otherwise: which of the two held QM's data before the
///   damage nobody can tell. One in which the UUID itself is gone is none.
/// - Where the partition UUID is asked for and found, a damaged superblock
///   can't rule the device out.
///
/// # Errors
/// See [`VolumeError`]. Only [`VolumeError::NotFound`] may be mended by
/// waiting for devices to appear.
pub fn find<K: Kernel>(kernel: &mut K, identity: &Identity<'_>) -> Result<Volume, VolumeError> {
    let devices = devices::list(kernel)?;
    let mut search = Search { identity, found: None, hint: None };
    let mut rest = devices.as_slice();
    while let Some((disk, after)) = rest.split_first() {
        let is_partition = |name: &&Name| devices::partition_number(disk, name).is_some();
        let (partitions, others) = after.split_at(after.iter().take_while(is_partition).count());
        search.disk(kernel, disk, partitions)?;
        rest = others;
    }
    match search.found {
        Some(candidate) => candidate.into_volume(kernel),
        None => Err(VolumeError::NotFound { hint: search.hint }),
    }
}

fn io(device: &Name, errno: Errno) -> VolumeError {
    VolumeError::Io { device: device.clone(), errno }
}

struct Candidate {
    name: Name,
    partition_uuid: Option<Uuid>,
    superblock: Result<Superblock, Fault>,
}

struct Search<'a> {
    identity: &'a Identity<'a>,
    found: Option<Candidate>,
    hint: Option<Hint>,
}

impl Search<'_> {
    fn disk<K: Kernel>(
        &mut self,
        kernel: &mut K,
        disk: &Name,
        partitions: &[Name],
    ) -> Result<(), VolumeError> {
        if partitions.is_empty() {
            // A table of which the kernel made nothing: if there are bytes of
            // a superblock beside it, they are left over.
            if gpt::is_signed(kernel, disk).map_err(|errno| io(disk, errno))? {
                self.hint.get_or_insert(Hint::Table(disk.clone()));
                return Ok(());
            }
            return self.consider(kernel, disk, None);
        }
        let table = gpt::read(kernel, disk).map_err(|errno| io(disk, errno))?;
        if table.is_none() && gpt::is_signed(kernel, disk).map_err(|errno| io(disk, errno))? {
            self.hint.get_or_insert(Hint::Table(disk.clone()));
        }
        for name in partitions {
            let number = devices::partition_number(disk, name);
            let mut entry = match (&table, number) {
                (Some(table), Some(number)) => {
                    table.entry(kernel, disk, number).map_err(|errno| io(disk, errno))?
                }
                _ => None,
            };
            if let Some(found) = &entry {
                let start = devices::attribute(kernel, name, "start");
                if start.map_err(|errno| io(name, errno))? != Some(found.start) {
                    self.hint.get_or_insert(Hint::Table(disk.clone()));
                    entry = None;
                }
            }
            self.consider(kernel, name, entry.as_ref())?;
        }
        Ok(())
    }

    fn consider<K: Kernel>(
        &mut self,
        kernel: &mut K,
        name: &Name,
        entry: Option<&Entry>,
    ) -> Result<(), VolumeError> {
        let is_qm_var = entry.is_some_and(|entry| entry.type_uuid == QM_VAR);
        let partition_uuid = entry.map(|entry| entry.uuid);
        let by_table = match self.identity {
            Identity { partition_uuid: None, fs_uuid: None, label: None } => is_qm_var,
            Identity { partition_uuid: None, .. } => true,
            Identity { partition_uuid: wanted, .. } => partition_uuid == *wanted,
        };
        let mut raw = [0; ext4::BYTES];
        let read = if by_table { devices::read(kernel, name, ext4::OFFSET, &mut raw) } else { Ok(None) };
        if read.map_err(|errno| io(name, errno))?.is_some() {
            let superblock = Superblock::parse(&raw);
            let excused = superblock.is_err() && self.identity.partition_uuid.is_some();
            if excused || self.matches(&raw, entry) {
                let second = name.clone();
                if let Some(Candidate { name: first, .. }) = self.found.take() {
                    return Err(VolumeError::Ambiguous { first, second });
                }
                self.found = Some(Candidate { name: second, partition_uuid, superblock });
                return Ok(());
            }
        }
        if is_qm_var {
            self.hint = Some(Hint::Differs(name.clone()));
        }
        Ok(())
    }

    /// Whether the superblock's fields are those wanted.
    fn matches(&self, raw: &[u8; ext4::BYTES], entry: Option<&Entry>) -> bool {
        let is_labelled = |label: &str| {
            ext4::trimmed(&ext4::label(raw)) == label.as_bytes()
                || entry.is_some_and(|entry| entry.is_named(label))
        };
        self.identity.fs_uuid.is_none_or(|wanted| ext4::uuid(raw) == wanted)
            && self.identity.label.is_none_or(is_labelled)
    }
}

impl Candidate {
    fn into_volume<K: Kernel>(self, kernel: &mut K) -> Result<Volume, VolumeError> {
        let Self { name, partition_uuid, superblock } = self;
        let corrupt = |what| VolumeError::Corrupt { device: name.clone(), what };
        let superblock = superblock.map_err(corrupt)?;
        let filesystem = superblock.size_bytes;
        let sectors = devices::attribute(kernel, &name, "size");
        if let Some(sectors) = sectors.map_err(|errno| io(&name, errno))? {
            let device = sectors.saturating_mul(SECTOR);
            if filesystem > device {
                return Err(corrupt(Fault::LargerThanDevice { filesystem, device }));
            }
        }
        let printable = |&byte: &u8| match byte {
            b' '..=b'~' => char::from(byte),
            _ => '?',
        };
        Ok(Volume {
            device: path(format_args!("/dev/{name}")).map_err(|errno| io(&name, errno))?,
            fs_uuid: superblock.uuid,
            partition_uuid,
            label: ext4::trimmed(&superblock.label).iter().map(printable).collect(),
            size_bytes: filesystem,
            has_errors: superblock.has_errors,
        })
    }
}
