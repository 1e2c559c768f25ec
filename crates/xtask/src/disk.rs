//! The virtio disk of a QEMU board: a raw file with a GPT that holds QM's
//! partition and one for the host, both ext4.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};
use gpt::GptConfig;
use gpt::disk::LogicalBlockSize;
use gpt::mbr::ProtectiveMBR;
use gpt::partition::Partition;
use gpt::partition_types::{self, OperatingSystem, Type};
use uuid::Uuid;

use crate::command;

/// Bytes in a sector of the disks made here.
pub const SECTOR: u64 = 512;
/// The GPT type of QM's partition in automotive-image-builder.
pub const VAR_QM_TYPE: Uuid = Uuid::from_u128(0xedfe_9f90_3a4d_11f0_b8f8_e89c_256c_3906);
/// The partition's UUID there, where a manifest names no other.
pub const VAR_QM_PARTITION_UUID: Uuid = Uuid::from_u128(0xc36a_70ca_8827_4e0e_977e_7179_ccfe_0e65);
/// Its file system's UUID there, where a manifest names no other.
pub const VAR_QM_FS_UUID: Uuid = Uuid::from_u128(0xe241_b638_7301_406c_b11f_d538_be52_11a6);
/// Partitions begin on multiples of 1 MiB, as all partitioning tools do.
const ALIGNMENT: u64 = 2048;
/// Sectors at the end of a disk: the second GPT, header and 128 entries.
const BACKUP_SECTORS: u64 = 33;
/// Less than 4 MiB left on the disk get no partition: ext4 would hold nothing.
const ROOT_SECTORS_MIN: u64 = 8192;

/// A disk to be made. Scenarios change fields to get what a board must not be
/// confused by.
#[derive(Clone, Debug)]
pub struct Disk {
    /// Size of the whole disk.
    pub bytes: u64,
    /// QM's partition; `None`: the disk has none.
    pub var_qm: Option<VarQm>,
}

/// The host's partition, in what QM's leaves.
#[derive(Clone, Debug)]
pub struct Root {
    /// UUID of the GPT entry.
    pub partition_uuid: Uuid,
    /// UUID in the superblock.
    pub fs_uuid: Uuid,
    /// Label in the superblock and name of the GPT entry.
    pub label: String,
    /// A directory whose content it has.
    pub content: Option<PathBuf>,
}

impl Default for Root {
    fn default() -> Self {
        let (partition_uuid, fs_uuid) = (Uuid::new_v4(), Uuid::new_v4());
        Self { partition_uuid, fs_uuid, label: "root".into(), content: None }
    }
}

/// QM's partition.
#[derive(Clone, Debug)]
pub struct VarQm {
    /// Its size.
    pub bytes: u64,
    /// GPT type.
    pub partition_type: Uuid,
    /// UUID of the GPT entry.
    pub partition_uuid: Uuid,
    /// UUID in the superblock.
    pub fs_uuid: Uuid,
    /// Label in the superblock and name of the GPT entry.
    pub label: String,
    /// Whether the superblock is wiped after formatting.
    pub superblock_zeroed: bool,
}

impl VarQm {
    /// QM's partition as automotive-image-builder makes it.
    #[must_use]
    pub fn new(bytes: u64) -> Self {
        Self {
            bytes,
            partition_type: VAR_QM_TYPE,
            partition_uuid: VAR_QM_PARTITION_UUID,
            fs_uuid: VAR_QM_FS_UUID,
            label: "qm_var".into(),
            superblock_zeroed: false,
        }
    }
}

impl Disk {
    /// Writes the disk to a sparse file.
    pub fn write(&self, path: &Path) -> Result<()> {
        self.write_with(path, &Root::default())
    }

    /// Writes the disk to a sparse file, the host's partition being `root`.
    pub fn write_with(&self, path: &Path, root: &Root) -> Result<()> {
        let mut file =
            File::options().read(true).write(true).create(true).truncate(true).open(path)?;
        file.set_len(self.bytes)?;
        let partitions = self.partitions(root)?;
        let gpt = GptConfig::new().writable(true).logical_block_size(LogicalBlockSize::Lb512);
        let mut gpt = gpt.create_from_device(&mut file, None)?;
        gpt.update_partitions(partitions.clone())?;
        gpt.write()?;
        let sectors = u32::try_from(self.bytes / SECTOR).unwrap_or(u32::MAX);
        ProtectiveMBR::with_lb_size(sectors - 1).overwrite_lba0(&mut file)?;

        for partition in partitions.values() {
            let var_qm = self.var_qm.as_ref().filter(|q| q.partition_uuid == partition.part_guid);
            let (fs_uuid, content) = match var_qm {
                Some(var_qm) => (var_qm.fs_uuid, None),
                None => (root.fs_uuid, root.content.as_deref()),
            };
            format(path, partition, fs_uuid, content)?;
            if var_qm.is_some_and(|var_qm| var_qm.superblock_zeroed) {
                // ext4's superblock: 1 KiB, 1 KiB from the start.
                file.write_all_at(&[0; 1024], partition.first_lba * SECTOR + 1024)?;
            }
        }
        Ok(())
    }

    /// QM's partition, if any, then the host's in what is left.
    fn partitions(&self, root: &Root) -> Result<BTreeMap<u32, Partition>> {
        let last = self.bytes / SECTOR - BACKUP_SECTORS - 1;
        let mut first = ALIGNMENT;
        let mut partitions = BTreeMap::new();
        if let Some(var_qm) = &self.var_qm {
            let end = first + var_qm.bytes / SECTOR;
            ensure!(end <= last, "QM's partition does not fit on the disk");
            let kind = Type { guid: var_qm.partition_type, os: OperatingSystem::None };
            partitions.insert(1, entry(&var_qm.label, kind, var_qm.partition_uuid, first, end - 1));
            first = end.next_multiple_of(ALIGNMENT);
        }
        if last >= first + ROOT_SECTORS_MIN {
            let Root { label, partition_uuid, .. } = root;
            let kind = partition_types::LINUX_FS;
            partitions.insert(2, entry(label, kind, *partition_uuid, first, last));
        }
        Ok(partitions)
    }
}

fn entry(name: &str, kind: Type, uuid: Uuid, first_lba: u64, last_lba: u64) -> Partition {
    let name = name.to_string();
    Partition { part_type_guid: kind, part_guid: uuid, first_lba, last_lba, flags: 0, name }
}

/// What makes an ext4 file system with that label.
pub(crate) fn mke2fs(label: &str) -> Command {
    let mut mke2fs = Command::new("mke2fs");
    // Administrators' directories are not on everybody's PATH.
    let path = std::env::var("PATH").unwrap_or_default();
    mke2fs.env("PATH", format!("{path}:/usr/sbin:/sbin"));
    mke2fs.args(["-q", "-F", "-t", "ext4", "-L", label]);
    mke2fs
}

/// Makes an ext4 file system in place, nothing of it left for the kernel to
/// initialise later.
fn format(disk: &Path, partition: &Partition, uuid: Uuid, content: Option<&Path>) -> Result<()> {
    let offset = partition.first_lba * SECTOR;
    let kib = (partition.last_lba + 1 - partition.first_lba) * SECTOR / 1024;
    let mut mke2fs = mke2fs(&partition.name);
    mke2fs.args(["-U", &uuid.to_string(), "-E"]);
    mke2fs.arg(format!("offset={offset},lazy_itable_init=0,lazy_journal_init=0"));
    if let Some(content) = content {
        mke2fs.arg("-d").arg(content);
    }
    command::output(mke2fs.arg(disk).arg(format!("{kib}k")))?;
    Ok(())
}
