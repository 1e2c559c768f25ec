//! Swap that plimsoll makes: files, and zram.

use serde_json::json;
use xtask::disk::{Disk, VarQm};

use super::LOOK;
use crate::{On, Seen, bytes, set};

const MIB: u64 = 1 << 20;

/// What both scenarios ask: areas as `name:KiB:priority`, a counter, and to wait
/// for something, for a minute at most.
const SWAPS: &str = r#"
areas() { awk 'NR > 1 { printf "%s%s:%s:%s", between, $1, $3, $5; between = " " }' /proc/swaps; }
count() { awk 'END { print NR - 1 }' /proc/swaps; }
value() { plimsoll status --json | sed "s/.*\"$1\":\([0-9]*\).*/\1/"; }
agent() { plimsoll set "{\"guest_swap\":{$1}}" >/dev/null || echo "refused: $1" >&2; }
uptime_ms() { awk '{ print int($1 * 1000) }' /proc/uptime; }
mem_total() { awk '/^MemTotal/ { print $2 }' /proc/meminfo; }
wait_for() {
    for i in $(seq 300); do eval "$1" && return; sleep 0.2; done
    echo "in vain: $1" >&2
}
# Once the watch has had its turn.
swap_max() { sleep 1.2; knob $1 /sys/fs/cgroup/qm/memory.swap.max; }
cached_kib() { awk '/^Cached/ { print $2 }' /proc/meminfo; }
"#;

const FILES: &str = r#"
qm_up; look
dir=/var/qm/swap
sleep 4; echo "off $(count)"
# The threshold counts from the moment it is on, and it is the one in force.
cached=$(cached_kib); begin=$(uptime_ms)
agent '"enable":true,"create_threshold_secs":3600'
sleep 4; echo "early $(count)"
agent '"create_threshold_secs":6'
wait_for '[ $(count) = 1 ]'
echo "made_after_ms $(($(uptime_ms) - begin))"
echo "cached_kib $(($(cached_kib) - cached))"
echo "first $(areas)"
swap_max first_max
echo "mode $(stat -c '%a %u' $dir/plimsoll.swap0) $(stat -c '%a %u' $dir)"
echo "magic $(dd if=$dir/plimsoll.swap0 bs=1 skip=4086 count=10 2>/dev/null)"
echo "label $(dd if=$dir/plimsoll.swap0 bs=1 skip=1052 count=8 2>/dev/null)"
echo 0 >/sys/fs/cgroup/qm/memory.swap.max; sleep 1; swap_max mended_max
# What an earlier boot left is taken again.
inode=$(stat -c %i $dir/plimsoll.swap0); swapoff $dir/plimsoll.swap0
wait_for '[ $(count) = 1 ]'
[ $(stat -c %i $dir/plimsoll.swap0) = $inode ] && echo "again $(areas)"

agent '"size_percent":8'; wait_for '[ $(count) = 2 ]'
echo "grown $(areas)"; swap_max grown_max
agent '"size_percent":2'; sleep 3
echo "lowered $(areas)"; swap_max lowered_max
agent '"size_percent":12,"path":"/var/qm/other"'; wait_for '[ $(count) = 3 ]'
echo "other $(areas)"; swap_max other_max

agent '"size_percent":16,"path":"/run/swap"'; wait_for '[ $(value swap_failures) = 1 ]'
echo "tmpfs $(ls -d /run/swap 2>/dev/null)"
# The disk becomes full while the file is written.
agent '"size_percent":25,"path":"/var/qm/full"'
until [ -e /var/qm/full/plimsoll.swap.new ]; do :; done
fallocate -l $(($(df -k /var/qm | awk 'END { print $4 }') - 4096))k /var/qm/fill
wait_for '[ $(value swap_failures) = 2 ]'
echo "full $(ls -d /var/qm/full 2>/dev/null)"
# Then there is not even a beginning. What failed is not tried again at once.
agent '"path":"/var/qm/swap"'; wait_for '[ $(value swap_failures) = 3 ]'
sleep 4; echo "failures $(value swap_failures)"
echo "left $(ls $dir | tr '\n' ' ')"
rm /var/qm/fill; echo "still $(areas)"

agent '"size_percent":14'; wait_for '[ $(count) = 4 ]'
echo "freed $(areas)"
before=$(mem_total); begin=$(uptime_ms); echo plug
wait_for '[ $(count) = 5 ]'
echo "plugged_ms $(($(uptime_ms) - begin))"
echo "plugged_kib $(($(mem_total) - before))"
echo "plugged $(areas)"; swap_max plugged_max
echo "plugged_mem $(mem_total)"
echo "failures_then $(value swap_failures)"
"#;

