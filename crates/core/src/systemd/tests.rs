//! Drop-ins as systemd reads them, and which names are units.

extern crate std;

use std::format;
use std::vec;
use std::vec::Vec;

use super::*;
use crate::board::text::is_unit;
use crate::board::{self, BOARD_BYTES_MAX, Faults, Uuid};
use crate::boot;
use crate::facts::Facts;
use crate::fake::{Disk, FakeKernel, ext4_superblock};
use crate::plan::plan;

const QM: &str = "/run/systemd/system/qm.service.d/99-plimsoll.conf";
const MANAGER: &str = "/run/systemd/system.conf.d/99-plimsoll.conf";
const SLICE: &str = "/run/systemd/system/system.slice.d/99-plimsoll.conf";

/// The boot's part of it, on the documented machine.
fn boot(mut kernel: FakeKernel, text: &str) -> (FakeKernel, Record) {
    kernel.set(boot::BOARD_PATH, text);
    let mut record = Record::new();
    let mut buf = vec![0; BOARD_BYTES_MAX + 1];
    let mut json = vec![0; crate::record::JSON_BYTES_MAX];
    boot::mounts(&mut kernel, &mut record);
    let (mut board, accepted) = boot::read_board(&mut kernel, &mut record, &mut buf);
    let plan = boot::limits(&mut kernel, &mut record, &mut board, accepted);
    boot::var_qm(&mut kernel, &mut record, &board, "");
    drop_ins(&mut kernel, &mut record, &board, &plan, accepted, "");
    boot::finish(&mut kernel, &mut record, &board, "none", &mut json);
    (kernel, record)
}

fn with_systemd() -> FakeKernel {
    let mut kernel = FakeKernel::new();
    kernel.set("/usr/lib/systemd/systemd", "ELF");
    kernel
}

/// 40 % of 2010424 kB.
const MAX: &str = "823468032";
const BOARD: &str =
    r#"{"qm": {"unit": "qm.service", "memory_limit": {"max": "40%", "high": "35%"}}}"#;

#[test]
fn var_qm_is_a_unit_of_its_own() {
    let var_qm = r#"{"qm": {"unit": "qm.service"}, "image": {"partitions": {"var_qm":
        {"external": true, "label": "qm", "options": "noatime" OTHER}}}}"#;
    let text = var_qm.replace("OTHER", "");
    let mut disk = Disk::new("vda", 1 << 23);
    disk.write(1024, &ext4_superblock(Uuid([1; 16]), "qm", 1 << 23));
    let mut kernel = FakeKernel::new();
    kernel.add_disk(disk);
    let (kernel, record) = boot(kernel, &text);
    assert!(record.qm_start, "{}", record.qm_reason);
    assert!(kernel.text("/run/systemd/system/var-qm.mount").ends_with(
        "[Mount]\nWhat=/dev/vda\nWhere=/var/qm\nType=ext4\nOptions=nodev,nosuid,noatime\n"
    ));
    let needs = "ConditionPathIsMountPoint=/var/qm\nRequiresMountsFor=/var/qm\n";
    assert!(kernel.text(QM).contains(needs));
    // None of it where QM may do without.
    let text = var_qm.replace("OTHER", r#", "on_failure": "start""#);
    let (kernel, _) = boot(FakeKernel::new(), &text);
    assert!(!kernel.text(QM).contains("/var/qm"));
}

#[test]
fn the_documented_board() {
    let (kernel, record) = boot(FakeKernel::new(), BOARD);
    assert!(record.qm_start, "{}", record.qm_reason);
    let head = "# By plimsoll, from the board file. Made anew at each boot.\n";
    assert_eq!(
        kernel.text(QM),
        format!(
            "{head}[Unit]\nConditionPathExists=/run/plimsoll/qm-start\n\n[Service]\n\
             CPUWeight=idle\nMemoryMin=0\nMemoryLow=0\nMemoryHigh=720535552\n\
             MemoryMax=823468032\nMemorySwapMax=0\nTasksMax=4096\n\
             Slice=-.slice\nOOMPolicy=kill\nOOMScoreAdjust=500\n"
        )
    );
    assert_eq!(kernel.text(MANAGER), format!("{head}[Manager]\nDefaultOOMScoreAdjust=-1000\n"));
    for slice in ["system", "user"] {
        assert_eq!(
            kernel.text(&format!("/run/systemd/system/{slice}.slice.d/99-plimsoll.conf")),
            format!("{head}[Slice]\nMemoryMin=67108864\nDefaultMemoryMin=67108864\n")
        );
    }
    assert_eq!(
        kernel.text("/run/systemd/system/init.scope.d/99-plimsoll.conf"),
        format!("{head}[Scope]\nOOMPolicy=continue\n")
    );
    let drop_ins = record.entries.iter().filter(|entry| entry.step == "drop-in");
    assert_eq!(drop_ins.clone().count(), 5);
    assert!(drop_ins.clone().all(|entry| entry.outcome == Outcome::Agrees));
    // The cgroups are systemd's to make.
    for cgroup in ["qm.service", "system.slice"] {
        assert!(!kernel.dirs.contains(&format!("/sys/fs/cgroup/{cgroup}")), "{cgroup}");
    }
}

