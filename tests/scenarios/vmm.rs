//! Real VMMs: QEMU in a booted board, emulated twice.
//!
//! Where nothing is said of its guest it has none that runs (`-S`): what QEMU
//! itself does with memory needs none.

use serde_json::json;

use crate::{On, Seen, set};

const MIB: u64 = 1 << 20;

/// For scripts of boards [with a QEMU](xtask::guest::Guest::with_qemu).
///
/// `vmm NAME ARG...` starts one in the cgroup /vm-NAME, its QMP on /run/NAME.qmp;
/// `hmp NAME LINE` has its human monitor run a line and prints the answer.
pub(crate) const VMM: &str = r#"
cg=/sys/fs/cgroup
# With a score that lets the kernel kill it, as any VMM has. Until it answers; at most 60 s.
vmm() {
    vm=$1; shift; mkdir -p $cg/vm-$vm; mkfifo /run/$vm.in /run/$vm.out
    sh -c 'echo 0 >/proc/self/oom_score_adj; echo 0 >$0/cgroup.procs; exec "$@"' $cg/vm-$vm \
        qemu-system-$(uname -m) -accel tcg,thread=single,tb-size=32 -nodefaults \
        -no-user-config -display none -qmp unix:/run/$vm.qmp,server=on,wait=off \
        -chardev pipe,id=pipe,path=/run/$vm -mon chardev=pipe,mode=control "$@" >/run/$vm.log 2>&1 &
    echo $! >/run/$vm.pid; cat /run/$vm.out >/run/$vm.said &
    for i in $(seq 600); do
        ! grep -q '"QMP"' /run/$vm.said || { qmp $vm '"qmp_capabilities"' >/dev/null; return; }
        [ -d /proc/$(cat /run/$vm.pid) ] || break
        sleep 0.1
    done
    echo "no QEMU: $(cat /run/$vm.log)" >&2; exit 1
}
# At most 60 s; a QEMU that is killed answers nothing.
qmp() {
    answers=$(grep -c '^{"\(return\|error\)"' /run/$1.said); echo "{\"execute\": $2}" 1<>/run/$1.in
    for i in $(seq 600); do
        [ $(grep -c '^{"\(return\|error\)"' /run/$1.said) = $answers ] || { tail -n 1 /run/$1.said; return; }
        [ -d /proc/$(cat /run/$1.pid) ] || return
        sleep 0.1
    done
}
hmp() { qmp $1 "\"human-monitor-command\", \"arguments\": {\"command-line\": \"$2\"}"; }
# `vmm NAME $paused` has a virtio-mem device, `vmem`, that can have 1 GiB more than its
# 512 MiB; `vmm NAME $linux -serial file:CONSOLE` the same and a Linux that plugs it.
machine="$(cut -d' ' -f1-4 /vmm/guest/machine)"
paused="-S $machine -m 512M,maxmem=4G -object memory-backend-ram,id=vmem-ram,size=1G -device virtio-mem-pci,id=vmem,memdev=vmem-ram,requested-size=0"
linux="$(cat /vmm/guest/machine) -incoming file:/vmm/guest/state"
"#;

