//! Cold memory is evicted, hot memory stays, and whoever is under pressure is
//! left alone.

use serde_json::{Value, json};
use xtask::disk::{Disk, VarQm};
use xtask::guest::Guest;
use xtask::packages::Suite;

use super::LOOK;
use crate::{On, Seen, set};

/// Functions of both scripts. Files are sparse: their pages are in the page
/// cache like others, without a disk that slows an emulated board down.
const TOOLS: &str = r#"
top=/sys/fs/cgroup
# make CGROUP: and what is around it.
make() {
    mkdir -p "$top/$1"
    dir=$top rest=$1
    while [ "$rest" != "${rest#*/}" ]; do
        dir=$dir/${rest%%/*} rest=${rest#*/}
        echo +memory >"$dir/cgroup.subtree_control"
    done
}
# run CGROUP NAME CMD...: in the background; what it says goes to /tmp/NAME.
run() {
    cgroup=$1 name=$2
    shift 2
    sh -c 'echo $$ >"$0"; exec "$@"' "$top/$cgroup/cgroup.procs" "$@" >>/tmp/$name 2>&1 &
    pids="$pids $!"
}
# resident NAME...: until all have touched their memory.
resident() {
    for name; do until grep -q resident /tmp/$name; do sleep 0.2; done; done
}
file() { truncate -s $2M /var/qm/$1; echo /var/qm/$1; }
mib() { echo $(($(cat "$top/$1/memory.current") >> 20)); }
# stat CGROUP KEY
stat() { awk "/^$2 / { print \$2 }" "$top/$1/memory.stat"; }
# counts PREFIX: the metrics, each name after PREFIX.
counts() { plimsoll metrics | sed -n "s/^plimsoll_/$1_/p"; }
count() { plimsoll metrics | sed -n "s/^plimsoll_$1 //p"; }
passed() { [ $(count memcg_passes_total) -ge $1 ]; }
now() { cut -d . -f 1 /proc/uptime; }
# until_true SECS CMD...: until CMD is true, looked at $every half second; what it
# took in seconds.
until_true() {
    start=$(now) end=$(($(now) + $1))
    shift
    until "$@"; do
        [ $(now) -lt $end ] || break
        sleep ${every:-0.5}
    done
    echo $(($(now) - start))
}
below() { [ $(mib "$1") -lt $2 ]; }
"#;

/// Deeper than 20.
const DEEP: &str = "qm/1/2/3/4/5/6/7/8/9/10/11/12/13/14/15/16/17/18/19/20/21/22";

/// What each cgroup holds. No pass is due yet.
const HOLD: &str = r#"
for name in map read anon_swap anon off/child tree late mixed kept_low kept_min fresh 'a b'; do
    make "qm/$name"
done
make $deep; make other; make named
dd if=/dev/zero of=/var/qm/swap bs=1M count=96 2>/dev/null
chmod 600 /var/qm/swap; mkswap /var/qm/swap >/dev/null; swapon /var/qm/swap

# What a process read stays the cgroup's, also once it has others below.
run qm/tree tree load file $(file tree 8) 8 0 0 read; wait $!
make qm/tree/child
run qm/map map load file $(file map 300) 300 60 400
run qm/read read load file $(file read 120) 120 24 400 read
run qm/anon_swap anon_swap load anon 64 16 400 random
run qm/anon anon load anon 64 16 400
run qm/mixed mixed_file load file $(file mixed 8) 8 0 400
run qm/mixed mixed_anon load anon 8 0 400
run qm/fresh fresh load file $(file fresh 8) 8 0 400 read
eight() { run "$1" $2 load file $(file $2 8) 8 0 400; }
eight qm/off/child off; eight qm/tree/child child; eight qm/late late; eight 'qm/a b' space
eight qm/kept_low kept_low; eight qm/kept_min kept_min; eight $deep deep
eight other other; eight named named
resident tree map read anon_swap anon mixed_file mixed_anon fresh \
    off child late space kept_low kept_min deep other named
cat $top/qm/kept_low/memory.current >$top/qm/kept_low/memory.low
cat $top/qm/kept_min/memory.current >$top/qm/kept_min/memory.min
counts before
"#;

