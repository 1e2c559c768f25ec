//! The words of the command line, and mounting in a kernel in memory.

extern crate std;

use std::format;
use std::string::{String, ToString};
use std::vec;
use std::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::fake::{Disk, FakeKernel, Partition, ext4_superblock};

const FS: &str = "12345678-9abc-def0-1234-56789abcdef0";
const PART: &str = "0fedcba9-8765-4321-0fed-cba987654321";
const MIB: u64 = 1 << 20;

/// What is wanted, and the words at fault.
fn parsed(cmdline: &str) -> (Option<Wanted<'_>>, Vec<String>) {
    let mut faults = Vec::new();
    let wanted = parse(cmdline, &mut |word, value, allowed| {
        assert!(!allowed.is_empty());
        faults.push(format!("{word}={value}"));
    });
    (wanted, faults)
}

fn right(cmdline: &str) -> Wanted<'_> {
    let (wanted, faults) = parsed(cmdline);
    assert!(faults.is_empty(), "{cmdline}: {faults:?}");
    wanted.unwrap()
}

#[test]
fn words() {
    assert_eq!(parsed("console=ttyS0 rw rootwait init=/x").0, None);
    let plain = right("root=/dev/vda2");
    assert_eq!(plain.source, Some(Source::Device("/dev/vda2")));
    assert_eq!((plain.wait_secs, plain.delay_secs, plain.rdonly), (10, 0, true));
    assert_eq!((plain.fstype, plain.flags, plain.init), (None, "", None));

    let all = right(
        "ro root=/dev/sda root=LABEL=a-label rootwait rootdelay=3 rw rootfstype=xfs \
         rootflags=noatime,discard init=/lib/systemd/systemd",
    );
    let label = Identity { label: Some("a-label"), ..Identity::default() };
    assert_eq!(all.source, Some(Source::Volume(label)));
    assert_eq!((all.wait_secs, all.delay_secs, all.rdonly), (30, 3, false));
    assert_eq!((all.fstype, all.flags), (Some("xfs"), "noatime,discard"));
    assert_eq!(all.init, Some("/lib/systemd/systemd"));

    assert!(right("root=/dev/a rw ro").rdonly);
    assert_eq!(right("root=/dev/a rootwait=45").wait_secs, 45);
    // The next init's own words.
    assert!(right("root=/dev/a -- rw").rdonly);
    assert_eq!(parsed("quiet -- root=/dev/a").0, None);
    let uuid = Uuid::parse(FS);
    let by = |name: &str| match right(&format!("root={name}")).source {
        Some(Source::Volume(Identity { partition_uuid, fs_uuid, label })) => {
            (partition_uuid, fs_uuid, label.map(ToString::to_string))
        }
        _ => panic!("{name}"),
    };
    assert_eq!(by(&format!("UUID={FS}")), (None, uuid, None));
    assert_eq!(by(&format!("PARTUUID={}", FS.to_uppercase())), (uuid, None, None));
    assert_eq!(by("PARTLABEL=root_a"), (None, None, Some("root_a".into())));
}

#[test]
fn init_that_is_plimsoll_is_none() {
    assert_eq!(right("root=/dev/a init=/sbin/plimsoll").init, None);
    assert_eq!(right("root=/dev/a init=/sbin/plimsoll2").init, Some("/sbin/plimsoll2"));
}

#[test]
fn wrong_words_are_named_and_do_not_count() {
    for name in ["", "8:1", "0801", "UUID=", "UUID=1234-5678", "PARTUUID=1-01", "LABEL=", "sda1"] {
        let cmdline = format!("root={name}");
        let (wanted, faults) = parsed(&cmdline);
        assert_eq!(faults, std::slice::from_ref(&cmdline));
        assert_eq!(wanted.unwrap().source, None);
    }
    let (wanted, faults) =
        parsed("root=/dev/a rootwait=long rootdelay=61 init=systemd rootwait=-1");
    assert_eq!(faults, ["init=systemd", "rootwait=-1", "rootdelay=61"]);
    let wanted = wanted.unwrap();
    assert_eq!((wanted.wait_secs, wanted.delay_secs, wanted.init), (10, 0, None));
    let long = format!("root=/dev/a init=/{}", "x".repeat(300));
    assert_eq!(parsed(&long).1.len(), 1);
}

fn disk(superblock: &[u8]) -> Disk {
    let part = Partition {
        type_uuid: Uuid([3; 16]),
        uuid: Uuid::parse(PART).unwrap(),
        name: "root_a".into(),
        bytes: 8 * MIB,
        superblock: superblock.into(),
    };
    Disk::with_gpt("vda", 32 * MIB, 512, &[part])
}

fn ext4_disk() -> Disk {
    disk(&ext4_superblock(Uuid::parse(FS).unwrap(), "fs_label", 8 * MIB))
}

fn in_initramfs(words: &str, disk: Disk) -> FakeKernel {
    let mut kernel = FakeKernel::mounted();
    kernel.set("/proc/mounts", "rootfs / rootfs rw 0 0\nproc /proc proc rw 0 0\n");
    kernel.set("/proc/cmdline", format!("console=ttyS0 {words}\n"));
    kernel.set("/proc/filesystems", "nodev\tsysfs\nnodev\ttmpfs\n\text3\n\text4\n");
    kernel.add_disk(disk);
    kernel
}

