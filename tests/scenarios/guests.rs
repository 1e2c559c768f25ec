//! Three processes in the place of VMMs share a pool.

use serde_json::{Value, json};

use crate::{On, Seen, set};

const MIB: u64 = 1 << 20;

const SCRIPT: &str = r#"
cg=/sys/fs/cgroup
# A process of a guest: takes memory, and may be killed like any other.
vm() {
    mkdir -p $cg/vm-$1
    (echo 0 >/proc/self/oom_score_adj; sh -c "echo \$PPID" >/tmp/pid
     echo $(cat /tmp/pid) >$cg/vm-$1/cgroup.procs; exec load eat $2) >/tmp/eat-$1-$2 &
    for i in $(seq 200); do grep -q resident /tmp/eat-$1-$2 && break; sleep 0.1; done
}
knobs() {
    sum=0
    for name in a b c; do
        max=$(cat $cg/vm-$name/memory.max 2>/dev/null || echo 0)
        echo "$1_$name $max"; sum=$((sum + max))
        echo "$1_use_$name $(cat $cg/vm-$name/memory.current 2>/dev/null || echo 0)"
    done
    echo "$1_sum $sum"
}
echo "mem_total $(awk '/^MemTotal/ { print $2 }' /proc/meminfo)"
echo "explain $(plimsoll guest explain --model eve --memory 1000000K --vcpus 1 | grep overhead)"
echo "unknown $(plimsoll guest admit x 2>&1)"
echo "admit_a $(plimsoll guest admit a)"
vm a 300; vm a 426; keep=$(cat /tmp/pid)
sleep 1.5
knobs alone
echo "admit_b $(plimsoll guest admit b 2>&1)"
echo "again_b $(plimsoll guest admit b 2>&1)"
vm b 150
sleep 1.5
knobs both
echo "admit_c $(plimsoll guest admit c 2>&1)"
knobs refused
echo "list $(plimsoll guest list)"
# A gives back; B gets its share, and C its own.
kill -9 $keep
sleep 3
knobs freed
echo "admit_c_now $(plimsoll guest admit c 2>&1)"
vm c 100
sleep 1.5
knobs all
# A supervisor that is new knows no less.
kill -9 $(plimsoll status --json | sed 's/.*"worker":\([0-9]*\).*/\1/')
sleep 2.5
knobs revived
for name in a b c; do
    echo "kills_$name $(sed -n 's/^oom_kill //p' $cg/vm-$name/memory.events)"
    echo "running_$name $(wc -l <$cg/vm-$name/cgroup.procs)"
done
for pid in $(cat $cg/vm-c/cgroup.procs); do kill -9 $pid; done
sleep 2.5
knobs gone
# What was measured is the next run's limit.
echo "admit_m $(plimsoll guest admit m)"
vm m 100; sleep 1.5; kill -9 $(cat /tmp/pid); sleep 3
echo "peak $(cat /root/peaks/m)"
echo "admit_m_again $(plimsoll guest admit m)"
# A disk that takes nothing more costs the number, and nothing else.
rm -r /root/peaks; echo 1 >/root/peaks
vm m 120; sleep 1.5; kill -9 $(cat /tmp/pid); sleep 3
echo "not_kept $(dmesg | grep -c 'guest m: its peak is not kept in /root/peaks')"
echo "admit_m_then $(plimsoll guest admit m)"
echo "revivals $(plimsoll status --json | sed 's/.*"revivals":\([0-9]*\).*/\1/')"
echo "dmesg $(dmesg | grep -c 'Out of memory\|oom-kill')"
"#;