/// The periods go by, six seconds each: evictions have a fifth of it, two steps.
const EVICT: &str = r#"
every=2
pages() { stat qm/read pgsteal; stat qm/fresh pgsteal; }
plimsoll set '{"memcg":{"period_secs":6}}' >/dev/null
echo "first_pass_secs $(until_true 30 passed 1)"
until_true 60 passed 3 >/dev/null; echo "three_periods" $(pages)
small() {
    below 'qm/a b' 2 && below $deep 2 && below named 2 && below qm/fresh 2 \
        && below qm/tree 10 && below qm/mixed 10
}
echo "small_secs $(until_true 120 small)"
for name in 'a b' fresh tree/child tree mixed off/child late kept_low kept_min; do
    echo "small/$name $(mib "qm/$name")"
done
echo "small/deep $(mib $deep)"; echo "small/named $(mib named)"
echo "mixed/swap $(cat $top/qm/mixed/memory.swap.current)"
counts small

# More is read, and the entries that kept others from being evicted go.
run qm/fresh fresh_again load file $(file fresh_again 8) 8 0 0 read; wait $!
plimsoll set '{"memcg":{"cgroups":[
    {"path":"/qm/anon_swap","swap":true},{"path":"/qm/mixed","swap":true}]}}' >/dev/null
echo "fresh_secs $(until_true 120 below qm/fresh 8)"
large() {
    below qm/map 72 && below qm/read 28 && below qm/anon_swap 20 && below qm/fresh 2 \
        && below qm/off/child 2 && below qm/late 2 && below qm/tree 2 && below qm/mixed 2
}
echo "large_secs $(until_true 180 large)"
for name in map read anon_swap anon fresh off/child tree late mixed kept_low kept_min; do
    echo "large/$name $(mib qm/$name)"
done
for name in map read anon_swap; do
    echo "$name/refaults $(($(stat qm/$name workingset_refault_file) + $(stat qm/$name workingset_refault_anon)))"
done
echo "anon/swap $(cat $top/qm/anon/memory.swap.current)"; echo "other $(mib other)"
counts large
plimsoll set '{"memcg":{"disable":true}}' >/dev/null; sleep 2; counts off; sleep 7; counts still_off
"#;

