//! Guests whose memory changes: what real QEMUs say on QMP is what their limits
//! follow, and what other servers say there harms nobody.

use serde_json::{Value, json};

use super::VMM;
use crate::{On, Seen, set};

const MIB: u64 = 1 << 20;
/// The overhead of the guests with a formula.
const FIXED: u64 = 384 * MIB;

/// `p` is a QEMU whose guest does not run, `l` one with Linux; `h` a server that
/// means no good.
const SCRIPT: &str = r#"
ms() { awk '{ printf "%d\n", $1 * 1000 }' /proc/uptime; }
of_list() { plimsoll guest list | sed "s/.*\({\"name\":\"$1\".*\)/\1/; s/},{\"name.*/}/; s/\],\"reserve.*//"; }
state() { echo "$1_max $(cat $cg/vm-$2/memory.max)"; echo "$1_list $(of_list $2)"; }
# Until the list says it of a guest; at most 60 s.
until_list() { for i in $(seq 600); do of_list $1 | grep -q -- "$2" && return; sleep 0.1; done; echo "late $*" >&2; }
requested() { qmp $1 '"qom-get", "arguments": {"path": "/machine/peripheral/vmem", "property": "requested-size"}' | sed 's/[^0-9]//g'; }
worker() { plimsoll status --json | sed 's/.*"worker":\([0-9]*\).*/\1/'; }
# What the supervisor has used of the CPU, in ticks of 10 ms.
ticks() { cut -d' ' -f14,15 /proc/$1/stat | sed 's/ /+/' | xargs -I{} sh -c 'echo $(({}))'; }

echo "mem_total $(awk '/^MemTotal/ { print $2 }' /proc/meminfo)"
echo "early $(plimsoll guest resize p 768M 2>&1)"
echo "admit $(plimsoll guest admit p)"
vmm p $paused
until_list p '"qmp":true'; sleep 1.2; state paused p
echo "range $(plimsoll guest resize p 100M 2>&1)"
# It does not follow: the limit is there, and it is asked again and again.
plimsoll guest resize p 768M >/tmp/resize-p 2>&1 & client=$!
until_list p 'held: the guest does not follow'; state held p; echo "held_requested $(requested p)"
plimsoll guest stop p >/dev/null; wait $client; echo "stop_status $?"
echo "stopped $(tail -n 1 /tmp/resize-p)"; sleep 1.5; state stopped p; echo "stopped_requested $(requested p)"
# Another asks for memory, as libvirt would.
qmp p '"qom-set", "arguments": {"path": "/machine/peripheral/vmem", "property": "requested-size", "value": 134217728}' >/dev/null
sleep 2.5; state other p
kill $(cat /run/p.pid); until_list p '"runs":false'; until_list p '"limit_bytes":0'; echo "gone_list $(of_list p)"
"#;

