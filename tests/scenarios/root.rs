//! plimsoll as the initramfs's /init: the root of the kernel's command line, and
//! the other ways of being reached.

use std::io::Write as _;

use serde_json::{Value, json};
use tempfile::NamedTempFile;
use uuid::Uuid;
use xtask::disk::Root;
use xtask::guest::Guest;

use super::{LOOK, program};
use crate::{On, Seen, bytes, has, record, set};

/// Bytes that only the initramfs has: they must come back.
const BALLAST: usize = 48 << 20;

/// Prints what PID 1 lives on.
const ROOT_LOOK: &str = r#"
root_look() {
    while read -r device target type options rest; do
        case $target in
            / | /var/qm | /dev | /proc | /sys | /run | /sys/fs/cgroup)
                echo "mounted:$target $device $type ${options%%,*}" ;;
            *) echo "left_over $target" ;;
        esac
    done </proc/mounts
    echo "mounts $(wc -l </proc/mounts)"
    echo "argv $(tr '\0' ' ' </proc/1/cmdline)"
    echo "environ $(tr '\0' ' ' </proc/1/environ)"
    for at in root cwd; do echo "pid1_$at $(readlink /proc/1/$at) $(stat -L -c %d /proc/1/$at)"; done
    set -- $(supervisors)
    echo "supervisors $#"
    echo "supervisor_root $(stat -L -c %d /proc/$1/root) $(readlink /proc/$1/cwd)"
    echo "root $(stat -c %d /)"
    # What the initramfs held is memory that cannot be reclaimed.
    for i in $(seq 50); do
        unevictable=$(awk '/^Unevictable/ { print $2 }' /proc/meminfo)
        [ $unevictable -lt 16384 ] && break
        sleep 0.1
    done
    echo "unevictable $unevictable"
    touch /written 2>/dev/null && echo "root_writes yes" || echo "root_writes no"
    echo "old_root $(ls -d /sysroot /ballast 2>/dev/null | tr '\n' ' ')"
}
"#;

/// A root of which everything is known.
fn root() -> Root {
    Root {
        partition_uuid: Uuid::from_u128(0x1111_2222_3333_4444_5555_6666_7777_8888),
        fs_uuid: Uuid::from_u128(0x9999_aaaa_bbbb_cccc_dddd_eeee_ffff_0000),
        label: "vehicle_root".into(),
        content: None,
    }
}

fn guest(on: On, board: &Value, word: &str) -> Guest {
    on.guest().board_json(board).with_root(root()).kernel_arg(word)
}

fn has_failed(record: &Value) -> bool {
    record["entries"].as_array().unwrap().iter().any(|entry| entry["outcome"] == "failed")
}

/// The root is `/dev/vda2`, and nothing of the initramfs is left.
fn is_root(seen: &Seen, mode: &str) {
    seen.expect("mounted:/", format!("/dev/vda2 ext4 {mode}"));
    seen.expect("mounted:/var/qm", "/dev/vda1 ext4 rw");
    for (place, fstype) in
        [("/dev", "devtmpfs"), ("/proc", "proc"), ("/sys", "sysfs"), ("/run", "tmpfs")]
    {
        seen.expect(&format!("mounted:{place}"), format!("{fstype} {fstype} rw"));
    }
    seen.expect("mounted:/sys/fs/cgroup", "cgroup2 cgroup2 rw");
    // Each of them once, and nothing else.
    seen.expect("mounts", 7);
    seen.expect("root_writes", if mode == "rw" { "yes" } else { "no" });
    let device = seen.get("root");
    seen.expect("pid1_root", format!("/ {device}"));
    seen.expect("supervisors", 2);
    seen.expect("supervisor_root", format!("{device} /"));
    assert!(seen.number("unevictable") < 16384, "{seen}");
    seen.expect("qm", "start");
    seen.expect("qm/memory.max", bytes(seen, "40%"));
    let record = record(seen);
    assert!(has(&record, "root", "/dev/vda2", "agrees"), "{seen}");
    assert!(has(&record, "var-qm", "/var/qm", "agrees"), "{seen}");
    assert!(!has_failed(&record), "{seen}");
}

