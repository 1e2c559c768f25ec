//! Broken board files and kernels that lack something: the host is up, QM is
//! fenced or held, the record says why.

use serde_json::json;
use xtask::disk::Disk;

use super::{LOOK, program};
use crate::{On, Seen, bytes, has, record, set};

/// Seven mistakes in one file: each is named, and the rest of it counts.
pub(crate) fn board_file_with_mistakes(on: On) {
    let mut board = on.board_file();
    set(&mut board, &["qm", "memory_limit", "max"], json!("40 %"));
    set(&mut board, &["qm", "memory_limit", "high"], json!("130%"));
    set(&mut board, &["qm", "memory_limt"], json!({}));
    set(&mut board, &["qm", "pids_max"], json!("many"));
    set(&mut board, &["image", "partitions", "vor"], json!({"size": "1 GiB"}));
    set(&mut board, &["handoff", "oom_score_adj"], json!(-1001));
    set(&mut board, &["image", "cg_memory_min"], json!("64 MB of it"));
    let script =
        format!("{LOOK} qm_up; look; plimsoll check /etc/plimsoll/board.json; echo \"check $?\"");
    let outcome = on.guest().board_json(&board).run(&script).unwrap();
    let seen = Seen::new(&outcome);
    let record = record(&seen);
    let stderr = String::from_utf8_lossy(&outcome.stderr);
    for field in [
        "qm.memory_limit.max",
        "qm.memory_limit.high",
        "qm.memory_limt",
        "qm.pids_max",
        "image.partitions.vor",
        "handoff.oom_score_adj",
        "image.cg_memory_min",
    ] {
        assert!(has(&record, "board", field, "failed"), "{field}\n{seen}");
        assert!(stderr.contains(field), "{stderr}");
    }
    seen.expect("check", 1);
    seen.expect("qm/memory.max", bytes(&seen, "25%"));
    // The payloads are the board's: the host is up, and QM runs inside its fence.
    seen.expect("qm_runs", "yes");
}

/// Not JSON from some point on: nothing of it counts.
pub(crate) fn board_file_that_is_no_json(on: On) {
    let mut text = on.board_file().to_string();
    text.truncate(text.len() / 2);
    let outcome = on
        .guest()
        .board_text(text)
        .run(&format!("{LOOK} look_default").replace("look_default", DEFAULT))
        .unwrap();
    default_board(&Seen::new(&outcome));
}

/// No such file.
pub(crate) fn board_file_missing(on: On) {
    let guest = on.guest().kernel_arg("plimsoll.board=/etc/nowhere.json");
    let outcome = guest.run(&format!("{LOOK} {DEFAULT}")).unwrap();
    let seen = Seen::new(&outcome);
    assert!(has(&record(&seen), "board", "/etc/nowhere.json", "failed"), "{seen}");
    default_board(&seen);
}

const DEFAULT: &str = "look; knob default /sys/fs/cgroup/qm.service/memory.max";

/// The default board: the default init is PID 1, QM's default cgroup is fenced.
fn default_board(seen: &Seen) {
    seen.expect("pid1", "init 0");
    assert!(seen.serial.contains("handoff /sbin/init"), "{seen}");
    seen.expect("default", bytes(seen, "25%"));
    assert!(record(seen)["entries"].as_array().unwrap().iter().any(|e| e["step"] == "board"));
}

/// A kernel without the memory controller.
pub(crate) fn no_memory_controller(on: On) {
    let guest = on.guest().kernel_arg("cgroup_disable=memory");
    let seen = Seen::new(&guest.run(&format!("{LOOK} look")).unwrap());
    held(&seen);
    let record = record(&seen);
    assert!(has(&record, "limit", "/qm/memory.max", "failed"), "{seen}");
    // The rest is done.
    assert!(has(&record, "limit", "/qm/pids.max", "agrees"), "{seen}");
    seen.expect("qm/cpu.idle", 1);
    assert!(seen.get("var_qm").contains("nodev"), "{seen}");
}

