//! The search against disks in memory, and the parsers against what sfdisk and
//! mke2fs made.

use std::sync::LazyLock;

use proptest::prelude::*;

use super::*;
use crate::fake::{Disk, FakeKernel, Partition, ext4_superblock};
use crate::record::cut;

const MIB: u64 = 1 << 20;
const FS: Uuid = Uuid(*b"file-system-uuid");
const PART: Uuid = Uuid(*b"a-partition-uuid");
const OTHER: Uuid = Uuid(*b"something-else..");
const ANY: Identity<'static> = Identity { partition_uuid: None, fs_uuid: None, label: None };
const BY_FS: Identity<'static> = Identity { fs_uuid: Some(FS), ..ANY };
const BY_PART: Identity<'static> = Identity { partition_uuid: Some(PART), ..ANY };

fn root() -> Partition {
    Partition {
        type_uuid: OTHER,
        uuid: Uuid([1; 16]),
        name: "root".into(),
        bytes: 4 * MIB,
        superblock: ext4_superblock(Uuid([2; 16]), "root", 4 * MIB),
    }
}

fn qm() -> Partition {
    Partition {
        type_uuid: QM_VAR,
        uuid: PART,
        name: "qm_entry".into(),
        bytes: 8 * MIB,
        superblock: ext4_superblock(FS, "qm_label", 8 * MIB),
    }
}

fn disk(name: &str, partitions: &[Partition]) -> Disk {
    Disk::with_gpt(name, 32 * MIB, 512, partitions)
}

fn kernel(disks: impl IntoIterator<Item = Disk>) -> FakeKernel {
    let mut kernel = FakeKernel::mounted();
    disks.into_iter().for_each(|disk| kernel.add_disk(disk));
    kernel
}

/// The device's path, or the error's text.
fn found(kernel: &mut FakeKernel, identity: &Identity<'_>) -> String<96> {
    match find(kernel, identity) {
        Ok(volume) => String::try_from(volume.device.as_str()).unwrap(),
        Err(error) => cut(format_args!("{error}")),
    }
}

#[test]
fn each_field_finds_it_and_all_must_match() {
    let mut kernel = kernel([disk("vda", &[root(), qm()])]);
    let full = Identity { partition_uuid: Some(PART), fs_uuid: Some(FS), label: Some("qm_label") };
    let by_name = Identity { label: Some("qm_entry"), ..ANY };
    let by_label = Identity { label: Some("qm_label"), ..ANY };
    for identity in [ANY, BY_FS, BY_PART, by_name, by_label, full] {
        let volume = find(&mut kernel, &identity).unwrap();
        assert_eq!(volume.device, "/dev/vda2");
        assert_eq!(volume.partition_uuid, Some(PART));
    }
    for identity in [
        Identity { partition_uuid: Some(OTHER), ..full },
        Identity { fs_uuid: Some(OTHER), ..full },
        Identity { label: Some("qm_labe"), ..full },
        Identity { label: Some("qm_label2"), ..full },
        Identity { label: Some("root"), ..full },
        Identity { label: Some(""), ..full },
    ] {
        let expected = "no such device; vda2 has the type qm_var, but differs";
        assert_eq!(found(&mut kernel, &identity), expected);
    }
}

#[test]
fn identity_in_words() {
    let words = |identity: Identity<'_>| std::format!("{identity}");
    assert_eq!(words(ANY), "GPT type qm_var");
    let fs = "file-system UUID 66696c65-2d73-7973-7465-6d2d75756964";
    let part = "partition UUID 612d7061-7274-6974-696f-6e2d75756964";
    assert_eq!(words(BY_FS), fs);
    let all = Identity { label: Some("qm"), fs_uuid: Some(FS), ..BY_PART };
    assert_eq!(words(all), std::format!("{part}, {fs}, label qm"));
}

#[test]
fn what_it_costs() {
    let mut kernel = kernel([disk("vda", &[root(), qm()])]);
    find(&mut kernel, &ANY).unwrap();
    // The list, the block size, the header, four pieces of entries, an entry
    // and a start each, the superblock, the size.
    assert_eq!(kernel.operations, 1 + 1 + 1 + 4 + 2 * 2 + 1 + 1);
}