#[test]
fn what_is_off_is_not_said() {
    let text = r#"{
        "qm": {
            "unit": "a-b.slice", "cgroup": "/a.slice/a-b.slice", "cpu_weight": 20,
            "pids_max": "max", "memory_limit": {"max": "infinity", "min": "1M 1"}
        },
        "image": {"enable_oom_protection": false, "enable_reclaim_protection": false}
    }"#;
    let (kernel, record) = boot(FakeKernel::new(), text);
    assert!(record.qm_start, "{}", record.qm_reason);
    let made: Vec<_> =
        kernel.files.keys().filter(|path| path.ends_with("99-plimsoll.conf")).collect();
    let dir = "/run/systemd/system";
    let names = ["a-b.slice", "init.scope"].map(|name| format!("{dir}/{name}.d/99-plimsoll.conf"));
    assert_eq!(made, [&names[0], &names[1]]);
    let shown = kernel.text(made[0]);
    let settings = "[Unit]\nAssertPathExists=/run/plimsoll/qm-start\n\n[Slice]\nCPUWeight=20\n\
        MemoryMin=1048576\nMemoryLow=0\nMemoryHigh=infinity\nMemoryMax=infinity\n\
        MemorySwapMax=0\nTasksMax=infinity\n";
    assert_eq!(shown.split_once("[Unit]").unwrap().1, &settings["[Unit]".len()..]);
}

#[test]
fn a_held_qm_says_why() {
    let text = BOARD.replace(
        r#"{"qm""#,
        r#"{"image": {"partitions": {"var_qm": {"external": true, "wait_secs": 0}}}, "qm""#,
    );
    let (kernel, record) = boot(FakeKernel::new(), &text);
    assert!(!record.qm_start);
    let shown = kernel.text(QM);
    assert!(
        shown.contains("\nDescription=QM, held by plimsoll: /var/qm is not mounted\n"),
        "{shown}"
    );
    assert!(shown.contains("\nMemoryMax=823468032\n"), "limited all the same: {shown}");
    assert!(!kernel.files.contains_key(QM_START_PATH));
}

#[test]
fn without_its_drop_in_or_a_memory_controller_qm_is_held() {
    for path in ["/run/systemd", "/run/systemd/system", "/run/systemd/system/qm.service.d", QM] {
        for errno in [Errno::ROFS, Errno::NOSPC] {
            let mut kernel = FakeKernel::new();
            kernel.fail_path.push((path.into(), errno));
            let (kernel, record) = boot(kernel, BOARD);
            assert!(!record.qm_start, "{path}");
            assert!(!kernel.files.contains_key(QM_START_PATH), "{path}");
            let failed = |entry: &&crate::record::Entry| {
                entry.step == "drop-in" && entry.outcome == Outcome::Failed
            };
            assert!(record.entries.iter().any(|entry| failed(&entry)), "{path}");
        }
    }
    let mut kernel = FakeKernel::new();
    kernel.controllers.retain(|controller| *controller != "memory");
    let (_, record) = boot(kernel, BOARD);
    assert!(!record.qm_start);
}

#[test]
fn each_operation_fails_in_turn() {
    let operations = boot(FakeKernel::new(), BOARD).0.operations;
    for errno in [Errno::IO, Errno::ROFS, Errno::EXIST] {
        for n in 0..operations {
            let mut kernel = FakeKernel::new();
            kernel.fail_at = Some((n, errno));
            let (kernel, record) = boot(kernel, BOARD);
            if record.qm_start {
                let shown = kernel.text(QM);
                let limited = shown.contains(&format!("\nMemoryMax={MAX}\n"));
                // Where the board file could not be read: nothing but the default.
                let fallen =
                    shown.is_empty() && !record.entries.iter().any(|e| e.step == "drop-in");
                assert!(limited || fallen, "{n} {errno}: {shown}");
            } else {
                assert!(!kernel.files.contains_key(QM_START_PATH), "{n} {errno}");
            }
        }
    }
}