const LINUX: &str = r#"
vmm l $linux -serial file:/tmp/console
until_list l '"qmp":true'
# Its device is as it was saved from here on.
for i in $(seq 600); do qmp l '"query-status"' | grep -q '"running": true' && break; sleep 0.1; done
sleep 1.2; state linux l
begin=$(ms); plimsoll guest resize l 384M >/tmp/grow 2>&1; echo "grow_status $?"; echo "grow_ms $(($(ms) - begin))"
echo "grown $(tail -n 1 /tmp/grow)"; state grown l
# Half-way.
plimsoll guest resize l 1280M >/tmp/half 2>&1 & client=$!
until_list l '"resize".*"memory_bytes":\([5-9][0-9]\{8\}\|1[0-9]\{9\}\)'; plimsoll guest stop l >/dev/null; wait $client; echo "half_status $?"
echo "half $(tail -n 1 /tmp/half)"; sleep 2.5; state half l; echo "half_requested $(requested l)"
# Its balloon has taken a part: 256 MiB more are not available, and longer than a
# balloon that says nothing would hold it up.
balloon() { qmp l "\"balloon\", \"arguments\": {\"value\": $(($1 << 20))}" >/dev/null; }
# An event, which may come after the answer, says the same.
left() { qmp l '"query-balloon"' | sed -n 's/.*"actual": \([0-9]*\).*/\1/p'; }
balloon 48; for i in $(seq 300); do now=$(left); [ ${now:-$((1 << 30))} -gt $((49 << 20)) ] || break; sleep 0.2; done
plimsoll guest resize l 256M >/tmp/shrink 2>&1 & client=$!
until_list l 'held: too little is available'; sleep 7; state squeezed l; echo "squeezed_requested $(requested l)"
balloon 256; wait $client; echo "shrink_status $?"
echo "shrunk $(tail -n 1 /tmp/shrink)"; sleep 2.5; state shrunk l
echo "totals $(sed -n 's/^total //p' /tmp/console | tr '\r\n' '  ')"
echo "kills $(sed -n 's/^oom_kill //p' $cg/vm-l/memory.events)"; cat /tmp/grow /tmp/shrink /tmp/half >&2
kill $(cat /run/l.pid)
"#;

const HOSTILE: &str = r#"
mkdir -p $cg/vm-h
echo "admit_h $(plimsoll guest admit h)"
for mode in hang close flood lie slow garbage; do
    sh -c "echo 0 >$cg/vm-h/cgroup.procs; exec load qmp /run/h.qmp $mode" >/tmp/h-$mode & server=$!
    before=$(ticks $(worker)); until_list h '"runs":true'; sleep 9
    echo "${mode}_ticks $(($(ticks $(worker)) - before))"
    begin=$(ms); plimsoll guest resize h 100M >/dev/null 2>&1; echo "${mode}_ms $(($(ms) - begin))"
    state $mode h; echo "${mode}_clients $(grep -c client /tmp/h-$mode)"
    kill $server; until_list h '"runs":false'
done
echo "revivals $(plimsoll status --json | sed 's/.*"revivals":\([0-9]*\).*/\1/')"
"#;

pub(crate) fn a_guests_memory_changes(on: On) {
    let mut board = on.board_file();
    let guest = |name: &str, memory: &str, max: &str| {
        json!({
            "name": name, "cgroup": format!("/vm-{name}"), "qmp": format!("/run/{name}.qmp"),
            "memory": memory, "memory_max": max
        })
    };
    // Alone in the pool, `p` has all of it.
    let mut pooled = guest("p", "512M", "1536M");
    pooled["model"] = "pool".into();
    let list = [pooled, guest("l", "256M", "1280M"), guest("h", "64M", "128M")];
    let guests = json!({ "model": "fixed", "overhead": "384M", "reserve": "10%", "list": list });
    set(&mut board, &["guests"], guests);
    let guest = on.guest().memory("4G").board_json(&board).with_qemu();
    let seen = Seen::new(&guest.run(&format!("{VMM}{SCRIPT}{LINUX}{HOSTILE}")).unwrap());
    assert!(!seen.errors.contains("late"), "{seen}");
    paused(&seen);
    linux(&seen);
    hostile(&seen);
}

fn parsed(seen: &Seen, key: &str) -> Value {
    serde_json::from_str(seen.get(key)).unwrap_or_else(|error| panic!("{key}: {error}\n{seen}"))
}

/// The limit is the memory and what else there is, in the kernel's file and in the
/// list.
fn limit(seen: &Seen, at: &str, memory_mib: u64, overhead: u64) {
    let bytes = memory_mib * MIB + overhead;
    // The kernel's is of whole pages.
    assert_eq!(seen.number(&format!("{at}_max")), bytes & !4095, "{at}\n{seen}");
    let list = parsed(seen, &format!("{at}_list"));
    assert_eq!(list["memory_bytes"], memory_mib * MIB, "{at}: {list}\n{seen}");
    assert_eq!(list["limit_bytes"], bytes, "{at}: {list}\n{seen}");
}

