//! What the loops free reaches the machine below, and no clock but the
//! kernel's own matters.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use xtask::disk::{Disk, VarQm};

use super::LOOK;
use crate::{On, Seen, set};

/// From one pass to the next, and from one look at fragmentation to the next,
/// in seconds. The kernel reports free blocks every two seconds, some at a time.
const PERIOD_SECS: u64 = 12;
/// 125 million instructions a second: half of what other guests have. This one is kept
/// busy for two periods.
const CLOCK_SHIFT: u8 = 3;

/// A second or two without idling: time for the host to do something, which an
/// idle guest would spend years of its own time on.
const SPIN: &str = r#"
spin() {
    spun=$(($(cut -d. -f1 /proc/uptime) + 2))
    while [ $(cut -d. -f1 /proc/uptime) -lt $spun ]; do :; done
}
"#;

/// A burst of QM's: memory in huge pages and in single ones, and files. Between
/// the files' pages lie those of a service of the host, which writes a little
/// meanwhile and stays. When the files are gone, the kernel by itself finds no
/// whole block there, and reports none. What QM wrote last is left behind.
const BURST: &str = r#"
qm=/sys/fs/cgroup/qm
burst() { sh -c "echo 0 >$qm/burst/cgroup.procs; exec $*" 2>/dev/null; }
mark() { echo "mark $1"; spin; }
sleep_until() { while [ $(cut -d. -f1 /proc/uptime) -lt $1 ]; do sleep 0.5; done; }
# So many MiB of each.
begin() {
    burst load eat $1 300 >/tmp/eat &
    burst load fragment $2 300 >/tmp/fragment &
    for i in $(seq $3); do
        burst dd if=/dev/zero of=/var/qm/$i bs=64K count=16
        dd if=/dev/zero of=/tmp/host/log bs=32K count=1 seek=$i 2>/dev/null
    done
    sync
    until grep -q fragmented /tmp/fragment && grep -q resident /tmp/eat; do sleep 0.1; done
}
end() {
    for pid in $(cat $qm/burst/cgroup.procs); do kill $pid; done
    rm /var/qm/[0-9]*
    wait
}
qm_up
# The one CPU would keep as many free pages to itself as the watermark has, each
# in a block that is not whole by that; as with several CPUs, it keeps few.
echo 10000 >/proc/sys/vm/percpu_pagelist_high_fraction
echo +memory >$qm/cgroup.subtree_control
mkdir $qm/burst $qm/left /tmp/host
mount -t ext4 /dev/vda2 /tmp/host
# QEMU has translated all of it once, and what the boot left is given back.
begin 4 4 4; end; plimsoll agent run-now compact >/dev/null; sleep 5
mark before
begin 440 32 40
mark top
sh -c "echo 0 >$qm/left/cgroup.procs; exec dd if=/dev/zero of=/var/qm/left bs=64K count=768" 2>/dev/null
sync
echo "left_begin $(cat $qm/left/memory.current)"
# A burst's writing is pressure, and where there was pressure in the last period
# there is no compaction.
sleep $((PERIOD + 1))
end
# In an idle guest two periods would be over before QEMU has taken the pages back.
while :; do :; done & busy=$!
ended=$(cut -d. -f1 /proc/uptime)
sleep_until $((ended + 2 * PERIOD))
echo "left_two_periods $(cat $qm/left/memory.current)"
mark two_periods
kill $busy
sleep_until $((ended + 9 * PERIOD))
mark nine_periods
echo "left_nine_periods $(cat $qm/left/memory.current)"
echo "status $(plimsoll status --json)"
"#;