#[test]
fn names_and_blocks_of_other_disks() {
    for (name, block_bytes, path) in [
        ("mmcblk0", 512, "/dev/mmcblk0p2"),
        ("nvme0n1", 4096, "/dev/nvme0n1p2"),
        ("sda", 4096, "/dev/sda2"),
    ] {
        let gpt = Disk::with_gpt(name, 32 * MIB, block_bytes, &[root(), qm()]);
        assert_eq!(found(&mut kernel([gpt]), &BY_PART), path);
    }
}

#[test]
fn whole_disk() {
    let mut whole = Disk::new("vdb", 8 * MIB);
    whole.write(ext4::OFFSET, &ext4_superblock(FS, "qm\n", 8 * MIB));
    let mut kernel = kernel([disk("vda", &[root()]), whole.clone()]);
    let volume = find(&mut kernel, &BY_FS).unwrap();
    assert_eq!(volume.device, "/dev/vdb");
    assert_eq!(volume.partition_uuid, None);
    assert_eq!(found(&mut kernel, &ANY), "no such device");
    assert_eq!(found(&mut kernel, &BY_PART), "no such device");
    // A superblock left over beside a partition table is no file system.
    let mut signed = whole.clone();
    signed.write(512, b"EFI PART");
    let expected = "no such device; the partition table of vdb is damaged";
    assert_eq!(found(&mut self::kernel([signed]), &BY_FS), expected);
    let mut mbr = whole;
    mbr.set_partition(MIB, 4 * MIB);
    assert_eq!(found(&mut self::kernel([mbr]), &BY_FS), "no such device");
}

#[test]
fn partition_of_a_disk_without_gpt() {
    let mut mbr = Disk::new("vda", 16 * MIB);
    mbr.set_partition(2 * MIB, 8 * MIB);
    mbr.write(2 * MIB + ext4::OFFSET, &ext4_superblock(FS, "", 8 * MIB));
    assert_eq!(found(&mut kernel([mbr]), &BY_FS), "/dev/vda1");
}

#[test]
fn clones_are_an_error() {
    let mut corrupt = qm();
    corrupt.superblock[0x20] ^= 1;
    let mut zeroed = qm();
    zeroed.superblock.fill(0);
    for identity in [ANY, BY_FS, BY_PART, Identity { label: Some("qm_label"), ..ANY }] {
        for second in [qm(), corrupt.clone()] {
            let mut kernel = kernel([disk("vda", &[qm()]), disk("vdb", &[root(), second])]);
            assert_eq!(found(&mut kernel, &identity), "both vda1 and vdb2 fit");
        }
    }
    // In a zeroed superblock there is no UUID that could be the same.
    let mut kernel = kernel([disk("vda", &[zeroed.clone()]), disk("vdb", &[qm()])]);
    for (identity, expected) in [
        (ANY, "both vda1 and vdb1 fit"),
        (BY_PART, "both vda1 and vdb1 fit"),
        (BY_FS, "/dev/vdb1"),
        (Identity { fs_uuid: Some(FS), ..BY_PART }, "both vda1 and vdb1 fit"),
    ] {
        assert_eq!(found(&mut kernel, &identity), expected);
    }
}

#[test]
fn damaged_file_system() {
    let put = |at: usize, bytes: &[u8]| {
        let mut partition = qm();
        partition.superblock[at..at + bytes.len()].copy_from_slice(bytes);
        kernel([disk("vda", &[partition])])
    };
    let corrupt = |mut kernel, identity: &Identity<'_>| match find(&mut kernel, identity) {
        Err(VolumeError::Corrupt { device, what }) if device == "vda1" => what,
        other => panic!("{other:?}"),
    };
    for identity in [ANY, BY_FS, BY_PART] {
        assert_eq!(corrupt(put(0x38, &[0, 0]), &identity), Fault::Magic(0));
        assert_eq!(corrupt(put(0x4c, &[2]), &identity), Fault::Revision(2));
        assert!(matches!(corrupt(put(0x20, &[1]), &identity), Fault::Checksum { .. }));
        assert!(matches!(corrupt(put(0x3fc, &[1]), &identity), Fault::Checksum { .. }));
    }
    let expected = "no such device; vda1 has the type qm_var, but differs";
    assert_eq!(found(&mut put(0, &[0; 1024]), &BY_FS), expected);
    assert_eq!(corrupt(put(0, &[0; 1024]), &ANY), Fault::Magic(0));
    // A UUID that rotted with the rest still belongs to the partition asked for.
    let both = Identity { fs_uuid: Some(FS), ..BY_PART };
    assert!(matches!(corrupt(put(0x68, &[0; 16]), &both), Fault::Checksum { .. }));
    let large = Partition { superblock: ext4_superblock(FS, "", 9 * MIB), ..qm() };
    assert_eq!(
        corrupt(kernel([disk("vda", &[large])]), &ANY),
        Fault::LargerThanDevice { filesystem: 9 * MIB, device: 8 * MIB }
    );
}