/// The same with both guests: more than the limit leaves is written to a disk that
/// lies on ext4, through the host's page cache; then 224 MiB to one that lies in memory.
const SCRIPT: &str = r#"
of() { awk -v key=$1 '$1 == key { print $2 }' $2; }
mkdir -p /var/tmp /root/disks; mount -t tmpfs -o size=1G tmpfs /var/tmp
mount -t ext4 $(findfs LABEL=root) /root/disks
in-qm -b 'exec load anon 50 50 3600' >/dev/null; load anon 50 50 3600 >/tmp/host & host=$!
limit() { plimsoll guest explain --model $1 --memory 128M --video 16M --disks 2 | awk '/limit/ { print $1 }'; }
fill() { at=0; while [ $at -lt $3 ]; do hmp $1 "qemu-io $2 \\\"write ${at}M 32M\\\"" | grep -q return || return; at=$((at + 32)); echo $at >/run/$1.$2; done; }
say() {
    echo "$1_$2_use $(cat $cg/vm-$1/memory.current)"; echo "$1_$2_file $(of file $cg/vm-$1/memory.stat)"
    echo "$1_$2_shmem $(of shmem $cg/vm-$1/memory.stat)"; echo "$1_$2_anon $(of anon $cg/vm-$1/memory.stat)"
    echo "$1_$2_kills $(of oom_kill $cg/vm-$1/memory.events)"; echo "$1_$2_at_limit $(of max $cg/vm-$1/memory.events)"
}
for each in old:192 new:320; do
    name=${each%:*} mib=${each#*:}
    truncate -s 448M /root/disks/$name /var/tmp/$name
    vmm $name -S $machine -m 128M -object memory-backend-ram,id=ram,size=128M,prealloc=on -machine memory-backend=ram \
        -drive file=/root/disks/$name,format=raw,if=none,id=disk,cache=writeback -device virtio-blk-pci,drive=disk \
        -drive file=/var/tmp/$name,format=raw,if=none,id=overlay,snapshot=on -device virtio-blk-pci,drive=overlay
    for i in $(seq 50); do [ $(cat $cg/vm-$name/memory.max) = max ] || break; sleep 0.1; done
    echo "${name}_max $(cat $cg/vm-$name/memory.max)"; say $name start
    fill $name disk $mib; say $name cache
    fill $name overlay 224; sleep 1; say $name end
    echo "${name}_disk $(cat /run/$name.disk)"; echo "${name}_overlay $(cat /run/$name.overlay)"
    [ -d /proc/$(cat /run/$name.pid) ] && echo "${name}_lives yes" || echo "${name}_lives no"
    echo "${name}_pid $(cat /run/$name.pid)"
done
echo "page $(od -A n -t d8 -w16 /proc/self/auxv | awk '$1 == 6 { print $2 }')"
echo "old_limit $(limit libvirt-2012)"; echo "new_limit $(limit libvirt)"
echo "killed $(dmesg | sed -n 's/.*Memory cgroup out of memory: Killed process \([0-9]* ([^)]*)\).*/\1/p')"
echo "constraint $(dmesg | grep -o 'oom-kill:constraint=.*' | tr '\n' ' ')"
echo "kills $(of oom_kill /proc/vmstat)"; echo "swap $(of SwapTotal: /proc/meminfo)"
echo "qm_kills $(of oom_kill $cg/qm/memory.events)"; echo "host_kills $(of oom_kill $cg/host/memory.events)"
in-qm 'pidof load >/dev/null' && echo "qm_lives yes"; [ -d /proc/$host ] && echo "host_lives yes"
plimsoll guest list
"#;

/// Why libvirt took a half where it had taken a fiftieth, on a host without swap:
/// a VMM is charged with the page cache of its disks. What lies on a file system
/// the kernel takes back; a disk in memory it can't, and it kills.
pub(crate) fn libvirts_old_factor_kills(on: On) {
    let mut board = on.board_file();
    let guest = |name: &str, model: &str| {
        json!({
            "name": name, "cgroup": format!("/vm-{name}"), "model": model,
            "memory": "128M", "video": "16M", "disks": 2
        })
    };
    let list = json!([guest("old", "libvirt-2012"), guest("new", "libvirt")]);
    set(&mut board, &["guests", "list"], list);
    let guest = on.guest().with_qemu().board_json(&board);
    let mut disk = guest.board().disk();
    disk.bytes = 1 << 30;
    let seen = Seen::new(&guest.disks([disk]).run(&format!("{VMM}{SCRIPT}")).unwrap());
    println!("{seen}");
    let of = |name: &str, what: &str| seen.number(&format!("{name}_{what}"));
    seen.expect("swap", 0);
    for (name, mib) in [("old", 192), ("new", 320)] {
        let limit = of(name, "limit");
        seen.expect(&format!("{name}_max"), limit - limit % seen.number("page"));
        assert!(of(name, "start_anon") > 128 * MIB, "its memory is there\n{seen}");
        // Page cache that can be taken back fills the limit, and nobody dies of it.
        seen.expect(&format!("{name}_disk"), mib);
        assert!(of(name, "cache_at_limit") > 0, "{seen}");
        seen.expect(&format!("{name}_cache_kills"), 0);
    }

    seen.expect("old_lives", "no");
    seen.expect("old_end_kills", 1);
    assert!(of("old", "overlay") < 224, "{seen}");
    seen.expect("new_lives", "yes");
    seen.expect("new_end_kills", 0);
    seen.expect("new_overlay", 224);
    assert!(of("new", "end_shmem") >= 224 * MIB, "{seen}");

    // It was QEMU, for its own cgroup's limit, and nobody else.
    let qemu = format!("{} (qemu-system-", seen.get("old_pid"));
    assert!(seen.get("killed").starts_with(&qemu), "{seen}");
    let constraint = seen.get("constraint");
    assert!(constraint.contains("CONSTRAINT_MEMCG"), "{seen}");
    assert!(constraint.contains("oom_memcg=/vm-old,"), "{seen}");
    seen.expect("kills", 1);
    seen.expect("qm_kills", 0);
    seen.expect("host_kills", 0);
    seen.expect("qm_lives", "yes");
    seen.expect("host_lives", "yes");
}
