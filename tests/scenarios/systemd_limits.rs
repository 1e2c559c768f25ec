//! systemd itself applies what plimsoll's drop-ins say, over the image's own, and
//! is asked where it drifts.

use serde_json::json;

use super::QM_STATE;
use super::virtio_mem::{limits_at, on_request};
use crate::{On, Seen, bytes, set};

const SCRIPT: &str = r#"
qm=/sys/fs/cgroup/qm.service
echo "mem_total $(awk '/^MemTotal/ { print $2 }' /proc/meminfo)"
echo "page $(od -A n -t d8 -w16 /proc/self/auxv | awk '$1 == 6 { print $2 }')"
echo "state $(systemctl is-system-running --wait)"
qm_state
show() { systemctl show ${2:-qm} --property $1 --value; }
counter() { plimsoll status --json | sed "s/.*\"$1\":\([0-9]*\).*/\1/"; }
now() { awk '{ print int($1 * 1000) }' /proc/uptime; }
for key in MemoryMax MemoryHigh MemoryMin MemoryLow MemorySwapMax TasksMax CPUWeight OOMPolicy OOMScoreAdjust Slice; do
    echo "$key $(show $key)"
done
for file in memory.max memory.high memory.min memory.low memory.swap.max memory.oom.group pids.max cpu.idle; do
    echo "$file $(cat $qm/$file)"
done
echo "slice $(cat /sys/fs/cgroup/system.slice/memory.min) $(show MemoryMin system.slice) $(show DefaultMemoryMin system.slice)"
echo "pid1_score $(cat /proc/1/oom_score_adj)"
echo "host_score $(cat /proc/$(show MainPID dbus.service)/oom_score_adj)"
echo "default_score $(systemd-run --quiet --wait --pipe cat /proc/self/oom_score_adj)"
echo "qm_score $(cat /proc/$(podman inspect --format '{{.State.Pid}}' qm)/oom_score_adj)"
echo "drifts_at_start $(counter drifts)"
# Milliseconds until kernel and systemd show what is wanted, 15 s at most.
max=$(cat $qm/memory.max)
mended() {
    begin=$(now) end=$(($(now) + 15000))
    until [ $(cat $qm/memory.max) = $max ] && [ $(show MemoryMax) = $max ]; do
        [ $(now) -lt $end ] || break
        sleep 0.1
    done
    echo "$1 $(($(now) - begin))"
}
systemctl set-property --runtime qm.service MemoryMax=infinity; mended set_property_ms
sleep 5
echo max >$qm/memory.max; mended hand_edit_ms
sleep 8
drifts=$(counter drifts)
systemctl daemon-reload; systemctl daemon-reexec; sleep 3
echo "drifts_by_reload $(($(counter drifts) - drifts))"
echo "mended $(counter mended)"

