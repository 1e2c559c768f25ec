//! Freedom from interference where nothing public looks: QM against its limits,
//! which slow it down or refuse it, and the host beside it.

use super::ffi::tried;
use crate::{Seen, bytes};

/// QM's memory.high, below its limit of 40 %.
pub(super) const HIGH: &str = "25%";
/// Tasks that QM gets: enough for its systemd, and soon reached.
pub(super) const PIDS_MAX: u64 = 400;
/// How far from memory.high QM's usage stays, in percent of it: what can be
/// reclaimed is, and a charge above it waits the longer, the further it is above.
const OVERAGE_PERCENT: u64 = 12;
/// What the same work of the host takes at most beside a QM that does its worst:
/// so many times as long, and some milliseconds more. QM's reclaim is done by the
/// kernel, on the one emulated CPU.
const SLOWDOWN_MAX: u64 = 10;
const SLOWDOWN_MS: u64 = 1500;

/// Goes into the script of [`super::freedom_from_interference`].
pub(super) const SCRIPT: &str = r#"
ms() { awk '{ print int($1 * 1000) }' /proc/uptime; }
eat() { load eat 64 0 >/dev/null; }
fork() { for _ in $(seq 20); do /bin/true; done; }
# took KEY CMD: the middle one of three times.
took() { echo "$1 $(for _ in 1 2 3; do begin=$(ms); $2; echo $(($(ms) - begin)); done | sort -n | sed -n 2p)"; }
shmem_mib() { echo "$1 $(awk '/^shmem / { print int($2 / 1048576) }' $qm/memory.stat)"; }
shm_free() { stat -f -c %f /dev/shm; }

at shm
shmem_mib shm_before
free=$(shm_free)
try shm_fill in-qm dd if=/dev/zero of=/dev/shm/fill bs=1M
shmem_mib shm_full
is shm_host_same $free = $(shm_free)
try shm_host_write dd if=/dev/zero of=/dev/shm/of-the-host bs=1M count=64
try shm_host_memory load eat 64 0
rm /dev/shm/of-the-host

at throttle
high=$(cat $qm/memory.high)
echo "page $(od -A n -t d8 -w16 /proc/self/auxv | awk '$1 == 6 { print $2 }')"
echo "mem_total $(awk '/^MemTotal/ { print $2 }' /proc/meminfo)"
echo "throttle_high $high"
took memory_quiet_ms eat
before=$(count high) kills=$(count oom_kill)
in-qm "stat -c %s /dev/shm/fill; rm /dev/shm/fill; /var/load eat $((total * 36 / 100))" >/tmp/throttled 2>&1 &
end=$(($(secs) + 60))
until [ $(cat $qm/memory.current) -gt $high ] || [ $(secs) -ge $end ]; do sleep 0.1; done
at throttled
shmem_mib shm_after
took memory_throttled_ms eat
end=$(($(secs) + 2)) peak=0
while [ $(secs) -lt $end ]; do
    now=$(cat $qm/memory.current)
    [ $now -le $peak ] || peak=$now
    sleep 0.1
done
is throttled_lives -n "$(pgrep -x load)"
echo "throttle_peak $peak"
echo "throttle_events $(($(count high) - before))"
echo "throttle_kills $(($(count oom_kill) - kills))"
pkill -x load
wait
echo "throttled_said $(tr '\n' ' ' </tmp/throttled)"

at bomb
refusals() { awk '/^max / { print $2 }' $qm/pids.events; }
took forks_quiet_ms fork
before=$(refusals)
in-qm systemd-run --quiet --no-block --unit bomb --property TasksMax=infinity \
    --property StandardOutput=file:/var/bomb /var/load bomb 120 >/tmp/bomb 2>&1 &
end=$(($(secs) + 60))
until [ $(refusals) -gt $before ] || [ $(secs) -ge $end ]; do sleep 0.1; done
at bombed
took forks_bombed_ms fork
echo "bomb_tasks $(cat $qm/pids.current) $(cat $qm/pids.max)"
# The first of them is one of many to have its turn.
end=$(($(secs) + 60))
until [ -s /var/qm/bomb ] || [ $(secs) -ge $end ]; do sleep 0.1; done
echo "bomb_refusals $(($(refusals) - before))"
echo 1 >$(find $qm -type d -name bomb.service)/cgroup.kill
wait
at bomb_over
echo "bomb_said $(cat /var/qm/bomb)"
try bomb_over in-qm systemctl reset-failed bomb
echo "bomb_left $(cat $qm/pids.current)"
"#;

pub(super) fn judge(seen: &Seen) {
    shared_memory(seen);
    throttling(seen);
    a_fork_bomb(seen);
}

#[track_caller]
fn is_hardly_slowed(seen: &Seen, quiet: &str, beside_qm: &str) {
    let (quiet_ms, beside_ms) = (seen.number(quiet), seen.number(beside_qm));
    assert!(beside_ms <= quiet_ms * SLOWDOWN_MAX + SLOWDOWN_MS, "{beside_qm}\n{seen}");
}

/// What QM has in its /dev/shm is QM's memory.
fn shared_memory(seen: &Seen) {
    tried(seen, "shm_fill", false, "No space left on device");
    let said = seen.get("throttled_said").split(' ').next().unwrap();
    let file = said.parse::<u64>().unwrap() >> 20;
    assert!(file > 0, "{seen}");
    let [before, full, after] = ["shm_before", "shm_full", "shm_after"].map(|key| seen.number(key));
    assert!(full >= before + file - 1, "{seen}");
    assert!(after <= full - file + 1, "{seen}");
    seen.expect("shm_host_same", "yes");
    tried(seen, "shm_host_write", true, "");
    tried(seen, "shm_host_memory", true, "resident");
}

/// Above memory.high QM waits, and nobody else.
fn throttling(seen: &Seen) {
    seen.expect("throttle_high", bytes(seen, HIGH));
    let high = seen.number("throttle_high");
    let peak = seen.number("throttle_peak");
    let overage = high / 100 * OVERAGE_PERCENT;
    assert!((high - overage..high + overage).contains(&peak), "{seen}");
    assert!(seen.number("throttle_events") > 0, "{seen}");
    // It never got what it wanted, and lived.
    seen.expect("throttled_lives", "yes");
    assert!(!seen.get("throttled_said").contains("resident"), "{seen}");
    seen.expect("throttle_kills", 0);
    is_hardly_slowed(seen, "memory_quiet_ms", "memory_throttled_ms");
}

/// QM's forks end in EAGAIN, the host's do not.
fn a_fork_bomb(seen: &Seen) {
    assert!(seen.number("bomb_refusals") > 0, "{seen}");
    let tasks = seen.get("bomb_tasks");
    let (tasks, max) = tasks.split_once(' ').unwrap();
    assert_eq!(max, PIDS_MAX.to_string(), "{seen}");
    assert!(tasks.parse::<u64>().unwrap() > PIDS_MAX * 9 / 10, "{seen}");
    is_hardly_slowed(seen, "forks_quiet_ms", "forks_bombed_ms");
    seen.expect("bomb_said", "refused 11");
    tried(seen, "bomb_over", true, "");
    assert!(seen.number("bomb_left") < PIDS_MAX / 2, "{seen}");
}