/// Files of swap: when they are made and how large, and what is left of those
/// that can't be. The board is powered off with all of them in use.
pub(crate) fn swap_is_made(on: On) {
    let mut board = on.board_file();
    let swap = json!({ "size_percent": 5, "create_threshold_secs": 3, "path": "/var/qm/swap" });
    set(&mut board, &["agent", "guest_swap"], swap);
    set(&mut board, &["image", "image_size"], json!("1 GiB"));
    set(&mut board, &["image", "partitions", "var_qm", "relative_size"], json!(0.5));
    let disk = Disk { bytes: 1 << 30, var_qm: Some(VarQm::new(512 << 20)) };
    let guest = on.waiting_guest().board_json(&board).disks([disk]);
    let guest = guest.memory("1G,maxmem=4G").module("virtio_mem");
    // Without this the kernel leaves to user space what to do with memory.
    let guest = guest.kernel_arg("memhp_default_state=online").qemu_args([
        "-object",
        "memory-backend-ram,id=more,size=1G",
        "-device",
        "virtio-mem-pci,id=plug,memdev=more,requested-size=0",
    ]);
    let outcome = guest.run_with(&format!("{LOOK}{SWAPS}{FILES}"), |line, host| {
        if line == "plug" {
            let more = json!({
                "path": "/machine/peripheral/plug", "property": "requested-size", "value": 512 * MIB
            });
            host.qmp("qom-set", more)?;
        }
        Ok(())
    });
    let outcome = outcome.unwrap();
    let seen = &Seen::new(&outcome);
    assert_eq!(seen.errors, "", "{seen}");
    the_first_file(seen);
    // Each area is what is missing, and the kernel keeps a page of it.
    let areas = |key: &str| areas(seen, key);
    let mem_total = seen.number("mem_total") << 10;
    let grown = areas("grown");
    assert_eq!(grown.len(), 2, "{seen}");
    assert_eq!(grown[1].0, "/var/qm/swap/plimsoll.swap1", "{seen}");
    is_about(sum(&grown), mem_total / 100 * 8, seen);
    seen.expect("lowered", seen.get("grown"));
    let other = areas("other");
    assert_eq!(other[2].0, "/var/qm/other/plimsoll.swap0", "{seen}");
    is_about(sum(&other), mem_total / 100 * 12, seen);
    for key in ["grown", "lowered", "other", "plugged"] {
        seen.expect(&format!("{key}_max"), sum(&areas(key)));
    }
    // What can't be made leaves nothing, and is said.
    seen.expect("tmpfs", "");
    assert!(outcome.serial.contains("not made: file system without swap files"), "{seen}");
    seen.expect("full", "");
    assert!(outcome.serial.contains("not made: write: "), "{seen}");
    assert!(outcome.serial.contains("not made: free space: "), "{seen}");
    seen.expect("failures", 3);
    seen.expect("left", "plimsoll.swap0 plimsoll.swap1 ");
    seen.expect("still", seen.get("other"));
    seen.expect("failures_then", 3);
    // The freed disk, then more memory.
    is_about(sum(&areas("freed")), mem_total / 100 * 14, seen);
    assert!(seen.number("plugged_kib") >= 512 << 10, "{seen}");
    assert!(seen.number("plugged_ms") >= 6000, "{seen}");
    is_about(sum(&areas("plugged")), (seen.number("plugged_mem") << 10) / 100 * 14, seen);
    // A file system that is still in use is not unmounted.
    assert!(outcome.powered_off, "{seen}");
    assert!(outcome.serial.contains("EXT4-fs (vda1): unmounting filesystem"), "{seen}");
}

fn the_first_file(seen: &Seen) {
    seen.expect("off", 0);
    seen.expect("early", 0);
    let after_ms = seen.number("made_after_ms");
    // The default would be 60 s.
    assert!((6000..60_000).contains(&after_ms), "{seen}");
    let first = areas(seen, "first");
    assert_eq!((first.len(), &*first[0].0), (1, "/var/qm/swap/plimsoll.swap0"), "{seen}");
    is_about(first[0].1, (seen.number("mem_total") << 10) / 100 * 5, seen);
    // What was written is on the disk, not in memory: all but what goes at a time.
    let cached_kib: i64 = seen.get("cached_kib").parse().unwrap();
    assert!(cached_kib < 12 << 10, "{seen}");
    seen.expect("first_max", first[0].1);
    seen.expect("mended_max", first[0].1);
    seen.expect("mode", "600 0 700 0");
    seen.expect("magic", "SWAPSPACE2");
    seen.expect("label", "plimsoll");
    seen.expect("again", seen.get("first"));
}

