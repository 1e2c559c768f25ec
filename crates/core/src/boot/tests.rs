//! The whole boot on a kernel in memory, with each operation failing in turn.

extern crate std;

use std::format;
use std::string::String;
use std::vec;
use std::vec::Vec;

use super::*;
use crate::board::Uuid;
use crate::fake::{Disk, FakeKernel, Partition, ext4_superblock};
use crate::kernel::Errno;
use crate::volume::QM_VAR;

const BOARD: &str = r#"{
    "name": "test",
    "qm": {
        "cgroup": "/qm",
        "memory_limit": { "max": "40%", "high": "35%" },
        "cpu_weight": "idle"
    },
    "host": { "cgroups": ["/host"] },
    "image": { "partitions": { "var_qm": { "size": "64 MiB", "wait_secs": 1 } } },
    "modules": ["virtio", "virtio_blk"],
    "handoff": { "init": "/sbin/init" }
}"#;
/// 40 % of 2010424 kB: the documented number.
const MAX: &str = "823468032";
const HIGH: &str = "720535552";

struct Boot {
    kernel: FakeKernel,
    record: Record,
    next_init: Option<String>,
    accepted: bool,
}

/// Everything the child of PID 1 does.
fn boot(mut kernel: FakeKernel) -> Boot {
    let mut record = Record::new();
    let mut text = vec![0; BOARD_BYTES_MAX + 1];
    let mut json = vec![0; crate::record::JSON_BYTES_MAX];
    mounts(&mut kernel, &mut record);
    let (mut board, accepted) = read_board(&mut kernel, &mut record, &mut text);
    modules(&mut kernel, &mut record, &board);
    limits(&mut kernel, &mut record, &mut board, accepted);
    var_qm(&mut kernel, &mut record, &board, "");
    let next = board.next_init.unwrap_or(STAYS);
    finish(&mut kernel, &mut record, &board, next, &mut json);
    let next_init = board.next_init.map(String::from);
    Boot { kernel, record, next_init, accepted }
}

fn machine(board: &str) -> FakeKernel {
    let mut kernel = FakeKernel::new();
    kernel.set(BOARD_PATH, board);
    for module in ["virtio", "virtio_blk"] {
        kernel.set(&format!("/lib/modules/6.1.0/{module}.ko"), "ELF");
    }
    let uuid = Uuid([7; 16]);
    let bytes = 64 << 20;
    let var_qm = Partition {
        type_uuid: QM_VAR,
        uuid,
        name: "qm_var".into(),
        bytes,
        superblock: ext4_superblock(uuid, "qm_var", bytes),
    };
    kernel.add_disk(Disk::with_gpt("vda", 256 << 20, 512, &[var_qm]));
    kernel
}

/// QM may start only behind its fence; the host's init always starts.
fn invariants(boot: &Boot) {
    let Boot { kernel, record, .. } = boot;
    if record.qm_start {
        // Without a board file QM's cgroup is the default one, and it has no
        // partition.
        let cgroup = if of_the_board(boot) { "qm" } else { "qm.service" };
        let max = kernel.text(&format!("/sys/fs/cgroup/{cgroup}/memory.max"));
        let max: u64 = max.trim().parse().expect("QM may start, so memory.max is a number");
        assert!(max <= MAX.parse().unwrap(), "memory.max is {max}");
        let mounted =
            kernel.mounts.iter().any(|mount| mount.target == "/var/qm" && mount.flags.nodev);
        assert!(mounted || !boot.accepted, "QM may start without /var/qm");
    } else {
        assert!(!record.qm_reason.is_empty());
        assert_eq!(kernel.text(QM_START_PATH), "");
        assert!(!kernel.files.contains_key(QM_START_PATH), "QM is held but the condition is there");
    }
    assert!(kernel.clock_us < 10_000_000, "the boot took {} us", kernel.clock_us);
    assert_eq!(record.dropped, 0);
    if boot.accepted {
        assert_eq!(boot.next_init.as_deref(), Some("/sbin/init"));
    }
}

/// Whether the plan was for the board file's cgroup.
fn of_the_board(boot: &Boot) -> bool {
    boot.record.entries.iter().any(|entry| entry.target.starts_with("/sys/fs/cgroup/qm/"))
}

