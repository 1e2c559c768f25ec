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
use self::ext4::Fault;
use self::gpt::{Entry, SECTOR};
use crate::board::{Identity, Uuid};
use crate::kernel::{self, Errno, Kernel};
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
    /// UUID of the GPT entry; `None` on a whole disk or without a GPT.
    pub partition_uuid: Option<Uuid>,
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
    let mut search = Search { identity, found: None, hint: None, error: None };
    let volume = search.run(kernel, &devices);
    match (volume, search.error) {
        (_, Some(error)) => Err(error),
        (Ok(Some(volume)), None) => Ok(volume),
        _ => Err(VolumeError::NotFound { hint: search.hint }),
    }
}

struct Candidate {
    name: Name,
    partition_uuid: Option<Uuid>,
    /// Bytes of its file system, if that is sound.
    filesystem: Result<u64, Fault>,
}

struct Search<'a> {
    identity: &'a Identity<'a>,
    found: Option<Candidate>,
    hint: Option<Hint>,
    /// What ended it, see [`Ended`].
    error: Option<VolumeError>,
}

/// The search is over: it has its error.
struct Ended;

impl Search<'_> {
    fn run<K: Kernel>(
        &mut self,
        kernel: &mut K,
        devices: &[Name],
    ) -> Result<Option<Volume>, Ended> {
        let mut rest = devices;
        while let Some((disk, after)) = rest.split_first() {
            let is_partition = |name: &&Name| devices::partition_number(disk, name).is_some();
            let partitions = after.iter().take_while(is_partition).count();
            let (partitions, others) = after.split_at_checked(partitions).unwrap_or_default();
            self.disk(kernel, disk, partitions)?;
            rest = others;
        }
        self.found.take().map(|candidate| self.volume(kernel, candidate)).transpose()
    }

    fn end(&mut self, error: VolumeError) -> Ended {
        self.error = Some(error);
        Ended
    }

    /// What the kernel answered of a device, if that is no error.
    fn answer<T>(&mut self, device: &Name, answer: kernel::Result<T>) -> Result<T, Ended> {
        answer.map_err(|errno| self.unreadable(device, errno))
    }

    #[inline(never)]
    fn unreadable(&mut self, device: &Name, errno: Errno) -> Ended {
        self.end(VolumeError::Io { device: device.clone(), errno })
    }

    fn disk<K: Kernel>(
        &mut self,
        kernel: &mut K,
        disk: &Name,
        partitions: &[Name],
    ) -> Result<(), Ended> {
        let table = if partitions.is_empty() { Ok(None) } else { gpt::read(kernel, disk) };
        let table = self.answer(disk, table)?;
        if table.is_none() && self.answer(disk, gpt::is_signed(kernel, disk))? {
            self.hint.get_or_insert(Hint::Table(disk.clone()));
            if partitions.is_empty() {
                // A table of which the kernel made nothing: if there are bytes
                // of a superblock beside it, they are left over.
                return Ok(());
            }
        }
        if partitions.is_empty() {
            return self.consider(kernel, disk, None);
        }
        for name in partitions {
            let number = devices::partition_number(disk, name);
            let entry = match (&table, number) {
                (Some(table), Some(number)) => table.entry(kernel, disk, number),
                _ => Ok(None),
            };
            let mut entry = self.answer(disk, entry)?;
            if let Some(found) = &entry {
                let start = devices::attribute(kernel, name, "start");
                if self.answer(name, start)? != Some(found.start) {
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
    ) -> Result<(), Ended> {
        let is_qm_var = entry.is_some_and(|entry| entry.type_uuid == QM_VAR);
        let partition_uuid = entry.map(|entry| entry.uuid);
        let by_table = match self.identity {
            Identity { partition_uuid: None, fs_uuid: None, label: None } => is_qm_var,
            Identity { partition_uuid: None, .. } => true,
            Identity { partition_uuid: wanted, .. } => partition_uuid == *wanted,
        };
        let mut raw = [0; ext4::BYTES];
        let read = match by_table {
            true => devices::read(kernel, name, ext4::OFFSET, &mut raw),
            false => Ok(None),
        };
        if self.answer(name, read)?.is_some() {
            let filesystem = ext4::check(&raw);
            let excused = filesystem.is_err() && self.identity.partition_uuid.is_some();
            if excused || self.matches(&raw, entry) {
                let second = name.clone();
                if let Some(Candidate { name: first, .. }) = self.found.take() {
                    return Err(self.end(VolumeError::Ambiguous { first, second }));
                }
                self.found = Some(Candidate { name: second, partition_uuid, filesystem });
                return Ok(());
            }
        }
        if is_qm_var {
            self.hint = Some(Hint::Differs(name.clone()));
        }
        Ok(())
    }

    fn volume<K: Kernel>(&mut self, kernel: &mut K, candidate: Candidate) -> Result<Volume, Ended> {
        let Candidate { name, partition_uuid, filesystem } = candidate;
        let what = match filesystem {
            Ok(filesystem) => {
                let sectors = devices::attribute(kernel, &name, "size");
                let sectors = self.answer(&name, sectors)?;
                let device = sectors.map_or(u64::MAX, |sectors| sectors.saturating_mul(SECTOR));
                if filesystem <= device {
                    let device = self.answer(&name, path(format_args!("/dev/{name}")))?;
                    return Ok(Volume { device, partition_uuid });
                }
                Fault::LargerThanDevice { filesystem, device }
            }
            Err(what) => what,
        };
        Err(self.end(VolumeError::Corrupt { device: name, what }))
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
