//! The limits are the kernel's, to the byte, and they hold.

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::json;
use xtask::progress::Steps;

use super::LOOK;
use crate::{On, Seen, bytes, has, record, set};

/// Pss of the supervisor's processes together, in KiB.
const SUPERVISOR_PSS_KIB: u64 = 384;
/// From the start of user space to the last limit read back, in microseconds,
/// modules and waiting for devices not counted. Only what hangs takes so long:
/// other guests run beside this one. `cargo xtask size` holds the budget itself,
/// by a clock that this machine's other work doesn't change.
const BOOT_US: u64 = 1_000_000;

/// The board of the repository: everything that one boot at 2 GiB can show.
pub(crate) fn the_board_as_it_is(on: On) {
    let script = format!(
        r#"{LOOK}
qm_up; look
echo "cgroup2 $(grep cgroup2 /proc/mounts)"
# Scores: the host's payload (this shell), QM's, and the supervisor's two.
knob host_score /proc/self/oom_score_adj
echo "qm_score $(in-qm cat /proc/self/oom_score_adj)"
echo "qm_caps $(in-qm "awk '/CapBnd/ {{ print \$2 }}' /proc/self/status")"
set -- $(supervisors)
echo "supervisors $#"
for pid; do echo "supervisor_score $(cat /proc/$pid/oom_score_adj)"; done
echo "supervisor_cgroup $(cat /proc/$1/cgroup)"
echo "supervisor_files $(ls -l /proc/$1/fd /proc/$1/exe | grep -c -e ' /init' -e ' /usr' -e ' /etc' -e /dev/console)"
echo "pss $(cat /proc/$1/smaps_rollup /proc/$2/smaps_rollup | awk '/^Pss:/ {{ sum += $2 }} END {{ print sum }}')"

# Left alone, the worker wakes once a second to look at the limits, the keeper never.
wakes() {{ awk '/^voluntary_ctxt_switches/ {{ print $2 }}' /proc/$1/status; }}
worker=$(plimsoll status --json | sed 's/.*"worker":\([0-9]*\).*/\1/')
for pid; do [ $pid = $worker ] || keeper=$pid; done
before=$(($(wakes $worker) + 0)); kept=$(($(wakes $keeper) + 0)); sleep 5
echo "worker_wakes $(($(wakes $worker) - before))"
echo "keeper_wakes $(($(wakes $keeper) - kept))"
plimsoll metrics >/tmp/metrics; echo "metrics $?"

# Drift is mended within two seconds.
echo max >/sys/fs/cgroup/qm/memory.max
sleep 2.2
knob mended /sys/fs/cgroup/qm/memory.max

# Either supervisor process comes back; the limits do not change.
for round in 1 2 3; do
    set -- $(supervisors)
    kill -9 $1; sleep 0.5
    set -- $(supervisors)
    kill -9 $2; sleep 0.5
done
echo "supervisors_after $(supervisors | wc -l)"
knob after_kills /sys/fs/cgroup/qm/memory.max
echo "revivals $(plimsoll status --json | sed 's/.*"revivals":\([0-9]*\).*/\1/')"
plimsoll status | grep -q 'memory.max' && echo "table yes"

# A fault in PID 1's own code: it comes back, and still minds QM's payload.
kill -SEGV 1; sleep 0.5
echo "resumed $(tr '\0' ' ' </proc/1/cmdline | cut -d' ' -f1)"
kill -9 $(cat /run/qm/pid); sleep 0.5; qm_up
in-qm echo "qm_again yes"
plimsoll check /etc/plimsoll/board.json >/dev/null && echo "check 0"
plimsoll plan >/tmp/plan && echo "plan $(grep -c memory.max /tmp/plan)"
"#
    );
    let outcome = on.guest().get("/tmp/metrics").run(&script).unwrap();
    let seen = Seen::new(&outcome);
    the_plan(&seen);
    assert!(seen.number("worker_wakes") <= 7, "{seen}");
    seen.expect("keeper_wakes", 0);
    seen.expect("metrics", 0);
    takes_metrics(&outcome.files["/tmp/metrics"]);
    // The supervisor came back each time.
    seen.expect("supervisors_after", 2);
    seen.expect("revivals", 6);
    seen.expect("mended", bytes(&seen, "40%"));
    seen.expect("after_kills", bytes(&seen, "40%"));
    seen.expect("table", "yes");
    seen.expect("resumed", "plimsoll-resumed");
    seen.expect("qm_again", "yes");
    seen.expect("check", 0);
    seen.expect("plan", 1);
    assert!(outcome.powered_off, "the board powers off\n{seen}");
}