/// Something that is no cgroup2 where it belongs.
pub(crate) fn no_cgroup2(on: On) {
    let seen = after(on, "mount -t sysfs sysfs /sys; mount -t tmpfs tmpfs /sys/fs/cgroup");
    held(&seen);
    assert!(has(&record(&seen), "limit", "/qm/memory.max", "failed"), "{seen}");
    assert!(seen.get("var_qm").contains("nodev"), "{seen}");
}

/// Everything below /sys is read-only.
pub(crate) fn read_only_sys(on: On) {
    let seen =
        after(on, "mount -t sysfs -o ro sysfs /sys; mount -t cgroup2 -o ro cgroup2 /sys/fs/cgroup");
    held(&seen);
    let record = record(&seen);
    assert!(has(&record, "limit", "/qm/memory.max", "failed"), "{seen}");
    assert!(seen.get("var_qm").contains("nodev"), "{seen}");
}

/// No kernel log: the record and the limits are there all the same.
pub(crate) fn no_kmsg(on: On) {
    let seen = after(on, "mount -t devtmpfs devtmpfs /dev; rm /dev/kmsg");
    seen.expect("qm", "start");
    seen.expect("qm/memory.max", bytes(&seen, "40%"));
    // The console got the lines instead.
    assert!(seen.serial.contains("memory.max: agrees"), "{seen}");
}

/// memory.high takes no value: QM starts under the fallback.
pub(crate) fn a_knob_that_refuses(on: On) {
    let seen = after(
        on,
        "mount -t devtmpfs devtmpfs /dev; mount -t sysfs sysfs /sys
         mount -t cgroup2 cgroup2 /sys/fs/cgroup
         echo +memory >/sys/fs/cgroup/cgroup.subtree_control
         mkdir /sys/fs/cgroup/qm; mount --bind /dev/full /sys/fs/cgroup/qm/memory.high",
    );
    seen.expect("qm", "start");
    seen.expect("qm/memory.max", bytes(&seen, "25%"));
    let record = record(&seen);
    assert!(has(&record, "limit", "/qm/memory.high", "failed"), "{seen}");
    assert_eq!(record["qm_reason"], "a limit was refused: the fallback is in force", "{seen}");
}

/// The process that does the boot is killed twice, while it waits for a disk;
/// the third time, without the board file, it may finish.
pub(crate) fn the_boot_itself_is_killed(on: On) {
    let seen = after_with(
        on,
        "mount -t proc proc /proc
         (for round in 1 2; do
             killed=
             until [ $killed ]; do
                 for dir in /proc/[0-9]*; do
                     set -- $(cat $dir/stat 2>/dev/null)
                     [ \"$2 $4\" = '(init) 1' ] && [ $1 != \"$killed_before\" ] || continue
                     kill -9 $1 && killed=$1 && break
                 done
             done
             killed_before=$killed
         done) &",
        Some([]),
    );
    assert!(seen.serial.contains("the boot died (attempt 1)"), "{seen}");
    assert!(seen.serial.contains("the boot died (attempt 2)"), "{seen}");
    let record = record(&seen);
    assert!(has(&record, "boot", "attempt", "failed"), "{seen}");
    assert_eq!(record["qm_reason"], "the boot died twice with its board file", "{seen}");
    held(&seen);
    // What the board file said of the next init still holds: none.
    assert!(seen.serial.contains("plimsoll stays PID 1"), "{seen}");
}

fn held(seen: &Seen) {
    seen.expect("qm", "held");
    seen.expect("qm_runs", "no");
}

/// Boots with a shell as the first program, which does `before` and then
/// becomes plimsoll.
fn after(on: On, before: &str) -> Seen {
    after_with(on, before, None)
}

fn after_with(on: On, before: &str, disks: Option<[Disk; 0]>) -> Seen {
    let first = program(&format!("#!/bin/sh\nexport PATH=/usr/bin\n{before}\nexec /init \"$@\"\n"));
    let guest = on.guest().put(first.path(), "/first").kernel_arg("rdinit=/first");
    let guest = match disks {
        Some(disks) => guest.disks(disks),
        None => guest,
    };
    Seen::new(&guest.run(&format!("{LOOK} look")).unwrap())
}