/// Whether it was mounted, and the record.
fn mounted(kernel: &mut FakeKernel) -> (Option<bool>, Record) {
    let mut record = Record::new();
    let mut text = vec![0; CMDLINE_BYTES];
    let wanted = wanted(kernel, &mut record, &mut text);
    (wanted.map(|wanted| mount(kernel, &mut record, &wanted)), record)
}

#[test]
fn each_name_finds_it() {
    let names = [
        format!("UUID={FS}"),
        format!("PARTUUID={PART}"),
        "LABEL=fs_label".into(),
        "PARTLABEL=root_a".into(),
        "/dev/vda1".into(),
    ];
    for name in names {
        let words = format!("root={name} rw rootflags=noatime,nodev,data=journal");
        let mut kernel = in_initramfs(&words, ext4_disk());
        let (done, record) = mounted(&mut kernel);
        assert_eq!(done, Some(true), "{name}: {:?}", record.entries);
        let mount = kernel.mounts.iter().find(|mount| mount.target == ROOT).unwrap();
        assert_eq!((&*mount.source, &*mount.fstype), ("/dev/vda1", "ext4"));
        assert_eq!(mount.data, "data=journal");
        let flags = MountFlags { nodev: true, noatime: true, ..MountFlags::default() };
        assert_eq!(mount.flags, flags);
        assert_eq!(record.entries.len(), 1);
        assert_eq!(record.entries[0].outcome, Outcome::Agrees);
        // The attempt after one that died.
        assert_eq!(mounted(&mut kernel).0, Some(true));
    }
}

#[test]
fn only_on_the_kernels_own_rootfs() {
    let mut kernel = in_initramfs("root=/dev/vda1", ext4_disk());
    kernel.set("/proc/mounts", "/dev/vda1 / ext4 rw 0 0\n");
    assert_eq!(mounted(&mut kernel).0, None);
    let mut kernel = in_initramfs("quiet", ext4_disk());
    assert_eq!(mounted(&mut kernel).0, None);
}

#[test]
fn a_late_device_is_waited_for() {
    for name in ["LABEL=fs_label", "/dev/vda1"] {
        let mut kernel = in_initramfs(&format!("root={name}"), Disk::new("vdz", MIB));
        let begin = kernel.clock_us;
        kernel.later.push((begin + 3_000_000, ext4_disk()));
        let (done, record) = mounted(&mut kernel);
        assert_eq!(done, Some(true), "{:?}", record.entries);
        assert!((3_000_000..3_100_000).contains(&record.waited_us), "{}", record.waited_us);
    }
}

#[test]
fn a_missing_device_is_named_after_the_time() {
    for (words, name, secs) in [
        ("root=LABEL=other", "LABEL=other", 10),
        ("root=/dev/vdb1 rootwait", "/dev/vdb1", 30),
        ("root=/dev/vdb1 rootwait=1 rootdelay=2", "/dev/vdb1", 3),
    ] {
        let mut kernel = in_initramfs(words, ext4_disk());
        let (done, record) = mounted(&mut kernel);
        assert_eq!(done, Some(false));
        let entry = &record.entries[0];
        assert_eq!((&*entry.step, &*entry.wanted, entry.outcome), ("root", name, Outcome::Failed));
        assert_eq!(record.waited_us / 1_000_000, secs);
    }
    let mut kernel = in_initramfs("root=UUID=", ext4_disk());
    let (done, record) = mounted(&mut kernel);
    assert_eq!((done, &*record.entries[0].target), (Some(false), "root"));
    assert_eq!(record.waited_us, 0);
}

#[test]
fn another_file_system_is_mounted_by_its_partition() {
    let mut kernel = in_initramfs("root=PARTLABEL=root_a rootfstype=erofs", disk(b"erofs"));
    kernel.filesystems.insert("erofs");
    assert_eq!(mounted(&mut kernel).0, Some(true));
    assert!(kernel.mounts.iter().any(|mount| mount.fstype == "erofs"));
    // By trial it is none of those that the kernel has.
    let mut kernel = in_initramfs("root=PARTLABEL=root_a", disk(b"erofs"));
    let (done, record) = mounted(&mut kernel);
    assert_eq!(done, Some(false));
    assert_eq!(record.entries[0].found, "/dev/vda1: EINVAL");
}

#[test]
fn two_that_fit_are_none() {
    let mut kernel = in_initramfs("root=LABEL=fs_label rootwait", ext4_disk());
    let superblock = ext4_superblock(Uuid([9; 16]), "fs_label", 8 * MIB);
    let mut twin = Disk::new("vdb", 8 * MIB);
    twin.write(1024, &superblock);
    kernel.add_disk(twin);
    let (done, record) = mounted(&mut kernel);
    assert_eq!((done, record.waited_us), (Some(false), 0));
    assert_eq!(record.entries[0].found, "both vda1 and vdb fit");
}

proptest! {
    #[test]
    fn any_text_is_read(cmdline in "( |root|rw|init|=|/|-|UUID|LABEL|[a-z0-9]|\\PC){0,40}") {
        let _ = parsed(&cmdline);
    }
}