/// promtool knows no error and no complaint; what it doesn't look at is the end
/// that OpenMetrics wants.
fn takes_metrics(metrics: &[u8]) {
    let promtool = xtask::packages::promtool(Steps::Quiet).unwrap();
    let mut check = Command::new(promtool);
    check.args(["check", "metrics"]).stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut check = check.spawn().unwrap();
    check.stdin.take().unwrap().write_all(metrics).unwrap();
    let said = check.wait_with_output().unwrap();
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    assert!(metrics.ends_with(b"\n# EOF\n"));
}

fn the_plan(seen: &Seen) {
    seen.expect("qm/memory.max", bytes(seen, "40%"));
    seen.expect("qm/memory.high", bytes(seen, "35%"));
    seen.expect("qm/memory.min", 0);
    seen.expect("qm/memory.low", 0);
    seen.expect("qm/memory.swap.max", 0);
    seen.expect("qm/memory.oom.group", 1);
    seen.expect("qm/pids.max", 4096);
    seen.expect("qm/cpu.idle", 1);
    seen.expect("host/memory.min", 64 << 20);
    seen.expect("pid1", "init 0");
    seen.expect("qm", "start");
    let mount = seen.get("cgroup2");
    assert!(mount.contains("nsdelegate") && mount.contains("memory_recursiveprot"), "{mount}");
    let mount = seen.get("var_qm");
    assert!(
        mount.contains("nodev") && mount.contains("nosuid") && mount.contains("ext4"),
        "{mount}"
    );
    seen.expect("host_score", -1000);
    seen.expect("qm_score", 500);
    // Without CAP_SYS_BOOT (22) and CAP_SYS_RESOURCE (24).
    let caps = u64::from_str_radix(seen.get("qm_caps"), 16).unwrap();
    assert_eq!(caps & (1 << 22 | 1 << 24), 0, "{caps:x}");
    seen.expect("supervisors", 2);
    seen.expect("supervisor_score", -1000);
    seen.expect("supervisor_cgroup", "0::/plimsoll");
    seen.expect("supervisor_files", 0);
    assert!(seen.number("pss") <= SUPERVISOR_PSS_KIB, "{seen}");
    let record = record(seen);
    for entry in record["entries"].as_array().unwrap() {
        let fine = entry["outcome"] == "agrees"
            || entry["found"] == "built in"
            || entry["found"] == "mounted already";
        assert!(fine, "{entry}\n{seen}");
    }
    let last_limit = record["entries"].as_array().unwrap().iter().rfind(|e| e["step"] == "limit");
    let ended = last_limit.unwrap()["t_us"].as_u64().unwrap();
    let began = record["start_us"].as_u64().unwrap();
    let waited = record["waited_us"].as_u64().unwrap();
    assert!(ended - began <= BOOT_US + waited, "{} us", ended - began - waited);
}

const WORST: &str = r#"
qm_up; look
mib=$(awk '/^MemTotal/ { print int($2 / 1024) }' /proc/meminfo)
event() { awk "/^$1 / { print \$2 }" /sys/fs/cgroup/qm/memory.events; }
used() { echo $(($(cat /sys/fs/cgroup/qm/memory.current) >> 20)); }
load eat $((mib / 5)) >/tmp/eat & host=$!
until grep -q resident /tmp/eat; do sleep 0.1; done

