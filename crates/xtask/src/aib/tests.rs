use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::yaml::{self, Node, Value, quoted};
use super::{MAX, SHARED, export, import};
use crate::{board, repository};

/// Manifests of a directory below tests/manifests: path without the suffix, text.
fn manifests(dir: &str) -> Vec<(PathBuf, String)> {
    let dir = repository().join("tests/manifests").join(dir);
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if let Some(stem) = path.to_str().unwrap().strip_suffix(".aib.yml") {
            found.push((stem.into(), fs::read_to_string(&path).unwrap()));
        }
    }
    assert!(found.len() > 5);
    found
}

fn lines(items: &[impl ToString]) -> String {
    items.iter().map(|item| item.to_string() + "\n").collect()
}

/// Compares with the file of that suffix beside the manifest; UPDATE=1 writes
/// it anew.
fn assert_as_expected(found: &str, stem: &Path, suffix: &str) {
    let path = stem.with_extension(suffix);
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, found).unwrap();
    }
    assert_eq!(found, fs::read_to_string(&path).unwrap_or_default(), "{}", path.display());
}

/// The shared keys of a board file or a manifest, as JSON.
fn shared(text: &str) -> BTreeMap<String, String> {
    fn collect(path: &str, node: &Node, all: &mut BTreeMap<String, String>) {
        if let Value::Mapping(entries) = &node.value {
            for (key, node) in entries {
                collect(format!("{path}.{}", key.name).trim_start_matches('.'), node, all);
            }
        } else if SHARED.contains(&path) {
            all.insert(path.into(), node.json());
        }
    }
    let mut all = BTreeMap::new();
    collect("", &yaml::read(text).unwrap(), &mut all);
    all
}

#[test]
fn a_manifest_gives_a_board_and_says_what_it_lacks() {
    for (stem, text) in manifests("") {
        let imported = import(&text, None).unwrap();
        assert_as_expected(&imported.board, &stem, "json");
        assert_as_expected(&lines(&imported.notes), &stem, "txt");
        assert!(board::read(&imported.board).1.is_empty());
    }
}

#[test]
fn a_broken_manifest_gives_all_its_faults() {
    for (stem, text) in manifests("broken") {
        let faults = import(&text, None).unwrap_err();
        assert_as_expected(&lines(&faults), &stem, "txt");
    }
}

#[test]
fn a_name_can_be_given() {
    let text = "qm: {memory_limit: {max: 1G, high: 1G}}";
    let board = import(text, Some("bench")).unwrap().board;
    assert!(board.contains("\"name\": \"bench\""));
    let fault = import(text, Some("")).unwrap_err().remove(0).to_string();
    assert_eq!(fault, "1:1: name: found \"\", allowed is 1 to 55 bytes");
}

#[test]
fn manifest_to_board_to_manifest_to_board() {
    for (stem, text) in manifests("") {
        let first = import(&text, None).unwrap();
        let manifest = export(Path::new("b"), &first.board).unwrap().manifest;
        let second = import(&manifest, None).unwrap();
        let (first, second) = (shared(&first.board), shared(&second.board));
        for (path, value) in shared(&text) {
            let without_qm =
                path.starts_with("image.partitions.var_qm") && !first.contains_key(&path);
            assert!(without_qm || first.get(&path) == Some(&value), "{path} of {}", stem.display());
        }
        for (path, value) in first {
            assert_eq!(second.get(&path), Some(&value), "{path} of {}", stem.display());
        }
    }
}

#[test]
fn board_to_manifest_to_board() {
    let limits = ["40%", "35.5%", "405‰", "4050‱", "1.5G", "1G 500M", "1073741824", "infinity"];
    let weights = ["\"idle\"", "1", "10000"];
    let sizes = [
        r#""relative_size": 0.1"#,
        r#""relative_size": 0.000000001"#,
        r#""size": "0 MiB""#,
        r#""size": "300MiB", "external": false"#,
        r#""external": true, "uuid": "c36a70ca-8827-4e0e-977e-7179ccfe0e65""#,
    ];
    for (at, limit) in limits.iter().enumerate() {
        let (high, weight, size) = (limits[at], weights[at % 3], sizes[at % 5]);
        let (oom, reclaim) = (at % 2 == 0, at % 3 == 0);
        let text = format!(
            r#"{{"name": "yes: {at}", "qm": {{"memory_limit": {{"high": "{high}", "max": "{limit}"}},
	"cpu_weight": {weight}}}, "image": {{"image_size": "8GB", "cg_memory_min": "1 MiB",
	"enable_oom_protection": {oom}, "enable_reclaim_protection": {reclaim}, "partitions":
	{{"var": {{"relative_size": 0.25}}, "var_qm": {{{size}}}}}}}}}"#
        );
        let exported = export(Path::new("b"), &text).unwrap();
        assert!(exported.notes.is_empty(), "{:?}", exported.notes);
        let imported = import(&exported.manifest, None).unwrap();
        assert_eq!(shared(&imported.board), shared(&text), "{}", exported.manifest);
    }
}

