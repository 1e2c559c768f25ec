//! What the guest's shell does in a bench: it measures and prints lines of
//! words, read by [`super::samples`].

/// What is measured, and how often.
pub(super) struct Plan<'a> {
    /// Passes measured of each tool with each number of cgroups.
    pub(super) rounds: u32,
    /// Numbers of cgroups, ascending.
    pub(super) counts: &'a [u64],
    /// Whether there is a peer.
    pub(super) peer: bool,
}

/// Where the guest has the peer.
pub(super) const PEER_PATH: &str = "/usr/bin/peer";
/// From one pass to the next, of both tools, in seconds: the peer ages no
/// generation that is younger.
pub(super) const PERIOD_SECS: u64 = 60;
/// How long a burst's memory is watched, in periods.
pub(super) const WATCHED_PERIODS: u64 = 6;
/// Cgroups in which the same burst happens at once.
pub(super) const BURSTS: u64 = 5;
/// KiB of file pages in each of the many cgroups: above the 64 pages below
/// which plimsoll leaves a cgroup alone.
pub(super) const LIVE_KIB: u64 = 300;

/// A way to use a file: by a mapping, or by read(2).
#[derive(Clone, Copy, Debug)]
pub(super) struct Burst {
    /// As `load file` knows it.
    pub(super) mode: &'static str,
    /// What is read once, in MiB.
    pub(super) all_mib: u64,
    /// What is used each second from then on, in MiB.
    pub(super) hot_mib: u64,
}

/// Both ways. Copying what is read costs an emulated CPU most of its time, so
/// there is less of it.
pub(super) const MODES: [Burst; 2] = [
    Burst { mode: "map", all_mib: 300, hot_mib: 60 },
    Burst { mode: "read", all_mib: 24, hot_mib: 4 },
];

impl Plan<'_> {
    /// The script.
    pub(super) fn script(&self) -> String {
        let Self { rounds, counts, peer } = self;
        let counts: Vec<_> = counts.iter().map(u64::to_string).collect();
        let modes: Vec<_> = MODES.iter().map(|burst| burst.mode).collect();
        let sizes = MODES.iter().map(|Burst { mode, all_mib, hot_mib }| {
            format!("all_{mode}={all_mib} hot_{mode}={hot_mib}\n")
        });
        let watched_secs = PERIOD_SECS * WATCHED_PERIODS;
        format!(
            "rounds={rounds} counts='{}' peer={peer} peer_path={PEER_PATH}\n\
             period={PERIOD_SECS} watched={watched_secs} bursts={BURSTS} live_kib={LIVE_KIB}\n\
             modes='{}'\n{}{TOOLS}{BURST}{PASSES}",
            counts.join(" "),
            modes.join(" "),
            sizes.collect::<String>(),
        )
    }
}