#[test]
fn a_refused_board_file_is_fenced_through_systemd_too() {
    let unlimited =
        r#"{"qm": {"unit": "qm.service", "cpu_weight": 0, "memory_limit": {"max": "infinity"}}}"#;
    for text in [unlimited, r#"{"qm": {"unit": "qm"}}"#, r#"{"qm": {"unit": 1}}"#, "{", ""] {
        let (kernel, record) = boot(with_systemd(), text);
        assert!(record.qm_start, "{text}: {}", record.qm_reason);
        let shown = kernel.text(QM);
        // 25 % of 2010424 kB.
        assert!(shown.contains("\nMemoryMax=514666496\n"), "{text}: {shown}");
        assert!(kernel.text(SLICE).contains("MemoryMin=67108864"), "{text}");
    }
    // Without systemd there is nobody to read it.
    let (kernel, _) = boot(FakeKernel::new(), "{");
    assert!(!kernel.dirs.contains("/run/systemd/system"));
    // And a board that names no unit has none.
    let (kernel, _) = boot(with_systemd(), "{}");
    assert!(!kernel.dirs.contains("/run/systemd/system"));
}

#[test]
fn the_longest_names_and_numbers_fit() {
    let stem = "q".repeat(118);
    let text = format!(
        r#"{{"qm": {{"unit": "{stem}.service", "cgroup": "/{stem}.service", "memory_limit":
        {{"max": "7E", "high": "7E", "min": "7E", "low": "7E", "swap_max": "7E"}}}},
        "host": {{"cgroups": ["/s.slice"]}}}}"#
    );
    let (kernel, record) = boot(FakeKernel::new(), &text);
    assert!(record.qm_start, "{:?}", record.entries);
    let file = format!("/run/systemd/system/{stem}.service.d/99-plimsoll.conf");
    assert!(kernel.text(&file).contains("OOMScoreAdjust=500\n"));
}

#[test]
fn which_names_are_units() {
    for name in ["qm.service", "a-b.slice", "qm@1.service", "a:b_c.d.service"] {
        assert!(is_unit(name), "{name}");
    }
    for name in [
        "",
        "qm",
        ".service",
        "-.slice",
        "_qm.service",
        ".qm.service",
        "qm@.service",
        "qm.scope",
        "q m.service",
        "q/m.service",
        "qm.service ",
        "qm.service\n",
        "qé.service",
        "qm.SERVICE",
    ] {
        assert!(!is_unit(name), "{name:?}");
    }
    assert!(!is_unit(&format!("{}.service", "q".repeat(200))));
}

#[test]
fn which_cgroups_a_unit_has() {
    for (unit, cgroup) in [
        ("qm.service", "/qm.service"),
        ("qm.service", "/a.slice/qm.service"),
        ("qm.service", "/a.slice/a-b.slice/qm.service"),
        ("a.slice", "/a.slice"),
        ("a-b.slice", "/a.slice/a-b.slice"),
    ] {
        assert!(owns(unit, cgroup), "{unit} {cgroup}");
    }
    for (unit, cgroup) in [
        ("qm.service", "/qm"),
        ("qm.service", "/qm.service/payload"),
        ("qm.service", "/qm.service/qm.service"),
        ("qm.service", "/b.slice/a-b.slice/qm.service"),
        ("qm.service", "/a-b.slice/qm.service"),
        ("a-b.slice", "/a-b.slice"),
    ] {
        assert!(!owns(unit, cgroup), "{unit} {cgroup}");
    }
}

#[test]
fn what_systemd_is_asked_is_what_the_kernel_shows() {
    let mut text = BOARD.as_bytes().to_vec();
    let board = board::read(&mut text, board::decode_core, &mut Faults::default());
    let facts = Facts::gather(&mut FakeKernel::mounted());
    for step in plan(&board, &facts).unwrap() {
        let Step::Write { unit: Some(_), knob, value, .. } = step else { continue };
        let mut text = Text::of("", &[]);
        text.add_setting(knob, value, "");
        match (knob, text.get().unwrap()) {
            ("memory.oom.group", setting) => assert_eq!(setting, ""),
            ("cpu.idle", setting) => assert_eq!(setting, "CPUWeight=idle"),
            (_, setting) => assert!(setting.ends_with(&format!("={value}"))),
        }
    }
}
