//! QM's cgroup is a systemd unit's. In place of systemd a script makes it, and
//! one named systemctl does what it is asked, or doesn't.

use serde_json::{Value, json};

use super::{LOOK, program};
use crate::{On, Seen, bytes, has, record, set};

/// Writes down what it is asked, and does it as systemd would: in the kernel's
/// files. `/tmp/mode` says how it fails.
const SYSTEMCTL: &str = r#"#!/bin/sh
echo "$@" >>/tmp/asked
case "$(cat /tmp/mode)" in
    hang) exec sleep 600;;
    fail) exit 1;;
esac
[ "$1 $2" = "set-property --runtime" ] || exit 2
shift 3
unit=$1; shift
for setting; do
    value=${setting#*=}
    [ $value = infinity ] && value=max
    case $setting in
        CPUWeight=idle) knob=cpu.idle value=1;;
        MemoryMin=*) knob=memory.min;;
        MemoryLow=*) knob=memory.low;;
        MemoryHigh=*) knob=memory.high;;
        MemoryMax=*) knob=memory.max;;
        MemorySwapMax=*) knob=memory.swap.max;;
        TasksMax=*) knob=pids.max;;
        *) exit 3;;
    esac
    echo $value >/sys/fs/cgroup/$unit/$knob
done
# systemd writes it along with any of them.
echo 1 >/sys/fs/cgroup/$unit/memory.oom.group
"#;

const SCRIPT: &str = r#"
qm=/sys/fs/cgroup/qm.service
echo "mem_total $(awk '/^MemTotal/ { print $2 }' /proc/meminfo)"
echo "page $(od -A n -t d8 -w16 /proc/self/auxv | awk '$1 == 6 { print $2 }')"
echo "status $(plimsoll status --json)"
for unit in qm.service system.slice; do
    sed "s/^/$unit: /" /run/systemd/system/$unit.d/99-plimsoll.conf
done
sed 's/^/manager: /' /run/systemd/system.conf.d/99-plimsoll.conf
[ -e $qm ] && echo "premade yes" || echo "premade no"
[ -e /run/plimsoll/qm-start ] && echo "qm start" || echo "qm held"
max=$(sed -n 's/^MemoryMax=//p' /run/systemd/system/qm.service.d/99-plimsoll.conf)
high=$(sed -n 's/^MemoryHigh=//p' /run/systemd/system/qm.service.d/99-plimsoll.conf)

