//! Compaction: when it runs, when it doesn't, and what ends it.

use serde_json::Value;

use crate::{On, Seen};

/// Prints the agent's counters; waits for one of them to grow; finds the child
/// among the supervisor's processes.
pub(super) const COUNT: &str = r#"
counters() { echo "$1 $(plimsoll status --json | sed 's/.*"counters"://; s/}}$//')"; }
count() { plimsoll status --json | sed "s/.*\"$1\":\([0-9][0-9]*\).*/\1/"; }
# Until the counter is above a number; for at most 150 rounds.
above() { for i in $(seq ${3:-150}); do [ $(count $1) -gt $2 ] && return; sleep 0.2; done; }
# Until it has looked at fragmentation more than so many times again.
looks() { above compact_looks $(($(count compact_looks) + $1)); }
compact() { plimsoll set "{\"compact\":{$1}}" >/dev/null || echo "refused $1" >&2; }
# The supervisor's processes; without a process of its own, so as to miss none.
procs() { procs=0; while read -r pid; do procs=$((procs + 1)); done </sys/fs/cgroup/plimsoll/cgroup.procs; }
# Until the supervisor has no child; at most 20 s.
idle() { for i in $(seq 400); do procs; [ $procs = 2 ] && return; sleep 0.05; done; }
# Wants compaction for 3 s; the most processes that the supervisor had.
hammer() {
    most=0; end=$(($(ms) + 3000))
    while [ $(ms) -lt $end ]; do
        plimsoll agent run-now compact >/dev/null
        for i in $(seq 50); do procs; [ $procs -gt $most ] && most=$procs; done
    done
    echo "$1 $most"
}
ms() { awk '{ printf "%d\n", $1 * 1000 }' /proc/uptime; }
# Pages in free blocks of order 9 and more.
large() {
    awk '{ size = 1; for (i = 5; i <= NF; i++) { if (i >= 14) sum += $i * size; size *= 2 } }
        END { print sum }' /proc/buddyinfo
}
"#;

const SCRIPT: &str = r#"
set -- /sys/fs/cgroup
# A QM cgroup with cold file pages, evicted only at the end.
dd if=/dev/zero of=/var/qm/cold bs=1M count=20 2>/dev/null
dd if=/dev/zero of=/var/qm/thrash bs=1M count=24 2>/dev/null
sync; echo 3 >/proc/sys/vm/drop_caches
echo +memory >$1/qm/cgroup.subtree_control; mkdir $1/qm/cold
sh -c "echo \$\$ >$1/qm/cold/cgroup.procs; exec load file /var/qm/cold 20 0 600" >/tmp/cold &
plimsoll set '{"memcg":{"period_secs":3,"eviction_run_aging_count_min":1000000,
    "period_psi_percent_limit":100,"eviction_psi_percent_limit":100}}' >/dev/null
compact '"disable":true,"period_secs":1,"period_psi_percent_limit":100,"psi_percent_limit":100,"threshold":4096'
load fragment 700 600 >/tmp/fragment &
until grep -qs fragmented /tmp/fragment; do sleep 0.1; done
echo "large_before $(large)"
sleep 1.5
counters disabled
compact '"disable":false,"threshold":1099511627776'
looks 2
counters indifferent

# On busy CPUs a compaction of so much lasts longer than a second.
compact '"period_secs":600,"sec_max":1,"threshold":4096'
idle
for i in 1 2 3 4; do sh -c 'while :; do :; done' & busy="$busy $!"; done
renice -n -20 $$
begin=$(ms)
plimsoll agent run-now compact >/dev/null
until procs; [ $procs = 3 ]; do :; done
while procs; [ $procs = 3 ]; do sleep 0.02; done
echo "lasted_ms $(($(ms) - begin))"
renice -n 20 $$
kill $busy
counters late

compact '"period_secs":2,"sec_max":180'
above compact_gained_bytes 0
idle
counters needed
echo "large_after $(large)"
looks 2
counters unchanged

compact '"period_secs":600,"threshold":20000,"order":1'
idle
counters order_begin
compact '"period_secs":1'
looks 2
counters order_1
compact '"order":15'
looks 2
counters order_15
compact '"order":9,"threshold":1099511627776,"force_times":0'
looks 0; counters force_0_begin; looks 3; counters force_0
compact '"force_times":2'
looks 0; counters force_2_begin; looks 7; counters force_2
compact '"period_secs":600,"force_times":18446744073709551615'

# Memory pressure in a small cgroup: it is the machine's as well.
echo +memory >$1/host/cgroup.subtree_control; mkdir $1/host/thrash
echo 4M >$1/host/thrash/memory.max
for i in 1 2 3; do
    sh -c "echo \$\$ >$1/host/thrash/cgroup.procs; exec load thrash /var/qm/thrash 24 600" >/tmp/thrash &
    thrash="$thrash $!"
