//! The agent where cgroups come and go, where the kernel lacks one thing or
//! another, and where clients mean no good.

use plimsoll_core::status::REQUEST_BYTES_MAX;
use xtask::packages::Suite;

use super::LOOK;
use super::agent_compact::{COUNT, count};
use crate::{On, Seen, bytes, record};

/// Makes QM's cgroups with cold file pages, and waits until they are gone.
const COLD: &str = r#"
QM=/sys/fs/cgroup/qm
deep=deep; for i in $(seq 2 24); do deep=$deep/$i; done
# cold CGROUP FILE MIB [read|map]
cold() {
    at="$QM"; IFS=/
    for name in $1; do echo +memory >"$at/cgroup.subtree_control"; at="$at/$name"; mkdir -p "$at"; done
    unset IFS
    dd if=/dev/zero of=/var/qm/$2 bs=1M count=$3 2>/dev/null
    sync; echo 3 >/proc/sys/vm/drop_caches
    sh -c "echo \$\$ >'$at/cgroup.procs'; exec load file /var/qm/$2 $3 0 600 $4" >/tmp/$2 &
    until grep -qs resident /tmp/$2; do sleep 0.1; done
    echo "before_$2 $(file_kib "$1")"
}
file_kib() { awk '/^file / { print int($2 / 1024) }' "$QM/$1/memory.stat"; }
# gone CGROUP FILE: waits until half of 6 MiB are; at most 60 s.
gone() {
    for i in $(seq 120); do [ $(file_kib "$1") -lt 3072 ] && break; sleep 0.5; done
    echo "after_$2 $(file_kib "$1")"
}
fast() {
    plimsoll set "{\"memcg\":{\"period_secs\":$1,\"period_psi_percent_limit\":100,\
\"eviction_psi_percent_limit\":100,\"swap\":$2}}" >/dev/null
}
way() { echo "way $(plimsoll status --json | sed 's/.*"way":"\([^"]*\)".*/\1/')"; }
"#;

const CHURN: &str = r#"
mount -t debugfs none /sys/kernel/debug
# Without a child.
pss() {
    plimsoll set '{"memcg":{"disable":true},"compact":{"disable":true}}' >/dev/null
    idle
    for pid in $(supervisors); do cat /proc/$pid/smaps_rollup; done |
        awk '/^Pss:/ { sum += $2 } END { print sum }'
    plimsoll set '{"memcg":{"disable":false},"compact":{"disable":false}}' >/dev/null
}
# The youngest generation of all cgroups of the host that ever was.
host_seq() {
    awk '/^memcg/ { host = $3 ~ "^/host/" }
        host && NF == 4 && $1 > most { most = $1 } END { print most + 0 }' /sys/kernel/debug/lru_gen
}
cold "with a space" space 6
cold $deep deep 6
fast 2 true
echo +memory >/sys/fs/cgroup/host/cgroup.subtree_control
load cgroups /sys/fs/cgroup/host 20 512 >/tmp/cgroups &
until grep -qs made /tmp/cgroups; do sleep 0.1; done
echo "pss_before $(pss)"
load churn /sys/fs/cgroup/host 50 20 >/tmp/host_churn & churns=$!
load churn $QM 300 20 >/tmp/churn & churns="$churns $!"
# These leave file pages behind, so they are commanded while they go.
touch /tmp/go
while [ -e /tmp/go ]; do
    n=$((n + 1))
    mkdir $QM/f$n
    sh -c "echo \$\$ >$QM/f$n/cgroup.procs; exec dd if=/dev/zero of=/var/qm/f$((n % 16)) bs=4k count=128" 2>/dev/null
    [ $n -gt 8 ] && rmdir $QM/f$((n - 8))
    echo "files $n" >/tmp/files
done &
filler=$!
most=0; end=$(($(ms) + 21000))
while [ $(ms) -lt $end ]; do
    now=$(host_seq); [ $now -gt $most ] && most=$now
    sleep 0.3
done
rm /tmp/go
wait $filler $churns
echo "host_seq $most"
cat /tmp/files; sed 's/made/host_made/' /tmp/host_churn; cat /tmp/churn
gone "with a space" space
gone $deep deep
counters end
echo "pss_after $(pss)"
rm -f /var/qm/f*
cold late late 6
echo "late_id $(awk '/^memcg .* \/qm\/late$/ { print $2 }' /sys/kernel/debug/lru_gen)"
gone late late
echo "late_seq $(awk '/^memcg/ { late = $3 == "/qm/late" }
    late && NF == 4 { seq = $1 } END { print seq }' /sys/kernel/debug/lru_gen)"
way
counters late
"#;

/// Most that the supervisor's memory may differ before and after, in KiB: a few
/// pages of stack, touched for the first time.
const PSS_SLACK_KIB: u64 = 24;
/// What a cgroup is born with: generations 0 to 3.
const SEQ_OF_THE_NEW: u64 = 3;

/// Hundreds of cgroups come and go while passes run; the old ones' ids are given
/// to others at once, to QM's and to the host's.
pub(crate) fn cgroups_come_and_go(on: On) {
    let seen = run(on.waiting_guest(), &format!("{LOOK}{COUNT}{COLD}{CHURN}"));
    assert!(seen.number("made") >= 1500, "{seen}");
    assert!(seen.number("host_made") >= 200, "{seen}");
    assert!(seen.number("files") >= 10, "{seen}");
    assert!(count(&seen, "end", "/memcg_passes") >= 5, "{seen}");
    assert!(count(&seen, "end", "/memcg_agings") >= 10, "{seen}");
    // A command that was meant for another would have aged one of them.
    seen.expect("host_seq", SEQ_OF_THE_NEW);
    for kind in ["refused", "malformed", "too_large", "interrupted", "job"] {
        assert_eq!(count(&seen, "late", &format!("/errors/{kind}")), 0, "{kind}\n{seen}");
    }
    for key in ["space", "deep", "late"] {
        is_evicted(&seen, key);
    }
    let (before, after) = (seen.number("pss_before"), seen.number("pss_after"));
    assert!(after <= before + PSS_SLACK_KIB, "{before} to {after} KiB\n{seen}");
    // Before 7.0 the ids are MGLRU's own, of 16 bits; then they are the cgroups'
    // inodes.
    let id = seen.number("late_id");
    assert!((id > u64::from(u16::MAX)) == matches!(on.suite, Suite::Sid), "{id}\n{seen}");
    assert!(seen.number("late_seq") > SEQ_OF_THE_NEW, "{seen}");
    seen.expect("way", "lru_gen");
}

const WITHOUT: &str = r#"
cold plain plain 6
cold "with a space" space 6
cold $deep deep 6
mkdir $QM/protected; echo 64M >$QM/protected/memory.low
cold protected protected 6
fast 3 false
gone plain plain; gone "with a space" space; gone $deep deep
echo "after_protected $(file_kib protected)"
way
counters end
"#;

/// The kernel has no debugfs to mount.
pub(crate) fn without_debugfs(on: On) {
    let guest = on.waiting_guest().kernel_arg("debugfs=off");
    let seen = run(guest, &format!("{COUNT}{COLD}{WITHOUT}"));
    seen.expect("way", "memory.reclaim, lru_gen: ENODEV");
    are_evicted(&seen);
}

/// The kernel does not have MGLRU: it is switched off, and its switch hidden.
pub(crate) fn without_mglru(on: On) {
    let hide = "echo n >/sys/kernel/mm/lru_gen/enabled; mkdir /tmp/empty
        mount -o bind /tmp/empty /sys/kernel/mm\n";
    let seen = run(on.waiting_guest(), &format!("{COUNT}{COLD}{hide}{WITHOUT}"));
    seen.expect("way", "memory.reclaim, lru_gen: ENOENT");
    are_evicted(&seen);
}

/// The kernel measures no pressure: no limit on it holds anything up, and all
/// else goes on.
pub(crate) fn without_psi(on: On) {
    let script = r#"
[ -e /proc/pressure/memory ] && cat /proc/pressure/memory >/dev/null 2>&1 && echo "psi on" || echo "psi off"
plimsoll set '{"memcg":{"period_psi_percent_limit":0,"eviction_psi_percent_limit":0},"compact":
    {"period_secs":1,"period_psi_percent_limit":0,"psi_percent_limit":0,"force_times":0}}' >/dev/null
# With PSI this would be pressure.
echo +memory >$QM/cgroup.subtree_control
mkdir $QM/small; echo 4M >$QM/small/memory.max
dd if=/dev/zero of=/var/qm/small bs=1M count=12 2>/dev/null
sh -c "echo \$\$ >$QM/small/cgroup.procs; exec load thrash /var/qm/small 12 600" >/tmp/small &
fast() { plimsoll set "{\"memcg\":{\"period_secs\":$1}}" >/dev/null; }
"#;
    let guest = on.waiting_guest().kernel_arg("psi=0");
    let seen = run(guest, &format!("{LOOK}{COUNT}{COLD}{script}{WITHOUT}\nlook\n"));
    seen.expect("psi", "off");
    seen.expect("way", "lru_gen");
    are_evicted(&seen);
    for path in ["/memcg_stops/period_pressure", "/memcg_stops/eviction_pressure"] {
        assert_eq!(count(&seen, "end", path), 0, "{path}\n{seen}");
    }
    for path in ["/compact_stops/period_pressure", "/compact_stops/pressure"] {
        assert_eq!(count(&seen, "end", path), 0, "{path}\n{seen}");
    }
    assert!(count(&seen, "end", "/compact_runs/forced") >= 3, "{seen}");
    seen.expect("qm", "start");
    for entry in record(&seen)["entries"].as_array().unwrap() {
        assert_ne!(entry["outcome"], "failed", "{entry}\n{seen}");
    }
}

fn run(guest: xtask::guest::Guest, script: &str) -> Seen {
    Seen::new(&guest.run(script).unwrap())
}

/// Half of its file pages and more are gone.
#[track_caller]
fn is_evicted(seen: &Seen, key: &str) {
    let before = seen.number(&format!("before_{key}"));
    let after = seen.number(&format!("after_{key}"));
    assert!(before >= 6 << 10 && after < 3 << 10, "{key}: {before} to {after} KiB\n{seen}");
}

/// What is cold is gone, what is protected is not.
#[track_caller]
fn are_evicted(seen: &Seen) {
    for key in ["plain", "space", "deep"] {
        is_evicted(seen, key);
    }
    seen.expect("after_protected", seen.number("before_protected"));
    for kind in ["refused", "malformed", "too_large", "job"] {
        assert_eq!(count(seen, "end", &format!("/errors/{kind}")), 0, "{kind}\n{seen}");
    }
}

const CLIENTS: &str = r#"
qm_up
status() { plimsoll status --json; }
worker() { status | sed 's/.*"worker":\([0-9]*\).*/\1/'; }
# field KNOB: as status shows it
field() { status | sed "s/.*\"$1\":{\"value\":\([^}]*\)}.*/\1/"; }
refused() { echo "$1 $(plimsoll $2 "$3" $4 2>&1)"; }
echo "worker_before $(worker)"
echo "revivals_before $(status | sed 's/.*"revivals":\([0-9]*\).*/\1/')"
echo max >/sys/fs/cgroup/qm/memory.max
for mode in "silent 200" "flood 3000" "flood 3000" "long 200" "slow 3" "slow 3" "dead 1000" "garbage 1000"; do
    load client $mode >"/tmp/${mode% *}" & clients="$clients $!"
done
sleep 2.2
knob mended /sys/fs/cgroup/qm/memory.max
answered=0
for i in $(seq 30); do
    begin=$(ms)
    plimsoll status >/dev/null && answered=$((answered + 1))
    echo "took $(($(ms) - begin))"
    for pid in $clients; do kill -0 $pid 2>/dev/null && beside=$i; done
    sleep 0.1
done
echo "answered $answered"
echo "beside $beside"
wait $clients
for mode in silent flood long slow dead garbage; do echo "$mode $(cat /tmp/$mode)"; done
echo "worker_after $(worker)"
echo "revivals_after $(status | sed 's/.*"revivals":\([0-9]*\).*/\1/')"

refused no_json set x
refused unknown_key set '{},"key":1'
refused twice set '{},"command":"set"'
refused no_loop agent run-now nothing
refused no_knob set '{"memcg":{"bogus":1}}'
refused out_of_range set '{"memcg":{"period_secs":30,"swappiness_max":201}}'
refused wrong_type set '{"memcg":{"period_secs":"30"}}'
refused no_path set '{"memcg":{"period_secs":30,"cgroups":[{"exact":true}]}}'
echo "unchanged $(field period_secs)"
echo 'user::1000:1000::/:/usr/bin/sh' >>/etc/passwd
for command in status metrics "agent run-now memcg"; do
    echo "user_${command%% *} $(su user -c "plimsoll $command" 2>&1)"
done
echo "user_set $(su user -c 'plimsoll set {}' 2>&1)"

plimsoll set '{"memcg":{"swappiness_max":77}}' >/dev/null
old=$(worker)
kill -9 $old; sleep 0.5
[ $(worker) != $old ] && echo "revived yes"
echo "survived $(field swappiness_max)"
echo "metrics_end $(plimsoll metrics | tail -n 1)"
echo "watch_lines $(timeout 4 plimsoll watch | wc -l)"
look
"#;

/// How the message that `plimsoll set` sends begins and ends.
const SET: [&str; 2] = [r#"{"command":"set","agent":"#, "}"];
/// Time in which status mostly answers beside all of them, in milliseconds.
const ANSWER_MS: u64 = 1000;

/// Clients that are silent, slow, dead, that flood or write garbage, all at once,
/// harm nobody. Wrong requests are told what is right.
pub(crate) fn clients_of_all_kinds(on: On) {
    let padded = |bytes: usize| {
        let blanks = bytes - SET.iter().map(|part| part.len()).sum::<usize>() - "{}".len();
        format!("refused set_{bytes} set '{{}}{}'\n", " ".repeat(blanks))
    };
    let most = REQUEST_BYTES_MAX;
    let script = format!("{LOOK}{COUNT}{CLIENTS}{}{}", padded(most), padded(most + 1));
    let seen = run(on.guest(), &script);
    seen.expect("mended", bytes(&seen, "40%"));
    seen.expect("answered", 30);
    let took = seen.text.lines().filter_map(|line| line.strip_prefix("took ")?.parse().ok());
    let mut took: Vec<u64> = took.collect();
    took.sort_unstable();
    assert!(took[took.len() / 2] <= ANSWER_MS, "{took:?} ms\n{seen}");
    assert!(seen.number("beside") >= 3, "{seen}");
    seen.expect("worker_after", seen.get("worker_before"));
    seen.expect("revivals_after", seen.get("revivals_before"));
    seen.expect("silent", "answers 0 refused 0 errors 200");
    // Of so many at once some lose their places before they have asked.
    for (key, count) in [("garbage", 1000), ("long", 200), ("dead", 0)] {
        let words: Vec<&str> = seen.get(key).split(' ').collect();
        let ["answers", "0", "refused", refused, "errors", _] = words[..] else {
            panic!("{key}: {words:?}\n{seen}");
        };
        assert!(refused.parse::<u64>().unwrap() >= count * 9 / 10, "{key}: {words:?}\n{seen}");
    }

    let error = |text: &str| format!(r#"{{"error":"{text}"}}"#);
    seen.expect("no_json", error("a request is a JSON object"));
    seen.expect("unknown_key", error("keys: allowed are command, loop, guest, size and agent"));
    seen.expect("twice", error("command: allowed is a string, once"));
    seen.expect("no_loop", error("loop: allowed is memcg or compact"));
    for (key, field) in [
        ("no_knob", "agent.memcg.bogus"),
        ("out_of_range", "agent.memcg.swappiness_max"),
        ("wrong_type", "agent.memcg.period_secs"),
        ("no_path", "agent.memcg.cgroups[0].path"),
    ] {
        let answer = seen.get(key);
        assert!(answer.contains(field) && answer.contains("allowed"), "{answer}\n{seen}");
    }
    seen.expect("unchanged", r#"600,"from":"default""#);
    for command in ["status", "metrics", "agent", "set"] {
        seen.expect(&format!("user_{command}"), "/run/plimsoll/control.sock: error 13");
    }
    seen.expect("revived", "yes");
    seen.expect("survived", r#"77,"from":"set""#);
    seen.expect("metrics_end", "# EOF");
    assert!(seen.number("watch_lines") >= 3, "{seen}");
    seen.expect(&format!("set_{most}"), r#"{"set":true}"#);
    seen.expect(&format!("set_{}", most + 1), error("a request has at most 6144 bytes"));
}
