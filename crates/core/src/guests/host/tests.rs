use super::*;
use crate::board::{Faults, decode_core, read};
use crate::fake::FakeKernel;

const MIB: u64 = 1 << 20;

/// The guests of a board file on a machine of 2 GiB.
fn hosting(guests: &str) -> Hosting<'static> {
    let text = format!(r#"{{"guests": {guests}}}"#).into_bytes().leak();
    let mut faults = Faults::default();
    let board = read(text, decode_core, &mut faults);
    assert!(faults.is_empty(), "{faults:?}");
    Hosting::new(board.guests, Memory { total_pages: 1 << 19, page_bytes: 4096 })
}

fn guest(name: &str, more: &str) -> String {
    format!(r#"{{"name": "{name}", "cgroup": "/{name}", "memory": "512M"{more}}}"#)
}

fn runs(kernel: &mut FakeKernel, name: &str, current: u64) {
    let dir = format!("/sys/fs/cgroup/{name}");
    kernel.set(&format!("{dir}/cgroup.events"), "populated 1\nfrozen 0\n");
    kernel.set(&format!("{dir}/memory.current"), format!("{current}\n"));
    kernel.set(&format!("{dir}/memory.max"), "max\n");
}

fn max(kernel: &FakeKernel, name: &str) -> String {
    kernel.text(&format!("/sys/fs/cgroup/{name}/memory.max")).trim_end().into()
}

/// What a guest is admitted with; `None` while it waits.
fn admit(hosting: &mut Hosting<'_>, kernel: &mut FakeKernel, name: &str) -> Option<u64> {
    match hosting.admit(kernel, name) {
        Admission::Admitted(hosted) => Some(hosted.limit_bytes),
        Admission::Waits => None,
        Admission::Unknown | Admission::Refused(_) => panic!(),
    }
}

#[test]
fn a_formula_is_a_promise_of_what_is_there() {
    let kernel = &mut FakeKernel::mounted();
    let list = [guest("a", ""), guest("b", ""), guest("c", "")].join(",");
    let mut hosting = hosting(&format!(r#"{{"model": "fixed", "list": [{list}]}}"#));
    // 512 and 600 MiB are 1112; 2048 are there.
    assert_eq!(admit(&mut hosting, kernel, "a"), Some(1112 * MIB));
    assert_eq!(admit(&mut hosting, kernel, "a"), Some(1112 * MIB));
    let Admission::Refused(why) = hosting.admit(kernel, "b") else { panic!() };
    let wanted = format!("memory: {} bytes missing, a holds {}", 176 * MIB, 1112 * MIB);
    assert_eq!(why.to_string(), wanted);
    assert!(matches!(hosting.admit(kernel, "x"), Admission::Unknown));
    assert!(hosting.remove(kernel, "a") && !hosting.remove(kernel, "x"));
    assert_eq!(admit(&mut hosting, kernel, "b"), Some(1112 * MIB));
    let shown = Json(&hosting).to_string();
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown["guests"][1]["limit_bytes"], 1112 * MIB);
    assert_eq!(shown["guests"][1]["overhead_bytes"], 600 * MIB);
    assert_eq!(shown["guests"][0]["limit_bytes"], 0);
    let none = Json(&self::hosting("{}")).to_string();
    assert_eq!(none, r#"{"guests":[],"reserve_free_bytes":0}"#);
}

#[test]
fn a_guest_that_appears_has_its_limit_and_one_that_goes_leaves_it() {
    let kernel = &mut FakeKernel::mounted();
    let list = [guest("a", r#", "model": "eve""#), guest("p", "")].join(",");
    let mut hosting = hosting(&format!(r#"{{"model": "pool", "list": [{list}]}}"#));
    hosting.look(kernel);
    assert!(!hosting.changed());
    runs(kernel, "a", 100 * MIB);
    runs(kernel, "p", 100 * MIB);
    hosting.look(kernel);
    assert!(hosting.changed() && !hosting.changed());
    // 512 + 370 + 12.8 + 3 MiB, to a page; and a quarter of 2 GiB.
    assert_eq!(max(kernel, "a"), (941_411_532_u64 / 4096 * 4096).to_string());
    assert_eq!(max(kernel, "p"), (1024 * MIB).to_string());
    assert!(!hosting.remove(kernel, "p"), "it runs");
    // What others write is written over.
    runs(kernel, "p", 100 * MIB);
    hosting.look(kernel);
    assert_eq!(max(kernel, "p"), (1024 * MIB).to_string());
    kernel.set("/sys/fs/cgroup/p/cgroup.events", "populated 0\nfrozen 0\n");
    hosting.look(kernel);
    assert_eq!(hosting.pool.free_bytes(), 512 * MIB);
}

#[test]
fn no_limit_is_written_below_use() {
    let kernel = &mut FakeKernel::mounted();
    let mut hosting = hosting(&format!(r#"{{"model": "fixed", "list": [{}]}}"#, guest("a", "")));
    runs(kernel, "a", 1113 * MIB);
    hosting.look(kernel);
    assert_eq!(max(kernel, "a"), "max");
    kernel.set("/sys/fs/cgroup/a/memory.current", (1100 * MIB).to_string());
    hosting.look(kernel);
    assert_eq!(max(kernel, "a"), (1112 * MIB).to_string());
}

#[test]
fn a_newcomer_waits_for_the_probe_even_if_it_runs_already() {
    let kernel = &mut FakeKernel::mounted();
    let list = [guest("a", ""), guest("b", "")].join(",");
    let mut hosting = hosting(&format!(r#"{{"model": "pool", "list": [{list}]}}"#));
    runs(kernel, "a", 900 * MIB);
    hosting.look(kernel);
    assert_eq!(admit(&mut hosting, kernel, "b"), None);
    runs(kernel, "b", MIB);
    hosting.look(kernel);
    assert_eq!(admit(&mut hosting, kernel, "b"), None);
    // Use and margin are 932 MiB, half of the reserve makes 768.
    assert_eq!(hosting.next_probe(kernel), Some(("/a", 164 * MIB)));
    kernel.set("/sys/fs/cgroup/a/memory.current", (800 * MIB).to_string());
    hosting.probed(kernel, "/gone");
    assert_eq!(admit(&mut hosting, kernel, "b"), None);
    hosting.probed(kernel, "/a");
    assert_eq!(hosting.next_probe(kernel), None);
    assert_eq!(
        (max(kernel, "a"), max(kernel, "b")),
        ((832 * MIB).to_string(), (704 * MIB).to_string())
    );
    assert_eq!(admit(&mut hosting, kernel, "b"), Some(704 * MIB));
}

#[test]
fn who_does_not_run_yet_gives_back_what_is_above_its_share() {
    let kernel = &mut FakeKernel::mounted();
    let list = [guest("a", ""), guest("b", "")].join(",");
    let mut hosting = hosting(&format!(r#"{{"model": "pool", "list": [{list}]}}"#));
    assert_eq!(admit(&mut hosting, kernel, "a"), Some(1024 * MIB));
    assert_eq!(admit(&mut hosting, kernel, "b"), None);
    assert_eq!(hosting.next_probe(kernel), None, "nothing to ask a child for");
    for name in ["a", "b"] {
        assert_eq!(admit(&mut hosting, kernel, name), Some(768 * MIB));
    }
}