/// By label, writable; init= names the next init, which gets the kernel's words;
/// the memory of the initramfs comes back.
pub(crate) fn root_by_label(on: On) {
    let mut ballast = NamedTempFile::new().unwrap();
    ballast.write_all(&vec![b'x'; BALLAST]).unwrap();
    let next = "#!/bin/sh\necho \"words $0 $*\" >/run/words\nexec /sbin/init \"$@\"\n";
    let next = program(next);
    let first = program(
        "#!/bin/sh\nexport PATH=/usr/bin\nmount -t proc proc /proc; mount -t devtmpfs devtmpfs /dev
         echo \"ballast $(awk '/^Unevictable/ { print $2 }' /proc/meminfo)\" >/dev/kmsg
         exec /init \"$@\"\n",
    );
    let script = format!("{LOOK} {ROOT_LOOK} look; root_look; cat /run/words");
    // The board file's own next init is not there.
    let mut board = on.board_file();
    set(&mut board, &["handoff", "init"], json!("/sbin/nowhere"));
    let outcome = guest(on, &board, "root=LABEL=vehicle_root")
        .put(next.path(), "/next")
        .put(first.path(), "/first")
        .put(ballast.path(), "/lib/ballast/x/file")
        .kernel_arg("rdinit=/first ro rw rootwait init=/next pebble COLOUR=blue")
        .run(&script)
        .unwrap();
    let seen = Seen::new(&outcome);
    is_root(&seen, "rw");
    seen.expect("words", "/next pebble");
    seen.expect("pid1", "init 0");
    assert!(seen.get("environ").contains("COLOUR=blue"), "{seen}");
    assert!(seen.serial.contains("handoff /next"), "{seen}");
    let held = seen.serial.lines().find_map(|line| line.split_once("ballast ")?.1.parse().ok());
    assert!(held.is_some_and(|kib: usize| kib * 1024 > BALLAST), "{held:?}\n{seen}");
}

/// By the file system's UUID, read-only; the board file says what is next, since
/// init= is plimsoll itself.
pub(crate) fn root_by_uuid(on: On) {
    let mut board = on.board_file();
    set(&mut board, &["handoff", "init"], json!("/sbin/init"));
    let uuid = format!("root=UUID={}", root().fs_uuid);
    let guest = guest(on, &board, &uuid).kernel_arg("rw ro init=/sbin/plimsoll rootflags=noatime");
    let outcome = guest.run(&format!("{LOOK} {ROOT_LOOK} look; root_look")).unwrap();
    let seen = Seen::new(&outcome);
    is_root(&seen, "ro");
    seen.expect("pid1", "init 0");
    assert!(seen.serial.contains("handoff /sbin/init"), "{seen}");
}

/// By the partition's UUID; no next init: plimsoll stays PID 1 in the root, runs
/// the payloads from it, and leaves it clean.
pub(crate) fn root_by_partuuid(on: On) {
    let uuid = format!("root=PARTUUID={}", root().partition_uuid);
    let guest = guest(on, &on.board_file(), &uuid).kernel_arg("rw");
    let script = format!("{LOOK} {ROOT_LOOK} qm_up; look; root_look");
    let outcome = guest.run(&script).unwrap();
    let seen = Seen::new(&outcome);
    is_root(&seen, "rw");
    seen.expect("qm_runs", "yes");
    assert!(seen.serial.contains("plimsoll stays PID 1"), "{seen}");
    assert!(outcome.powered_off, "{seen}");
}