/// Functions for all parts, and how things stand before the first one.
const TOOLS: &str = r##"
cg=/sys/fs/cgroup
fail() { echo "failed $*"; exit 1; }
# usage GROUP: CPU time of the cgroup so far, in microseconds, in $used.
usage() { read -r _ used <$cg/$1/cpu.stat; }
# Hundredths of a second since the kernel's start, in $now.
now() { read -r now _ </proc/uptime; now=${now%.*}${now#*.}; }
# within GROUP CMD...: becomes CMD in the cgroup; for subshells.
within() { exec sh -c 'echo $$ >"$0/cgroup.procs" && exec "$@"' $cg/"$@"; }
agent() { plimsoll set "$1" >/dev/null || fail set "$1"; }

# peer_on AGINGS: as documented, but for its period, the agings before the first
# eviction, and without its compaction.
peer_on() {
    rm -f /run/peer.sock
    within peer $peer_path --addr unix:///run/peer.sock --memcg-period-secs $period \
        --memcg-eviction-run-aging-count-min $1 --compact-disabled true \
        --log-level info --log-file /dev/null &
    peer_pid=$!
    sleep 1
    kill -0 $peer_pid || fail the peer does not run
}
peer_off() { kill -9 $peer_pid; wait $peer_pid 2>/dev/null; }

mount -t debugfs none /sys/kernel/debug || fail no debugfs
mkdir $cg/peer $cg/bare
echo +memory >$cg/qm/cgroup.subtree_control
agent '{"memcg":{"disable":true},"compact":{"disable":true}}'
echo "kernel $(uname -r)"
# What plimsoll does anyway each second, in microseconds.
sleep 5; usage plimsoll; idle_us=$used; sleep 50; usage plimsoll
idle_us=$(((used - idle_us) / 50))
echo "idle $idle_us"
"##;

/// Bursts: files read once, part of which is used on.
const BURST: &str = r##"
# burst TOOL, which is switched on by TOOL_burst_on at the bursts' end.
burst() {
    echo "# the same bursts, $1"
    running= all=
    for mode in $modes; do
        eval all_mib=\$all_$mode hot_mib=\$hot_$mode
        for n in $(seq $bursts); do
            name=$mode-$n
            mkdir $cg/qm/$name
            # A sparse file: its pages come without waiting for a disk.
            truncate -s ${all_mib}M /var/qm/$name
            : >/tmp/$name
            within qm/$name load file /var/qm/$name $all_mib $hot_mib 100000 $mode >>/tmp/$name &
            running="$running $!" all="$all $name"
            until grep -q resident /tmp/$name; do sleep 0.1; done
        done
    done
    now; from=$now
    usage $1; before=$used
    ${1}_burst_on
    while now; [ $((now - from)) -le $((watched * 100)) ]; do
        for name in $all; do
            read -r bytes <$cg/qm/$name/memory.current
            echo "memory $1 $name $((now - from)) $bytes"
        done
        sleep 1
    done
    usage $1
    echo "burst $1 $((used - before)) $(((now - from) / 100))"
    for name in $all; do
        echo "refaults $1 $name $(awk '/^workingset_refault_file/ { print $2 }' \
            $cg/qm/$name/memory.stat)"
    done
    ${1}_burst_off
    kill -9 $running; wait $running 2>/dev/null
    echo 3 >/proc/sys/vm/drop_caches
    for name in $all; do rmdir $cg/qm/$name; rm /var/qm/$name; done
}
plimsoll_burst_on() {
    agent "{\"memcg\":{\"disable\":false,\"period_secs\":$period}}"
    plimsoll agent run-now memcg >/dev/null
}
plimsoll_burst_off() { agent '{"memcg":{"disable":true}}'; }
peer_burst_on() { peer_on 3; }
peer_burst_off() { peer_off; }

burst plimsoll
! $peer || burst peer
"##;

/// Passes over many cgroups: nothing is evicted, so that all do the same. Of
/// plimsoll's period no generation is ever cold, and with no agings to count, what
/// is remembered of an idle cgroup is as it stays.
const PASSES: &str = r##"
agent '{"memcg":{"disable":false,"period_secs":604800,"eviction_run_aging_count_min":0}}'
plimsoll_pass() {
    now; from=$now
    usage plimsoll; before=$used
    plimsoll agent run-now memcg >/dev/null
    sleep 1
    while [ $(wc -l <$cg/plimsoll/cgroup.procs) -gt 2 ]; do sleep 1; done
    usage plimsoll; now
    spent=$((used - before - idle_us * (now - from) / 100))
}
# The next pass begins within a period and ends when nothing is spent any more.
peer_pass() {
    usage peer; before=$used waited=0
    while usage peer; [ $((used - before)) -lt 1000 ]; do
        sleep 1
        waited=$((waited + 1)); [ $waited -lt $((period * 2)) ] || fail no pass of the peer
    done
    while last=$used; sleep 3; usage peer; [ $used -ne $last ]; do :; done
    spent=$((used - before))
}
# grow KIND COUNT: up to COUNT cgroups below qm/many.
grow() {
    dir=$cg/qm/many/$2
    mkdir -p $dir
    for parent in $cg/qm/many $dir; do echo +memory >$parent/cgroup.subtree_control; done
    kib=0; [ $1 = idle ] || kib=16
    : >/tmp/made
    load cgroups $dir $(($2 - have)) $kib >>/tmp/made &
    made_pids="$made_pids $!"
    until grep -q made /tmp/made; do kill -0 $! || fail no cgroups; sleep 1; done
    if [ $1 = live ]; then
        truncate -s $((($2 - have) * live_kib))K /var/qm/pages-$2
        load charge $dir $(($2 - have)) /var/qm/pages-$2 $live_kib >/dev/null || fail no pages
    fi
    have=$2
}
# passes KIND COUNT
passes() {
    echo "# $2 $1 cgroups"
    sleep $((period + 1)); plimsoll_pass
    for round in $(seq $rounds); do
        sleep $((period + 1)); plimsoll_pass
        echo "pass plimsoll $1 $2 $spent"
    done
    for round in $(seq $rounds); do
        sleep $((period + 1))
        bare=$(within bare load bare /qm/many $cg/bare) || fail no bare pass
        echo "bare $1 $2 $bare"
    done
    $peer || return
    sleep $((period + 1))
    peer_on 1000000
    # The first one is its start as well.
    peer_pass
    for round in $(seq $rounds); do peer_pass; echo "pass peer $1 $2 $spent"; done
    peer_off
}
for kind in idle live; do
    have=0 made_pids=
    for count in $counts; do grow $kind $count; passes $kind $count; done
    [ $kind = live ] && break
    kill $made_pids; wait $made_pids 2>/dev/null
    for dir in $cg/qm/many/*/; do rmdir $dir/idle-*; rmdir $dir; done
done

echo "# memory with $count cgroups"
load peak $cg/plimsoll 30 >/tmp/peak &
plimsoll agent run-now memcg >/dev/null
wait $!
echo "peak plimsoll $(cat /tmp/peak)"
if $peer; then
    peer_on 1000000
    load peak $cg/peer $((period * 2 + 10)) >/tmp/peak
    echo "peak peer $(cat /tmp/peak)"
    peer_off
fi
echo "done"
"##;