fn paused(seen: &Seen) {
    assert!(seen.get("early").contains("answers on its qmp socket"), "{seen}");
    // The pool counts in pages of 64 KiB, which are any kernel's.
    let reserve = (seen.number("mem_total") * 1024 / 10) & !0xffff;
    assert_eq!(parsed(seen, "admit")["admitted"]["limit_bytes"], 512 * MIB + reserve, "{seen}");
    limit(seen, "paused", 512, reserve);
    let range = format!("allowed is {} to {} bytes", 512 * MIB, 1536 * MIB);
    assert!(seen.get("range").contains(&range), "{seen}");
    // Raised before it was asked, and back when it is not asked any more.
    limit(seen, "held", 768, reserve);
    seen.expect("held_requested", 256 * MIB);
    seen.expect("stop_status", 1);
    let stopped = parsed(seen, "stopped");
    assert_eq!(stopped["stopped"]["resize"]["state"], "stopped", "{seen}");
    assert_eq!(stopped["stopped"]["resize"]["left_bytes"], 256 * MIB, "{seen}");
    limit(seen, "stopped", 512, reserve);
    seen.expect("stopped_requested", 0);
    limit(seen, "other", 640, reserve);
    assert_eq!(parsed(seen, "gone_list")["memory_bytes"], 512 * MIB, "{seen}");
}

fn linux(seen: &Seen) {
    limit(seen, "linux", 256, FIXED);
    for (at, status, mib) in [("grow", "grown", 384), ("shrink", "shrunk", 256)] {
        seen.expect(&format!("{at}_status"), 0);
        let resize = parsed(seen, status)["resized"]["resize"].clone();
        assert_eq!(resize["state"], "done", "{seen}");
        assert_eq!(resize["memory_bytes"], mib * MIB, "{seen}");
        limit(seen, status, mib, FIXED);
    }
    seen.expect("half_status", 1);
    let half = parsed(seen, "half")["stopped"]["resize"].clone();
    let reached = half["memory_bytes"].as_u64().unwrap();
    assert!((500_000_000..1280 * MIB).contains(&reached), "{seen}");
    limit(seen, "half", reached / MIB, FIXED);
    seen.expect("half_requested", reached - 256 * MIB);
    // As long as the guest has too little, it is asked for nothing.
    let squeezed = parsed(seen, "squeezed_list");
    assert_eq!(squeezed["resize"]["state"], "held: too little is available", "{seen}");
    assert!(squeezed["resize"]["missing_bytes"].as_u64().unwrap() < 288 * MIB, "{seen}");
    let has = squeezed["memory_bytes"].as_u64().unwrap();
    seen.expect("squeezed_requested", has - 256 * MIB);
    // The guest's own view: it had more than its QEMU began with.
    let totals = seen.get("totals").split_whitespace().map(|total| total.parse::<u64>().unwrap());
    let most = totals.max().unwrap_or(0);
    assert!(most > 256 << 10, "{most} KiB\n{seen}");
    seen.expect("kills", 0);
}

/// Nobody waits for such a server, it costs next to nothing, and its guest's limit
/// is never more than the board file allows.
fn hostile(seen: &Seen) {
    for mode in ["hang", "close", "flood", "lie", "slow", "garbage"] {
        let max = seen.number(&format!("{mode}_max"));
        let allowed = if mode == "lie" { 448..=512 } else { 448..=448 };
        assert!(allowed.contains(&(max / MIB)), "{mode}: {max}\n{seen}");
        assert!(seen.number(&format!("{mode}_ms")) < 1000, "{mode}\n{seen}");
        assert!(seen.number(&format!("{mode}_ticks")) < 200, "{mode}\n{seen}");
    }
    assert!(seen.number("close_clients") >= 3, "{seen}");
    seen.expect("revivals", 0);
}