/// By its device, whose driver is loaded seconds later.
pub(crate) fn root_that_comes_late(on: On) {
    let mut board = on.board_file();
    set(&mut board, &["handoff", "init"], json!("/sbin/init"));
    let modules = board["modules"].as_array_mut().unwrap();
    modules.retain(|name| name != "virtio_blk");
    let first = program(
        "#!/bin/sh\nexport PATH=/usr/bin
         (sleep 3; exec insmod /lib/modules/$(uname -r)/virtio_blk.ko) &
         exec /init \"$@\"\n",
    );
    let guest = guest(on, &board, "root=/dev/vda2").put(first.path(), "/first");
    let guest = guest.kernel_arg("rdinit=/first rw rootwait");
    let outcome = guest.run(&format!("{LOOK} {ROOT_LOOK} look; root_look")).unwrap();
    let seen = Seen::new(&outcome);
    is_root(&seen, "rw");
    let waited = record(&seen)["waited_us"].as_u64().unwrap();
    assert!((1_000_000..15_000_000).contains(&waited), "{waited} us\n{seen}");
}

/// No such root: it is said, and plimsoll stays PID 1 in the initramfs with the
/// payloads, QM fenced and its partition mounted.
pub(crate) fn root_missing(on: On) {
    let mut board = on.board_file();
    set(&mut board, &["handoff", "init"], json!("/sbin/init"));
    let guest = guest(on, &board, "root=LABEL=nowhere").kernel_arg("rootwait=2 rootdelay=soon");
    let outcome = guest.run(&format!("{LOOK} qm_up; look")).unwrap();
    let seen = Seen::new(&outcome);
    let record = record(&seen);
    assert!(has(&record, "root", "/sysroot", "failed"), "{seen}");
    assert!(has(&record, "root", "rootdelay", "failed"), "{seen}");
    assert!(seen.serial.contains("wanted LABEL=nowhere, found no such device"), "{seen}");
    assert!(seen.serial.contains("handoff: none, the root is not mounted"), "{seen}");
    let waited = record["waited_us"].as_u64().unwrap();
    assert!((2_000_000..10_000_000).contains(&waited), "{waited} us\n{seen}");
    seen.expect("qm_runs", "yes");
    seen.expect("qm/memory.max", bytes(&seen, "40%"));
    assert!(seen.get("var_qm").contains("nodev"), "{seen}");
    assert!(outcome.powered_off, "{seen}");
}

