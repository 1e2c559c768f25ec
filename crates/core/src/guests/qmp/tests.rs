use std::string::{String, ToString};
use std::vec::Vec;

use super::{ANSWER_US, Available, Device, Fault, HURRY_US, Session, Sizes};

const MIB: u64 = 1 << 20;
const GREETING: &str = r#"{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "Debian 1:7.2+dfsg-7+deb12u18"}, "capabilities": ["oob"]}}"#;

fn device(id: &str, size: u64, requested: u64) -> String {
    format!(
        r#"{{"type": "virtio-mem", "data": {{"node": 0, "requested-size": {requested}, "block-size": 2097152, "size": {size}, "max-size": 1073741824, "id": "{id}", "memaddr": 4294967296, "memdev": "/objects/mem0"}}}}"#
    )
}

pub(in crate::guests) const NO_BALLOON: Available = Available { bytes: u64::MAX, at_secs: 0 };

/// A guest with one device of 1 GiB.
pub(in crate::guests) fn sizes(fixed: u64, size: u64, requested: u64) -> Sizes {
    let id = "vm0".try_into().unwrap();
    let device = Device { id, size, requested, max: 1024 * MIB, block: 2 * MIB };
    Sizes { fixed, devices: [device].into_iter().collect(), available: NO_BALLOON }
}

/// A VMM that answers.
struct Vmm {
    session: Session,
    follows: bool,
    asked: Vec<String>,
}

impl Vmm {
    fn new() -> Self {
        let mut session = Session::new(0);
        assert_eq!(session.hear(GREETING.as_bytes(), 0), Ok(None));
        Self { session, follows: false, asked: Vec::new() }
    }

