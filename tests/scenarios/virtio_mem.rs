//! virtio-mem: the host takes memory back, and nobody is killed for it.

use std::time::Duration;

use serde_json::json;
use xtask::guest::Guest;

use crate::{On, Seen, set};

const MIB: u64 = 1 << 20;
/// What the device has when all is there.
const PLUGGED: u64 = 1536 * MIB;

const COMMON: &str = r#"
total() { awk '/^MemTotal/ { print $2 }' /proc/meminfo; }
available() { awk '/^MemAvailable/ { print $2 }' /proc/meminfo; }
kills() { awk '/^oom_kill / { print $2 }' /proc/vmstat; }
ms() { awk '{ printf "%d\n", $1 * 1000 }' /proc/uptime; }
field() { plimsoll status --json | sed "s/.*\"virtio_mem\":{.*\"$1\":\"\?\([^\",}]*\).*/\1/"; }
# Until MemTotal is above or below a number of KiB; for at most so many seconds.
until_total() { for i in $(seq $(($3 * 10))); do [ $(total) $1 $2 ] && return; sleep 0.1; done; echo "late $*"; }
# Until the state begins so; for at most so many seconds.
until_state() { for i in $(seq $(($2 * 10))); do case "$(field state)" in $1*) return;; esac; sleep 0.1; done; echo "late $*"; }
say() { echo "$1 total $(total) available $(available) kills $(kills) ms $(ms) $(field state) left $(field left_bytes) rate $(field bytes_per_sec)"; }
at_begin=$(total)
grow() { echo "want 1536"; until_total -ge $((at_begin + 1536 * 1024 - 8)) 20; }
"#;

const SCRIPT: &str = r#"
for file in /sys/devices/system/memory/auto_online_blocks /sys/module/virtio_mem/parameters/unplug_online; do
    echo "${file##*/} $(cat $file)"
done
begin=$(ms); grow; echo "grown_ms $(($(ms) - begin))"
say grown
grep -E 'virtio|System RAM' /proc/iomem
begin=$(ms); echo "want 0"; until_total -le $((at_begin + 8)) 100; echo "shrunk_ms $(($(ms) - begin))"
say shrunk
grow
for i in $(seq 10); do load eat 140 >/tmp/eat$i & pids="$pids $!"; done
for i in $(seq 10); do until grep -qs resident /tmp/eat$i; do sleep 0.1; done; done
say loaded
begin=$(ms); echo "want 0"; until_state held 100; echo "held_ms $(($(ms) - begin))"
sleep 3
say held
alive() { n=0; for pid in $pids; do [ -d /proc/$pid ] && n=$((n + 1)); done; echo "$1 $n"; }
alive alive_held
set -- $pids; kill $1 $2 $3 $4 $5
until_state shrinking 20; until_state held 100
sleep 3
say goes_on
plimsoll status | grep virtio_mem
alive alive_end
"#;

fn guest(on: On, enable: bool) -> Guest {
    let mut board = on.board_file();
    set(&mut board, &["virtio_mem"], json!({ "enable": enable }));
    on.waiting_guest()
        .virtio_mem("512M", "1536M")
        .board_json(&board)
        .timeout(Duration::from_secs(400))
}

fn run(guest: Guest, script: &str) -> Seen {
    let outcome = guest.run_with(&format!("{COMMON}{script}"), |line, host| {
        match line.strip_prefix("want ") {
            Some(mib) => host.request_memory(mib.parse::<u64>()? * MIB),
            None => Ok(()),
        }
    });
    Seen::new(&outcome.unwrap())
}

/// Grown and shrunk while idle; then ten processes hold most of it, and it is all
/// wanted back.
pub(crate) fn memory_is_given_back_without_a_kill(on: On) {
    let seen = run(guest(on, true), SCRIPT);
    println!("{seen}");
    let _ = PLUGGED;
}