/// Two cgroups of 16 MiB, of which 4 are a file's, get cold. The share of anonymous
/// memory is another for each in the pass that evicts, none in the next, and one for
/// `less` in the last. Swap is zram, and without huge pages: to a disk the kernel
/// writes more than it was asked for, since what is still being written is not free.
const SHARE: &str = r#"
kill $pids; wait; swapoff /var/qm/swap
echo never >/sys/kernel/mm/transparent_hugepage/enabled
echo 64M >/sys/block/zram0/disksize; mkswap /dev/zram0 >/dev/null; swapon /dev/zram0
share() {
    plimsoll set "{\"memcg\":{\"period_secs\":30,\"swap\":true,\"cgroups\":[
        {\"path\":\"/qm/less\",\"disable\":false,\"swappiness_max\":$1},
        {\"path\":\"/qm/more\",\"disable\":false,\"swappiness_max\":$2}]}}" >/dev/null
}
swapped() { echo $(($(cat $top/qm/$1/memory.swap.current) >> 10)); }
evicted() { for name in less more; do echo "$1/$name $(swapped $name)"; done; }
both() { [ $(swapped less) -gt 1024 ] && [ $(swapped more) -gt 1024 ]; }
for part in less more; do
    make qm/$part
    run qm/$part ${part}_file load file $(file $part 4) 4 0 1000
    run qm/$part ${part}_anon load anon 12 0 1000
done
resident less_file more_file less_anon more_anon
# Where a CPU does not note by itself what it used, the kernel first finds all used.
share 50 100; echo "share_secs $(until_true 400 both)"
# An eviction has a fifth of the period. What is set while it runs is for the next.
share 0 0; sleep 8; evicted part; sleep 30; evicted none
share 1 0; sleep 38; evicted rest
"#;

/// A board with room for a scenario.
fn guest(on: On, agent: &Value) -> Guest {
    let (image_bytes, var_qm_bytes) = (512 << 20, 384 << 20);
    let mut board = on.board_file();
    let limits = json!({ "max": "75%", "high": "70%", "swap_max": "infinity" });
    set(&mut board, &["qm", "memory_limit"], limits);
    set(&mut board, &["image", "image_size"], json!("512 MiB"));
    set(&mut board, &["image", "partitions", "var_qm", "relative_size"], json!(0.75));
    set(&mut board, &["agent"], agent.clone());
    let disk = Disk { bytes: image_bytes, var_qm: Some(VarQm::new(var_qm_bytes)) };
    let guest = on.waiting_guest().board_json(&board).disks([disk]);
    // One of the aarch64 CPUs notes by itself what it used, as every x86_64 does.
    // With those that don't, 7.2 takes some of the hot pages as well: docs/agent.md.
    let notes = on.board == "qemu-aarch64" && on.suite == Suite::Sid;
    if notes { guest.qemu_args(["-cpu", "cortex-a76"]) } else { guest }
}

/// Of a process that holds much and uses little, the little stays; with
/// anonymous memory if there is swap; whatever the cgroup is called and however
/// deep it is; not where memory.low or min, a knob or QM's border forbid it.
pub(crate) fn cold_memory_is_evicted(on: On) {
    let agent = json!({ "memcg": { "period_secs": 600, "cgroups": [
        { "path": "/qm/anon_swap", "swap": true },
        { "path": "/qm/off", "disable": true },
        { "path": "/qm/tree", "exact": true, "disable": true },
        { "path": "/qm/late", "eviction_run_aging_count_min": 1000 },
        { "path": "/qm/mixed", "swap": true, "swappiness_max": 0 },
        { "path": "/named" },
    ] }, "compact": { "disable": true } });
    let script = format!("{LOOK}{TOOLS}deep={DEEP}\nqm_up; look\n{HOLD}{EVICT}{SHARE}");
    let modules = ["zsmalloc", "lzo_rle", "lz4_compress", "lz4hc_compress", "zram"];
    let guest = modules.iter().fold(guest(on, &agent), |guest, name| guest.module(name));
    let seen = &Seen::new(&guest.run(&script).unwrap());
    what_is_small(seen);
    what_is_large(seen);
    what_is_swapped(seen);
    for error in ["gone", "stale", "interrupted", "refused", "malformed", "too_large", "job"] {
        seen.expect(&format!("large_errors_total{{kind=\"{error}\"}}"), 0);
    }
    // The period of ten minutes, a shorter one, and none.
    seen.expect("before_memcg_passes_total", 0);
    assert!(seen.number("first_pass_secs") < 30, "{seen}");
    seen.expect("still_off_memcg_passes_total", seen.number("off_memcg_passes_total"));
}

/// That a cgroup has so much memory, and beside it the kernel's own or at most
/// one huge page.
#[track_caller]
fn holds(seen: &Seen, key: &str, mib: u64) {
    assert!((mib..=mib + 2).contains(&seen.number(key)), "{key}\n{seen}");
}

fn what_is_small(seen: &Seen) {
    seen.expect("three_periods", "0 0");
    for name in ["a b", "deep", "named", "tree/child", "fresh"] {
        holds(seen, &format!("small/{name}"), 0);
    }
    // By its rule, by that of a cgroup around it, by its own alone.
    for name in ["late", "off/child", "tree", "kept_low", "kept_min"] {
        holds(seen, &format!("small/{name}"), 8);
    }
    // The file is gone, the anonymous memory is there.
    holds(seen, "small/mixed", 8);
    seen.expect("mixed/swap", 0);
    assert!(seen.number("small_memcg_stops_total{reason=\"protected\"}") > 0, "{seen}");
}

fn what_is_large(seen: &Seen) {
    // Three periods less a quarter.
    assert!(seen.number("fresh_secs") >= 16, "what was just read was evicted\n{seen}");
    for name in ["fresh", "off/child", "tree", "late", "mixed"] {
        holds(seen, &format!("large/{name}"), 0);
    }
    for name in ["large/kept_low", "large/kept_min", "other"] {
        holds(seen, name, 8);
    }
    holds(seen, "large/anon", 64);
    seen.expect("anon/swap", 0);
    let page = seen.number("page");
    // The kernel doesn't show that pages are read(2) again and again. Only their
    // coming back does, some steps later.
    for (name, hot_mib, percent) in [("map", 60, 2), ("read", 24, 60), ("anon_swap", 16, 2)] {
        let mib = seen.number(&format!("large/{name}"));
        assert!((hot_mib * 3 / 4..=hot_mib * 6 / 5).contains(&mib), "{name}: {mib} MiB\n{seen}");
        let refaulted = seen.number(&format!("{name}/refaults")) * page;
        assert!(refaulted * 100 < (hot_mib << 20) * percent, "{name}: {refaulted} back\n{seen}");
    }
}

/// Of 16 MiB that are cold a quarter and a half, and no more of the rest; all of it
/// where no file page is cold and the share is not none.
fn what_is_swapped(seen: &Seen) {
    // A step ends with a batch of the kernel's, of 64 pages. Where the CPU does not
    // note by itself what it used, newer kernels take less than they are asked for.
    let within = |key: &str, from_kib: u64, to_mib: u64| {
        let kib = seen.number(key);
        assert!((from_kib..(to_mib << 10) + 512).contains(&kib), "{key}: {kib} KiB\n{seen}");
    };
    within("part/less", 3 << 10, 4);
    within("part/more", seen.number("part/less") + 1024, 8);
    within("rest/less", seen.number("part/more") + 1024, 12);
    for name in ["less", "more"] {
        seen.expect(&format!("none/{name}"), seen.number(&format!("part/{name}")));
    }
    seen.expect("rest/more", seen.number("part/more"));
}

/// `busy` waits for the disk and has 24 MiB that it does not use, `thrash` has
/// less memory than it uses. `calm` has 64 MiB of a process that is gone, and a
/// child that can be made to wait for the disk: pressure without refaults, which
/// would put evictions off too. All rest most of the time: that is pressure enough,
/// and an emulated CPU's work is most of what this takes.
const PRESSURE: &str = r#"
dd if=/dev/zero of=/var/qm/thrash bs=1M count=16 2>/dev/null
sync; echo 1 >/proc/sys/vm/drop_caches
reader() {
    run $1 reader sh -c 'while dd if=/dev/vda of=/dev/null bs=16k count=64 iflag=direct; do sleep 0.4; done'
}
make qm/busy; make qm/thrash; make qm/calm
run qm/busy busy load file $(file busy 24) 24 0 400
run qm/calm calm load file $(file calm 64) 64 0 0 read; wait $!
resident busy
make qm/calm/waits
echo 8M >$top/qm/thrash/memory.max
reader qm/busy
run qm/thrash thrash load thrash /var/qm/thrash 16 400 9
count_of() { count "memcg_stops_total{reason=\"$1_pressure\"}"; }
some() { [ $("$@") -gt 0 ]; }
sleep 3
for name in busy calm; do echo "start/$name $(mib qm/$name)"; done

# The gate of the period: the passes in which others are evicted, and two more.
plimsoll set '{"memcg":{"period_secs":4,"cgroups":[{"path":"/qm/calm","disable":true}]}}' >/dev/null
until_true 90 passed 6 >/dev/null; counts gated; echo "gated/busy $(mib qm/busy)"
for name in busy thrash; do echo "psi/$name $(cat $top/qm/$name/io.pressure $top/qm/$name/memory.pressure | tr '\n' ' ')"; done

# Without limits it is evicted like others. With one for the eviction alone,
# that ends when the pressure comes.
plimsoll set '{"memcg":{"period_psi_percent_limit":100,"eviction_psi_percent_limit":100,
    "cgroups":[{"path":"/qm/calm","eviction_psi_percent_limit":1}]}}' >/dev/null
