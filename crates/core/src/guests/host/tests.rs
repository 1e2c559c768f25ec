use super::*;
use crate::board::{Faults, decode_core, read};
use crate::fake::FakeKernel;
use crate::guests::qmp::Sizes;
use crate::guests::qmp::tests::sizes;
use crate::guests::resize::Gate;
use crate::json::Json;

const MIB: u64 = 1 << 20;
/// 2 GiB.
const MACHINE: Memory = Memory { total_pages: 1 << 19, page_bytes: 4096 };

/// The guests of a board file on a machine of 2 GiB.
fn hosting(guests: &str) -> Hosting<'static> {
    let text = format!(r#"{{"guests": {guests}}}"#).into_bytes().leak();
    let mut faults = Faults::default();
    let board = read(text, decode_core, &mut faults);
    assert!(faults.is_empty(), "{faults:?}");
    Hosting::new(board.guests, MACHINE)
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
    hosting.look(kernel, MACHINE);
    assert!(!hosting.changed());
    runs(kernel, "a", 100 * MIB);
    runs(kernel, "p", 100 * MIB);
    hosting.look(kernel, MACHINE);
    assert!(hosting.changed() && !hosting.changed());
    // 512 + 370 + 12.8 + 3 MiB, to a page; and a quarter of 2 GiB.
    assert_eq!(max(kernel, "a"), (941_411_532_u64 / 4096 * 4096).to_string());
    assert_eq!(max(kernel, "p"), (1024 * MIB).to_string());
    assert!(!hosting.remove(kernel, "p"), "it runs");
    // What others write is written over.
    runs(kernel, "p", 100 * MIB);
    hosting.look(kernel, MACHINE);
    assert_eq!(max(kernel, "p"), (1024 * MIB).to_string());
    kernel.set("/sys/fs/cgroup/p/cgroup.events", "populated 0\nfrozen 0\n");
    hosting.look(kernel, MACHINE);
    assert_eq!(hosting.pool.free_bytes(), 512 * MIB);
}