/// The process that does the boot is killed twice while it waits for the root;
/// the third one, without the board file, gets there.
pub(crate) fn root_though_the_boot_is_killed(on: On) {
    let mut board = on.board_file();
    set(&mut board, &["handoff", "init"], json!("/sbin/init"));
    let modules = board["modules"].as_array_mut().unwrap();
    modules.retain(|name| name != "virtio_blk");
    let first = program(
        "#!/bin/sh\nexport PATH=/usr/bin; mount -t proc proc /proc
         (for round in 1 2; do
             until grep -q ext4 /proc/filesystems; do sleep 0.1; done; sleep 1
             for dir in /proc/[0-9]*; do
                 set -- $(cat $dir/stat 2>/dev/null)
                 [ \"$2 $4\" = '(init) 1' ] && kill -9 $1
             done
         done
         sleep 2; exec insmod /lib/modules/$(uname -r)/virtio_blk.ko) &
         exec /init \"$@\"\n",
    );
    let guest = guest(on, &board, "root=/dev/vda2").put(first.path(), "/first");
    let guest = guest.kernel_arg("rdinit=/first rw rootwait");
    let outcome = guest.run(&format!("{LOOK} {ROOT_LOOK} look; root_look")).unwrap();
    let seen = Seen::new(&outcome);
    assert!(seen.serial.contains("the boot died (attempt 2)"), "{seen}");
    seen.expect("mounted:/", "/dev/vda2 ext4 rw");
    seen.expect("pid1", "init 0");
    seen.expect("supervisors", 2);
    seen.expect("qm", "held");
    let record = record(&seen);
    assert!(has(&record, "root", "/dev/vda2", "agrees"), "{seen}");
    assert_eq!(record["qm_reason"], "the boot died twice with its board file", "{seen}");
}

/// Another initramfs mounted the root and all that belongs to it, and plimsoll is
/// the init= it starts.
pub(crate) fn init_on_a_mounted_root(on: On) {
    let mut board = on.board_file();
    set(&mut board, &["handoff", "init"], json!("/sbin/init"));
    let modules: Vec<_> =
        board["modules"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    let first = program(&format!(
        "#!/bin/sh\nexport PATH=/usr/bin
         mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs devtmpfs /dev
         mount -t tmpfs tmpfs /run; touch /run/kept
         for module in {}; do insmod /lib/modules/$(uname -r)/$module.ko 2>/dev/null; done
         until [ -b /dev/vda2 ]; do sleep 0.1; done
         mkdir /sysroot; mount -t ext4 -o ro /dev/vda2 /sysroot
         for dir in dev proc sys run; do mount --move /$dir /sysroot/$dir; done
         exec switch_root /sysroot /sbin/plimsoll \"$@\"\n",
        modules.join(" ")
    ));
    let guest = guest(on, &board, "root=/dev/vda2").put(first.path(), "/first");
    let guest = guest.kernel_arg("rdinit=/first ro init=/sbin/plimsoll pebble");
    let script = format!(
        "{LOOK} {ROOT_LOOK} look; root_look; [ -e /run/kept ] && echo \"run kept\"
         echo \"exe $(readlink /proc/1/exe)\""
    );
    let outcome = guest.run(&script).unwrap();
    let seen = Seen::new(&outcome);
    seen.expect("mounted:/", "/dev/vda2 ext4 ro");
    seen.expect("mounted:/var/qm", "/dev/vda1 ext4 rw");
    seen.expect("mounts", 7);
    seen.expect("run", "kept");
    seen.expect("pid1", "init 0");
    seen.expect("exe", "/usr/bin/busybox");
    seen.expect("supervisors", 2);
    seen.expect("qm/memory.max", bytes(&seen, "40%"));
    let record = record(&seen);
    for place in ["/dev", "/proc", "/sys", "/run"] {
        assert!(has(&record, "mount", place, "skipped"), "{place}\n{seen}");
    }
    assert!(!record["entries"].as_array().unwrap().iter().any(|e| e["step"] == "root"), "{seen}");
}

/// Another init is up already: `plimsoll boot` does the same, once.
pub(crate) fn started_late(on: On) {
    let script = format!(
        r#"{LOOK}
mkdir /tmp/elsewhere; cd /tmp/elsewhere
plimsoll status >/dev/null 2>&1; echo "status_before $?"
plimsoll boot; echo "boot $?"
plimsoll boot 2>/dev/null; echo "again $?"
look
set -- $(supervisors)
echo "supervisors $#"
echo "supervisor $(readlink /proc/$1/cwd) $(cut -d: -f3 /proc/$1/cgroup) $(cat /proc/$1/oom_score_adj)"
kill -9 $1; sleep 0.5; echo "supervisors_after $(supervisors | wc -l)"
echo 300M >/sys/fs/cgroup/qm/memory.max; sleep 2.5; knob mended /sys/fs/cgroup/qm/memory.max
"#
    );
    let outcome = on.guest().kernel_arg("rdinit=/sbin/init").run(&script).unwrap();
    let seen = Seen::new(&outcome);
    seen.expect("status_before", 1);
    seen.expect("boot", 0);
    seen.expect("again", 0);
    seen.expect("pid1", "init 0");
    seen.expect("supervisors", 2);
    seen.expect("supervisor", "/ /plimsoll -1000");
    seen.expect("supervisors_after", 2);
    seen.expect("qm", "start");
    for knob in ["qm/memory.max", "mended"] {
        seen.expect(knob, bytes(&seen, "40%"));
    }
    seen.expect("qm/memory.high", bytes(&seen, "35%"));
    assert!(seen.get("var_qm").contains("nodev"), "{seen}");
    assert!(has(&record(&seen), "handoff", "next init", "agrees"), "{seen}");
}