#[test]
fn damaged_table() {
    let both = disk("vda", &[root(), qm()]);
    for at in [512, 512 + 16, 512 + 24, 512 + 72, 512 + 80, 512 + 84, 1024 + 300] {
        let mut primary = both.clone();
        primary.write(at, &[0xee]);
        assert_eq!(found(&mut kernel([primary.clone()]), &BY_PART), "/dev/vda2", "{at}");
        primary.write(32 * MIB - 512 + 40, &[0xee]);
        let mut kernel = kernel([primary]);
        assert!(found(&mut kernel, &BY_PART).starts_with("no such device"), "{at}");
        // By what the partition itself says it is still the one.
        assert_eq!(found(&mut kernel, &BY_FS), "/dev/vda2", "{at}");
    }
    // The kernel's partitions come from elsewhere than this table.
    let mut kernel = kernel([both]);
    kernel.set("/sys/class/block/vda2/start", "4096\n");
    let expected = "no such device; the partition table of vda is damaged";
    assert_eq!(found(&mut kernel, &BY_PART), expected);
    assert_eq!(find(&mut kernel, &BY_FS).unwrap().partition_uuid, None);
}

#[test]
fn unreadable_or_gone() {
    let disks = || [disk("vda", &[root(), qm()]), disk("vdb", &[root()])];
    for (path, errno, expected) in [
        ("/dev/vdb", Errno::IO, "vdb: cannot be read: EIO"),
        ("/dev/vdb", Errno::NXIO, "/dev/vda2"),
        ("/dev/vdb", Errno(123), "/dev/vda2"),
        ("/dev/vda2", Errno::NOENT, "no such device; vda2 has the type qm_var, but differs"),
        ("/proc/partitions", Errno::NOENT, "/proc/partitions: ENOENT"),
    ] {
        let mut kernel = kernel(disks());
        kernel.fail_path.push((path.into(), errno));
        assert_eq!(found(&mut kernel, &ANY), expected);
    }
    let mut whole = kernel(disks());
    find(&mut whole, &BY_FS).unwrap();
    for at in 0..whole.operations {
        let mut kernel = kernel(disks());
        kernel.fail_at = Some((at, Errno::IO));
        assert!(find(&mut kernel, &BY_FS).is_err(), "operation {at}");
    }
}

#[test]
fn many_devices() {
    let list = |count: usize| {
        let mut text = std::string::String::from("major minor  #blocks  name\n\n");
        (0..count).for_each(|i| text += &format!(" 254  {i:7} 99999999 none{i:022}a\n"));
        let mut kernel = kernel([]);
        kernel.set("/proc/partitions", text + " 254 0 1 vdz");
        found(&mut kernel, &BY_FS)
    };
    assert_eq!(list(DEVICES_MAX), "no such device");
    assert_eq!(list(DEVICES_MAX + 1), "more than 256 block devices");
}

/// `mke2fs -t ext4 -L qm_var -U e241b638-...` of mke2fs 1.47.0 on 8 MiB, and
/// the same with `-b 4096 -O ^metadata_csum -L 'sixteen bytes id'`.
#[test]
fn superblocks_of_mke2fs() {
    let mut raw = *include_bytes!("../../../../tests/fixtures/volume/mke2fs-ext4-superblock.bin");
    assert_eq!(ext4::check(&raw), Ok(8 * MIB));
    assert_eq!(ext4::uuid(&raw).to_string(), "e241b638-7301-406c-b11f-d538be5211a6");
    assert_eq!(ext4::trimmed(&ext4::label(&raw)), b"qm_var");
    for at in 0..raw.len() {
        raw[at] ^= 0x10;
        assert!(ext4::check(&raw).is_err(), "{at}");
        raw[at] ^= 0x10;
    }
    let mut raw =
        *include_bytes!("../../../../tests/fixtures/volume/mke2fs-ext4-without-checksum.bin");
    assert_eq!(ext4::trimmed(&ext4::label(&raw)), b"sixteen bytes id");
    assert_eq!(ext4::check(&raw), Ok(8 * MIB));
    raw[0x18] = 7;
    assert_eq!(ext4::check(&raw), Err(Fault::Geometry));
}