counter() { plimsoll status --json | sed "s/.*\"$1\":\([0-9]*\).*/\1/"; }
asked() { cat /tmp/asked 2>/dev/null | wc -l; }
now() { awk '{ print int($1 * 1000) }' /proc/uptime; }
# Milliseconds until a knob shows a value, 20 s at most.
until_shows() {
    begin=$(now)
    for i in $(seq 1000); do
        [ "$(cat $qm/$2)" = $3 ] && break
        sleep 0.02
    done
    echo "$1 $(($(now) - begin))"
}
start() { mkdir $qm; for set in "$@"; do echo ${set#*=} >$qm/${set%%=*}; done; sleep 600 & echo $! >$qm/cgroup.procs; }
stop() { for pid in $(cat $qm/cgroup.procs); do kill -9 $pid; done; wait; rmdir $qm; }

sleep 2.5
echo "drifts_without_unit $(counter drifts)"

# systemd dropped every line.
start
until_shows fence_ms memory.max $max
until_shows high_ms memory.high $high
sleep 0.5
for file in memory.max memory.high memory.min memory.low memory.swap.max memory.oom.group pids.max cpu.idle; do
    knob qm/$file $qm/$file
done
echo "asked $(asked)"; echo "question $(tail -n 1 /tmp/asked)"

# A hand edit; a group kill that systemctl has no word for.
sleep 5; echo max >$qm/memory.high; until_shows edit_ms memory.high $high
sleep 1; echo "asked_for_edit $(asked)"
sleep 5; echo 0 >$qm/memory.oom.group; until_shows group_ms memory.oom.group 1
sleep 1; echo "asked_for_group $(asked)"; echo "drifts $(counter drifts)"; echo "mended $(counter mended)"

# systemctl hangs: the fence does not wait for it, and it is killed.
sleep 60; echo hang >/tmp/mode
echo max >$qm/memory.max; echo max >$qm/memory.high
until_shows hang_fence_ms memory.max $max; until_shows hang_ms memory.high $high
sleep 1; echo "hangs $(ps | grep -c '[s]leep 600')"
# It fails.
sleep 90; echo fail >/tmp/mode; echo max >$qm/memory.high; until_shows fail_ms memory.high $high
# It isn't there.
sleep 90; mv /usr/bin/systemctl /tmp/gone; echo max >$qm/memory.high; until_shows gone_ms memory.high $high
before=$(asked); sleep 90; echo max >$qm/pids.max; until_shows gone_again_ms pids.max 4096
echo "asked_while_gone $(($(asked) - before))"

# The unit stops and starts, now as it should.
drifts=$(counter drifts); stop; sleep 3
start cpu.idle=1 memory.high=$high memory.max=$max memory.swap.max=0 memory.oom.group=1 pids.max=4096
sleep 3; echo "drifts_at_restart $(($(counter drifts) - drifts))"
# And without its limits once more.
stop; start; until_shows fence_again_ms memory.max $max
echo "supervisors $(supervisors | wc -l)"
"#;

fn board(on: On) -> Value {
    let mut board = on.board_file();
    set(&mut board, &["qm", "cgroup"], json!("/qm.service"));
    set(&mut board, &["qm", "unit"], json!("qm.service"));
    set(&mut board, &["host", "cgroups"], json!(["/host", "/system.slice"]));
    // It would be systemd that starts QM.
    board["payloads"].as_array_mut().unwrap().retain(|payload| payload["side"] != "qm");
    board
}

/// Drop-ins; QM's cgroup comes without limits; drift is mended through
/// systemctl, and without it.
pub(crate) fn a_unit_of_systemd(on: On) {
    let systemctl = program(SYSTEMCTL);
    let guest =
        on.waiting_guest().board_json(&board(on)).put(systemctl.path(), "/usr/bin/systemctl");
    let outcome = guest.run(&format!("{LOOK}{SCRIPT}")).unwrap();
    let seen = &Seen::new(&outcome);
    let (max, high) = (bytes(seen, "40%"), bytes(seen, "35%"));
    drop_ins(seen, &max, &high);
    seen.expect("drifts_without_unit", 0);

    // Heard at once, not at the next look.
    assert!(seen.number("fence_ms") < 300, "{seen}");
    assert!(seen.number("high_ms") < 2000, "{seen}");
    for (knob, value) in [
        ("memory.max", &*max),
        ("memory.high", &*high),
        ("memory.min", "0"),
        ("memory.low", "0"),
        ("memory.swap.max", "0"),
        ("memory.oom.group", "1"),
        ("pids.max", "4096"),
        ("cpu.idle", "1"),
    ] {
        seen.expect(&format!("qm/{knob}"), value);
    }
    seen.expect("asked", 1);
    seen.expect(
        "question",
        format!(
            "set-property --runtime --no-ask-password qm.service CPUWeight=idle MemoryMin=0 \
             MemoryLow=0 MemoryHigh={high} MemoryMax={max} MemorySwapMax=0 TasksMax=4096"
        ),
    );
    for ms in ["edit_ms", "group_ms"] {
        assert!(seen.number(ms) < 2000, "{ms}\n{seen}");
    }
    seen.expect("asked_for_edit", 2);
    seen.expect("asked_for_group", 3);
    seen.expect("drifts", 8);
    seen.expect("mended", 8);

    assert!(seen.number("hang_fence_ms") < 1200, "{seen}");
    assert!((4000..8000).contains(&seen.number("hang_ms")), "{seen}");
    // QM's own.
    seen.expect("hangs", 1);
    for ms in ["fail_ms", "gone_ms", "gone_again_ms"] {
        assert!(seen.number(ms) < 2000, "{ms}\n{seen}");
    }
    seen.expect("asked_while_gone", 0);
    seen.expect("drifts_at_restart", 0);
    assert!(seen.number("fence_again_ms") < 300, "{seen}");
    seen.expect("supervisors", 2);
    for line in ["no answer in time, killed", "status 1", "status 127"] {
        let line = format!("plimsoll: systemctl: {line}");
        assert!(seen.serial.lines().any(|seen| seen.trim_end().ends_with(&line)), "{line}\n{seen}");
    }
    assert!(outcome.powered_off, "{seen}");
}

fn drop_ins(seen: &Seen, max: &str, high: &str) {
    seen.expect("premade", "no");
    seen.expect("qm", "start");
    let record = record(seen);
    for file in ["system/qm.service.d", "system/system.slice.d", "system.conf.d"] {
        assert!(has(
            &record,
            "drop-in",
            &format!("/run/systemd/{file}/99-plimsoll.conf"),
            "agrees"
        ));
    }
    for line in [
        "qm.service: ConditionPathExists=/run/plimsoll/qm-start",
        &format!("qm.service: MemoryMax={max}"),
        &format!("qm.service: MemoryHigh={high}"),
        "qm.service: Slice=-.slice",
        "system.slice: MemoryMin=67108864",
        "system.slice: DefaultMemoryMin=67108864",
        "manager: DefaultOOMScoreAdjust=-1000",
    ] {
        assert!(seen.text.lines().any(|seen| seen == line), "{line}\n{seen}");
    }
}