#[test]
fn what_a_manifest_cannot_say_is_listed() {
    let text = r#"{"qm": {"memory_limit": {"min": "5%", "low": "0"}, "pids_max": 64,
        "fallback_max": "10%"}, "host": {"oom_score_adj": -900}, "modules": ["ext4"],
        "agent": {"compact": {"order": 3}}, "image": {"partitions": {"var_qm": {"size": "1 GiB",
        "label": "qm_var", "on_failure": "start"}}}}"#;
    let exported = export(Path::new("b"), text).unwrap();
    let notes = [
        "qm.memory_limit.min: \"5%\", not in a manifest",
        "qm.pids_max: 64, not in a manifest",
        "qm.fallback_max: \"10%\", not in a manifest",
        "host.oom_score_adj: -900, not in a manifest",
        "modules: an array of 1, not in a manifest",
        "agent.compact.order: 3, not in a manifest",
        "image.partitions.var_qm.on_failure: \"start\", not in a manifest",
        "qm.memory_limit.max: set to 10%, which the board file means without it; the manifest's would be infinity",
    ];
    assert_eq!(exported.notes, notes);
    assert_eq!(shared(&exported.manifest).get(MAX), Some(&quoted("10%")));
    let fault = export(Path::new("b"), r#"{"qm": {"pids_max": 0}}"#).unwrap_err().to_string();
    assert_eq!(fault, "b:1:21: qm.pids_max: found 0, allowed is `max`, or 1 to 4194304");
}

#[test]
fn drop_ins_are_those_of_automotive_image_builder() {
    let text = r#"{"qm": {"memory_limit": {"max": "40%", "high": "35%"}}}"#;
    let exported = export(Path::new("b"), text).unwrap();
    let documented = "[Service]\nMemoryMax=40%\nMemoryHigh=35%\nCPUWeight=idle\n\n[Container]\n";
    assert_eq!(exported.quadlet(false), documented);
    assert_eq!(exported.quadlet(true), format!("{documented}ReadOnly=false\n"));
    let files = exported.drop_ins(false);
    let paths: Vec<_> = files.iter().map(|(path, _)| path.as_str()).collect();
    let expected = [
        "usr/share/containers/systemd/qm.container.d/10-automotive.conf",
        "usr/lib/systemd/system.conf.d/10-automotive.conf",
        "usr/lib/systemd/system/system.slice.d/10-automotive.conf",
        "usr/lib/systemd/system/user.slice.d/10-automotive.conf",
    ];
    assert_eq!(paths, expected);
    assert!(files[1].1.ends_with("DefaultDeviceTimeoutSec=30s\nDefaultOOMScoreAdjust=-1000\n"));
    assert_eq!(files[3].1, "[Slice]\nMemoryMin=67108864\nDefaultMemoryMin=67108864\n");

    let text = r#"{"qm": {"cpu_weight": 7}, "image": {"enable_oom_protection": false,
        "enable_reclaim_protection": false}}"#;
    let exported = export(Path::new("b"), text).unwrap();
    let written = "[Service]\nMemoryMax=25%\nMemoryHigh=infinity\nCPUWeight=7\n\n[Container]\n";
    assert_eq!(exported.quadlet(false), written);
    let files = exported.drop_ins(false);
    assert_eq!(files.len(), 2);
    assert!(!files[1].1.contains("OOM"));
}

#[test]
fn cut_and_garbled_manifests_do_no_harm() {
    let all = manifests("").into_iter().chain(manifests("broken"));
    for (_, text) in all {
        for (at, c) in text.char_indices() {
            let (before, after) = (&text[..at], &text[at + c.len_utf8()..]);
            let _ = import(before, None);
            for garbled in [":", "\t{", "&é *é"] {
                if let Ok(imported) = import(&format!("{before}{garbled}{after}"), None) {
                    assert!(board::read(&imported.board).1.is_empty());
                    export(Path::new("b"), &imported.board).unwrap();
                }
            }
        }
    }
}