# At high what can be reclaimed is: QM's memory, then a disk read through it.
job=$(in-qm -b load eat $((mib * 35 / 100 - 40)) 60)
until grep -q resident $job/output; do sleep 0.1; done
in-qm 'dd if=/dev/vda of=/dev/null bs=1M' 2>/dev/null
echo "read_status $?"
echo "high_events $(event high)"
echo "used_at_high $(used)"
echo "high_mib $(($(cat /sys/fs/cgroup/qm/memory.high) >> 20))"
# What can't be reclaimed is throttled, not killed.
job=$(in-qm -b load eat 80 60)
sleep 4
echo "throttled $(grep -c resident $job/output)"
echo "kills_at_high $(event oom_kill)"
for pid in $(cat /sys/fs/cgroup/qm/app/cgroup.procs); do
    [ "$(cat /proc/$pid/comm)" = load ] && kill -9 $pid
done

# 60 processes want 90 % of memory: QM is killed inside, at its max.
in-qm "for i in \$(seq 60); do load eat $((mib * 9 / 600)) & done; wait" >/dev/null 2>&1
echo "eat_status $?"
qm_up
echo "kills $(event oom_kill)"
# Files in a tmpfs are QM's as well, and stay its when it is gone.
in-qm 'mkdir -p /run/fill; mount -t tmpfs -o size=100% none /run/fill
    for i in $(seq 60); do dd if=/dev/zero of=/run/fill/$i bs=256K 2>/dev/null & done; wait' >/dev/null 2>&1
echo "fill_status $?"
for i in $(seq 50); do umount /run/fill 2>/dev/null && break; sleep 0.1; done
qm_up
echo "kills_after_fill $(event oom_kill)"
# A fork bomb ends at pids.max; the host still forks.
echo "fork $(in-qm load fork 100000)"
qm_up
echo "peak_mib $(($(cat /sys/fs/cgroup/qm/memory.peak) >> 20))"
echo "max_mib $(($(cat /sys/fs/cgroup/qm/memory.max) >> 20))"
echo "host_alive $(kill -0 $host && echo yes)"
echo "host_rss_mib $(awk '/^Rss/ { print int($2 / 1024) }' /proc/$host/smaps_rollup)"
echo "host_mib $((mib / 5))"
knob qm_max_after /sys/fs/cgroup/qm/memory.max
"#;

/// QM does its worst, a host process of 20 % of memory does not notice.
///
/// Above high the kernel makes a process sleep up to 2 s for each 64 pages, so
/// it takes many to come to max in a test's time.
pub(crate) fn qm_does_its_worst(on: On) {
    let script = format!("{LOOK}{WORST}");
    let mut board = on.board_file();
    set(&mut board, &["qm", "pids_max"], json!(500));
    let outcome = on.guest().memory("1G").board_json(&board).run(&script).unwrap();
    let seen = &Seen::new(&outcome);
    seen.expect("read_status", 0);
    assert!(seen.number("high_events") > 0, "reclaimed at high\n{seen}");
    // A charge may run ahead of the reclaim by a batch for each CPU.
    assert!(seen.number("used_at_high") <= seen.number("high_mib") + 8, "{seen}");
    seen.expect("throttled", 0);
    seen.expect("kills_at_high", 0);
    seen.expect("eat_status", 137);
    assert!(seen.number("kills") > 0, "{seen}");
    seen.expect("fill_status", 137);
    assert!(seen.number("kills_after_fill") > seen.number("kills"), "{seen}");
    // EAGAIN is 11.
    let fork = seen.get("fork");
    assert!(fork.starts_with("made"), "{seen}");
    let made: u64 = fork.split(' ').nth(1).unwrap().parse().unwrap();
    assert!(made < 500 && fork.ends_with("errno 11"), "{fork}");
    assert!(seen.number("peak_mib") <= seen.number("max_mib"), "{seen}");
    seen.expect("host_alive", "yes");
    let resident = seen.number("host_rss_mib");
    assert!(resident >= seen.number("host_mib"), "{seen}");
    seen.expect("qm_max_after", bytes(seen, "40%"));
    assert!(!seen.serial.contains("global_oom"), "{seen}");
    // The kernel says CONSTRAINT_MEMCG for a cgroup's OOM, CONSTRAINT_NONE for a global one.
    assert!(!seen.serial.contains("CONSTRAINT_NONE"), "{seen}");
}