# The host adds a GiB and takes it back: QM's limits, 30 % and 25 %, in the kernel's
# files and as systemd has them, in milliseconds after the memory.
memory() { awk '/^MemTotal/ { print $2 }' /proc/meminfo; }
is_percent() { off=$((${1:-0} - $(memory) * 1024 / 100 * $2)); [ ${off#-} -lt 65536 ]; }
follows() {
    begin=$(now) end=$(($(now) + 30000))
    until is_percent $(cat $qm/memory.max) 30 && is_percent $(cat $qm/memory.high) 25; do
        [ $(now) -lt $end ] || break; sleep 0.05
    done
    echo "$1_kernel_ms $(($(now) - begin))"
    until [ $(show MemoryMax) = $(cat $qm/memory.max) ] && [ $(show MemoryHigh) = $(cat $qm/memory.high) ]; do
        [ $(now) -lt $end ] || break; sleep 0.1
    done
    echo "$1_systemd_ms $(($(now) - begin))"
    echo "$1_total $(memory)"
    echo "$1_max $(cat $qm/memory.max) $(show MemoryMax)"
    echo "$1_high $(cat $qm/memory.high) $(show MemoryHigh)"
}
alone=$(memory) drifts=$(counter drifts) kills=$(awk '/^oom_kill / { print $2 }' /proc/vmstat)
echo "want 1024"; for i in $(seq 300); do [ $(memory) -lt $((alone + 1024 * 1024 - 8)) ] || break; sleep 0.1; done
follows grown
echo "want 0"; for i in $(seq 600); do [ $(memory) -gt $((alone + 8)) ] || break; sleep 0.1; done
follows shrunk
echo "drifts_by_memory $(($(counter drifts) - drifts))"
echo "kills_by_memory $(($(awk '/^oom_kill / { print $2 }' /proc/vmstat) - kills))"
sleep 3

# A guest's VMM is a unit: its limit is systemd's as well, and stays.
vm=/sys/fs/cgroup/system.slice/vm-a.service
systemd-run --quiet --unit=vm-a -p MemoryMax=1G sleep 600
for i in $(seq 150); do [ $(show MemoryMax vm-a) = 1073741824 ] || break; sleep 0.1; done
echo "vm $(cat $vm/memory.max) $(show MemoryMax vm-a)"
systemctl daemon-reload; systemctl set-property --runtime vm-a CPUWeight=50
echo "vm_reloaded $(cat $vm/memory.max) $(show MemoryMax vm-a)"
systemctl stop vm-a

# A drop-in that sorts after plimsoll's: QM starts without its limit.
mkdir -p /etc/systemd/system/qm.service.d
printf '[Service]\nMemoryMax=infinity\n' >/etc/systemd/system/qm.service.d/zz.conf
rm -rf /run/systemd/system.control
systemctl stop qm; systemctl reset-failed qm; systemctl daemon-reload
echo "dropped $(show MemoryMax)"
systemctl start --no-block qm
until grep -qs 'populated 1' $qm/cgroup.events; do :; done
begin=$(now)
until [ $(cat $qm/memory.max) = $max ]; do :; done
echo "fence_ms $(($(now) - begin))"
mended start_ms
rm /etc/systemd/system/qm.service.d/zz.conf; systemctl daemon-reload

# Quadlet's generator masked, and its unit a file of the image's.
cp $(show FragmentPath) /etc/systemd/system/qm.service
mkdir -p /etc/systemd/system-generators
ln -s /dev/null /etc/systemd/system-generators/podman-system-generator
systemctl daemon-reload
echo "unmade $(show FragmentPath) $(show MemoryMax) $(cat $qm/memory.max)"

# Held: a start is skipped, and nothing is wrong.
systemctl stop qm; systemctl reset-failed qm
rm /run/plimsoll/qm-start
systemctl start qm
echo "held $(show ActiveState) $(show ConditionResult)"
echo "state_when_held $(systemctl is-system-running)"
echo "skipped $(journalctl -b -o cat | grep -c 'QM skipped, unmet condition check ConditionPathExists=/run/plimsoll/qm-start')"
journalctl -b -k -o short-monotonic | grep -E "drift|mended|fenced|systemctl:" | sed 's/^/kmsg: /'
"#;

/// The drop-ins count, over the image's own for 40 % and 35 %; what others
/// change is mended through systemd, and what they drop is fenced.
pub(crate) fn limits_through_systemd(on: On) {
    let mut board = on.board_file();
    set(&mut board, &["qm", "memory_limit"], json!({"max": "30%", "high": "25%"}));
    set(&mut board, &["virtio_mem"], json!({ "enable": true }));
    let vm = json!({ "name": "a", "cgroup": "/system.slice/vm-a.service", "memory": "128M" });
    let guests = json!({ "model": "fixed", "overhead": "64M", "list": [vm] });
    set(&mut board, &["guests"], guests);
    let guest = on.guest().board_json(&board).virtio_mem("2G", "1G").busybox_initramfs();
    let script = format!("{QM_STATE}{SCRIPT}");
    let outcome = guest.kernel_arg("init=/usr/sbin/plimsoll").run_with(&script, on_request);
    let seen = &Seen::new(&outcome.unwrap());
    let (max, high) = (bytes(seen, "30%"), bytes(seen, "25%"));
    for (key, value) in [
        ("state", "running"),
        ("qm_state", "running"),
        ("MemoryMax", &max),
        ("memory.max", &max),
        ("MemoryHigh", &high),
        ("memory.high", &high),
        ("MemoryMin", "0"),
        ("memory.min", "0"),
        ("MemoryLow", "0"),
        ("memory.low", "0"),
        ("MemorySwapMax", "0"),
        ("memory.swap.max", "0"),
        ("TasksMax", "4096"),
        ("pids.max", "4096"),
        ("CPUWeight", "idle"),
        ("cpu.idle", "1"),
        ("OOMPolicy", "kill"),
        ("memory.oom.group", "1"),
        ("OOMScoreAdjust", "500"),
        ("qm_score", "500"),
        ("Slice", "-.slice"),
        ("slice", "67108864 67108864 67108864"),
        ("pid1_score", "0"),
        // Debian's unit of D-Bus says -900 itself.
        ("host_score", "-900"),
        ("default_score", "-1000"),
        ("drifts_at_start", "0"),
        ("drifts_by_reload", "0"),
        ("mended", "2"),
        ("drifts_by_memory", "0"),
        ("kills_by_memory", "0"),
        ("vm", "201326592 201326592"),
        ("vm_reloaded", "201326592 201326592"),
        ("dropped", "infinity"),
        ("held", "inactive no"),
        ("state_when_held", "running"),
        ("skipped", "1"),
    ] {
        seen.expect(key, value);
    }
    seen.expect("unmade", format!("/etc/systemd/system/qm.service {max} {max}"));
    for ms in ["set_property_ms", "hand_edit_ms"] {
        assert!(seen.number(ms) < 4000, "{ms}\n{seen}");
    }
    for at in ["grown", "shrunk"] {
        let [max, high] = limits_at(seen, at, ["30%", "25%"]);
        seen.expect(&format!("{at}_max"), format!("{max} {max}"));
        seen.expect(&format!("{at}_high"), format!("{high} {high}"));
        let ms = |of: &str| seen.number(&format!("{at}_{of}_ms"));
        println!("{at}: kernel {} ms, systemd {} ms", ms("kernel"), ms("systemd"));
        assert!(ms("kernel") < 2500 && ms("systemd") < 15_000, "{seen}");
    }
    assert!(seen.number("fence_ms") < 500, "{seen}");
    assert!(seen.number("start_ms") < 15_000, "{seen}");
}

/// /var/qm is not there: the host is content, QM is not started, and systemd's
/// journal says why.
pub(crate) fn qm_is_held_by_its_condition(on: On) {
    let mut board = on.board_file();
    set(&mut board, &["image", "partitions", "var_qm", "label"], json!("another"));
    set(&mut board, &["image", "partitions", "var_qm", "wait_secs"], json!(1));
    let guest = on.guest().board_json(&board).busybox_initramfs();
    let script = r#"
echo "state $(systemctl is-system-running --wait)"
echo "failed $(systemctl --failed --no-legend)"
echo "qm $(systemctl show qm --property ActiveState --value) $(systemctl show qm --property ConditionResult --value)"
echo "emergency $(systemctl show emergency.target --property ActiveState --value)"
echo "description $(systemctl show qm --property Description --value)"
echo "journal $(journalctl -b -o cat | grep 'QM, held.*unmet condition')"
"#;
    let seen = &Seen::new(&guest.kernel_arg("init=/usr/sbin/plimsoll").run(script).unwrap());
    seen.expect("state", "running");
    seen.expect("failed", "");
    seen.expect("qm", "inactive no");
    seen.expect("emergency", "inactive");
    seen.expect("description", "QM, held by plimsoll: /var/qm is not mounted");
    let journal = seen.get("journal");
    assert!(journal.contains("/var/qm is not mounted"), "{seen}");
    println!("{journal}");
}
