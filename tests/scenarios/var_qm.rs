//! /var/qm: full, missing, wrong, broken, twice. The host is up in each.

use serde_json::json;
use xtask::disk::{Disk, VarQm};

use super::LOOK;
use crate::{On, Seen, has, record, set};

/// QM fills its partition; the host's disk does not notice.
pub(crate) fn var_qm_full(on: On) {
    let script = format!(
        r#"{LOOK} qm_up; look
echo "fill $(in-qm 'dd if=/dev/zero of=/var/qm/f bs=1M' 2>&1 | grep -c 'No space left')"
mkdir /tmp/host; mount -t ext4 /dev/vda2 /tmp/host
dd if=/dev/zero of=/tmp/host/f bs=1M count=64 2>/dev/null && echo "host writes"
echo "free $(df -k /var/qm | awk 'END {{ print $4 }}')"
"#
    );
    let seen = Seen::new(&on.guest().run(&script).unwrap());
    seen.expect("fill", 1);
    seen.expect("host", "writes");
    seen.expect("free", 0);
    seen.expect("qm", "start");
}

/// No disk at all.
pub(crate) fn var_qm_missing(on: On) {
    let seen = without_var_qm(on, [], None);
    let record = record(&seen);
    // The wait is bounded, by what the board file says.
    let waited = record["waited_us"].as_u64().unwrap();
    assert!((2_000_000..15_000_000).contains(&waited), "{waited} us\n{seen}");
}

/// A partition with a file system of another UUID than the one asked for.
pub(crate) fn var_qm_of_another_uuid(on: On) {
    let uuid = "11111111-2222-3333-4444-555555555555";
    without_var_qm(on, [disk(|_| ())], Some(uuid));
}

/// The right partition, but its superblock is gone.
pub(crate) fn var_qm_with_a_zeroed_superblock(on: On) {
    without_var_qm(on, [disk(|var_qm| var_qm.superblock_zeroed = true)], None);
}

/// Two disks that say they are the one: neither is taken.
pub(crate) fn var_qm_twice(on: On) {
    let twin = disk(|_| ());
    let seen = without_var_qm(on, [twin.clone(), twin], None);
    let record = record(&seen);
    let reason = record["entries"].as_array().unwrap().iter().find(|e| e["step"] == "var-qm");
    let reason = reason.unwrap()["found"].as_str().unwrap();
    assert!(reason.contains("vda1") && reason.contains("vdb1"), "{reason}\n{seen}");
}

fn disk(change: impl FnOnce(&mut VarQm)) -> Disk {
    let mut var_qm = VarQm::new(64 << 20);
    change(&mut var_qm);
    Disk { bytes: 256 << 20, var_qm: Some(var_qm) }
}

/// Boots with these disks: QM is held, the record says why, the host is up.
fn without_var_qm(on: On, disks: impl IntoIterator<Item = Disk>, fs_uuid: Option<&str>) -> Seen {
    let mut board = on.board_file();
    set(&mut board, &["image", "partitions", "var_qm", "wait_secs"], json!(2));
    if let Some(uuid) = fs_uuid {
        set(&mut board, &["image", "partitions", "var_qm", "fs_uuid"], json!(uuid));
    }
    let script = format!("{LOOK} look; echo \"in_qm $(in-qm true 2>&1)\"");
    let outcome = on.guest().board_json(&board).disks(disks).run(&script).unwrap();
    let seen = Seen::new(&outcome);
    qm_is_held(&seen);
    seen
}

/// For want of /var/qm, as `look` and `in_qm` show.
pub(super) fn qm_is_held(seen: &Seen) {
    seen.expect("var_qm", "");
    seen.expect("qm", "held");
    seen.expect("qm_runs", "no");
    seen.expect("in_qm", "in-qm: QM does not run");
    let record = record(seen);
    assert!(has(&record, "var-qm", "/var/qm", "failed"), "{seen}");
    assert_eq!(record["qm_reason"], "/var/qm is not mounted", "{seen}");
    // Its limits are in force all the same.
    assert!(has(&record, "limit", "/qm/memory.max", "agrees"), "{seen}");
}