/// Percentages of another memory size, with fractions, permille and permyriad.
pub(crate) fn limits_in_percent_at_1_gib(on: On) {
    let mut board = on.board_file();
    let limits = json!({
        "max": "33.33%", "high": "299‰", "low": "1234‱", "min": "0.5%", "swap_max": "10%"
    });
    set(&mut board, &["qm", "memory_limit"], limits);
    set(&mut board, &["qm", "cpu_weight"], json!(50));
    set(&mut board, &["qm", "oom_group"], json!(false));
    set(&mut board, &["qm", "pids_max"], json!(77));
    set(&mut board, &["qm", "oom_score_adj"], json!(321));
    set(&mut board, &["host", "oom_score_adj"], json!(-900));
    set(&mut board, &["mend_drift"], json!(false));
    let script = format!(
        "{LOOK} qm_up; look
         knob weight /sys/fs/cgroup/qm/cpu.weight
         knob host_score /proc/self/oom_score_adj
         echo \"qm_score $(in-qm cat /proc/self/oom_score_adj)\"
         # Drift is reported, as the board file says, not mended.
         echo max >/sys/fs/cgroup/qm/memory.high; sleep 2.5
         knob drifted /sys/fs/cgroup/qm/memory.high
         echo \"drifts $(plimsoll status --json | sed 's/.*\\\"drifts\\\":\\([0-9]*\\).*/\\1/')\""
    );
    let outcome = on.guest().memory("1G").board_json(&board).run(&script).unwrap();
    let seen = Seen::new(&outcome);
    seen.expect("qm/memory.max", bytes(&seen, "33.33%"));
    seen.expect("qm/memory.high", bytes(&seen, "299‰"));
    seen.expect("qm/memory.low", bytes(&seen, "1234‱"));
    seen.expect("qm/memory.min", bytes(&seen, "0.5%"));
    seen.expect("qm/memory.swap.max", bytes(&seen, "10%"));
    seen.expect("qm/memory.oom.group", 0);
    seen.expect("qm/pids.max", 77);
    seen.expect("qm/cpu.idle", 0);
    seen.expect("weight", 50);
    seen.expect("qm_score", 321);
    seen.expect("host_score", -900);
    seen.expect("drifted", "max");
    seen.expect("drifts", 1);
    seen.expect("qm", "start");
}

/// Sizes that are no multiple of a page, and no limit at all.
pub(crate) fn limits_in_bytes_and_none_at_512_mib(on: On) {
    let mut board = on.board_file();
    let limits = json!({
        "max": "infinity", "high": "1.5G 100M 12345", "min": "1M 1", "swap_max": "infinity"
    });
    set(&mut board, &["qm", "memory_limit"], limits);
    set(&mut board, &["image", "enable_oom_protection"], json!(false));
    set(&mut board, &["image", "enable_reclaim_protection"], json!(false));
    let script = format!("{LOOK} qm_up; look; knob host_score /proc/self/oom_score_adj");
    let outcome = on.guest().memory("512M").board_json(&board).run(&script).unwrap();
    let seen = Seen::new(&outcome);
    seen.expect("qm/memory.max", "max");
    let page = seen.number("page");
    seen.expect("qm/memory.high", ((3 << 29) + (100 << 20) + 12345) / page * page);
    seen.expect("qm/memory.min", 1 << 20);
    seen.expect("qm/memory.low", 0);
    seen.expect("qm/memory.swap.max", "max");
    seen.expect("host/memory.min", 0);
    seen.expect("host_score", 0);
    seen.expect("qm", "start");
    assert!(has(&record(&seen), "limit", "/qm/memory.max", "agrees"), "{seen}");
}
