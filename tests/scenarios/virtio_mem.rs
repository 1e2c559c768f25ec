//! virtio-mem: the host takes memory back, and nobody is killed for it.
//!
//! In virtual time, since that of the machine says nothing here: what takes long
//! is the emulator, page by page.

use serde_json::{Value, json};
use xtask::guest::Host;

use crate::{On, Seen, bytes, set};

const MIB: u64 = 1 << 20;
/// What the device has when all is there, in KiB.
pub(crate) const PLUGGED_KIB: u64 = 1536 << 10;
/// `virtio_mem.min_available`, in KiB: what comes and goes takes 100 MiB.
pub(crate) const MIN_AVAILABLE_KIB: u64 = 160 << 10;
/// What is read at different moments may differ by so much, in KiB: pages that the
/// kernel keeps for each CPU and each device.
pub(crate) const SLACK_KIB: u64 = 16 << 10;

/// What is looked at, and the load that the comparison with the driver alone has
/// too.
pub(crate) const LOOK: &str = concat!(
    include_str!("../../crates/xtask/src/shrink/load.sh"),
    r#"
shrink() { plimsoll status --json | sed -n 's/.*"virtio_mem":\({[^}]*}\).*/\1/p'; }
say() {
    {
        echo "$1_total $(total)"; echo "$1_available $(of MemAvailable /proc/meminfo)"
        echo "$1_kills $(of oom_kill /proc/vmstat)"; echo "$1_shrink $(shrink)"
        for file in max high; do echo "$1_$file $(cat /sys/fs/cgroup/qm/memory.$file)"; done
    } | tee -a /tmp/said
}
# Until the state begins with a word; for at most 100 s.
until_state() {
    for i in $(seq 500); do
        case "$(shrink)" in '{"state":"'$1*) return;; esac
        sleep 0.2
    done
    echo "late $*" >&2
}
echo "page $(od -A n -t d8 -w16 /proc/self/auxv | awk '$1 == 6 { print $2 }')"
"#
);

/// Idle; then with ten processes that hold most of it; wanted back each time.
const SCRIPT: &str = r#"
for file in /sys/devices/system/memory/auto_online_blocks /sys/module/virtio_mem/parameters/unplug_online; do
    echo "${file##*/} $(cat $file)"
done
grow grow; sleep 1.2; say grown
# A part of a block: what is left of it is online again.
echo "want 1500"; sleep 0.5; until_state idle; echo "part_total $(total)"; echo "part_shrink $(shrink)"
shrink_idle; sleep 1.2; say shrunk
grow again; hold; say loaded
echo "want 0"
"#;

/// QM has more than 40 % of the small machine: its limit waits for it. It has
/// memory that can be reclaimed, too.
const QM: &str = r#"
# A balloon that MemTotal does not show: of the same memory less is available.
before=$(of MemAvailable /proc/meminfo)
echo "leave 412"
for i in $(seq 100); do
    [ $(of MemAvailable /proc/meminfo) -le $((before - 90 * 1024)) ] && break; sleep 0.1
done
sleep 1.2; echo "inflated_by $((before - $(of MemAvailable /proc/meminfo)))"; say inflated
echo "leave 512"; sleep 1
in_use() { cat /sys/fs/cgroup/qm/memory.current; }
cache() { awk '/^file / { print $2 }' /sys/fs/cgroup/qm/memory.stat; }
grow qm
dd if=/dev/zero of=/var/qm/cold bs=1M count=40 2>/dev/null; sync; echo 3 >/proc/sys/vm/drop_caches
sh -c "echo \$\$ >/sys/fs/cgroup/qm/app/cgroup.procs; cat /var/qm/cold >/dev/null; $mortal anon 300 0 3600" >/tmp/qm &
qm=$!; until grep -qs resident /tmp/qm; do sleep 0.1; done; echo "cache_before $(cache)"
echo "want 0"; until_state held; sleep 3; echo "cache_held $(cache)"
say full; echo "full_in_use $(in_use)"; [ -d /proc/$qm ] && echo "qm lives"
kill $qm; until_total -le $((alone + 8)); sleep 1.2; say empty
"#;

const WITH: &str = r#"
until_state held; sleep 4; say held; alive held
set -- $pids; kill $1 $2 $3 $4 $5
until_state shrinking; until_state held; sleep 4; say further; alive further
plimsoll status | grep '^virtio_mem'
# The worker is killed; then the host wants nothing back any more.
kill -9 $(plimsoll status --json | sed 's/.*"worker":\([0-9]*\).*/\1/'); sleep 3; say revived
grow reversed; until_state idle; say reversed; echo "want 0"
kill $6 $7 $8 $9 ${10}
kill $churn
until_total -le $((alone + 8)); sleep 1.2; say all
"#;

