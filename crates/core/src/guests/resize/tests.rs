use std::collections::VecDeque;

use super::*;
use crate::guests::qmp::tests::{NO_BALLOON, sizes};

const SECOND_US: u64 = 1_000_000;
const OPEN: Gate = Gate { available: u64::MAX, margin: 0, pressed: false, vmm_pressed: false };

/// A guest of 512 MiB and one device.
struct Guest {
    resize: Resize,
    size: u64,
    requested: u64,
    now: u64,
    available: Available,
    asked: VecDeque<u64>,
}

impl Guest {
    fn new(size_mib: u64, target_mib: u64) -> Self {
        let size = size_mib * MIB;
        let resize = Resize::new((512 + size_mib) * MIB, target_mib * MIB);
        let (available, asked) = (NO_BALLOON, VecDeque::new());
        Self { resize, size, requested: size, now: SECOND_US, available, asked }
    }

    fn look(&mut self, gate: Gate) -> State {
        let mut sizes = sizes(512 * MIB, self.size, self.requested);
        sizes.available = self.available;
        if let Some(asked) = self.resize.next(&sizes, gate, self.now) {
            self.requested = asked.requested();
            self.asked.push_back(self.requested / MIB);
        }
        self.now += SECOND_US / 10;
        self.resize.state
    }
}

#[test]
fn step_by_step_up_and_down() {
    for (from, target, steps) in
        [(0, 1536, vec![256, 512, 768, 1024]), (1024, 812, vec![768, 512, 300])]
    {
        let mut guest = Guest::new(from, target);
        while guest.look(OPEN) != State::Done {
            // It follows by a look.
            guest.size = guest.requested;
        }
        assert_eq!(guest.asked, steps);
        assert!(guest.resize.is_over());
        assert_eq!(guest.look(OPEN), State::Done);
    }
}

#[test]
fn who_does_not_follow_is_nudged() {
    let mut guest = Guest::new(0, 1024);
    assert_eq!(guest.look(OPEN), State::Moving);
    guest.size = 100 * MIB;
    let mut nudges = Vec::new();
    for _ in 0..2000 {
        let before = guest.asked.len();
        if guest.look(OPEN) == State::Still && guest.asked.len() > before {
            nudges.push(guest.now / SECOND_US);
        }
    }
    assert!(guest.asked.iter().all(|asked| *asked == 256), "{:?}", guest.asked);
    let waits: Vec<u64> = nudges.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert_eq!(waits[..5], [10, 20, 40, 60, 60], "{nudges:?}");
    // It moves again.
    guest.size = guest.requested;
    assert_eq!(guest.look(OPEN), State::Moving);
    assert_eq!(guest.asked.back(), Some(&512));
}

#[test]
fn gates_hold_the_next_step() {
    let pressed = Gate { pressed: true, ..OPEN };
    let vmm_pressed = Gate { vmm_pressed: true, ..OPEN };
    let short = Gate { available: 100 * MIB, ..OPEN };
    let mut grows = Guest::new(0, 1024);
    assert_eq!(grows.look(pressed), State::Pressed);
    assert_eq!(grows.look(short), State::Short(156 * MIB));
    assert_eq!(grows.asked.len(), 0);
    assert_eq!(grows.look(vmm_pressed), State::Moving);
    let mut shrinks = Guest::new(512, 512);
    assert_eq!(shrinks.look(vmm_pressed), State::Pressed);
    assert_eq!(shrinks.asked.len(), 0);
    // Memory that is short on the machine, and pressure, are what it helps against.
    assert_eq!(shrinks.look(Gate { pressed: true, available: 0, ..OPEN }), State::Moving);
}

#[test]
fn a_guest_that_has_too_little_is_not_shrunk() {
    let margin = Gate { margin: 32 * MIB, ..OPEN };
    let says = |mib: u64, at_secs| Available { bytes: mib * MIB, at_secs };
    let mut guest = Guest::new(1024, 512);
    // Its balloon has yet to say.
    guest.available = says(0, 0);
    assert_eq!(guest.look(margin), State::Short(288 * MIB));
    guest.available = says(200, 7);
    assert_eq!(guest.look(margin), State::Short(88 * MIB));
    assert_eq!(guest.asked.len(), 0);
    guest.available = says(600, 8);
    assert_eq!(guest.look(margin), State::Moving);
    assert_eq!(guest.asked, [768]);
    // What it has given since it said so is not there any more, and it may have said
    // the next number before it gave it.
    guest.size = guest.requested;
    assert_eq!(guest.look(margin), State::Moving);
    guest.size = guest.requested;
    assert_eq!(guest.look(margin), State::Short(200 * MIB));
    guest.available = says(400, 9);
    assert_eq!(guest.look(margin), State::Short(288 * MIB));
    guest.available = says(400, 10);
    assert_eq!(guest.look(margin), State::Moving);
    assert_eq!(guest.asked, [768, 512, 256]);
}

#[test]
fn a_balloon_without_a_driver_holds_nothing_up() {
    let mut guest = Guest::new(1024, 512);
    guest.available = Available::default();
    while guest.look(OPEN) != State::Moving {}
    assert!(guest.now > SILENT_US && guest.now < SILENT_US + 2 * SECOND_US, "{}", guest.now);
}

#[test]
fn a_stop_stays_where_it_is() {
    let mut guest = Guest::new(0, 1536);
    guest.look(OPEN);
    guest.size = 128 * MIB;
    guest.resize.stop();
    assert_eq!(guest.look(OPEN), State::Stopped);
    assert_eq!((guest.requested, guest.look(OPEN)), (128 * MIB, State::Stopped));
    assert!(guest.resize.is_over());
    let shown: serde_json::Value = serde_json::from_str(&Json(&guest.resize).to_string()).unwrap();
    assert_eq!(shown["memory_bytes"], 640 * MIB);
    assert_eq!(shown["left_bytes"], 896 * MIB);
}

#[test]
fn what_others_asked_for_is_taken_over_or_back() {
    // Half-way up somebody wanted less.
    let mut guest = Guest::new(512, 1536);
    guest.requested = 0;
    guest.look(OPEN);
    assert_eq!(guest.requested, 768 * MIB);
    // A request beyond the target is none that leads there.
    guest.requested = 1024 * MIB;
    guest.resize = Resize::new(1024 * MIB, 1280 * MIB);
    guest.look(OPEN);
    assert_eq!(guest.requested, 768 * MIB);
}

#[test]
fn rate_and_time_left() {
    let mut guest = Guest::new(0, 1536);
    while guest.size < 512 * MIB {
        guest.look(OPEN);
        guest.size = guest.requested;
    }
    guest.look(OPEN);
    let shown: serde_json::Value = serde_json::from_str(&Json(&guest.resize).to_string()).unwrap();
    // 512 MiB in 0.2 s.
    assert_eq!(shown["bytes_per_sec"], 2560 * MIB);
    assert_eq!((&shown["left_bytes"], &shown["left_secs"]), (&(512 * MIB).into(), &0.into()));
    assert_eq!(shown["state"], "moving");
}
