//! A Debian root with systemd, podman and qm.container.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use xtask::guest::Guest;

use crate::{On, Seen, bytes, set};

/// From QEMU's start to a state of the guest. Alone it takes a third of that.
const PATIENCE: Duration = Duration::from_secs(200);

/// For scripts: waits until QM's own systemd has started all that it starts, and
/// prints how that went. Its socket is there a little later than its cgroups.
pub(crate) const QM_STATE: &str = r#"
qm_state() {
    for i in $(seq 30); do
        state=$(in-qm systemctl is-system-running --wait 2>/dev/null)
        [ -z "$state" ] || break
    done
    [ "$state" = running ] || in-qm journalctl --boot --no-pager >&2
    echo "qm_state $state"
}
"#;

/// What both systemds and QM's limits look like.
const LOOK: &str = r#"
echo "state $(systemctl is-system-running --wait)"
echo "failed $(systemctl --failed --no-legend)"
echo "pid1 $(cat /proc/1/comm)"
qm_state
echo "qm_failed $(in-qm systemctl --failed --no-legend)"
echo "nested $(in-qm podman inspect --format '{{.State.Status}}' nested)"
echo "qm $(systemctl show qm --property ActiveState --value)"
for key in MemoryMax MemoryHigh; do echo "$key $(systemctl show qm --property $key --value)"; done
for file in memory.max memory.high memory.swap.max cpu.idle; do
    echo "$file $(cat /sys/fs/cgroup/qm.service/$file)"
done
pid=$(podman inspect --format '{{.State.Pid}}' qm)
echo "qm_score $(cat /proc/$pid/oom_score_adj)"
echo "qm_init $(cat /proc/$pid/comm)"
scores=
for pid in $(cat $(find /sys/fs/cgroup/qm.service -path '*nested.service/libpod*' -name cgroup.procs)); do
    scores="$scores $(cat /proc/$pid/comm):$(cat /proc/$pid/oom_score_adj)"
done
echo "nested_scores$scores"
score=/proc/self/oom_score_adj
echo "in_qm_scores $(in-qm "cat $score; (echo 0 >$score) 2>/dev/null; cat $score" | tr '\n' ' ')"
echo "drop_in $(tr '\n' ' ' </usr/share/containers/systemd/qm.container.d/10-automotive.conf)"
echo "var_qm $(awk '$2 == "/var/qm" { print $1, $3 }' /proc/mounts)"
echo "warnings $(journalctl -b -p warning -o cat _TRANSPORT=syslog + _TRANSPORT=journal + _TRANSPORT=stdout)"
echo "var_qm_unit $(systemctl show var-qm.mount --property ActiveState,SubState --value | tr '\n' ' ' | sed 's/ $//')"
echo "qm_drop_in $(systemctl show qm --property DropInPaths --value | tr ' ' '\n' | grep plimsoll)"
echo "default_score $(systemctl show --property DefaultOOMScoreAdjust --value)"
echo "init_scope $(systemctl show init.scope --property Result,OOMPolicy --value | tr '\n' ' ' | sed 's/ $//')"
echo "supervisors $(grep -c . /sys/fs/cgroup/plimsoll/cgroup.procs 2>/dev/null || echo 0)"
echo "status $(plimsoll status --json 2>/dev/null)"
echo "mem_total $(awk '/^MemTotal/ { print $2 }' /proc/meminfo)"
echo "page $(od -A n -t d8 -w16 /proc/self/auxv | awk '$1 == 6 { print $2 }')"
"#;

/// After plimsoll as the initramfs's /init both systemds are as content as without
/// it; its limits are in force, and what it mounted and left behind is there.
pub(crate) fn systemd_is_content(on: On) {
    let seen = is_content(on.guest(), on, "");
    seen.expect("var_qm_unit", "active mounted");
    seen.expect("qm_drop_in", "/run/systemd/system/qm.service.d/99-plimsoll.conf");
    seen.expect("default_score", "-1000");
    seen.expect("init_scope", "success continue");
    seen.expect("supervisors", 2);
    let status: Value = serde_json::from_str(seen.get("status")).unwrap();
    assert_eq!(status["live"]["drifts"], 0, "{seen}");
    for entry in status["boot"]["entries"].as_array().unwrap() {
        assert!(["agrees", "skipped"].contains(&entry["outcome"].as_str().unwrap()), "{entry}");
    }
}

