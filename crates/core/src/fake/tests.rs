use super::*;
use crate::board::Uuid;

const QM: &str = "/sys/fs/cgroup/qm";

fn with_qm(controllers: &[u8]) -> FakeKernel {
    let mut fake = FakeKernel::mounted();
    fake.write("/sys/fs/cgroup/cgroup.subtree_control", controllers).unwrap();
    fake.mkdir(QM).unwrap();
    fake
}

/// What a knob of the cgroup qm reads after a write.
fn after(fake: &mut FakeKernel, knob: &str, value: &str) -> Result<String> {
    let path = std::format!("{QM}/{knob}");
    fake.write(&path, value.as_bytes())?;
    Ok(fake.text(&path))
}

#[test]
fn mounting_makes_files_appear() {
    let mut fake = FakeKernel::new();
    let mut buf = [0; 64];
    let sys = |target, fstype| Mount {
        source: fstype,
        target,
        fstype,
        flags: MountFlags::default(),
        data: "",
    };
    assert_eq!(fake.read_at("/proc/meminfo", 0, &mut buf), Err(Errno::NOENT));
    assert_eq!(fake.mount(&sys(CGROUP, "cgroup2")), Err(Errno::NOENT));
    for (target, fstype) in [("/proc", "proc"), ("/sys", "sysfs"), (CGROUP, "cgroup2")] {
        assert_eq!(fake.is_mount_point(target), Ok(false));
        fake.mount(&sys(target, fstype)).unwrap();
        assert_eq!(fake.is_mount_point(target), Ok(true));
        assert_eq!(fake.mount(&sys(target, fstype)), Err(Errno::BUSY));
    }
    assert_eq!(fake.read_at("/proc/meminfo", 17, &mut buf[..10]), Ok(10));
    assert_eq!(&buf[..10], b"2010424 kB");
    assert_eq!(fake.read_at("/proc/meminfo", 1 << 40, &mut buf), Ok(0));
    assert_eq!(fake.read_at(CGROUP, 0, &mut buf), Err(EISDIR));
    assert_eq!(fake.text("/sys/fs/cgroup/cgroup.controllers"), "cpuset cpu io memory pids\n");
    assert_eq!(fake.mount(&sys("/run", "btrfs")), Err(Errno::NODEV));
    assert_eq!(fake.mount(&sys("/nowhere", "tmpfs")), Err(Errno::NOENT));
}

#[test]
fn knobs_follow_the_parent() {
    let mut fake = with_qm(b"+pids");
    assert_eq!(fake.text(&(QM.to_string() + "/cgroup.controllers")), "pids\n");
    assert_eq!(after(&mut fake, "memory.max", "4096"), Err(Errno::NOENT));
    fake.write("/sys/fs/cgroup/cgroup.subtree_control", b"+memory +cpu").unwrap();
    assert_eq!(fake.text(&(QM.to_string() + "/memory.max")), "max\n");
    assert_eq!(after(&mut fake, "memory.max", "4096").unwrap(), "4096\n");
    fake.write("/sys/fs/cgroup/cgroup.subtree_control", b"-memory").unwrap();
    assert_eq!(after(&mut fake, "memory.max", "4096"), Err(Errno::NOENT));
    assert_eq!(fake.text("/sys/fs/cgroup/cgroup.subtree_control"), "pids cpu\n");
    // What a child has enabled stays.
    fake.write("/sys/fs/cgroup/qm/cgroup.subtree_control", b"+cpu").unwrap();
    let root = "/sys/fs/cgroup/cgroup.subtree_control";
    assert_eq!(fake.write(root, b"-cpu"), Err(Errno::BUSY));
    assert_eq!(fake.write(root, b"+hugetlb"), Err(Errno::NOENT));
    assert_eq!(fake.write(root, b"+banana"), Err(Errno::INVAL));
    assert_eq!(fake.write(root, b"memory"), Err(Errno::INVAL));
    assert_eq!(fake.mkdir(QM), Err(Errno::EXIST));
    assert_eq!(fake.mkdir("/sys/fs/cgroup/a/b"), Err(Errno::NOENT));
}