/// What QEMU holds of the guest's memory falls by at least 80 % of what a burst took
/// within two periods of its end. What the burst left in the page cache is evicted later.
pub(crate) fn memory_goes_back_to_the_host(on: On) {
    let mut board = on.board_file();
    set(&mut board, &["image", "image_size"], json!("1 GiB"));
    set(&mut board, &["image", "partitions", "var_qm", "relative_size"], json!(0.5));
    set(&mut board, &["agent", "memcg", "period_secs"], json!(PERIOD_SECS));
    set(&mut board, &["agent", "compact", "period_secs"], json!(PERIOD_SECS));
    let disk = Disk { bytes: 1 << 30, var_qm: Some(VarQm::new(512 << 20)) };
    let guest =
        on.guest().virtual_time(CLOCK_SHIFT).board_json(&board).disks([disk]).free_page_reporting();
    let script = format!("{LOOK}{SPIN}{}", BURST.replace("PERIOD", &PERIOD_SECS.to_string()));
    let mut rss_kib = BTreeMap::new();
    let outcome = guest.run_with(&script, |line, host| {
        if let Some(mark) = line.strip_prefix("mark ") {
            rss_kib.insert(mark.to_owned(), host.ram_rss_kib()?);
        }
        Ok(())
    });
    let seen = Seen::new(&outcome.unwrap());
    // What the burst left behind has not ended.
    let left = |key: &str| seen.number(key) >> 10;
    let taken = rss_kib["top"] - rss_kib["before"];
    let back = rss_kib["top"] + left("left_two_periods") - rss_kib["two_periods"];
    assert!(taken > 400 << 10, "{rss_kib:?}\n{seen}");
    assert!(back * 100 >= taken * 80, "{back} of {taken} KiB came back, {rss_kib:?}\n{seen}");
    // That is cold after three periods, and evicted in steps.
    assert!(left("left_nine_periods") * 5 <= left("left_begin"), "{seen}");
    // The guest's own use moves by some MiB.
    assert!(rss_kib["nine_periods"] <= rss_kib["two_periods"] + (16 << 10), "{rss_kib:?}\n{seen}");
}

/// A process thrashes, one uses a file each second; the others read theirs once,
/// just before something happens to the clock. Between two looks lie three
/// periods, after each event two.
const CLOCKS: &str = r#"
qm=/sys/fs/cgroup/qm
within() { cgroup=$1; shift; sh -c "echo 0 >$qm/$cgroup/cgroup.procs; exec load $*" >/tmp/$cgroup & }
resident() { until grep -q resident /tmp/$1; do sleep 0.1; done; }
stat() { awk "/^$2 / { print \$2 }" $qm/$1/memory.stat; }
see() {
    echo "uptime_$1 $(cut -d' ' -f1 /proc/uptime | tr -d .)"
    echo "status_$1 $(plimsoll status --json)"
}
# Changes a limit by hand, then waits for the rest of three periods.
three_periods() {
    sleep 1; echo max >$qm/memory.high; sleep 2.2; knob mended_$1 $qm/memory.high
    sleep $((2 * PERIOD - 3)); echo "fresh_$1 $(stat $1 pgsteal)"
    sleep $((PERIOD - 1)); see $1
}
qm_up; look
echo +memory >$qm/cgroup.subtree_control
mkdir $qm/thrash $qm/hot $qm/forward $qm/back $qm/paused
for name in hot forward back paused; do dd if=/dev/zero of=/var/qm/$name bs=64K count=128 2>/dev/null; done
dd if=/dev/zero of=/var/qm/thrash bs=64K count=640 2>/dev/null
sync; echo 1 >/proc/sys/vm/drop_caches
echo $((8 << 20)) >$qm/thrash/memory.high
within thrash thrash /var/qm/thrash 40 300 2
within hot file /var/qm/hot 8 8 300
resident hot
sleep $((2 * PERIOD)); see begin
within forward file /var/qm/forward 8 0 300; resident forward
date -s @$(($(date +%s) + 86400)) >/dev/null; three_periods forward
within back file /var/qm/back 8 0 300; resident back
date -s @$(($(date +%s) - 2 * 86400)) >/dev/null; three_periods back
within paused file /var/qm/paused 8 0 300; resident paused
echo pause; spin; read -r resumed <&5; three_periods paused
for name in hot forward; do echo "stolen_$name $(stat $name pgsteal)"; done
echo "hot_refaults $(stat hot workingset_refault_file)"
"#;