/// A disk of 32768 sectors that sfdisk 2.38.1 partitioned: its first four
/// sectors and its last; entries 8 to 127 are zero.
#[test]
fn table_of_sfdisk() {
    let first = include_bytes!("../../../../tests/fixtures/volume/sfdisk-gpt-first-4-sectors.bin");
    let last = include_bytes!("../../../../tests/fixtures/volume/sfdisk-gpt-last-sector.bin");
    let mut disk = Disk::new("vda", 16 * MIB);
    disk.set_partition(MIB, 4 * MIB);
    disk.set_partition(5 * MIB, 8 * MIB);
    disk.write(5 * MIB + ext4::OFFSET, &ext4_superblock(FS, "", 8 * MIB));
    disk.write(16 * MIB - 512, last);
    disk.write(16 * MIB - 33 * 512, &first[1024..]);
    let mut primary = disk.clone();
    primary.write(0, first);
    for disk in [primary, disk] {
        let mut kernel = kernel([disk]);
        for identity in [ANY, Identity { label: Some("qm_vär"), ..ANY }] {
            let volume = find(&mut kernel, &identity).unwrap();
            assert_eq!(volume.device, "/dev/vda2");
            let uuid = volume.partition_uuid.unwrap().to_string();
            assert_eq!(uuid, "c36a70ca-8827-4e0e-977e-7179ccfe0e65");
        }
    }
}

/// Where the search reads: the head, the superblocks, the tail.
fn place() -> impl Strategy<Value = u64> {
    let end = 32 * MIB;
    let superblock = |start: u64| start + 1024..start + 2048;
    prop_oneof![
        0..20 * 1024_u64,
        1024..1024 + 256_u64,
        superblock(MIB),
        superblock(5 * MIB),
        end - 17 * 1024..end,
    ]
}

static SOUND: LazyLock<Disk> = LazyLock::new(|| disk("vda", &[root(), qm()]));

proptest! {
    /// However a disk is damaged: what is found carries what was asked for.
    #[test]
    fn never_the_wrong_device(
        damage in prop::collection::vec((place(), any::<[u8; 4]>()), 0..6),
        list in prop::option::of("[ -~\n]{0,200}"),
        by_partition: bool, by_fs: bool, by_label: bool,
    ) {
        let identity = Identity {
            partition_uuid: by_partition.then_some(PART),
            fs_uuid: by_fs.then_some(FS),
            label: by_label.then_some("qm_label"),
        };
        let mut vda = SOUND.clone();
        for (at, bytes) in &damage {
            vda.write(*at, bytes);
        }
        let raw = vda.bytes(5 * MIB + 1024, 1024);
        let mut kernel = kernel([vda]);
        if let Some(list) = list {
            let text = kernel.text("/proc/partitions") + &list;
            kernel.set("/proc/partitions", text);
        }
        if let Ok(volume) = find(&mut kernel, &identity) {
            prop_assert_eq!(volume.device.as_str(), "/dev/vda2");
            prop_assert!(!by_fs || raw[0x68..0x78] == FS.0);
            prop_assert!(!by_label || raw[0x78..0x80] == *b"qm_label");
            prop_assert!(!by_partition || volume.partition_uuid == Some(PART));
        }
    }

    #[test]
    fn any_superblock(mut raw in prop::collection::vec(any::<u8>(), 1024)) {
        raw[0x38..0x3a].copy_from_slice(&[0x53, 0xef]);
        raw[0x4c..0x50].copy_from_slice(&[1, 0, 0, 0]);
        raw[0x65] &= !4;
        let _ = ext4::check(raw.as_slice().try_into().unwrap());
    }

    #[test]
    fn any_list(list in prop::collection::vec(any::<u8>(), 0..9000)) {
        let mut kernel = kernel([]);
        kernel.set("/proc/partitions", list);
        let _ = devices::list(&mut kernel);
    }
}