#[test]
fn all_is_well() {
    let boot = boot(machine(BOARD));
    invariants(&boot);
    assert!(boot.accepted);
    assert!(boot.record.qm_start, "{}", boot.record.qm_reason);
    let text = |path: &str| boot.kernel.text(path).trim().into();
    let knob = |knob: &str| -> String { text(&format!("/sys/fs/cgroup/qm/{knob}")) };
    assert_eq!(knob("memory.max"), MAX);
    assert_eq!(knob("memory.high"), HIGH);
    assert_eq!(knob("memory.swap.max"), "0");
    assert_eq!(knob("memory.oom.group"), "1");
    assert_eq!(knob("cpu.idle"), "1");
    let min: String = text("/sys/fs/cgroup/host/memory.min");
    assert_eq!(min, "67108864");
    let wrong: Vec<_> =
        boot.record.entries.iter().filter(|entry| entry.outcome != Outcome::Agrees).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
    let cgroup2 = boot.kernel.mounts.iter().find(|mount| mount.fstype == "cgroup2").unwrap();
    assert_eq!(cgroup2.data, "nsdelegate,memory_recursiveprot");
    // What was recorded is what a reader gets.
    let json = boot.kernel.text(RECORD_PATH);
    let (read, _) = serde_json_core::from_slice::<Record>(json.as_bytes()).unwrap();
    assert_eq!(read, boot.record);
}

#[test]
fn high_is_written_before_max() {
    let boot = boot(machine(BOARD));
    let at = |knob: &str| {
        boot.record.entries.iter().position(|entry| entry.target.ends_with(knob)).unwrap()
    };
    assert!(at("/qm/memory.high") < at("/qm/memory.max"));
}

#[test]
fn each_operation_fails_in_turn() {
    let operations = boot(machine(BOARD)).kernel.operations;
    assert!(operations > 60, "{operations} operations");
    for errno in [Errno::IO, Errno::NOENT, Errno::ROFS, Errno::BUSY, Errno::EXIST] {
        for n in 0..operations {
            let mut kernel = machine(BOARD);
            kernel.fail_at = Some((n, errno));
            let boot = boot(kernel);
            invariants(&boot);
        }
    }
}

#[test]
fn everything_from_one_operation_on_fails() {
    // A kernel that gives nothing: no proc, no sys, no cgroup2.
    for path in ["/proc", "/sys", "/dev", "/run", "/sys/fs/cgroup", "/var/qm"] {
        let mut kernel = machine(BOARD);
        kernel.fail_path.push((path.into(), Errno::NODEV));
        let boot = boot(kernel);
        invariants(&boot);
        let named = boot.record.entries.iter().any(|entry| {
            entry.outcome == Outcome::Failed
                && (entry.target.starts_with(path) || entry.step == "var-qm")
        });
        assert!(named, "{path}: {:?}", boot.record.entries);
    }
}

#[test]
fn a_controller_that_is_missing_holds_qm() {
    let mut kernel = machine(BOARD);
    kernel.controllers.retain(|controller| *controller != "memory");
    let boot = boot(kernel);
    invariants(&boot);
    assert!(!boot.record.qm_start);
    // The rest is done all the same.
    assert_eq!(boot.kernel.text("/sys/fs/cgroup/qm/cpu.idle").trim(), "1");
}

#[test]
fn a_limit_that_is_refused_gives_the_fallback_or_holds() {
    let high = ("/sys/fs/cgroup/qm/memory.high".into(), Errno::INVAL);
    let mut kernel = machine(BOARD);
    kernel.fail_path.push(high.clone());
    let fallen = boot(kernel);
    invariants(&fallen);
    assert!(fallen.record.qm_start);
    // 25 % of 2010424 kB.
    assert_eq!(fallen.kernel.text("/sys/fs/cgroup/qm/memory.max").trim(), "514666496");

    let hold = BOARD.replace("\"cgroup\"", "\"on_limit_failure\": \"hold\", \"cgroup\"");
    let mut kernel = machine(&hold);
    kernel.fail_path.push(high);
    let held = boot(kernel);
    invariants(&held);
    assert!(held.accepted && !held.record.qm_start);
}