/// Neither the wall clock, set a day forward and two days back, nor a guest that
/// stands still for some seconds changes what is done, and how often.
pub(crate) fn clocks_are_set_and_the_guest_paused(on: On) {
    const PERIOD_SECS: u64 = 4;
    let mut board = on.board_file();
    let agent = json!({
        // What reads its file once is not to count as under pressure, what
        // thrashes is.
        "memcg": { "period_secs": PERIOD_SECS, "period_psi_percent_limit": 12 },
        "compact": { "period_secs": PERIOD_SECS }
    });
    set(&mut board, &["agent"], agent);
    set(&mut board, &["image", "partitions", "var_qm", "relative_size"], json!(0.5));
    let disk = Disk { bytes: 256 << 20, var_qm: Some(VarQm::new(128 << 20)) };
    let script = format!("{LOOK}{SPIN}{}", CLOCKS.replace("PERIOD", &PERIOD_SECS.to_string()));
    let guest = on.waiting_guest().board_json(&board).disks([disk]);
    let outcome = guest.run_with(&script, |line, host| {
        if line == "pause" {
            host.qmp("stop", json!({}))?;
            std::thread::sleep(Duration::from_secs(2 * PERIOD_SECS));
            host.qmp("cont", json!({}))?;
            host.say("resumed")?;
        }
        Ok(())
    });
    let seen = Seen::new(&outcome.unwrap());
    let look = |name: &str| {
        let status: Value = serde_json::from_str(seen.get(&format!("status_{name}"))).unwrap();
        (seen.number(&format!("uptime_{name}")) * 10_000, status)
    };
    let (mut before_us, mut before) = look("begin");
    for (at, event) in (1..).zip(["forward", "back", "paused"]) {
        let (now_us, now) = look(event);
        let passed_us = now_us - before_us;
        let number = |status: &Value, at: &str| status.pointer(at).and_then(Value::as_u64).unwrap();
        let more = |at| number(&now, at) - number(&before, at);
        let passes = more("/agent/counters/memcg_passes");
        let periods = passed_us / (PERIOD_SECS * 1_000_000);
        // On a busy machine a look waits for the pass before it.
        let about = |count: u64| count * 2 >= periods && count <= periods + 1;
        assert!(about(passes), "{event}: {passes} passes, {passed_us} us\n{seen}");
        // The pressure of one cgroup, and the machine's, is seen, and that of no
        // other.
        let held = more("/agent/counters/memcg_stops/period_pressure");
        assert!((1..=passes + 1).contains(&held), "{event}: {held} of {passes}\n{seen}");
        let looks = more("/agent/counters/compact_stops/period_pressure");
        assert!(about(looks), "{event}: {looks} of {periods}\n{seen}");
        // Memory and io together.
        let stalled_us = more("/live/qm_stalled_us");
        assert!(stalled_us > passed_us / 10 && stalled_us <= 2 * passed_us + 100_000, "{seen}");
        assert_eq!(number(&now, "/live/revivals"), 0, "{seen}");
        assert_eq!(number(&now, "/live/drifts"), at, "{event}\n{seen}");
        assert_eq!(number(&now, "/live/mended"), at, "{event}\n{seen}");
        seen.expect(&format!("mended_{event}"), crate::bytes(&seen, "35%"));
        // Two periods after it was read, nothing is cold.
        seen.expect(&format!("fresh_{event}"), 0);
        (before_us, before) = (now_us, now);
    }
    // What was used each second stays, what is cold goes. Kernels from 7.0 on may
    // take a batch (MIN_LRU_BATCH) of what is mapped before they look once more.
    for key in ["hot_refaults", "stolen_hot"] {
        assert!(seen.number(key) <= 64, "{key}\n{seen}");
    }
    assert!(seen.number("stolen_forward") > 0, "{seen}");
}