#[test]
fn no_limit_is_written_below_use() {
    let kernel = &mut FakeKernel::mounted();
    let mut hosting = hosting(&format!(r#"{{"model": "fixed", "list": [{}]}}"#, guest("a", "")));
    runs(kernel, "a", 1113 * MIB);
    hosting.look(kernel, MACHINE);
    assert_eq!(max(kernel, "a"), "max");
    kernel.set("/sys/fs/cgroup/a/memory.current", (1100 * MIB).to_string());
    hosting.look(kernel, MACHINE);
    assert_eq!(max(kernel, "a"), (1112 * MIB).to_string());
}

#[test]
fn a_newcomer_waits_for_the_probe_even_if_it_runs_already() {
    let kernel = &mut FakeKernel::mounted();
    let list = [guest("a", ""), guest("b", "")].join(",");
    let mut hosting = hosting(&format!(r#"{{"model": "pool", "list": [{list}]}}"#));
    runs(kernel, "a", 900 * MIB);
    hosting.look(kernel, MACHINE);
    assert_eq!(admit(&mut hosting, kernel, "b"), None);
    runs(kernel, "b", MIB);
    hosting.look(kernel, MACHINE);
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

const OPEN: Gate = Gate { available: u64::MAX, margin: 0, pressed: false, vmm_pressed: false };

/// Guests `a` of 512 MiB that may become 1 GiB, and `b`, both running.
fn resizable(kernel: &mut FakeKernel, model: &str, more: &str) -> Hosting<'static> {
    let a = guest("a", r#", "memory_max": "1G", "qmp": "/run/a""#);
    let list = [a, guest("b", "")].join(",");
    let mut hosting = hosting(&format!(r#"{{"model": "{model}"{more}, "list": [{list}]}}"#));
    runs(kernel, "a", 100 * MIB);
    runs(kernel, "b", 100 * MIB);
    hosting.look(kernel, MACHINE);
    assert_eq!(hosting.next_probe(kernel), None, "what is asked for is there");
    hosting
}

/// What `a`'s VMM is asked for when it says that its device has so many MiB.
fn says(hosting: &mut Hosting<'_>, kernel: &mut FakeKernel, size: u64, asked: u64) -> Option<u64> {
    let sizes = sizes(512 * MIB, size * MIB, asked * MIB);
    Some(hosting.sized(kernel, 0, &sizes, OPEN, 0)?.requested() / MIB)
}

#[test]
fn a_limit_follows_the_memory_up_before_and_down_after() {
    for (model, more, b) in [("fixed", r#", "overhead": "64M""#, 576), ("pool", "", 768)] {
        let kernel = &mut FakeKernel::mounted();
        let mut hosting = resizable(kernel, model, more);
        assert_eq!(hosting.qmp(0), Some(("a", "/a", "/run/a")));
        assert_eq!(hosting.qmp(1), None);
        assert!(matches!(hosting.resize("a", Some(800 * MIB)), Resizing::Unknown));
        let before: u64 = max(kernel, "a").parse().unwrap();
        assert_eq!(says(&mut hosting, kernel, 0, 0), None);
        let Resizing::Range(least, most) = hosting.resize("a", Some(2 << 30)) else { panic!() };
        assert_eq!((least, most), (512 * MIB, 1024 * MIB));
        assert!(matches!(hosting.resize("a", Some(800 * MIB)), Resizing::Stands("a", _)));
        assert!(hosting.moves(0) && !hosting.moves(1));
        // The limit is there before the VMM is asked.
        assert_eq!(says(&mut hosting, kernel, 0, 0), Some(256));
        let grown: u64 = max(kernel, "a").parse().unwrap();
        assert!(grown >= before + 200 * MIB, "{model}: {before} {grown}");
        assert_eq!(says(&mut hosting, kernel, 256, 256), Some(288));
        assert_eq!(says(&mut hosting, kernel, 288, 288), None);
        assert!(!hosting.moves(0));
        let grown: u64 = max(kernel, "a").parse().unwrap();
        // Down: what is in use stays, until it is asked for and given back.
        assert!(matches!(hosting.resize("a", Some(512 * MIB)), Resizing::Stands("a", _)));
        assert_eq!(says(&mut hosting, kernel, 288, 288), Some(32));
        kernel.set("/sys/fs/cgroup/a/memory.current", (grown - 40 * MIB).to_string());
        assert_eq!(says(&mut hosting, kernel, 32, 32), Some(0));
        let held: u64 = max(kernel, "a").parse().unwrap();
        assert!(held >= grown - 8 * MIB && held < grown, "{model}: {held} of {grown}");
        kernel.set("/sys/fs/cgroup/a/memory.current", (100 * MIB).to_string());
        assert_eq!(says(&mut hosting, kernel, 0, 0), None);
        hosting.look(kernel, MACHINE);
        assert_eq!(max(kernel, "a").parse(), Ok(before), "{model}");
        assert_eq!(max(kernel, "b"), (b * MIB).to_string());
    }
}

#[test]
fn what_is_promised_to_others_is_not_given() {
    let kernel = &mut FakeKernel::mounted();
    // 2048 MiB: 912 and 912 are promised.
    let mut hosting = resizable(kernel, "fixed", r#", "overhead": "400M""#);
    says(&mut hosting, kernel, 0, 0);
    hosting.resize("a", Some(1024 * MIB));
    assert_eq!(says(&mut hosting, kernel, 0, 0), None);
    let Resizing::Stands(_, resize) = hosting.resize("a", None) else { panic!() };
    assert!(Json(resize).to_string().contains("held: promised to others"), "{}", Json(resize));
    assert_eq!(max(kernel, "a"), (912 * MIB).to_string());
    // Nor taken by a VMM that claims it.
    says(&mut hosting, kernel, 0, 512);
    assert_eq!(max(kernel, "a"), (912 * MIB).to_string());
    kernel.set("/sys/fs/cgroup/b/cgroup.events", "populated 0\n");
    hosting.look(kernel, MACHINE);
    assert_eq!(says(&mut hosting, kernel, 0, 0), Some(256));
    assert_eq!(max(kernel, "a"), (1168 * MIB).to_string());
    // Beyond what the board file allows a claim is not followed.
    let more = Sizes { fixed: 2048 * MIB, ..sizes(0, 0, 0) };
    hosting.sized(kernel, 0, &more, OPEN, 0);
    assert_eq!(max(kernel, "a"), (1424 * MIB).to_string());
    assert!(kernel.log.iter().any(|(_, line)| line.contains("not followed")));
    assert!(matches!(hosting.stop("a"), Resizing::Stands(..)));
    assert!(matches!(hosting.stop("b"), Resizing::Unknown));
    assert!(matches!(hosting.resize("b", Some(MIB)), Resizing::Unknown));
    hosting.silent(0);
    assert!(matches!(hosting.resize("a", Some(600 * MIB)), Resizing::Unknown));
}

#[test]
fn a_measured_guest_waits_for_its_peak_and_leaves_a_new_one() {
    let kernel = &mut FakeKernel::mounted();
    let list = guest("a", "");
    let text = format!(r#"{{"model": "measured", "peaks": "/p", "list": [{list}]}}"#);
    let mut first = hosting(&text);
    assert_eq!(first.next_peak(), None);
    assert_eq!(admit(&mut first, kernel, "a"), None);
    assert_eq!(first.next_peak(), Some(("a", 0)));
    first.kept("a", Some(0));
    assert_eq!(first.next_peak(), None);
    // 512 MiB and what `eve` guesses.
    let guess = 941_411_532;
    assert_eq!(admit(&mut first, kernel, "a"), Some(guess));
    runs(kernel, "a", 100 * MIB);
    kernel.set("/sys/fs/cgroup/a/memory.peak", (600 * MIB).to_string());
    first.look(kernel, MACHINE);
    assert_eq!(first.next_peak(), Some(("a", 600 * MIB)));
    first.kept("a", Some(600 * MIB));
    // This run keeps its limit.
    first.look(kernel, MACHINE);
    assert_eq!(max(kernel, "a"), (guess / 4096 * 4096).to_string());
    // The cgroup goes with its peak.
    kernel.set("/sys/fs/cgroup/a/memory.peak", (650 * MIB).to_string());
    first.look(kernel, MACHINE);
    assert_eq!(first.next_peak(), None, "once a minute");
    kernel.set("/sys/fs/cgroup/a/cgroup.events", "populated 0\n");
    first.look(kernel, MACHINE);
    assert_eq!(first.next_peak(), Some(("a", 650 * MIB)));
    // Next time the disk knows; a margin of 32 MiB.
    let mut second = hosting(&text);
    assert_eq!(admit(&mut second, kernel, "a"), None);
    second.kept("a", Some(650 * MIB));
    assert_eq!(admit(&mut second, kernel, "a"), Some(682 * MIB));
    // One that runs already has its limit as soon as its peak is known.
    let mut late = hosting(&text);
    kernel.set("/sys/fs/cgroup/a/memory.peak", "0");
    runs(kernel, "a", 100 * MIB);
    late.look(kernel, MACHINE);
    assert_eq!(max(kernel, "a"), "max");
    late.kept("a", Some(650 * MIB));
    late.look(kernel, MACHINE);
    assert_eq!(max(kernel, "a"), (682 * MIB).to_string());
    // A disk that fails keeps nobody from starting.
    let mut third = hosting(&text);
    assert_eq!(admit(&mut third, kernel, "a"), None);
    third.kept("a", None);
    assert_eq!(admit(&mut third, kernel, "a"), Some(guess));
}

#[test]
fn units_are_told_what_is_in_force() {
    let kernel = &mut FakeKernel::mounted();
    let vm = r#"{"name": "a", "cgroup": "/vm-a.service", "memory": "512M"}"#;
    let list = [vm.into(), guest("b", "")].join(",");
    let mut hosting = hosting(&format!(r#"{{"model": "fixed", "list": [{list}]}}"#));
    assert_eq!(hosting.next_unit(), None);
    runs(kernel, "vm-a.service", 1200 * MIB);
    runs(kernel, "b", MIB);
    hosting.look(kernel, MACHINE);
    assert_eq!(hosting.next_unit(), None, "it would be a kill");
    kernel.set("/sys/fs/cgroup/vm-a.service/memory.current", "5\n");
    hosting.look(kernel, MACHINE);
    assert_eq!(hosting.next_unit(), Some(("vm-a.service", 1112 * MIB)));
    assert_eq!(hosting.next_unit(), None);
}

#[test]
fn the_reserve_follows_the_machine() {
    let kernel = &mut FakeKernel::mounted();
    let list = [guest("a", ""), guest("b", "")].join(",");
    let mut hosting = hosting(&format!(r#"{{"model": "pool", "list": [{list}]}}"#));
    runs(kernel, "a", 100 * MIB);
    hosting.look(kernel, MACHINE);
    assert_eq!(max(kernel, "a"), (1024 * MIB).to_string());
    hosting.look(kernel, Memory { total_pages: 1 << 18, page_bytes: 4096 });
    assert_eq!(max(kernel, "a"), (768 * MIB).to_string());
    // Nor is memory promised that is gone.
    let Admission::Refused(_) = hosting.admit(kernel, "b") else { panic!() };
    hosting.look(kernel, Memory { total_pages: 0, page_bytes: 4096 });
    hosting.look(kernel, MACHINE);
    assert_eq!(max(kernel, "a"), (1024 * MIB).to_string());
}