#[test]
fn each_mistake_in_the_board_file_falls_back_and_is_named() {
    let mistakes = [
        ("\"40%\"", "\"40 %\"", "qm.memory_limit.max"),
        ("\"40%\"", "\"140%\"", "qm.memory_limit.max"),
        ("\"40%\"", "\"0\"", "qm.memory_limit.max"),
        ("\"40%\"", "\"banana\"", "qm.memory_limit.max"),
        ("\"40%\"", "40", "qm.memory_limit.max"),
        ("\"35%\"", "\"45%\"", "qm.memory_limit.high"),
        ("\"memory_limit\"", "\"memory_limt\"", "qm.memory_limt"),
        ("\"var_qm\": { \"size\"", "\"var_qn\": { \"size\"", "image.partitions.var_qn"),
        ("\"64 MiB\"", "\"64 MB iB\"", "image.partitions.var_qm.size"),
        ("\"size\":", "\"relative_size\": 0.1, \"size\":", "image.partitions.var_qm"),
        ("\"size\":", "\"uuid\": \"12\", \"size\":", "image.partitions.var_qm.uuid"),
        ("\"idle\"", "0", "qm.cpu_weight"),
        ("\"/sbin/init\"", "\"sbin/init\"", "handoff.init"),
    ];
    for (right, wrong, field) in mistakes {
        let boot = boot(machine(&BOARD.replacen(right, wrong, 1)));
        assert!(!boot.accepted, "{wrong}");
        let named = |entry: &&crate::record::Entry| {
            entry.step == "board" && entry.target.starts_with(field)
        };
        let entry = boot.record.entries.iter().find(named);
        assert!(entry.is_some(), "{wrong}: {:?}", boot.record.entries);
        assert!(!entry.unwrap().wanted.is_empty(), "what is allowed is said");
        assert_eq!(boot.next_init.as_deref(), Some("/sbin/init"), "{wrong}");
        let max = boot.kernel.text("/sys/fs/cgroup/qm/memory.max");
        assert_eq!(max.trim(), "514666496", "{wrong}: QM is under the fallback");
    }
}

#[test]
fn a_file_that_is_no_board_file_starts_the_default_init_and_fences_qm() {
    for text in ["", "{", "[]", "null", "{\"qm\":", "\u{0}\u{1}"] {
        let boot = boot(machine(text));
        assert!(!boot.accepted);
        assert_eq!(boot.next_init.as_deref(), Some("/sbin/init"), "{text:?}");
        let max = boot.kernel.text("/sys/fs/cgroup/qm.service/memory.max");
        assert_eq!(max.trim(), "514666496", "{text:?}");
    }
}

#[test]
fn a_missing_partition_is_waited_for_and_then_holds_qm() {
    let mut kernel = machine(BOARD);
    kernel.disks.clear();
    let before = kernel.clock_us;
    let boot = boot(kernel);
    invariants(&boot);
    assert!(!boot.record.qm_start);
    assert!((1_000_000..1_200_000).contains(&(boot.kernel.clock_us - before)));
    assert!(boot.record.waited_us >= 1_000_000);
}

#[test]
fn virtio_mem_is_told_before_its_driver_comes() {
    let board = BOARD.replace(r#""name""#, r#""virtio_mem": {"enable": true}, "name""#);
    let mut kernel = machine(&board);
    kernel.set(ONLINE.0, "offline\n");
    kernel.set(UNPLUG_ONLINE.0, "Y\n");
    let boot = boot(kernel);
    let steps: Vec<_> = boot.record.entries.iter().map(|entry| &*entry.target).collect();
    let at = |target: &str| steps.iter().position(|step| *step == target).unwrap();
    assert!(at(ONLINE.0) < at("virtio") && at("virtio_blk") < at(UNPLUG_ONLINE.0), "{steps:?}");
    assert_eq!(boot.kernel.text(ONLINE.0), "online_movable\n");
    assert_eq!(boot.kernel.text(UNPLUG_ONLINE.0), "N\n");
}

#[test]
fn without_virtio_mem_nothing_is_told() {
    let board = BOARD.replace(r#""name""#, r#""virtio_mem": {"enable": true}, "name""#);
    let told = |board: &str| {
        let record = boot(machine(board)).record;
        let is = |entry: &&crate::record::Entry| entry.step == "virtio-mem";
        record.entries.iter().filter(is).map(|entry| entry.outcome).collect::<Vec<_>>()
    };
    assert_eq!(told(BOARD), []);
    assert_eq!(told(&board), [Outcome::Skipped; 2]);
}