/// EVE's case: A uses most of the reserve above its memory, B comes, then C.
pub(crate) fn guests_share_a_pool(on: On) {
    let mut board = on.board_file();
    let guest = |name: &str, mib: u64| json!({ "name": name, "cgroup": format!("/vm-{name}"), "memory": format!("{mib}M") });
    let mut measured = guest("m", 64);
    measured["model"] = "measured".into();
    let guests = json!({
        "model": "pool",
        "reserve": "30%",
        "peaks": "/root/peaks",
        "list": [guest("a", 256), guest("b", 128), guest("c", 64), measured]
    });
    set(&mut board, &["guests"], guests);
    let guest = on.waiting_guest().memory("2G").board_json(&board);
    let seen = Seen::new(&guest.run(SCRIPT).unwrap());
    let number = |key: &str| seen.number(key);

    assert!(seen.get("explain").trim_start().starts_with("416718848"), "{seen}");
    assert!(seen.get("unknown").contains("one of the board file"), "{seen}");
    let reserve = number("mem_total") * 1024 * 3000 / 10_000;
    let memory = 448 * MIB;

    // Alone it has all of it.
    assert!(seen.get("admit_a").starts_with(r#"{"admitted":{"name":"a""#), "{seen}");
    assert!(reserve + 256 * MIB - number("alone_a") < MIB, "{seen}");
    assert!(number("alone_use_a") > 726 * MIB, "{seen}");

    // B gets what A doesn't use, A keeps what it uses and the margin.
    assert!(seen.get("admit_b").starts_with(r#"{"admitted":{"name":"b""#), "{seen}");
    assert_eq!(seen.get("admit_b"), seen.get("again_b"));
    assert!(number("both_a") >= number("alone_use_a") + 31 * MIB, "{seen}");
    assert!(number("both_a") < number("alone_a") - 64 * MIB, "{seen}");
    assert!(number("both_b") >= (128 + 64) * MIB, "{seen}");

    // C is told the truth.
    let refusal = seen.get("admit_c");
    assert!(refusal.contains("bytes missing, a holds"), "{seen}");
    assert_eq!(number("refused_c"), 0, "{seen}");

    // A freed: shares of two thirds and a third, then of 4/7, 2/7 and 1/7.
    let share = |own: u64, all: u64| reserve * own / all + own * MIB;
    let near = |key: &str, wanted: u64| {
        assert!(number(key).abs_diff(wanted) <= MIB, "{key}: wanted {wanted}\n{seen}");
    };
    near("freed_a", share(256, 384));
    near("freed_b", share(128, 384));
    assert!(seen.get("admit_c_now").starts_with(r#"{"admitted":{"name":"c""#), "{seen}");
    for (name, own) in [("a", 256), ("b", 128), ("c", 64)] {
        near(&format!("all_{name}"), share(own, 448));
        near(&format!("revived_{name}"), share(own, 448));
        assert_eq!(number(&format!("kills_{name}")), 0, "{seen}");
        assert_eq!(number(&format!("running_{name}")), 1, "{seen}");
    }
    near("gone_a", share(256, 384));
    for when in ["alone", "both", "refused", "freed", "all", "revived"] {
        assert!(number(&format!("{when}_sum")) <= reserve + memory, "{when}: {seen}");
    }
    // First what `eve` guesses: 370 MiB, 2.5 % of 64 MiB, 3 MiB for the vCPU.
    let limit = |key: &str| {
        let admitted: Value = serde_json::from_str(seen.get(key)).unwrap();
        admitted["admitted"]["limit_bytes"].as_u64().unwrap()
    };
    assert_eq!(limit("admit_m"), 437 * MIB + 64 * MIB * 25 / 1000, "{seen}");
    assert!((100 * MIB..120 * MIB).contains(&number("peak")), "{seen}");
    assert_eq!(limit("admit_m_again"), number("peak") + 32 * MIB, "{seen}");
    assert!(number("not_kept") >= 1, "{seen}");
    assert_eq!(limit("admit_m_then"), limit("admit_m_again"), "{seen}");
    assert_eq!(number("revivals"), 1, "{seen}");
    assert_eq!(number("dmesg"), 0, "{seen}");
}