done
idle
compact '"period_psi_percent_limit":0,"period_secs":1,"threshold":0,"force_times":0'
above period_pressure 0; counters gate_begin
above period_pressure $(($(count period_pressure) + 1)); counters gate
# Asked for again and again, beside children that are being killed.
compact '"period_secs":600,"psi_percent_limit":0'
hammer most_pressed
# The last of them counts too.
idle; sleep 0.2
counters pressed
# One alone rests half of the time, so that memory and io come to 100 % at most.
kill ${thrash% *}; thrash=${thrash##* }
compact '"psi_percent_limit":100,"period_psi_percent_limit":100'
hammer most
counters let
compact '"period_secs":1'
looks 2
counters let_periods
compact '"period_secs":600'
kill $thrash

# What an eviction freed is looked at without waiting for the period.
idle; sleep 0.5; idle
counters kept
plimsoll set '{"memcg":{"eviction_run_aging_count_min":0}}' >/dev/null
above memcg_evicted_bytes 0
above compact_looks $(count compact_looks) 10
counters evicted
"#;

/// Half of 700 MiB is free in single pages. Everything that keeps the agent from
/// compacting it is seen to do so; then it is made whole.
///
/// That the compaction which sec_max ends lasts so long is owed to busy CPUs: on
/// calm ones it takes 0.8 to 1.7 s.
pub(crate) fn fragments_are_compacted(on: On) {
    let guest = on.waiting_guest().memory("1G");
    let seen = Seen::new(&guest.run(&format!("{COUNT}{SCRIPT}")).unwrap());
    let grown = |from: &str, to: &str, path: &str| {
        count(&seen, to, path).checked_sub(count(&seen, from, path)).expect("counters only grow")
    };
    let runs = |from: &str, to: &str| {
        grown(from, to, "/compact_runs/needed") + grown(from, to, "/compact_runs/forced")
    };
    let looks = |from: &str, to: &str| grown(from, to, "/compact_looks");

    assert_eq!(count(&seen, "disabled", "/compact_looks"), 0, "{seen}");
    assert!(looks("disabled", "indifferent") >= 2, "{seen}");
    assert_eq!(runs("disabled", "indifferent"), 0, "{seen}");

    assert_eq!(grown("indifferent", "late", "/compact_stops/sec_max"), 1, "{seen}");
    assert_eq!(grown("indifferent", "late", "/compact_gained_bytes"), 0, "{seen}");
    let lasted_ms = seen.number("lasted_ms");
    // sec_max, and 100 ms.
    assert!((1000..=1100).contains(&lasted_ms), "{lasted_ms} ms\n{seen}");

    assert!(grown("late", "needed", "/compact_runs/needed") >= 1, "{seen}");
    assert_eq!(grown("late", "needed", "/compact_runs/forced"), 0, "{seen}");
    assert!(grown("late", "needed", "/compact_gained_bytes") > 0, "{seen}");
    let (before, after) = (seen.number("large_before"), seen.number("large_after"));
    assert!(after > before + (100 << 20 >> 12), "{before} to {after} pages\n{seen}");
    assert!(looks("needed", "unchanged") >= 2, "{seen}");
    assert_eq!(runs("needed", "unchanged"), 0, "{seen}");

    assert!(looks("order_begin", "order_1") >= 2, "{seen}");
    assert_eq!(runs("order_begin", "order_1"), 0, "{seen}");
    assert_eq!(runs("order_1", "order_15"), 1, "{seen}");

    let each = looks("force_0_begin", "force_0");
    assert_eq!(grown("force_0_begin", "force_0", "/compact_runs/forced"), each, "{seen}");
    let third = grown("force_2_begin", "force_2", "/compact_runs/forced");
    let each = looks("force_2_begin", "force_2");
    assert!(third >= 1 && third.abs_diff(each / 3) <= 1, "{third} of {each}\n{seen}");

    assert!(grown("gate_begin", "gate", "/compact_stops/period_pressure") >= 1, "{seen}");
    assert_eq!(looks("gate_begin", "gate"), 0, "{seen}");
    assert!(grown("gate", "pressed", "/compact_stops/pressure") >= 1, "{seen}");
    // Keeper, worker and one child, though it may be too short-lived to be seen.
    assert!(seen.number("most_pressed") <= 3 && seen.number("most") <= 3, "{seen}");
    assert!(runs("pressed", "let") >= 1, "{seen}");
    assert_eq!(grown("pressed", "let", "/compact_stops/pressure"), 0, "{seen}");
    assert!(looks("let", "let_periods") >= 2, "{seen}");
    assert_eq!(grown("let", "let_periods", "/compact_stops/period_pressure"), 0, "{seen}");

    assert_eq!(count(&seen, "kept", "/memcg_evicted_bytes"), 0, "{seen}");
    assert!(count(&seen, "evicted", "/memcg_evicted_bytes") > 0, "{seen}");
    assert!(looks("kept", "evicted") >= 1, "{seen}");
    assert_eq!(count(&seen, "evicted", "/errors/job"), 0, "{seen}");
    assert_eq!(count(&seen, "evicted", "/errors/refused"), 0, "{seen}");
}

/// A counter as the line `mark` shows it.
pub(super) fn count(seen: &Seen, mark: &str, path: &str) -> u64 {
    let counters: Value = serde_json::from_str(seen.get(mark)).unwrap();
    counters.pointer(path).and_then(Value::as_u64).unwrap_or_else(|| panic!("{path}\n{seen}"))
}
