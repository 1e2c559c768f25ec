//! virtio-mem and a balloon, and QM: its limits follow, what is evicted of it and
//! what goes to swap goes on beside a shrink.

use serde_json::json;

use super::virtio_mem::{LOOK, MIN_AVAILABLE_KIB, PLUGGED_KIB, SLACK_KIB, limits, on_request};
use crate::{On, Seen, set};

/// QM starts at 35 % of the small machine; the host adds memory.
const GROWTH: &str = r#"
qm=/sys/fs/cgroup/qm
in_use() { cat $qm/memory.current; }
events() { awk "/^$1 / { print \$2 }" $qm/memory.events; }
counter() { plimsoll status --json | sed "s/.*\"$1\":\([0-9]*\).*/\1/"; }
run_in_qm() { rm -f /tmp/in-qm; sh -c "echo \$\$ >$qm/app/cgroup.procs; $mortal $1" >/tmp/in-qm & app=$!; }
resident() { until grep -qs resident /tmp/in-qm; do sleep 0.1; done; }
# Until QM has a part of all memory as a limit, in percent.
follows() { until [ $(cat $qm/$1) -ge $(($(total) * 1024 / 100 * $2 - 65536)) ]; do sleep 0.05; done; }
run_in_qm "anon 200 0 3600"
until [ $(in_use) -ge $(cat $qm/memory.high) ]; do sleep 0.1; done; sleep 2
echo "before $(grep -c resident /tmp/in-qm) $(events max)"
grow grow; begin=$(ms); follows memory.high 35; follows memory.max 40; echo "follows_ms $(($(ms) - begin))"
resident; echo "goes_on_ms $(($(ms) - begin))"
high=$(events high); sleep 2; echo "throttled $(($(events high) - high))"; say grown

# A balloon that MemTotal shows.
inflated() { until_total $1 $2; sleep 1.2; }
all=$(total); echo "leave 312"; inflated -le $((all - 200 * 1024 + 1024)); say balloon
echo "leave 512"; inflated -ge $all; say deflated
"#;

/// Reversed half-way, and other sizes in quick succession; then QM and a process
/// of the host hold much of it, first without swap.
const SHRINK: &str = r#"
kill $app
echo "want 0"; until_total -le $((all - 256 * 1024)); echo "half $(total)"; grow reversed
until_state idle; sleep 5; say reversed
for mib in 0 1536 512 1280 1024; do echo "want $mib"; sleep 0.2; done
until_total -le $((alone + 1024 * 1024)); until_state idle; sleep 3; say several
grow again
run_in_qm "anon 500 60 3600"; resident
sh -c "$mortal anon 600 0 3600" >/tmp/holder & holder=$!
until grep -qs resident /tmp/holder; do sleep 0.1; done
echo "want 0"; until_state held; sleep 20; say without
# The pages of QM that are cold go to swap: then there is more to give.
plimsoll set '{"guest_swap":{"enable":true}}' >/dev/null
for i in $(seq 100); do [ $(counter swap_made_bytes) -eq 0 ] || break; sleep 0.2; done
until_total -le $(($(of without_total /tmp/said) - 256 * 1024)); sleep 5; until_state held
say deeper
ins() { of pswpin /proc/vmstat; }
before=$(ins); sleep 40
echo "in $(($(ins) - before))"; say calm
# Wanted back while QM is evicted from.
kill $app $holder; grow full; run_in_qm "anon 300 0 3600"; resident
evicted=$(counter memcg_evicted_bytes)
for i in $(seq 500); do [ $(counter memcg_evicted_bytes) -le $evicted ] || break; sleep 1; done
begin=$(ms); echo "want 0"; until_total -le $((alone + 8)); echo "both_ms $(($(ms) - begin))"
sleep 15; say all; passes=$(counter memcg_passes)
sleep 65; echo "passes_then $(($(counter memcg_passes) - passes))"
[ -d /proc/$app ] && echo "app lives"
"#;

/// What QM uses all the time, in MiB.
const QM_HOT_MIB: u64 = 60;
/// Devices more than are minded.
const MORE: [&str; 4] = ["a", "b", "c", "d"];

/// QM's limits follow at once, and its throttled process goes on; a balloon, a
/// shrink that is reversed, swap, and eviction, each beside the other.
pub(crate) fn memory_comes_and_goes_beside_qm(on: On) {
    let mut board = on.board_file();
    set(&mut board, &["virtio_mem"], json!({ "enable": true, "min_available": "160M" }));
    let agent = json!({
        "memcg": { "period_secs": 60, "swap": true, "swappiness_max": 200 },
        "guest_swap": { "kind": "zram", "size_percent": 30, "create_threshold_secs": 1 }
    });
    set(&mut board, &["agent"], agent);
    let modules = ["zsmalloc", "lzo_rle", "lz4_compress", "lz4hc_compress", "zram"];
    let guest = modules.iter().fold(on.waiting_guest(), |guest, name| guest.module(name));
    let guest = guest.virtio_mem("512M", "1536M").balloon(false).board_json(&board);
    let guest = MORE.iter().fold(guest, |guest, name| {
        let backend = format!("memory-backend-ram,id=more-{name},size=128M");
        let device = format!("virtio-mem-pci,memdev=more-{name},requested-size=0");
        guest.qemu_args(["-object", &backend, "-device", &device])
    });
    let script = format!("{LOOK}{GROWTH}{SHRINK}");
    let outcome = guest.run_with(&script, on_request).unwrap();
    let seen = &Seen::new(&outcome);
    let of = |at: &str, what: &str| seen.number(&format!("{at}_{what}"));
    assert!(!seen.errors.contains("late"), "{seen}");
    assert_eq!(outcome.serial.matches("too many devices").count(), 1, "{seen}");

    seen.expect("before", "0 0");
    assert!(seen.number("follows_ms") < 1200 && seen.number("goes_on_ms") < 3000, "{seen}");
    seen.expect("throttled", 0);
    for at in ["grown", "balloon", "deflated", "reversed", "several", "all"] {
        limits(seen, at);
    }
    let (alone, all) = (seen.number("alone"), of("grown", "total"));
    assert!(of("balloon", "total") < all - (190 << 10), "{seen}");
    for at in ["deflated", "reversed"] {
        assert_eq!(of(at, "total"), alone + PLUGGED_KIB, "{at}\n{seen}");
    }
    assert_eq!(of("several", "total"), alone + (1024 << 10), "{seen}");

    // Swap makes it go further, and not round and round.
    assert!(of("without", "total") > alone + (512 << 10), "{seen}");
    assert!(of("deeper", "total") + (256 << 10) <= of("without", "total"), "{seen}");
    for at in ["without", "deeper", "calm"] {
        assert!(of(at, "available") + SLACK_KIB >= MIN_AVAILABLE_KIB, "{at}\n{seen}");
    }
    let pages = (QM_HOT_MIB << 20) / 4096;
    assert!(seen.number("in") < pages, "{seen}");
    assert!(seen.number("both_ms") < 15_000, "{seen}");
    assert!(seen.number("passes_then") > 0, "{seen}");
    seen.expect("all_kills", 0);
    assert!(of("all", "total") <= alone + 8, "{seen}");
    seen.expect("app", "lives");
}