    /// The next question; its answer has `body` besides the id.
    fn answer(&mut self, wanted: &str, body: &str, now: u64) -> Result<Option<Sizes>, Fault> {
        let asked = self.session.ask(now, self.follows).unwrap().expect(wanted);
        assert!(asked.ends_with("}\n"), "{asked}");
        let asked: serde_json::Value = serde_json::from_str(&asked).unwrap();
        assert_eq!(asked["execute"], wanted);
        self.asked.push(asked["arguments"].to_string());
        let answer = format!(r#"{{{body}, "id": {}}}"#, asked["id"]);
        self.session.hear(answer.as_bytes(), now)
    }

    /// Up to the question of the devices.
    fn known() -> Self {
        let mut vmm = Self::new();
        assert_eq!(vmm.answer("qmp_capabilities", r#""return": {}"#, 0), Ok(None));
        let summary = r#""return": {"base-memory": 536870912, "plugged-memory": 0}"#;
        assert_eq!(vmm.answer("query-memory-size-summary", summary, 0), Ok(None));
        vmm
    }

    fn devices(&mut self, devices: &[String], now: u64) -> Result<Option<Sizes>, Fault> {
        self.answer("query-memory-devices", &format!(r#""return": [{}]"#, devices.join(", ")), now)
    }
}

#[test]
fn a_session_from_greeting_to_request() {
    let mut vmm = Vmm::known();
    let dimm = r#"{"data": {"slot": 0, "size": 268435456, "hotplugged": true}, "type": "dimm"}"#;
    let nvdimm = r#"{"type": "nvdimm", "data": {"size": 1}}"#;
    let list = [dimm.into(), device("vm0", 256 * MIB, 512 * MIB), nvdimm.into()];
    let sizes = vmm.devices(&list, 1000).unwrap().unwrap();
    assert_eq!(sizes.fixed, 768 * MIB);
    assert_eq!((sizes.size(), sizes.requested(), sizes.max()), (256 * MIB, 512 * MIB, 1024 * MIB));
    assert_eq!(sizes.claimed(), 1280 * MIB);
    // Asked again a second later, or soon after a change.
    assert_eq!(vmm.session.ask(1000, false), Ok(None));
    assert_eq!(vmm.session.deadline_us(), 1_001_000);
    let event = r#"{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "MEMORY_DEVICE_SIZE_CHANGE", "data": {"id": "vm0", "size": 1, "qom-path": "/x"}}"#;
    assert_eq!(vmm.session.hear(event.as_bytes(), 2000), Ok(None));
    assert_eq!(vmm.session.deadline_us(), 102_000);
    vmm.session.request(sizes.asked_for(1024 * MIB));
    assert_eq!(vmm.session.deadline_us(), 0);
    assert_eq!(vmm.answer("qom-set", r#""return": {}"#, 3000), Ok(None));
    let arguments = vmm.asked.last().unwrap();
    let wanted = serde_json::json!({"path": "/machine/peripheral/vm0", "property": "requested-size", "value": 1024 * MIB});
    assert_eq!(*arguments, wanted.to_string());
    let sizes = vmm.devices(&[device("vm0", 512 * MIB, 1024 * MIB)], 4000).unwrap().unwrap();
    assert_eq!(sizes.claimed(), 1536 * MIB);
    vmm.session.request(sizes);
    let refused = r#""error": {"class": "GenericError", "desc": "x"}"#;
    assert_eq!(vmm.answer("qom-set", refused, 5000), Err(Fault::Refused));
}

#[test]
fn devices_are_filled_from_the_first_and_emptied_from_the_last() {
    let device = |size: u64| Device {
        size: size * MIB,
        requested: size * MIB,
        max: 1024 * MIB,
        block: 2 * MIB,
        ..Device::default()
    };
    let of = |sizes: [u64; 3]| Sizes {
        devices: sizes.into_iter().map(device).collect(),
        ..Sizes::default()
    };
    for (had, total, wanted) in [
        ([0, 0, 0], 1500, [1024, 476, 0]),
        ([1024, 512, 256], 1500, [1024, 476, 0]),
        ([1024, 512, 256], 100, [100, 0, 0]),
        ([512, 0, 512], 1536, [1024, 0, 512]),
        // To a block, and no further than there is room.
        ([0, 0, 0], 3, [2, 0, 0]),
        ([2, 0, 0], 1, [2, 0, 0]),
        ([1024, 1024, 1024], 9999, [1024, 1024, 1024]),
    ] {
        let asked = of(had).asked_for(total * MIB);
        let asked: Vec<u64> = asked.devices.iter().map(|device| device.requested / MIB).collect();
        assert_eq!(asked, wanted, "{had:?} {total}");
    }
}

/// As QEMU 10 answers.
#[test]
fn a_balloon_says_what_is_available() {
    let mut vmm = Vmm::known();
    // Asked again at once, as the supervisor does, nothing is due.
    let available = |vmm: &mut Vmm, now| {
        let available = vmm.devices(&[], now).unwrap().unwrap().available;
        assert_eq!(vmm.session.ask(now, true), Ok(None));
        available
    };
    // Nobody asked.
    assert_eq!(available(&mut vmm, 0), Available::default());
    vmm.follows = true;
    assert_eq!(vmm.answer("qom-set", r#""return": {}"#, HURRY_US), Ok(None));
    assert_eq!(available(&mut vmm, HURRY_US), Available::default());
    let never =
        r#""error": {"class": "GenericError", "desc": "guest hasn't updated any stats yet"}"#;
    assert_eq!(vmm.answer("qom-get", never, 2 * HURRY_US), Ok(None));
    assert_eq!(available(&mut vmm, 2 * HURRY_US), Available::default());
    let said = r#""return": {"stats": {"stat-htlb-pgfail": 0, "stat-swap-out": 0, "stat-available-memory": 410329088, "stat-free-memory": 18446744073709551615}, "last-update": 1764100000}"#;
    assert_eq!(vmm.answer("qom-get", said, 3 * HURRY_US), Ok(None));
    let wanted = Available { bytes: 410_329_088, at_secs: 1_764_100_000 };
    assert_eq!(available(&mut vmm, 3 * HURRY_US), wanted);
    // A driver, or a QEMU, that doesn't know stands in nobody's way.
    let unknown = said.replace("410329088", "18446744073709551615");
    let other = said.replace("stat-available-memory", "stat-disk-caches");
    for (said, look) in [(&unknown, 4), (&other, 5)] {
        assert_eq!(vmm.answer("qom-get", said, look * HURRY_US), Ok(None));
        assert_eq!(available(&mut vmm, look * HURRY_US).bytes, u64::MAX, "{said}");
    }
    let balloon = |property: &str| serde_json::json!({"path": "/machine/peripheral/balloon0", "property": property});
    let mut polling = balloon("guest-stats-polling-interval");
    polling["value"] = 1.into();
    vmm.asked.retain(|asked| asked != "null");
    let asks = || balloon("guest-stats");
    let wanted = [polling, asks(), asks(), asks(), asks()];
    assert_eq!(vmm.asked, wanted.map(|asked| asked.to_string()));
    // There is none: it is not asked again.
    let mut vmm = Vmm::known();
    vmm.follows = true;
    let none = r#""error": {"class": "DeviceNotFound", "desc": "Device 'balloon0' not found"}"#;
    assert_eq!(vmm.answer("qom-set", none, 0), Ok(None));
    for look in 1..=2 {
        assert_eq!(available(&mut vmm, look * HURRY_US), NO_BALLOON);
    }
}

#[test]
fn what_is_not_the_answer_is_passed_over() {
    let mut vmm = Vmm::known();
    vmm.session.ask(0, false).unwrap().unwrap();
    let id = vmm.session.id;
    for message in [
        GREETING.to_string(),
        "{}".into(),
        r#"{"return": []}"#.into(),
        format!(r#"{{"return": [], "id": {}}}"#, id + 1),
        format!(r#"{{"error": {{}}, "id": {}}}"#, id - 1),
        format!(r#"{{"return": [], "id": "{id}"}}"#),
        r#"{"event": "SHUTDOWN", "data": {"return": []}}"#.into(),
        r#"{"event": "a \" \\ \u0000 b"}"#.into(),
    ] {
        assert_eq!(vmm.session.hear(message.as_bytes(), 1), Ok(None), "{message}");
        assert!(vmm.session.waits, "{message}");
    }
    assert_eq!(vmm.session.ask(ANSWER_US - 1, false), Ok(None));
    assert_eq!(vmm.session.ask(ANSWER_US, false), Err(Fault::Late));
    // Not even a greeting.
    assert_eq!(Session::new(7).ask(7 + ANSWER_US, false), Err(Fault::Late));
    // Before it, nothing is an answer.
    let mut session = Session::new(0);
    assert_eq!(session.hear(br#"{"return": {}, "id": 0}"#, 0), Ok(None));
    assert_eq!(session.ask(1, false), Ok(None));
}

#[test]
fn sizes_that_can_not_be_end_the_session() {
    let good = device("vm0", 0, 0);
    for (from, to) in [
        (r#""size": 0"#, r#""size": -1"#),
        (r#""size": 0"#, r#""size": "0""#),
        (r#""size": 0"#, r#""size": 1.5"#),
        (r#""size": 0"#, r#""size": 18446744073709551616"#),
        (r#""size": 0"#, r#""size": 1073741825"#),
        (r#""requested-size": 0"#, r#""requested-size": 18446744073709551615"#),
        ("2097152", "0"),
        ("1073741824", "18446744073709551615"),
    ] {
        let bad = good.replace(from, to);
        assert_ne!(bad, good);
        assert_eq!(Vmm::known().devices(&[bad], 0), Err(Fault::Size), "{to}");
    }
    let five: Vec<String> = (0..5).map(|at| device(&format!("vm{at}"), 0, 0)).collect();
    assert_eq!(Vmm::known().devices(&five, 0), Err(Fault::Size));
    assert!(Vmm::known().devices(&five[..4], 0).unwrap().is_some());
    // A name that would be more than one can't be asked, but counts.
    for name in ["", "a\\\"b", "a/b", "é", &"x".repeat(65)] {
        let sizes = Vmm::known().devices(&[device(name, 2 * MIB, 0)], 0).unwrap().unwrap();
        assert_eq!((sizes.fixed, sizes.devices.len()), (514 * MIB, 0), "{name}");
    }
    for base in ["0", "-1", "\"1\"", "18446744073709551615"] {
        let mut vmm = Vmm::new();
        vmm.answer("qmp_capabilities", r#""return": {}"#, 0).unwrap();
        let summary = format!(r#""return": {{"base-memory": {base}}}"#);
        assert_eq!(vmm.answer("query-memory-size-summary", &summary, 0), Err(Fault::Size));
    }
}

#[test]
fn no_text_is_too_hostile() {
    let whole = format!(r#"{{"return": [{}], "id": 3}}"#, device("vm0", 0, 0));
    for end in 0..whole.len() {
        let mut vmm = Vmm::known();
        vmm.session.ask(0, false).unwrap();
        assert_eq!(vmm.session.hear(&whole.as_bytes()[..end], 0), Err(Fault::Text), "{end}");
    }
    let deep = "[".repeat(5000);
    for text in [deep.as_bytes(), b"\xff\xfe", b"null", b"[1]", b"{\"a\": \"\xff\"}", b"\0"] {
        let _ = Session::new(0).hear(text, 0);
    }
}