/// Name and bytes of each area that the guest printed.
fn areas(seen: &Seen, key: &str) -> Vec<(String, u64)> {
    let words = seen.get(key).split(' ').filter(|word| !word.is_empty());
    let area = |word: &str| {
        let mut parts = word.split(':');
        let name = parts.next().unwrap().to_owned();
        (name, parts.next().unwrap().parse::<u64>().unwrap() << 10)
    };
    words.map(area).collect()
}

fn sum(areas: &[(String, u64)]) -> u64 {
    areas.iter().map(|(_, bytes)| bytes).sum()
}

/// Less than what was wanted by a page or two for each of a few areas.
#[track_caller]
fn is_about(found: u64, wanted: u64, seen: &Seen) {
    assert!(found <= wanted && found + 10 * 4096 > wanted, "{found}, wanted {wanted}\n{seen}");
}

const ZRAM: &str = r#"
qm_up; look
devices() { for dir in /sys/block/zram*; do echo -n "${dir##*/}:$(cat $dir/disksize) "; done; }
echo "before $(devices)"
wait_for '[ $(value swap_failures) = 1 ]'
echo "unknown $(count) $(devices)"
echo "claim $(ls /run/plimsoll/zram 2>/dev/null)"
# One that the kernel has, with its module.
algorithms() { tr ' ' '\n' </sys/block/zram0/comp_algorithm; }
name=lz4hc; algorithms | grep -q 'lzo-rle' && name=lzo-rle
agent "\"algorithm\":\"$name\""; wait_for '[ $(count) = 1 ]'
echo "made $(areas)"
echo "algorithm $(algorithms | grep -c "\[$name\]") $name"
swap_max named_max

qm=/sys/fs/cgroup/qm
echo +memory >$qm/cgroup.subtree_control
mkdir $qm/cold
sh -c "echo 0 >$qm/cold/cgroup.procs; exec load anon 48 8 300" >/tmp/cold &
wait_for 'grep -q resident /tmp/cold'
begin=$(uptime_ms)
wait_for "[ \$(cat $qm/cold/memory.swap.current) -ge $((8 << 20)) ]"
# What is swapped out first has yet to be written.
stored() { awk '{ print $1 }' /sys/block/zram0/mm_stat; }
wait_for "[ \$(stored) -ge $((8 << 20)) ]"
echo "swapped_ms $(($(uptime_ms) - begin))"
echo "swapped $(cat $qm/cold/memory.swap.current)"
echo "refaults $(awk '/^workingset_refault_anon/ { print $2 }' $qm/cold/memory.stat)"
echo "stored $(stored)"
echo "failures $(value swap_failures)"
"#;

/// Swap in compressed memory, and QM's cold memory in it. The board file names
/// how much of it QM may use.
pub(crate) fn swap_on_zram(on: On) {
    let mut board = on.board_file();
    set(&mut board, &["qm", "memory_limit", "swap_max"], json!("15%"));
    let agent = json!({
        "memcg": { "period_secs": 6, "swap": true, "swappiness_max": 200 },
        "guest_swap": {
            "enable": true, "kind": "zram", "algorithm": "nonsense",
            "size_percent": 20, "create_threshold_secs": 3
        }
    });
    set(&mut board, &["agent"], agent);
    // Kernels have some of these built in.
    let modules = ["zsmalloc", "lzo_rle", "lz4_compress", "lz4hc_compress", "zram"];
    let guest = modules.iter().fold(on.waiting_guest(), |guest, name| guest.module(name));
    let guest = guest.memory("1G").board_json(&board);
    let outcome = guest.run(&format!("{LOOK}{SWAPS}{ZRAM}")).unwrap();
    let seen = &Seen::new(&outcome);
    assert_eq!(seen.errors, "", "{seen}");
    // The module brings a device; no other is left.
    seen.expect("unknown", format!("0 {}", seen.get("before")));
    seen.expect("claim", "");
    assert!(outcome.serial.contains("not made: zram algorithm: "), "{seen}");
    let made = areas(seen, "made");
    assert_eq!((made.len(), &*made[0].0), (1, "/dev/zram0"), "{seen}");
    assert!(seen.get("made").ends_with(":100"), "{seen}");
    is_about(made[0].1, (seen.number("mem_total") << 10) / 100 * 20, seen);
    assert!(seen.get("algorithm").starts_with("1 "), "{seen}");
    seen.expect("named_max", bytes(seen, "15%"));
    // What is used each second does not go there.
    let (swapped, stored) = (seen.number("swapped"), seen.number("stored"));
    assert!((8 * MIB..=40 * MIB).contains(&swapped) && stored >= 8 * MIB, "{seen}");
    assert!(seen.number("refaults") < 40, "{seen}");
    seen.expect("failures", 1);
}