echo "begun_secs $(until_true 90 some stat qm/calm pgsteal)"
reader qm/calm/waits
echo "stopped_secs $(until_true 60 some count_of eviction)"
echo "stopped/calm $(mib qm/calm)"; counts stopped
echo "open_secs $(until_true 90 below qm/busy 10)"
echo "open/busy $(mib qm/busy)"; counts open
"#;

/// The pressure of a cgroup holds its passes, and ends its eviction.
pub(crate) fn pressure_stops_eviction(on: On) {
    let agent = json!({ "memcg": { "period_secs": 600 }, "compact": { "disable": true } });
    let script = format!("{LOOK}{TOOLS}\nqm_up; look\n{PRESSURE}");
    let seen = &Seen::new(&guest(on, &agent).run(&script).unwrap());
    let stops =
        |when, of| seen.number(&format!("{when}_memcg_stops_total{{reason=\"{of}_pressure\"}}"));
    assert!(stops("gated", "period") >= 5, "{seen}");
    seen.expect("gated_memcg_asked_bytes_total", 0);
    seen.expect("gated/busy", seen.number("start/busy"));
    assert!(stops("stopped", "eviction") > 0, "{seen}");
    assert_eq!(stops("stopped", "period"), stops("gated", "period"), "{seen}");
    assert!(seen.number("stopped/calm") > 40, "{seen}");
    assert!(seen.number("open/busy") < 10, "{seen}");
}