/// plimsoll's own unit, begun when QM runs already.
const LATE: &str = r#"
systemctl start plimsoll
# A look is a second, and systemctl takes some.
sleep 10
echo "late $(systemctl show plimsoll --property ActiveState --value) $(systemctl is-system-running)"
echo "late_supervisors $(grep -c . /sys/fs/cgroup/plimsoll/cgroup.procs)"
for key in MemoryMax MemoryHigh; do echo "late_$key $(systemctl show qm --property $key --value)"; done
echo "late_memory.max $(cat /sys/fs/cgroup/qm.service/memory.max)"
echo "late_memory.high $(cat /sys/fs/cgroup/qm.service/memory.high)"
systemctl stop plimsoll
echo "late_stopped $(grep -c . /sys/fs/cgroup/plimsoll/cgroup.procs)"
systemctl daemon-reload; systemctl restart qm
qm_state | sed 's/^qm_state/late_again/'
echo "late_again_max $(systemctl show qm --property MemoryMax --value) $(cat /sys/fs/cgroup/qm.service/memory.max)"
"#;

/// The image without plimsoll is as it is to be compared with: QM is limited as
/// automotive-image-builder's drop-in says. Then plimsoll comes late, as a unit,
/// with limits of its own.
pub(crate) fn systemd_without_plimsoll(on: On) {
    let mut board = on.board_file();
    set(&mut board, &["qm", "memory_limit"], json!({"max": "30%", "high": "25%"}));
    let unit = concat!(env!("CARGO_MANIFEST_DIR"), "/../../boards/plimsoll.service");
    let guest = on.guest().busybox_initramfs().board_json(&board);
    let guest = guest.put(unit, "/etc/systemd/system/plimsoll.service");
    let seen = is_content(guest, on, LATE);
    seen.expect("qm_drop_in", "");
    seen.expect("supervisors", 0);
    seen.expect("late", "active running");
    for key in ["late_supervisors", "late_stopped"] {
        seen.expect(key, 2);
    }
    let (max, high) = (bytes(&seen, "30%"), bytes(&seen, "25%"));
    for (key, value) in [("MemoryMax", &max), ("MemoryHigh", &high)] {
        seen.expect(&format!("late_{key}"), value);
    }
    seen.expect("late_memory.max", &max);
    seen.expect("late_memory.high", &high);
    seen.expect("late_again", "running");
    seen.expect("late_again_max", format!("{max} {max}"));
}

/// Both systemds, the host's and QM's, are running without a failed unit, and QM
/// has its limits.
fn is_content(guest: Guest, on: On, then: &str) -> Seen {
    let script = format!("{QM_STATE}{LOOK}{then}");
    let mut times = Vec::new();
    let outcome = guest.run_with(&script, |line, _| {
        let what = line.split(' ').next().unwrap_or_default();
        if ["state", "qm_state"].contains(&what) {
            times.push((what.to_string(), Instant::now()));
        }
        Ok(())
    });
    let outcome = outcome.unwrap();
    let end = Instant::now();
    let from_start = |at: Instant| outcome.elapsed.saturating_sub(end - at);
    let times: Vec<_> = times.into_iter().map(|(what, at)| (what, from_start(at))).collect();
    println!("{}: from QEMU's start: {times:.1?}", on.board);
    let seen = Seen::new(&outcome);
    for key in ["state", "qm_state"] {
        seen.expect(key, "running");
    }
    for key in ["failed", "qm_failed", "warnings"] {
        seen.expect(key, "");
    }
    assert!(times.iter().all(|(_, time)| *time < PATIENCE), "{times:?}\n{seen}");
    seen.expect("pid1", "systemd");
    seen.expect("qm_init", "systemd");
    seen.expect("qm", "active");
    seen.expect("nested", "running");
    seen.expect("var_qm", "/dev/vdb1 ext4");
    seen.expect("drop_in", "[Service] MemoryMax=40% MemoryHigh=35% CPUWeight=idle  [Container] ");
    for (key, limit) in [("MemoryMax", "40%"), ("MemoryHigh", "35%")] {
        seen.expect(key, bytes(&seen, limit));
    }
    seen.expect("memory.max", seen.get("MemoryMax"));
    seen.expect("memory.high", seen.get("MemoryHigh"));
    seen.expect("memory.swap.max", 0);
    seen.expect("cpu.idle", 1);
    seen.expect("qm_score", 500);
    seen.expect("nested_scores", "sleep:750");
    // Without CAP_SYS_RESOURCE nobody in QM lowers a score.
    seen.expect("in_qm_scores", "500 500 ");
    seen
}
