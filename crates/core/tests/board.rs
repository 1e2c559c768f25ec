//! Board files: what is refused, what is then left, and that all decoders
//! agree on it.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use plimsoll_core::agent::settings::{CGROUPS_MAX, Settings};
use plimsoll_core::board::keys::{self, DOCS};
use plimsoll_core::board::{
    self, BOARD_BYTES_MAX, Board, CpuWeight, Faults, Guests, Identity, OnLimitFailure,
    PartitionSize, Raw, Restart, Side, Uuid, VirtioMem,
};
use plimsoll_core::guests::{Field, GUESTS_MAX, Model};
use plimsoll_core::limit::{Limit, Memory};

#[path = "board/hostile.rs"]
mod hostile;
#[path = "board/mistakes.rs"]
mod mistakes;
#[path = "board/settings.rs"]
mod settings;

use mistakes::MISTAKES;

const EVERY_KEY: &str = include_str!("board/every-key.json");
/// What the table of mistakes checks to still count.
const REST: &str = r#""mend_drift": false, "#;

fn boards() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "..", "..", "boards"].iter().collect()
}

/// A decoder for [`board::read`] that is not the board's own.
type Decoder = fn(&[u8]) -> Option<Raw<'_>>;

/// Reads with all decoders, hands over what they agree on.
fn read<T>(text: &[u8], look: impl FnOnce(&Board<'_>, &Faults) -> T) -> T {
    let (mut own, mut faults) = (text.to_vec(), Faults::default());
    let board = board::read(&mut own, board::decode_core, &mut faults);
    let others: [Decoder; 2] = [board::decode_serde, |text| serde_json::from_slice(text).ok()];
    for decode in others {
        let (mut text, mut other_faults) = (text.to_vec(), Faults::default());
        assert_eq!(board, board::read(&mut text, decode, &mut other_faults));
        assert_eq!(faults, other_faults);
    }
    assert!(faults.iter().all(|fault| fault.allowed != "a file that can be decoded"));
    if !faults.is_empty() {
        assert_ne!(board.qm.memory_max, Limit::Infinity);
        assert!(board.qm.pids_max.is_some());
    }
    look(&board, &faults)
}

fn accepted<T>(text: &str, look: impl FnOnce(&Board<'_>) -> T) -> T {
    read(text.as_bytes(), |board, faults| {
        assert!(faults.is_empty(), "{text}: {faults:?}");
        look(board)
    })
}

/// The document whose only value is at this path, arrays with one element.
fn document(path: &str, value: &str) -> String {
    path.rsplit('.').fold(value.to_owned(), |value, part| match part.strip_suffix("[]") {
        Some(name) => format!(r#"{{"{name}": [{value}]}}"#),
        None => format!(r#"{{"{part}": {value}}}"#),
    })
}

#[test]
fn each_mistake_is_named_and_the_rest_counts() {
    for (members, path, value, allowed) in MISTAKES {
        let text = format!("{{{REST}\n  {members}}}");
        read(text.as_bytes(), |board, faults| {
            let fault = faults.iter().next().unwrap_or_else(|| panic!("accepted: {text}"));
            assert_eq!(fault.path, *path, "{text}: {faults:?}");
            assert_eq!(fault.value, *value, "{text}");
            assert!(fault.allowed.contains(allowed), "{text}: {}", fault.allowed);
            assert_eq!((fault.line, fault.column > 2), (2, true), "{text}: {faults:?}");
            assert!(!board.mend_drift, "{text}");
        });
    }
}

#[test]
fn one_mistake_is_one_fault() {
    for (members, ..) in MISTAKES {
        // What is missing is named key by key.
        if !members.contains("[{}") {
            let text = format!("{{{REST}{members}}}");
            read(text.as_bytes(), |_, faults| {
                assert_eq!(faults.iter().count(), 1, "{text}: {faults:?}");
            });
        }
    }
}

#[test]
fn too_many_of_anything_are_refused() {
    let many = |count: usize, item: &str| vec![item; count].join(", ");
    for (path, count, item) in [
        ("modules", 48, r#""virtio""#),
        ("host.cgroups", 8, r#""/host""#),
        ("payloads", 8, "{}"),
        ("payloads[].command", 16, r#""/a""#),
        ("agent.memcg.cgroups", CGROUPS_MAX, "{}"),
        ("guests.list", GUESTS_MAX, "{}"),
    ] {
        let shown = path.replace("[]", "[0]");
        for more in [0, 1, 100] {
            let text = document(path, &format!("[{}]", many(count + more, item)));
            read(text.as_bytes(), |_, faults| {
                let full = faults
                    .iter()
                    .filter(|fault| fault.path.as_str() == format!("{shown}[{count}]"));
                assert_eq!(full.count(), usize::from(more > 0), "{text}: {faults:?}");
            });
        }
    }
}

#[test]
fn a_file_with_everything_as_often_as_it_may_be_is_read() {
    let many = |count: usize, item: &str| vec![item; count].join(", ");
    let payload = |n: usize| {
        format!(
            r#"{{"name": "p{n}", "side": "qm", "command": [{}], "oom_score_adj": 0, "restart": "no", "restart_max": 0}}"#,
            many(16, r#""/a""#)
        )
    };
    let payloads = (0..8).map(payload).collect::<Vec<_>>().join(", ");
    let entry = |n: usize| {
        format!(
            r#"{{"path": "/{n}{}", "exact": true, "disable": true, "swap": true, "swappiness_max": 100,
            "period_secs": 604800, "period_psi_percent_limit": 100, "eviction_psi_percent_limit": 100,
            "eviction_run_aging_count_min": 1000000}}"#,
            "a".repeat(120)
        )
    };
    let entries = (1..CGROUPS_MAX).map(entry).collect::<Vec<_>>().join(", ");
    let text = EVERY_KEY
        .replace(r#"{ "path": "/" }"#, &entries)
        .replace(r#""virtio_blk""#, &many(47, r#""virtio_blk""#))
        .replace(r#""/host""#, &many(7, r#""/host""#));
    let text =
        format!("{}\"payloads\": [{payloads}]}}", text.split("\"payloads\"").next().unwrap());
    accepted(&text, |board| {
        assert_eq!((board.modules.len(), board.host.cgroups.len()), (48, 8));
        assert!(board.payloads.iter().all(|payload| payload.command.len() == 16));
        assert_eq!(board.payloads.len(), 8);
        assert_eq!(board.agent.rules().count(), 1 + CGROUPS_MAX);
    });
}

#[test]
fn every_key_is_checked_for_its_type() {
    for key in keys::all() {
        let text = document(key.path, "null");
        read(text.as_bytes(), |_, faults| {
            let path = key.path.replace("[]", "[0]");
            assert_eq!(faults.iter().next().unwrap().path.as_str(), path, "{text}");
        });
    }
}

#[test]
fn all_faults_are_told_up_to_a_number() {
    let text = format!("{{{}}}", vec![r#""a": 0"#; 20].join(",\n"));
    read(text.as_bytes(), |board, faults| {
        let lines: Vec<_> = faults.iter().map(|fault| fault.line).collect();
        assert_eq!((lines, faults.more()), ((1..=8).collect(), 12));
        assert!(board.var_qm.is_some(), "what is not named may be the partition");
    });
}

#[test]
fn a_refused_file_never_leaves_qm_unlimited() {
    let limits = |max: &str, fallback: &str| {
        let text = format!(
            r#"{{"x": 0, "qm": {{"memory_limit": {{"max": "{max}", "high": "1%", "min": "1%", "swap_max": "1G"}},
            "cpu_weight": 100, "oom_group": false, "pids_max": "max", "fallback_max": "{fallback}"}}}}"#
        );
        read(text.as_bytes(), |board, faults| {
            assert!(!faults.is_empty());
            let safe = board::Qm { memory_max: board.qm.memory_max, ..board::Qm::default() };
            let fallback_max = board.qm.fallback_max;
            // No swap, not even what the agent makes.
            assert_eq!(board.qm, board::Qm { fallback_max, swap_named: true, ..safe });
            board.qm.memory_max
        })
    };
    assert_eq!(limits("infinity", "20%"), Limit::Permyriad(2000));
    assert_eq!(limits("40%", "20%"), Limit::Permyriad(2000));
    assert_eq!(limits("10%", "20%"), Limit::Permyriad(1000));
    assert_eq!(limits("1G", "20%"), Limit::Permyriad(2000));
    assert_eq!(limits("40%", "infinity"), Limit::Permyriad(2500));
    assert_eq!(limits("40%", "512M"), Limit::Bytes(512 << 20));
}

#[test]
fn without_its_identity_no_partition_is_the_one() {
    let given = r#""relative_size": 0.1, "on_failure": "start", "wait_secs": 9"#;
    for (members, unknown) in [
        (format!(r#""var_qm": {{{given}, "uuid": "x"}}"#), true),
        (format!(r#""var_qm": {{{given}, "uiud": "x"}}"#), true),
        (format!(r#""var_qm": {{{given}, "options": "suid"}}"#), false),
        (format!(r#""var_qm": {{{given}}}, "var": {{"relative_size": 2}}"#), false),
        (r#""var_qn": {}"#.into(), true),
        (r#""var_qm": 1"#.into(), true),
    ] {
        let text = document("image.partitions", &format!("{{{members}}}"));
        read(text.as_bytes(), |board, _| {
            let var_qm = board.var_qm.as_ref().unwrap();
            assert_eq!(var_qm.identity.partition_uuid, unknown.then_some(Uuid::NIL), "{text}");
            assert_eq!(var_qm.wait_secs, if unknown { 0 } else { 9 }, "{text}");
            assert_eq!(var_qm.start_qm_without, members.contains("start"), "{text}");
        });
    }
    read(br#"{"qm": {"cgroup": ""}}"#, |board, _| assert_eq!(board.var_qm, None));
    for text in [r#"{"relative_size": 0}"#, r#"{"size": "0 MiB"}"#] {
        accepted(&document("image.partitions.var_qm", text), |board| {
            assert_eq!(board.var_qm, None)
        });
    }
}

#[test]
fn limits_that_only_the_machine_can_judge() {
    let machine = Memory { total_pages: 502_606, page_bytes: 4096 };
    for (members, path) in [
        (r#""max": "40%", "high": "786M""#, Some("qm.memory_limit.high")),
        (r#""max": "40%", "high": "785M""#, None),
        (r#""max": "1G", "high": "60%""#, Some("qm.memory_limit.high")),
        (r#""max": "4095""#, Some("qm.memory_limit.max")),
        (r#""max": "infinity", "high": "35%""#, None),
        (r#""max": "1G", "high": "infinity""#, None),
    ] {
        let text = document("qm.memory_limit", &format!("{{{members}}}"));
        accepted(&text, |board| {
            let fault = board.against(machine).err();
            assert_eq!(fault.as_ref().map(|fault| fault.path.as_str()), path, "{text}");
            assert!(fault.is_none_or(|fault| fault.line == 0 && !fault.value.is_empty()));
            assert!(
                board.against(Memory::default()).is_ok() || board.qm.memory_max != Limit::Infinity
            );
        });
    }
    accepted(&document("qm.fallback_max", r#""0.01%""#), |board| {
        let small = Memory { total_pages: 9999, page_bytes: 4096 };
        assert_eq!(board.against(small).unwrap_err().path, "qm.memory_limit.max");
    });
}

#[test]
fn every_key_has_its_effect() {
    accepted(EVERY_KEY, |board| {
        let qm = &board.qm;
        assert_eq!((qm.cgroup, qm.unit), ("/machine.slice/qm.service", Some("qm.service")));
        assert_eq!(qm.memory_max, Limit::Bytes(3 << 29));
        assert_eq!(qm.memory_high, Limit::Permyriad(3525));
        assert_eq!(qm.memory_min, Limit::Bytes(16 << 20));
        assert_eq!(qm.memory_low, Limit::Permyriad(125));
        assert_eq!((qm.swap_max, qm.swap_named), (Limit::Infinity, true));
        assert_eq!((qm.oom_group, qm.pids_max, qm.oom_score_adj), (false, None, 700));
        assert_eq!(qm.cpu_weight, CpuWeight::Weight(20));
        assert_eq!(qm.fallback_max, Limit::Permyriad(1000));
        assert_eq!(qm.on_limit_failure, OnLimitFailure::Hold);
        assert_eq!(board.host.oom_score_adj, None);
        assert_eq!(board.host.memory_min_bytes, Some(96_000_000));
        assert_eq!(board.host.cgroups, ["/host", "/system.slice"]);
        let var_qm = board.var_qm.as_ref().unwrap();
        assert_eq!(var_qm.size, PartitionSize::Bytes(1 << 30));
        let uuid = |text| Uuid::parse(text).unwrap();
        assert_eq!(
            var_qm.identity,
            Identity {
                partition_uuid: Some(uuid("c36a70ca-8827-4e0e-977e-7179ccfe0e65")),
                fs_uuid: Some(uuid("E241B638-7301-406C-B11F-D538BE5211A6")),
                label: Some("qm_var"),
            }
        );
        assert_eq!((var_qm.fstype, var_qm.options), ("ext4", "noexec,errors=remount-ro"));
        assert_eq!((var_qm.wait_secs, var_qm.start_qm_without), (30, true));
        assert_eq!(board.image_bytes, 4_000_000_000);
        assert_eq!(board.modules, ["virtio_blk", "/usr/lib/modules/extra.ko"]);
        assert_eq!((board.next_init, board.init_oom_score_adj), (None, -250));
        assert!(!board.mend_drift);
        let [ecu, app] = board.payloads.as_slice() else { panic!("{:?}", board.payloads) };
        assert_eq!((ecu.name, ecu.side, ecu.oom_score_adj), ("ecu", Side::Host, 0));
        assert_eq!((ecu.restart, ecu.restart_max), (Restart::OnFailure, 3));
        assert_eq!(ecu.command, ["/usr/bin/ecu", "--verbose", ""]);
        assert_eq!((app.name, app.side, app.oom_score_adj), ("app", Side::Qm, 900));
        assert_eq!((app.restart, app.restart_max), (Restart::No, 10));
        let virtio_mem =
            VirtioMem { min_available: Limit::Bytes(160 << 20), block_timeout_secs: 7 };
        assert_eq!(board.virtio_mem, Some(virtio_mem));
        settings::is_every_key(&board.agent);
        guests(board);
    });
    for key in keys::all() {
        let name = key.path.rsplit('.').next().unwrap().trim_end_matches("[]");
        assert!(EVERY_KEY.contains(&format!("\"{name}\":")), "{} is missing", key.path);
    }
}

/// Whether every key of the guests' counts.
fn guests(board: &Board<'_>) {
    let Guests { model, values, list, peaks } = &board.guests;
    assert_eq!(*peaks, "/var/lib/plimsoll");
    assert_eq!(*model, Model::Pool);
    let fields = [Field::Overhead, Field::Percent, Field::Margin, Field::Reserve];
    assert_eq!(fields.map(|field| values.get(field)), [500 << 20, 1000, 64 << 20, 2000]);
    let [ivi, gw] = list.as_slice() else { panic!("{list:?}") };
    assert_eq!((ivi.name, ivi.cgroup), ("ivi", "/machine.slice/ivi.scope"));
    assert_eq!(ivi.model, Model::Libvirt2012);
    let fields = [
        (Field::Memory, 1_024_000_000, 256 << 20),
        (Field::Vcpus, 2, 1),
        (Field::Video, 16 << 20, 0),
        (Field::Disks, 3, 0),
        (Field::Mmio, 256 << 20, 0),
        (Field::Overhead, 1 << 30, 500 << 20),
        (Field::Percent, 250, 1000),
        (Field::Margin, 0, 64 << 20),
        (Field::Reserve, 2000, 2000),
    ];
    for (field, of_ivi, of_gw) in fields {
        assert_eq!((ivi.values.get(field), gw.values.get(field)), (of_ivi, of_gw), "{field:?}");
    }
    assert_eq!((gw.name, gw.model), ("gw", Model::Pool));
    assert_eq!((ivi.memory_max, ivi.qmp), (2 << 30, "/run/ivi.qmp"));
    assert_eq!((gw.memory_max, gw.qmp), (256 << 20, ""));
}

#[test]
fn a_guest_at_fault_is_left_out_and_the_others_stay() {
    let guest = |name: &str, more: &str| {
        format!(r#"{{"name": "{name}", "cgroup": "/m/{name}", "memory": "1G"{more}}}"#)
    };
    for (members, left) in [
        (guest("c", ""), vec!["a", "b", "c"]),
        (guest("a", ""), vec!["a", "b"]),
        (guest("c d", ""), vec!["a", "b"]),
        (guest("c", r#", "vcpus": 0"#), vec!["a", "b", "c"]),
        (r#"{"name": "c", "cgroup": "/m/c"}"#.into(), vec!["a", "b"]),
        (r#"{"name": "c", "cgroup": "/m/b/x", "memory": "1G"}"#.into(), vec!["a", "b"]),
        (r#"{"name": "c", "cgroup": "/system.slice", "memory": "1G"}"#.into(), vec!["a", "b"]),
        (
            r#"{"name": "c", "cgroup": "/system.slice/c", "memory": "1G"}"#.into(),
            vec!["a", "b", "c"],
        ),
        (r#"{"name": "c", "cgroup": "/qm.service/c", "memory": "1G"}"#.into(), vec!["a", "b"]),
    ] {
        let (a, b) = (guest("a", ""), guest("b", ""));
        let text = document("guests.list", &format!("[{a}, {b}, {members}]"));
        read(text.as_bytes(), |board, faults| {
            let names: Vec<_> = board.guests.list.iter().map(|guest| guest.name).collect();
            assert_eq!(names, left, "{text}: {faults:?}");
        });
    }
}

#[test]
fn defaults_are_those_of_the_table() {
    accepted("{}", |board| assert_eq!(*board, Board::default()));
    let var_qm = r#"{"relative_size": 0.1}"#;
    let without = document("image.partitions.var_qm", var_qm);
    for (key, doc) in keys::all().zip(DOCS) {
        // A payload's and an entry's are looked at with the effects.
        let element = key.path.starts_with("payloads[].") || key.path.contains("cgroups[].");
        let element = element || key.path.starts_with("guests.list[].");
        if doc.default.starts_with('(') || element {
            continue;
        }
        match key.path.strip_prefix("image.partitions.var_qm.") {
            Some(name) => {
                let member = format!(r#"{{"relative_size": 0.1, "{name}": {}}}"#, doc.default);
                let with = document("image.partitions.var_qm", &member);
                accepted(&with, |with| accepted(&without, |without| assert_eq!(with, without)));
            }
            None => accepted(&document(key.path, doc.default), |board| {
                let agent = settings::anonymous(&board.agent);
                assert_eq!(agent, settings::anonymous(&Settings::default()), "{}", key.path);
                let mut board = Board { agent: Settings::default(), ..board.clone() };
                // Said or not makes a difference to swap that the agent makes.
                assert_eq!(board.qm.swap_named, key.path == "qm.memory_limit.swap_max");
                board.qm.swap_named = false;
                assert_eq!(board, Board::default(), "{}", key.path);
            }),
        }
    }
}

#[test]
fn every_board_is_accepted_and_carries_the_documented_limits() {
    for name in ["qemu-x86_64", "qemu-aarch64"] {
        let text = fs::read_to_string(boards().join(name).with_extension("json")).unwrap();
        accepted(&text, |board| {
            assert_eq!(board.qm.memory_max, Limit::Permyriad(4000));
            assert_eq!(board.qm.memory_high, Limit::Permyriad(3500));
            assert_eq!(board.next_init, None);
            let size = board.var_qm.as_ref().unwrap().size;
            assert_eq!(size.bytes(board.image_bytes), Some(64 << 20));
        });
        assert!(text.contains(&format!("\"name\": \"{name}\"")));
    }
    for entry in fs::read_dir(boards()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "json") {
            accepted(&fs::read_to_string(path).unwrap(), |_| ());
        }
    }
}

/// UPDATE=1 writes the table.
#[test]
fn the_readme_has_the_table() {
    let mut table = String::from(
        "| Key | Type | Unit | Range | Default | Meaning |\n| --- | --- | --- | --- | --- | --- |\n",
    );
    for (key, doc) in keys::all().zip(DOCS) {
        let default = match doc.default.strip_prefix('(') {
            Some(words) => words.trim_end_matches(')').to_owned(),
            None => format!("`{}`", doc.default),
        };
        let (path, kind, range) = (key.path, key.kind.name(), key.kind.range());
        let (unit, meaning) = (doc.unit, doc.meaning);
        writeln!(table, "| `{path}` | {kind} | {unit} | {range} | {default} | {meaning} |")
            .unwrap();
    }
    let path = boards().join("README.md");
    let readme = fs::read_to_string(&path).unwrap();
    let begin = readme.find("| Key |").unwrap();
    let end = begin + readme[begin..].find("\n\n").unwrap() + 1;
    if std::env::var_os("UPDATE").is_some() {
        fs::write(path, format!("{}{table}{}", &readme[..begin], &readme[end..])).unwrap();
    } else {
        assert!(readme[begin..end] == table, "boards/README.md: run the test with UPDATE=1");
    }
    let example = readme.split("```json\n").nth(1).unwrap().split("```").next().unwrap();
    accepted(example, |_| ());
}
