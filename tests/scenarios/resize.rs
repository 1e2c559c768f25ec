//! Real QEMUs in a board: what they say on QMP is what their limits follow.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{On, Seen, set};

const MIB: u64 = 1 << 20;

const SCRIPT: &str = r#"
cg=/sys/fs/cgroup
case $(uname -m) in
x86_64) qemu="qemu-system-x86_64 -M q35 -cpu max" console=ttyS0;;
*) qemu="qemu-system-aarch64 -M virt -cpu cortex-a72" console=ttyAMA0;;
esac
ms() { awk '{ printf "%d\n", $1 * 1000 }' /proc/uptime; }
# A guest of 256 MiB that may have 512 more, and what else its QEMU is told.
vmm() {
    name=$1; shift; mkdir -p $cg/vm-$name
    (echo 0 >/proc/self/oom_score_adj; sh -c "echo \$PPID" >/tmp/pid-$name
     echo $(cat /tmp/pid-$name) >$cg/vm-$name/cgroup.procs
     exec $qemu -accel tcg,tb-size=32 -nodefaults -display none -m 256M,maxmem=2G \
        -object memory-backend-ram,id=mem0,size=512M \
        -device virtio-mem-pci,id=vm0,memdev=mem0,requested-size=0 \
        -qmp unix:/run/$name.qmp,server=on,wait=off "$@") >/tmp/qemu-$name 2>&1 &
}
state() {
    echo "$1_max $(cat $cg/vm-$2/memory.max)"
    echo "$1_list $(plimsoll guest list | sed "s/.*\({\"name\":\"$2\".*\)/\1/; s/},{\"name.*/}/; s/\],\"reserve.*//")"
}
# Until the list says it of a guest; at most 60 s.
until_list() { for i in $(seq 600); do plimsoll guest list | grep -q "\"name\":\"$1\"[^}]*$2" && return; sleep 0.1; done; echo "late $*" >&2; }
until_said() { for i in $(seq $3); do grep -q "$2" $1 && return; sleep 1; done; echo "late $*" >&2; tail -3 $1 >&2; }

echo "early $(plimsoll guest resize p 512M 2>&1)"
echo "admit $(plimsoll guest admit p)"
vmm p -S
until_list p '"qmp":true'; sleep 1.5
state paused p
echo "range $(plimsoll guest resize p 100M 2>&1)"
# It does not run: its limit rises, it does not follow, and is asked again.
plimsoll guest resize p 512M >/tmp/resize-p 2>&1 & client=$!
until_list p 'held: the guest does not follow'
state held p
plimsoll guest stop p >/dev/null; wait $client; echo "client_status $?"
echo "stopped $(tail -n 1 /tmp/resize-p)"
sleep 1.5; state stopped p
begin=$(ms); kill $(cat /tmp/pid-p); until_list p '"runs":false'; echo "gone_ms $(($(ms) - begin))"
"#;

const LINUX: &str = r#"
vmm l -kernel /vmm/guest/vmlinuz -initrd /vmm/guest/initramfs -append "console=$console loglevel=4" -serial file:/tmp/console
until_said /tmp/console '^up ' 300
echo "up $(sed -n 's/^up \([0-9.]*\).*/\1/p' /tmp/console)"; tail -n 3 /tmp/console >&2
state up l
begin=$(ms); plimsoll guest resize l 768M >/tmp/grow 2>&1; echo "grow_status $?"; echo "grow_ms $(($(ms) - begin))"
echo "grown $(tail -n 1 /tmp/grow)"; state grown l
begin=$(ms); plimsoll guest resize l 256M >/tmp/shrink 2>&1; echo "shrink_status $?"; echo "shrink_ms $(($(ms) - begin))"
cat /tmp/shrink >&2
echo "shrunk $(tail -n 1 /tmp/shrink)"; sleep 2; state shrunk l
cat /tmp/console | grep total >&2
echo "kills $(sed -n 's/^oom_kill //p' $cg/vm-l/memory.events)"
"#;

pub(crate) fn a_guests_memory_changes(on: On) {
    let mut board = on.board_file();
    let guest = |name: &str| json!({ "name": name, "cgroup": format!("/vm-{name}"), "memory": "256M", "memory_max": "768M", "qmp": format!("/run/{name}.qmp") });
    let guests = json!({ "model": "fixed", "overhead": "256M", "list": [guest("p"), guest("l")] });
    set(&mut board, &["guests"], guests);
    let guest =
        on.guest().memory("3G").board_json(&board).with_qemu().timeout(Duration::from_secs(900));
    let seen = Seen::new(
        &guest
            .run(&format!(
                "{SCRIPT}{}",
                if std::env::var_os("LINUX").is_some() { LINUX } else { "" }
            ))
            .unwrap(),
    );
    println!("{seen}");
    let _: Option<(Value, u64)> = Some((Value::Null, MIB));
}
