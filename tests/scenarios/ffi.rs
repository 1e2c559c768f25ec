//! Freedom from interference: what containers/qm's public tests ask of QM, each
//! with something to compare with, so that none holds where nothing was tried.

use serde_json::json;

use super::{QM_STATE, ffi_limits};
use crate::{On, Seen, set};

/// From the end of QM's first process until QM's systemd has started all again, in
/// seconds of the guest. An emulated QM takes about 20 on a quiet machine.
const QM_BACK_SECS: u64 = 90;
/// Blocks of 4 KiB that QM's own journal may have given up on the full disk.
const DISK_FREE_BLOCKS: u64 = (16 << 20) >> 12;
/// What the host's eater holds of the memory.
const HOST_EATER_PERCENT: u64 = 20;
/// Where the guest has the scripts of QM and of the container in it.
const QM_SCRIPT: &str = "/etc/guest/in-qm";
const NESTED_SCRIPT: &str = "/etc/guest/in-nested";

/// For the host, QM and the nested container: `try KEY CMD...` prints the
/// command's status, then all that it says; `is KEY TEST...` yes or no.
const TRY: &str = r#"
try() { key=$1; shift; said=$("$@" 2>&1); status=$?; echo "$key $status $said" | tr '\n' ' '; echo; }
is() { key=$1; shift; if test "$@"; then echo "$key yes"; else echo "$key no"; fi; }
put() { echo "$2" >"$1"; }
sysctls="net/ipv4/ip_forward net/ipv4/conf/all/rp_filter net/ipv4/tcp_max_syn_backlog
    net/core/rmem_max net/core/wmem_max vm/swappiness vm/overcommit_memory"
write_sysctls() { for name in $sysctls; do try $1_sysctl_$name put /proc/sys/$name 1; done; }
places() {
    is $1_mem -e /dev/mem
    is $1_kmsg -e /dev/kmsg
    is $1_disk -d /dev/disk
    is $1_console -c /dev/console
    is $1_etc_qm -e /etc/qm
    is $1_usr_lib_qm -e /usr/lib/qm
    is $1_usr_share_qm -e /usr/share/qm
    is $1_udev -e /run/udev/control
    is $1_shm -e /dev/shm/of-the-host
    echo "$1_journal $(stat -c %i /run/systemd/journal/socket)"
    echo "$1_modules $(ls /lib/modules/$(uname -r)/ 2>/dev/null | wc -l)"
    try $1_sys_read cat /sys/kernel/mm/ksm/run
    try $1_sys_write put /sys/kernel/mm/ksm/run 0
}
# schedulers WHO LOAD: SCHED_OTHER, FIFO, RR, BATCH and IDLE by their numbers. chrt
# asks for most by sched_setattr, which is the deadline's test.
schedulers() {
    for policy in 0:0 1:1 2:1 3:0 5:0; do
        try $1_policy_${policy%:*} $2 scheduler ${policy%:*} ${policy#*:}
    done
    try $1_deadline chrt --deadline --sched-runtime 1000000 --sched-deadline 10000000 --sched-period 10000000 0 true
}
queues() { for n in $2; do try $1_queue_$n touch /dev/mqueue/$1-$n; done; }
"#;

/// What QM tries.
const IN_QM: &str = r#"
places qm
schedulers qm /var/load
write_sysctls qm
queues qm "1 2 3 4 5 6"
try qm_modprobe modprobe xfs
unit=/usr/lib/systemd/system/dbus.service
is qm_unit -f $unit
try qm_unit_write put $unit x
"#;

/// What the container in QM tries; it has busybox.
const IN_NESTED: &str = r#"
write_sysctls nested
try nested_modprobe modprobe xfs
is nested_mem -e /dev/mem
is nested_kmsg -e /dev/kmsg
"#;

const SCRIPT: &str = r#"
echo "state $(systemctl is-system-running --wait)"
qm_state
qm=/sys/fs/cgroup/qm.service
qm_pid() { podman inspect --format '{{.State.Pid}}' qm; }
secs() { cut -d. -f1 /proc/uptime; }
at() { echo "at_$1 $(secs)"; }
count() { awk "/^$1 / { print \$2 }" $qm/memory.events; }
total=$(awk '/^MemTotal/ { print int($2 / 1024) }' /proc/meminfo)
echo "total_mib $total"
# The limit of queues' bytes is one of a user, whatever the name space.
prlimit --pid $$ --msgqueue=unlimited
values() { for name in $sysctls; do echo $name=$(cat /proc/sys/$name); done | tr '\n' ' '; }
nested() { echo "nested_$1 $(in-qm podman inspect --format '{{.State.Status}}' nested)"; }

at places
nested at_start
echo "qm_score $(cat /proc/$(qm_pid)/oom_score_adj)"
echo "nested_scores $(for pid in $(cat $(find $qm -path '*nested.service/libpod*' -name cgroup.procs)); do
    cat /proc/$pid/oom_score_adj; done | sort -u | tr '\n' ' ')"