/// What the script wants of the host: `want MIB` of virtio-mem, `leave MIB` of the
/// other memory by the balloon.
pub(crate) fn on_request(line: &str, host: &mut Host) -> anyhow::Result<()> {
    match line.split_once(' ') {
        Some(("want", mib)) => host.request_memory(mib.parse::<u64>()? * MIB),
        Some(("leave", mib)) => host.leave_memory(mib.parse::<u64>()? * MIB),
        _ => Ok(()),
    }
}

/// What these limits are in bytes on the machine that `at_total` was said of.
pub(crate) fn limits_at(seen: &Seen, at: &str, limits: [&str; 2]) -> [String; 2] {
    let total = seen.number(&format!("{at}_total"));
    let text = format!("mem_total {total}\npage {}", seen.get("page"));
    let then = Seen { text, errors: String::new(), serial: String::new() };
    limits.map(|limit| bytes(&then, limit))
}

/// QM's limits as the script said them are 40 % and 35 % of MemTotal then.
#[track_caller]
pub(crate) fn limits(seen: &Seen, at: &str) {
    let [max, high] = limits_at(seen, at, ["40%", "35%"]);
    seen.expect(&format!("{at}_max"), max);
    seen.expect(&format!("{at}_high"), high);
}

fn shrink(seen: &Seen, at: &str) -> Value {
    serde_json::from_str(seen.get(&format!("{at}_shrink"))).unwrap()
}

/// Grown and shrunk while idle; then ten processes hold most of it, and it is all
/// wanted back: it goes as far as they allow, and the rest as they leave.
pub(crate) fn memory_is_given_back_without_a_kill(on: On) {
    let mut board = on.board_file();
    set(&mut board, &["virtio_mem"], json!({ "enable": true, "min_available": "160M" }));
    let guest = on.waiting_guest().virtio_mem("512M", "1536M").balloon(true).board_json(&board);
    let outcome = guest.run_with(&format!("{LOOK}{SCRIPT}{WITH}{QM}"), on_request);
    let seen = Seen::new(&outcome.unwrap());
    let of = |at: &str, what: &str| seen.number(&format!("{at}_{what}"));
    seen.expect("auto_online_blocks", "online_movable");
    seen.expect("unplug_online", "N");
    assert!(!seen.errors.contains("late"), "{seen}");

    let alone = seen.number("alone");
    assert_eq!(of("grown", "total"), alone + PLUGGED_KIB, "{seen}");
    assert_eq!(of("part", "total"), alone + (1500 << 10), "{seen}");
    assert!(of("shrunk", "total") <= alone + 8, "{seen}");
    // 0.5 and 0.6 s; the driver alone needs 7 s for what is idle.
    assert!(seen.number("grow_ms") < 2000 && seen.number("shrink_ms") < 3000, "{seen}");
    assert_eq!(shrink(&seen, "shrunk")["state"], "idle", "{seen}");
    // QM's limits were recomputed within a second.
    for at in ["grown", "shrunk", "held", "further", "all", "inflated", "empty"] {
        limits(&seen, at);
    }

    for at in ["held", "further"] {
        assert!(of(at, "available") + SLACK_KIB >= MIN_AVAILABLE_KIB - (100 << 10), "{seen}");
        let shrink = shrink(&seen, at);
        assert!(shrink["left_bytes"].as_u64() > Some(0), "{at}: {shrink}\n{seen}");
        assert!(shrink["bytes_per_sec"].as_u64() > Some(0), "{at}: {shrink}\n{seen}");
        let left = shrink["left_bytes"].as_u64().unwrap() >> 10;
        assert_eq!(of(at, "total"), alone + left, "{at}: {shrink}\n{seen}");
    }
    seen.expect("held_alive", 10);
    seen.expect("further_alive", 5);
    assert!(of("held", "total") < of("loaded", "total"), "{seen}");
    assert!(of("further", "total") + (512 << 10) <= of("held", "total"), "{seen}");
    assert_eq!(of("reversed", "total"), alone + PLUGGED_KIB, "{seen}");
    assert_eq!(shrink(&seen, "reversed")["left_bytes"], 0, "{seen}");
    seen.expect("all_kills", 0);
    assert_eq!(shrink(&seen, "all")["left_bytes"], 0, "{seen}");

    assert_eq!(of("inflated", "total"), of("all", "total"), "{seen}");
    // 100 MiB, less what the kernel frees meanwhile of those that left: 69 and 82.
    assert!((60 << 10..110 << 10).contains(&seen.number("inflated_by")), "{seen}");
    seen.expect("qm", "lives");
    seen.expect("empty_kills", 0);
    let (limit, in_use) = (of("full", "max"), of("full", "in_use"));
    assert!(limit >= in_use && limit > of("full", "total") * 1024 * 2 / 5, "{seen}");
    assert!(seen.number("cache_held") < seen.number("cache_before") / 4, "{seen}");
}
