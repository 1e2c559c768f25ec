//! The agent's settings: in the board file, by `set`, in status.

use std::sync::LazyLock;

use plimsoll_core::agent::settings::{CGROUPS_MAX, Knob, Memcg, Origin, Settings, SwapKind, set};
use plimsoll_core::board::keys::{self, Kind};
use plimsoll_core::json::Json;
use plimsoll_core::status::REQUEST_BYTES_MAX;
use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};
use serde_json::{Value, json};

use super::*;

const QM: &str = "/qm.service";

/// Settings without who gave them.
pub(crate) fn anonymous(settings: &Settings) -> String {
    let text = Json(settings).to_string();
    text.replace(r#""from":"board""#, "").replace(r#""from":"default""#, "")
}

/// Whether every key of the file with every key counts.
pub(crate) fn is_every_key(settings: &Settings) {
    let values = Knob::ALL.map(|knob| settings.get(knob));
    let never = u64::MAX - 1;
    #[rustfmt::skip]
    assert_eq!(values, [1, 1, 200, 60, 100, 0, 0, 1, 61, 6, 7, 3600, 15, 1 << 40, never, 1, 400, 0]);
    assert_eq!(settings.swap_path(), "/var/swap files");
    assert_eq!((settings.swap_kind(), settings.swap_algorithm()), (SwapKind::Zram, "lzo-rle"));
    let top = Memcg {
        disable: true,
        swap: true,
        swappiness_max: 200,
        period_secs: 60,
        period_psi_percent_limit: 100,
        eviction_psi_percent_limit: 0,
        eviction_run_aging_count_min: 0,
        rule: 0,
    };
    let own = Memcg {
        disable: false,
        swap: false,
        swappiness_max: 0,
        period_secs: 604_800,
        period_psi_percent_limit: 2,
        eviction_psi_percent_limit: 3,
        eviction_run_aging_count_min: 1_000_000,
        rule: 1,
    };
    assert_eq!(settings.rules().collect::<Vec<_>>(), [top, own, Memcg { rule: 2, ..top }]);
    assert_eq!(settings.for_cgroup("/qm", "/a b/é"), Some(own));
    assert_eq!(settings.for_cgroup("/qm", "/a b/é/c").unwrap().rule, 2);
    for (key, _) in keys() {
        assert_eq!(settings.origin(key), Origin::Board, "{key}");
    }
}

/// Names and kinds of what has a value, below `agent`.
fn keys() -> impl Iterator<Item = (&'static str, Kind)> {
    keys::all().filter_map(|key| {
        let name = key.path.strip_prefix("agent.")?;
        let value = !matches!(key.kind, Kind::Object) && !name.contains('[');
        value.then_some((name, key.kind))
    })
}

/// Settings after one request, or its first fault.
fn after(settings: &Settings, request: &str) -> Result<Settings, String> {
    let mut faults = Faults::default();
    let mut new = settings.clone();
    let set = set(&mut new, &mut request.as_bytes().to_vec(), &mut faults);
    assert_eq!(set, faults.is_empty(), "{request}: {faults:?}");
    assert!(set || new == *settings, "{request}: refused, and yet there");
    set.then_some(new).ok_or_else(|| faults.iter().next().unwrap().to_string())
}

fn request(path: &str, value: &str) -> String {
    let text = document(&format!("agent.{path}"), value);
    format!(r#"{{"command":"set",{}"#, &text[1..])
}

fn with(settings: &Settings, path: &str, value: &str) -> Settings {
    after(settings, &request(path, value)).unwrap()
}

fn with_cgroups(list: &str) -> Settings {
    with(&Settings::default(), "memcg.cgroups", list)
}

#[test]
fn defaults_are_those_that_kata_documents() {
    let settings = Settings::default();
    // Kata's how-to-use-memory-agent.md; the last three are its guest swap's.
    for (name, value) in [
        ("memcg.disable", 0),
        ("memcg.swap", 0),
        ("memcg.swappiness_max", 50),
        ("memcg.period_secs", 600),
        ("memcg.period_psi_percent_limit", 1),
        ("memcg.eviction_psi_percent_limit", 1),
        ("memcg.eviction_run_aging_count_min", 3),
        ("compact.disable", 0),
        ("compact.period_secs", 600),
        ("compact.period_psi_percent_limit", 1),
        ("compact.psi_percent_limit", 5),
        ("compact.sec_max", 180),
        ("compact.order", 9),
        ("compact.threshold", 1024),
        ("compact.force_times", u64::MAX),
        ("guest_swap.enable", 0),
        ("guest_swap.size_percent", 100),
        ("guest_swap.create_threshold_secs", 60),
    ] {
        let knob = Knob::ALL.into_iter().find(|knob| knob.name() == name).expect(name);
        assert_eq!((settings.get(knob), knob.default()), (value, value), "{name}");
        assert_eq!(settings.origin(name), Origin::Default, "{name}");
    }
    assert_eq!((settings.swap_path(), settings.swap_kind()), ("/var/qm/swap", SwapKind::File));
    assert_eq!((settings.swap_algorithm(), settings.rules().count()), ("", 1));
    assert!(size_of::<Settings>() <= 4096, "{}", size_of::<Settings>());
}

#[test]
fn each_knob_ends_where_its_range_does() {
    for key in keys::all() {
        let Kind::Count(knob) = key.kind else { continue };
        let (min, max) = knob.range().into_inner();
        assert_eq!(key.kind.range(), format!("{min} to {max}"), "{}", key.path);
        let path = key.path.strip_prefix("agent.").unwrap();
        let inside = |value: u64| {
            let text = request(path, &value.to_string());
            // An entry must have a path besides.
            let text = text.replace("cgroups\": [{", r#"cgroups": [{"path": "/", "#);
            let board = text.replacen(r#""command":"set","#, "", 1);
            let file = read(board.as_bytes(), |_, faults| faults.is_empty());
            match after(&Settings::default(), &text) {
                Ok(settings) => {
                    assert!(file, "{board}");
                    if path.contains('[') {
                        let rule = settings.rules().nth(1).unwrap();
                        assert!(format!("{rule:?}").contains(&value.to_string()), "{text}");
                    } else {
                        assert_eq!(settings.get(knob), value, "{text}");
                    }
                    true
                }
                Err(fault) => {
                    assert!(!file, "{board}");
                    assert!(fault.contains(key.kind.range()), "{fault}");
                    false
                }
            }
        };
        assert!(inside(min) && inside(max), "{}", key.path);
        assert!(min == 0 || !inside(min - 1), "{}", key.path);
        assert!(max == u64::MAX || !inside(max + 1), "{}", key.path);
    }
}

#[test]
fn the_nearest_rule_counts() {
    let settings = with_cgroups(
        r#"[{"path": "/", "period_secs": 11}, {"path": "/", "exact": true},
        {"path": "/a b", "swap": true}, {"path": "/a b/c", "exact": true},
        {"path": "/qm.service/d", "disable": true}]"#,
    );
    for (path, rule) in [
        ("/", Some(2)),
        ("/a", Some(1)),
        ("/a bc", Some(1)),
        ("/a b", Some(3)),
        ("/a b/c", Some(4)),
        ("/a b/c/d", Some(3)),
        (QM, Some(0)),
        ("/qm.service/x", Some(0)),
        ("/qm.service/d", Some(5)),
        ("/qm.service/d/e/f", Some(5)),
        ("/qm.services", Some(1)),
        ("/plimsoll", None),
        ("/plimsoll/a", None),
        ("/plimsolls", Some(1)),
    ] {
        let found = settings.for_cgroup(QM, path);
        assert_eq!(found.map(|memcg| memcg.rule), rule, "{path}");
        let in_order = rule.and_then(|rule| settings.rules().nth(rule));
        assert_eq!(found, in_order, "{path}");
    }
    let of = |path| settings.for_cgroup(QM, path).unwrap();
    assert_eq!((of("/a").period_secs, of("/a b").period_secs), (11, 600));
    assert_eq!((of("/a").swap, of("/a b").swap, of("/a b/c").swap), (false, true, false));
    assert!(of("/qm.service/d").disable && !of(QM).disable);
}

#[test]
fn without_entries_the_agent_is_qms_alone() {
    let settings = Settings::default();
    for (path, managed) in [(QM, true), ("/qm.service/a", true), ("/", false), ("/a", false)] {
        assert_eq!(settings.for_cgroup(QM, path).is_some(), managed, "{path}");
    }
    // An entry of QM's own cgroup goes before QM's rule, an exact one only there.
    let own = with_cgroups(r#"[{"path": "/qm.service", "exact": true}]"#);
    assert_eq!(own.for_cgroup(QM, QM).unwrap().rule, 1);
    assert_eq!(own.for_cgroup(QM, "/qm.service/a").unwrap().rule, 0);
    let all = with_cgroups(r#"[{"path": "/qm.service"}]"#);
    assert_eq!(all.for_cgroup(QM, "/qm.service/a").unwrap().rule, 1);
}

#[test]
fn what_an_entry_leaves_out_is_inherited_and_follows() {
    let settings = with_cgroups(r#"[{"path": "/a", "period_secs": 60}]"#);
    let settings = with(&settings, "memcg", r#"{"period_secs": 30, "swappiness_max": 7}"#);
    let memcg = settings.for_cgroup(QM, "/a").unwrap();
    assert_eq!((memcg.period_secs, memcg.swappiness_max), (60, 7));
    let none = with(&settings, "memcg.cgroups", "[]");
    assert_eq!(none.for_cgroup(QM, "/a"), None);
    assert_eq!((none.get(Knob::MemcgPeriodSecs), none.rules().count()), (30, 1));
}

#[test]
fn a_set_changes_what_it_names_alone() {
    accepted(r#"{"agent": {"compact": {"order": 4, "sec_max": 9}}}"#, |board| {
        let settings = with(&board.agent, "compact.order", "5");
        assert_eq!(settings.get(Knob::CompactOrder), 5);
        for (name, origin) in [
            ("compact.order", Origin::Set),
            ("compact.sec_max", Origin::Board),
            ("compact.disable", Origin::Default),
        ] {
            assert_eq!(settings.origin(name), origin, "{name}");
        }
        let none = r#"{"agent": {}, "command": "set"}"#;
        assert_eq!(after(&settings, none).as_ref(), Ok(&settings));
    });
}

#[test]
fn a_set_with_one_fault_is_refused_as_a_whole() {
    let good = r#""agent":{"memcg":{"period_secs":60}}"#;
    let set = |rest: &str| format!(r#"{{"command":"set",{good},{rest}}}"#);
    for (request, fault) in [
        (set(r#""qm":{}"#), "qm: found {, allowed is command, agent, or a key"),
        (set(r#""agents":{}"#), "agents: found"),
        (set(r#""command":"set""#), "each key once"),
        (set(good), "agent: found {, allowed is each key once"),
        (
            format!(r#"{{{good},"command":"status"}}"#),
            "command: found \"status\", allowed is `set`",
        ),
        (format!(r#"{{{good},"command":1}}"#), "command: found 1"),
        (format!(r#"{{{good}"#), "',' or '}'"),
        ("[]".to_owned(), "an object"),
        (String::new(), "an object"),
        (request("memcg", r#"{"period_secs": 60, "swap": 2}"#), "true or false"),
        (request("memcg", r#"{"period_secs": 60, "cgroups": [{}]}"#), "an entry with a path"),
        (request("memcg", r#"{"period_secs": 60, "order": 1}"#), "or a key below it"),
        (request("memcg.cgroups", &format!("[{}]", ["{}"; CGROUPS_MAX + 1].join(","))), "16"),
    ] {
        let found = after(&Settings::default(), &request).unwrap_err();
        assert!(found.contains(fault), "{request}: {found}");
    }
}

#[test]
fn a_board_file_with_a_fault_still_has_the_rest() {
    let text = r#"{"agent": {"memcg": {"period_secs": 0, "swap": true, "cgroups": [
        {"path": "/a", "period_secs": 5}, {"exact": true}, {"path": "/b", "swap": 0}]}}}"#;
    read(text.as_bytes(), |board, faults| {
        let paths: Vec<_> = faults.iter().map(|fault| fault.path.as_str()).collect();
        let cgroups = ["agent.memcg.cgroups[2].swap", "agent.memcg.cgroups[1].path"];
        assert_eq!(paths, [&["agent.memcg.period_secs"][..], &cgroups].concat());
        assert!(board.agent.is_on(Knob::MemcgSwap));
        assert_eq!(board.agent.origin("memcg.period_secs"), Origin::Default);
        let periods: Vec<_> = board.agent.rules().map(|memcg| memcg.period_secs).collect();
        assert_eq!(periods, [600, 5, 600]);
        assert!(board.agent.for_cgroup(QM, "/b").unwrap().swap);
    });
}

#[test]
fn status_has_every_value_and_who_gave_it() {
    let settings = with_cgroups(r#"[{"path": "/a é", "swap": true, "period_secs": 60}]"#);
    let status: Value = serde_json::from_str(&Json(&settings).to_string()).unwrap();
    assert_eq!(
        status["memcg"]["cgroups"],
        json!({"value": [{"path": "/a é", "exact": false, "swap": true, "period_secs": 60}], "from": "set"})
    );
    assert_eq!(status["memcg"]["disable"], json!({"value": false, "from": "default"}));
    assert_eq!(status["compact"]["force_times"], json!({"value": u64::MAX, "from": "default"}));
    assert_eq!(
        status["guest_swap"],
        json!({
            "enable": {"value": false, "from": "default"},
            "path": {"value": "/var/qm/swap", "from": "default"},
            "size_percent": {"value": 100, "from": "default"},
            "create_threshold_secs": {"value": 60, "from": "default"},
            "kind": {"value": "file", "from": "default"},
            "algorithm": {"value": "", "from": "default"},
        })
    );
    let shown =
        status.as_object().unwrap().values().map(|section| section.as_object().unwrap().len());
    assert_eq!(shown.sum::<usize>(), keys().count());
}

#[test]
fn the_largest_settings_fit_a_request() {
    let entry = |n: usize| {
        let path = format!("/{n:a<127}");
        format!(
            r#"{{"path": "{path}", "exact": false, "disable": false, "swap": false, "swappiness_max": 100,
            "period_secs": 604800, "period_psi_percent_limit": 100, "eviction_psi_percent_limit": 100,
            "eviction_run_aging_count_min": 1000000}}"#
        )
    };
    let entries = (0..CGROUPS_MAX).map(entry).collect::<Vec<_>>().join(", ");
    let settings = with_cgroups(&format!("[{entries}]"));
    let settings = with(&settings, "guest_swap.path", &format!(r#""/{}""#, "a".repeat(127)));
    let settings = with(&settings, "guest_swap.algorithm", &format!(r#""{}""#, "a".repeat(32)));
    let request = as_text(&settings).len() + r#""command":"set","#.len();
    assert!(request <= REQUEST_BYTES_MAX, "{request}");
    assert!(Json(&settings).to_string().len() <= 8 * 1024);
}

/// The board file, or request, that would give what status shows.
fn as_text(settings: &Settings) -> String {
    let mut status: Value = serde_json::from_str(&Json(settings).to_string()).unwrap();
    for section in status.as_object_mut().unwrap().values_mut() {
        for value in section.as_object_mut().unwrap().values_mut() {
            *value = value["value"].take();
        }
    }
    format!(r#"{{"agent":{status}}}"#)
}

#[test]
fn what_status_shows_can_be_set() {
    for text in [EVERY_KEY, "{}"] {
        accepted(text, |board| {
            let again = after(&Settings::default(), &as_text(&board.agent)).unwrap();
            assert_eq!(as_text(&again), as_text(&board.agent));
        });
    }
}

/// Every knob, set.
static WHOLE_REQUEST: LazyLock<String> = LazyLock::new(|| {
    let text = as_text(&accepted(EVERY_KEY, |board| board.agent.clone()));
    format!(r#"{{"command":"set",{}"#, &text[1..])
});

proptest! {
    #![proptest_config(proptest::test_runner::Config::with_cases(4096))]

    #[test]
    fn any_request_is_refused_or_gives_settings_in_range(
        edits in proptest::collection::vec(hostile::edit(), 0..6),
    ) {
        let request = hostile::edited(&WHOLE_REQUEST, edits);
        let (settings, mut changed) = (Settings::default(), Settings::default());
        let mut faults = Faults::default();
        let is_set = set(&mut changed, &mut request.clone(), &mut faults);
        prop_assert_eq!(is_set, faults.is_empty());
        prop_assert!(is_set || changed == settings);
        if is_set {
            prop_assert!(serde_json::from_slice::<Value>(&request).is_ok());
            for knob in Knob::ALL {
                prop_assert!(knob.range().contains(&changed.get(knob)), "{}", knob.name());
            }
            let status = Json(&changed).to_string();
            prop_assert!(serde_json::from_str::<Value>(&status).is_ok(), "{status}");
            let again = after(&settings, &as_text(&changed));
            prop_assert_eq!(again.map(|again| as_text(&again)), Ok(as_text(&changed)));
        }
    }

    #[test]
    fn any_cgroup_has_one_rule_or_none(path in "(/[ab ]{0,2}){1,4}", bytes in any::<[u8; 4]>()) {
        let entry = |byte: &u8| {
            let path = ["/", "/a", "/a/b", "/a/b/a", "/b", "/b ", "/ ", "/qm"][usize::from(byte % 8)];
            json!({"path": path, "exact": byte & 8 != 0})
        };
        let mut list: Vec<_> = bytes.iter().map(entry).collect();
        list.dedup();
        let request = request("memcg.cgroups", &json!(list).to_string());
        let Ok(settings) = after(&Settings::default(), &request) else { return Ok(()) };
        // The same by a walk up from the cgroup.
        let rule = |of: &str, exact: bool| {
            list.iter().position(|entry| entry["path"] == of && entry["exact"] == exact)
        };
        let mut wanted = rule(&path, true);
        let mut of = path.as_str();
        while wanted.is_none() && !of.is_empty() {
            wanted = rule(of, false).filter(|_| path != "/");
            let parent = &of[..of.rfind('/').unwrap()];
            of = if parent.is_empty() && of != "/" { "/" } else { parent };
        }
        let found = settings.for_cgroup(QM, &path).map(|memcg| memcg.rule);
        prop_assert_eq!(found, wanted.map(|entry| entry + 1), "{}", path);
    }
}

#[test]
fn the_tops_hold_all_rules_and_none_holds_another() {
    let tops = |cgroups: &str| {
        let request = format!(r#"{{"command":"set","agent":{{"memcg":{{"cgroups":{cgroups}}}}}}}"#);
        let settings = after(&Settings::default(), &request).unwrap();
        settings.tops(QM).map(String::from).collect::<Vec<_>>()
    };
    assert_eq!(tops("[]"), [QM]);
    assert_eq!(tops(r#"[{"path":"/qm.service/a"},{"path":"/b"}]"#), [QM, "/b"]);
    assert_eq!(tops(r#"[{"path":"/b/c"},{"path":"/b"},{"path":"/b2"}]"#), [QM, "/b", "/b2"]);
    assert_eq!(tops(r#"[{"path":"/"},{"path":"/b"}]"#), ["/"]);
    assert_eq!(tops(r#"[{"path":"/qm.service","exact":true},{"path":"/qm.service"}]"#), [QM]);
}