touch /dev/shm/of-the-host
places host
schedulers host load
queues host "1 2 3"
before=$(values)
cp $in_qm /var/qm/ffi.sh; cp /usr/bin/load /var/qm/load
in-qm sh /var/ffi.sh
queues host "4 5 6"
in-qm podman exec nested sh -c "$(cat $in_nested)"
[ "$before" = "$(values)" ] && echo "sysctls same" || echo "sysctls $before: $(values)"
is xfs_loaded -d /sys/module/xfs
# As if QM had been let: what it sets is of its own name space.
backlog=/proc/sys/net/ipv4/tcp_max_syn_backlog
host_backlog=$(cat $backlog)
nsenter --net --target $(qm_pid) sh -c "echo 777 >$backlog"
echo "qm_backlog $(in-qm cat $backlog)"
is backlog_of_host $(cat $backlog) = $host_backlog
is backlog_differs $host_backlog != 777

at disk
is var_qm_apart "$(stat -c %d /var/qm)" != "$(stat -c %d /)"
try disk_nested in-qm podman exec nested sh -c 'dd if=/dev/zero of=/tmp/fill bs=1M'
echo "disk_free $(stat -f -c %a /var/qm)"
try disk_qm in-qm 'dd if=/dev/zero of=/var/tmp/fill bs=1M count=64'
try disk_host fallocate -l 256M /root/fill
rm -f /root/fill /var/qm/tmp/fill
in-qm podman exec nested rm /tmp/fill
# Blocks are free again with the journal's next commit.
sync
echo "disk_free_again $(stat -f -c %a /var/qm)"
nested after_disk
"#;

/// QM takes more memory than it gets; the last that is tried, since it ends QM.
const TOO_LITTLE_MEMORY: &str = r#"
at memory
# Below its limit by a high one, QM would be slowed down for minutes before
# anything is killed.
echo max >$qm/memory.high
systemd-run --quiet --unit host-eater load eat $((total * eater_percent / 100))
until [ "$(journalctl -u host-eater -o cat | grep -c resident)" = 1 ]; do sleep 0.5; done
eater=$(systemctl show host-eater --property MainPID --value)
pid=$(qm_pid)
kills() { awk '/^oom_kill / { print $2 }' /proc/vmstat; }
echo "kills_before $(kills)"
at eat
in-qm /var/load eat $((total * 90 / 100)) >/tmp/eaten 2>&1 &
end=$(($(secs) + 150))
while [ -e /proc/$pid ] && [ $(secs) -lt $end ]; do sleep 0.2; done
at gone
sed 's/^/eaten: /' /tmp/eaten
# QM's own counter went with its cgroup.
echo "kills $(kills)"
begin=$(secs)
until [ "$(systemctl show qm --property ActiveState --value)" = active ] && [ "$(qm_pid)" != $pid ]; do
    [ $(($(secs) - begin)) -lt 100 ] || break
    sleep 0.5
done
qm_state | sed 's/^qm_state/qm_again/'
echo "qm_back_secs $(($(secs) - begin))"
nested again
is eater_same "$(systemctl show host-eater --property MainPID --value)" = "$eater"
echo "eater $(systemctl show host-eater --property ActiveState --value) $(systemctl show host-eater --property NRestarts --value)"
echo "eater_kib $(awk '/^VmRSS/ { print $2 }' /proc/$eater/status)"
echo "host_kills $(awk '/^oom_kill / { print $2 }' /sys/fs/cgroup/system.slice/memory.events)"
dmesg | grep -o 'oom-kill:.*' | sed 's/^/victim /'
dmesg | grep -E 'Killed process|Memory cgroup out|oom.group' | sed 's/^/kmsg: /'
echo "state_at_end $(systemctl is-system-running)"
echo "failed $(systemctl --failed --no-legend --plain)"
at end
"#;

/// The public tests that need neither a policy of SELinux nor BlueChi.
pub(crate) fn freedom_from_interference(on: On) {
    let in_qm = super::program(&format!("{TRY}{IN_QM}"));
    let in_nested = super::program(&format!("{TRY}{IN_NESTED}"));
    let mut board = on.board_file();
    set(&mut board, &["qm", "memory_limit"], json!({"max": "40%", "high": ffi_limits::HIGH}));
    set(&mut board, &["qm", "pids_max"], json!(ffi_limits::PIDS_MAX));
    // The script lifts memory.high in the end.
    set(&mut board, &["mend_drift"], json!(false));
    let guest = on.guest().board_json(&board);
    let guest = guest.put(in_qm.path(), QM_SCRIPT).put(in_nested.path(), NESTED_SCRIPT);
    let script = format!(
        "in_qm={QM_SCRIPT} in_nested={NESTED_SCRIPT} eater_percent={HOST_EATER_PERCENT}\n\
         {QM_STATE}{TRY}{SCRIPT}{}{TOO_LITTLE_MEMORY}",
        ffi_limits::SCRIPT
    );
    let seen = &Seen::new(&guest.run(&script).unwrap());
    for key in ["state", "qm_state", "nested_at_start", "nested_after_disk"] {
        seen.expect(key, "running");
    }
    seen.expect("qm_score", 500);
    seen.expect("nested_scores", "750 ");
    what_is_not_there(seen);
    what_is_refused(seen);
    schedulers(seen);
    queues(seen);
    a_full_disk(seen);
    ffi_limits::judge(seen);
    too_little_memory(seen);
}