#[test]
fn values_read_back_as_the_kernel_keeps_them() {
    let mut fake = with_qm(b"+memory +pids +cpu");
    for (knob, value, kept) in [
        ("memory.max", "823468033", "823468032\n"),
        ("memory.high", "1M", "1048576\n"),
        ("memory.high", "max\n", "max\n"),
        ("memory.min", "4095", "0\n"),
        ("memory.low", "18446744073709551615", "max\n"),
        ("memory.oom.group", "1\n", "1\n"),
        ("pids.max", "4194304", "4194304\n"),
        ("cpu.weight", "10000", "10000\n"),
        ("cpu.idle", "1", "1\n"),
    ] {
        assert_eq!(after(&mut fake, knob, value).as_deref(), Ok(kept), "{knob} {value}");
    }
    assert_eq!(fake.text(&(QM.to_string() + "/cpu.weight")), "0\n");
    for (knob, value, errno) in [
        ("memory.max", "40%", Errno::INVAL),
        ("memory.max", "-1", Errno::INVAL),
        ("memory.max", "infinity", Errno::INVAL),
        ("memory.oom.group", "2", Errno::INVAL),
        ("memory.current", "1", EACCES),
        ("pids.max", "4194305", Errno::INVAL),
        ("cpu.weight", "0", Errno(34)),
        ("cpu.weight", "100", Errno::INVAL),
        ("cpu.idle", "x", Errno::INVAL),
    ] {
        assert_eq!(after(&mut fake, knob, value), Err(errno), "{knob} {value}");
    }
    after(&mut fake, "cpu.idle", "0").unwrap();
    assert_eq!(fake.text(&(QM.to_string() + "/cpu.weight")), "100\n");
    fake.page_size = 16384;
    assert_eq!(after(&mut fake, "memory.max", "823468032").unwrap(), "823459840\n");
}

#[test]
fn processes_and_child_groups_exclude_each_other() {
    let mut fake = with_qm(b"+memory +pids");
    after(&mut fake, "cgroup.procs", "7").unwrap();
    assert_eq!(after(&mut fake, "cgroup.procs", "0").unwrap(), "7\n1\n");
    assert_eq!(after(&mut fake, "cgroup.subtree_control", "+memory"), Err(Errno::BUSY));
    for pid in ["1", "7"] {
        fake.write("/sys/fs/cgroup/cgroup.procs", pid.as_bytes()).unwrap();
    }
    assert_eq!(after(&mut fake, "cgroup.subtree_control", "+memory").unwrap(), "memory\n");
    assert_eq!(after(&mut fake, "cgroup.procs", "7"), Err(Errno::BUSY));
    assert_eq!(fake.text("/sys/fs/cgroup/cgroup.procs"), "1\n7\n");
}

#[test]
fn faults_where_wanted() {
    let mut fake = FakeKernel::mounted();
    fake.fail_at = Some((1, Errno::IO));
    fake.fail_path.push(("/run/x".into(), Errno::ROFS));
    assert_eq!(fake.replace("/run/y", b"1"), Ok(()));
    assert_eq!(fake.replace("/run/y", b"2"), Err(Errno::IO));
    assert_eq!(fake.replace("/run/x", b"3"), Err(Errno::ROFS));
    assert_eq!(fake.replace("/run/none/y", b"4"), Err(Errno::NOENT));
    assert_eq!((fake.operations, fake.text("/run/y").as_str()), (4, "1"));
    fake.set("/lib/modules/a.ko", "");
    assert_eq!(fake.load_module("/lib/modules/a.ko"), Ok(()));
    assert_eq!(fake.load_module("/lib/modules/a.ko"), Err(Errno::EXIST));
    assert_eq!(fake.load_module("/lib/modules/b.ko"), Err(Errno::NOENT));
}

#[test]
fn disks_come_and_are_mounted() {
    let mut fake = FakeKernel::mounted();
    let mut disk = Disk::new("vdb", 1 << 20);
    disk.write(1024, &ext4_superblock(Uuid([7; 16]), "", 1 << 20));
    let at = fake.clock_us + 5;
    fake.later.push((at, disk));
    let mount = Mount {
        source: "/dev/vdb",
        target: "/var",
        fstype: "ext4",
        flags: MountFlags::default(),
        data: "",
    };
    fake.sleep_us(4);
    assert_eq!(fake.mount(&mount), Err(Errno::NOENT));
    fake.sleep_us(1);
    assert_eq!(fake.text("/proc/partitions").lines().last(), Some(" 254        0       1024 vdb"));
    assert_eq!(fake.mount(&mount), Ok(()));
    assert_eq!(fake.mounts.last().unwrap().source, "/dev/vdb");
    fake.disks[0].write(1024 + 0x38, &[0]);
    assert_eq!(fake.mount(&Mount { target: "/run", ..mount }), Err(Errno::INVAL));
}
