//! Handing PID 1 over to a real init, and what survives it.

use serde_json::json;

use super::{LOOK, program};
use crate::{On, Seen, bytes, set};

/// busybox init is PID 1; its children are as the kernel would have them.
pub(crate) fn handoff_to_busybox_init(on: On) {
    let mut board = on.board_file();
    set(&mut board, &["handoff", "init"], json!("/next"));
    set(&mut board, &["handoff", "oom_score_adj"], json!(-17));
    let script = format!(
        r#"{LOOK} look
cat /run/words
echo "environ $(tr '\0' ' ' </proc/1/environ)"
for of in 1 self; do
    grep -e ^Sig[BIC] -e ^Cap -e ^NoNewPrivs -e ^Seccomp /proc/$of/status | tr -d '\t' | sed "s/^/$of./; s/:/ /"
    echo "$of.cgroup $(cat /proc/$of/cgroup)"
    echo "$of.limits $(md5sum </proc/$of/limits)"
    echo "$of.sched $(cut -d' ' -f18,19,40,41 /proc/$of/stat)"
    echo "$of.fds $(ls -l /proc/$of/fd | grep -c plimsoll)"
done
# What the kernel gives PID 1 is what it gave its own second thread.
echo "kernel.limits $(md5sum </proc/2/limits)"
echo "fds $(ls /proc/1/fd | tr '\n' ' ')"
set -- $(supervisors)
echo "supervisors $#"
for pid; do echo "supervisor_score $(cat /proc/$pid/oom_score_adj)"; done
kill -9 $1; sleep 0.5
set -- $(supervisors)
kill -9 $2; sleep 0.5
echo "supervisors_after $(supervisors | wc -l)"
echo "zombies $(grep -c 'State:.Z' /proc/[0-9]*/status | grep -c :1)"
knob after_kills /sys/fs/cgroup/qm/memory.max
kill -15 $(supervisors); sleep 0.3
echo "supervisors_after_term $(supervisors | wc -l)"
"#
    );
    let next = "#!/bin/sh\necho \"words $0 $*\" >/run/words\nexec /sbin/init \"$@\"\n";
    let next = program(next);
    let guest = on.guest().board_json(&board).put(next.path(), "/next");
    let guest = guest.kernel_arg("pebble").kernel_arg("COLOUR=blue");
    let outcome = guest.run(&script).unwrap();
    let seen = Seen::new(&outcome);
    seen.expect("pid1", "init -17");
    // argv and the environment are the kernel's, argv[0] excepted.
    seen.expect("words", "/next pebble");
    assert!(seen.get("environ").contains("COLOUR=blue"), "{seen}");
    for of in ["1", "self"] {
        for key in ["SigBlk", "NoNewPrivs", "Seccomp"] {
            let value = seen.get(&format!("{of}.{key}"));
            assert_eq!(value.trim_start_matches('0'), "", "{of}.{key}\n{seen}");
        }
        // All capabilities that the kernel has: ones from bit 0 up, none missing.
        let bounding = u64::from_str_radix(seen.get(&format!("{of}.CapBnd")), 16).unwrap();
        assert!(bounding > 0 && bounding & (bounding + 1) == 0, "{bounding:x}\n{seen}");
        seen.expect(&format!("{of}.CapInh"), "0000000000000000");
        seen.expect(&format!("{of}.cgroup"), "0::/");
        // Priority 20, nice 0, no real-time priority, policy OTHER.
        seen.expect(&format!("{of}.sched"), "20 0 0 0");
        seen.expect(&format!("{of}.fds"), 0);
        seen.expect(&format!("{of}.limits"), seen.get("kernel.limits"));
    }
    seen.expect("supervisors", 2);
    seen.expect("supervisor_score", -1000);
    seen.expect("supervisors_after", 2);
    seen.expect("supervisors_after_term", 2);
    seen.expect("zombies", 0);
    seen.expect("qm/memory.max", bytes(&seen, "40%"));
    seen.expect("after_kills", bytes(&seen, "40%"));
}

/// The next init is not there: plimsoll stays PID 1 and runs the payloads.
pub(crate) fn handoff_to_nothing(on: On) {
    stays(on, "/sbin/nowhere", "handoff /sbin/nowhere: failed");
}

/// The next init is plimsoll: it would start itself for ever.
pub(crate) fn handoff_to_plimsoll(on: On) {
    stays(on, "/usr/bin/plimsoll", "handoff /usr/bin/plimsoll: failed, it is plimsoll itself");
}

fn stays(on: On, init: &str, said: &str) {
    let mut board = on.board_file();
    set(&mut board, &["handoff", "init"], json!(init));
    let script = format!("{LOOK} qm_up; look; echo \"exe $(readlink /proc/1/exe)\"");
    let outcome = on.guest().board_json(&board).run(&script).unwrap();
    let seen = Seen::new(&outcome);
    seen.expect("exe", "/usr/bin/plimsoll");
    seen.expect("qm_runs", "yes");
    seen.expect("qm/memory.max", bytes(&seen, "40%"));
    assert!(seen.serial.contains(said), "{seen}");
    assert!(outcome.powered_off, "{seen}");
}