/// Compares the beginning of what `try` printed, and what the command said.
#[track_caller]
pub(super) fn tried(seen: &Seen, key: &str, worked: bool, said: &str) {
    let line = seen.get(key);
    let as_wanted = line.starts_with("0 ") == worked && line.contains(said);
    assert!(as_wanted, "{key} {line}: not '{said}'\n{seen}");
}

fn what_is_not_there(seen: &Seen) {
    for place in
        ["mem", "kmsg", "disk", "console", "etc_qm", "usr_lib_qm", "usr_share_qm", "udev", "shm"]
    {
        seen.expect(&format!("host_{place}"), "yes");
        seen.expect(&format!("qm_{place}"), "no");
    }
    for place in ["mem", "kmsg"] {
        seen.expect(&format!("nested_{place}"), "no");
    }
    assert_ne!(seen.number("host_journal"), seen.number("qm_journal"), "{seen}");
    assert!(seen.number("host_modules") > 0, "{seen}");
    seen.expect("qm_modules", 0);
}

fn what_is_refused(seen: &Seen) {
    const READ_ONLY: &str = "Read-only file system";
    for system in ["qm", "nested"] {
        for name in [
            "net/ipv4/ip_forward",
            "net/ipv4/conf/all/rp_filter",
            "net/ipv4/tcp_max_syn_backlog",
            "net/core/rmem_max",
            "net/core/wmem_max",
            "vm/swappiness",
            "vm/overcommit_memory",
        ] {
            tried(seen, &format!("{system}_sysctl_{name}"), false, READ_ONLY);
        }
        tried(seen, &format!("{system}_modprobe"), false, "modprobe");
    }
    seen.expect("sysctls", "same");
    seen.expect("xfs_loaded", "no");
    seen.expect("qm_backlog", 777);
    seen.expect("backlog_of_host", "yes");
    seen.expect("backlog_differs", "yes");
    for key in ["host_sys_read", "host_sys_write", "qm_sys_read"] {
        tried(seen, key, true, "");
    }
    tried(seen, "qm_sys_write", false, READ_ONLY);
    seen.expect("qm_unit", "yes");
    tried(seen, "qm_unit_write", false, READ_ONLY);
}

/// The host may do all of it, so what refuses is QM's seccomp profile.
fn schedulers(seen: &Seen) {
    for policy in [0, 1, 2, 3, 5] {
        tried(seen, &format!("host_policy_{policy}"), true, "");
    }
    for policy in [0, 3, 5] {
        tried(seen, &format!("qm_policy_{policy}"), true, "");
    }
    // ENOSYS.
    for policy in [1, 2] {
        tried(seen, &format!("qm_policy_{policy}"), false, "error 38");
    }
    tried(seen, "host_deadline", true, "");
    tried(seen, "qm_deadline", false, "Operation not permitted");
}

fn queues(seen: &Seen) {
    for n in 1..=6 {
        tried(seen, &format!("host_queue_{n}"), true, "");
        let said = if n <= 4 { "" } else { "No space left on device" };
        tried(seen, &format!("qm_queue_{n}"), n <= 4, said);
    }
}

fn a_full_disk(seen: &Seen) {
    seen.expect("var_qm_apart", "yes");
    for key in ["disk_nested", "disk_qm"] {
        tried(seen, key, false, "No space left on device");
    }
    assert!(seen.number("disk_free") < DISK_FREE_BLOCKS, "{seen}");
    tried(seen, "disk_host", true, "");
    assert!(seen.number("disk_free_again") > 0, "{seen}");
}

fn too_little_memory(seen: &Seen) {
    seen.expect("kills_before", 0);
    assert!(seen.number("kills") > 0, "{seen}");
    let victims: Vec<_> =
        seen.text.lines().filter_map(|line| line.strip_prefix("victim ")).collect();
    assert!(victims.iter().any(|line| line.contains("task=load")), "{seen}");
    let of_qm = |line: &&str| {
        line.contains("oom_memcg=/qm.service") && line.contains("task_memcg=/qm.service")
    };
    assert!(victims.iter().all(of_qm), "{seen}");
    seen.expect("host_kills", 0);
    // The same process, with all of its memory.
    seen.expect("eater_same", "yes");
    seen.expect("eater", "active 0");
    let eaten_kib = seen.number("total_mib") * HOST_EATER_PERCENT / 100 * 1024;
    assert!(seen.number("eater_kib") >= eaten_kib, "{seen}");
    seen.expect("qm_again", "running");
    seen.expect("nested_again", "running");
    let secs = seen.number("qm_back_secs");
    assert!(secs <= QM_BACK_SECS, "{secs} s\n{seen}");
    seen.expect("state_at_end", "running");
    seen.expect("failed", "");
}
