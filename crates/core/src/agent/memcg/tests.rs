use proptest::prelude::*;

use super::*;

const PERIOD_MS: u64 = 10_000;
const RULE: Rule = Rule { period_ms: PERIOD_MS, agings_min: 3, forced: false };

fn generation(seq: u64, age_ms: u64, file_pages: u64, anon_pages: u64) -> Generation {
    Generation { seq, age_ms, anon_pages, file_pages }
}

/// Four generations, a period each, just before they are aged again.
fn aged(youngest: u64, file: [u64; 4], anon: [u64; 4]) -> [Generation; 4] {
    let mut at = 4;
    core::array::from_fn(|i| {
        at -= 1;
        generation(youngest - at, (at + 1) * PERIOD_MS, file[i], anon[i])
    })
}

/// A state after enough passes over the same generations.
fn settled(file: [u64; 4], anon: [u64; 4]) -> State {
    let mut state = State::default();
    for seq in 4..8 {
        let _ = pass(&mut state, &aged(seq, file, anon), RULE);
    }
    state
}

#[test]
fn a_state_is_read_back_as_it_was() {
    let state = State {
        stall_at_us: 1,
        stall_us: 2,
        refaults: 3,
        older_file: 5,
        grown: [6, 7, 8],
        evicted: 9,
        step: 10,
        passes: u32::MAX,
        skip: 64,
        backoff: 6,
    };
    assert_eq!(State::from_bytes(&state.to_bytes()), Some(state));
    let mut other = state.to_bytes();
    other[0] = 2;
    assert_eq!(State::from_bytes(&other), None);
    assert_eq!(State::from_bytes(&state.to_bytes()[1..]), None);
    assert_eq!(State::from_bytes(&[]), None);
}

#[test]
fn cold_is_what_was_not_used_for_three_periods() {
    // In the oldest generation are pages last used three to four periods ago, in
    // the next one two to three.
    let generations = aged(9, [100, 200, 300, 400], [1, 2, 3, 4]);
    let found = cold(&generations, 3 * PERIOD_MS);
    assert_eq!(found, Cold { seq: 6, file_pages: 100, anon_pages: 1 });
    assert_eq!(cold(&generations, 3 * PERIOD_MS + 1), Cold::default());
    // The two youngest are never evicted, however old.
    let found = cold(&generations, 0);
    assert_eq!(found, Cold { seq: 7, file_pages: 300, anon_pages: 3 });
    assert_eq!(cold(&generations[2..], 0), Cold::default());
    assert_eq!(cold(&[], 0), Cold::default());
}

#[test]
fn the_first_eviction_is_after_the_third_aging() {
    let mut state = State::default();
    for pass_number in 1..=3 {
        let plan = pass(&mut state, &aged(pass_number + 3, [500, 0, 0, 0], [0; 4]), RULE);
        assert_eq!(plan.cold, Cold::default(), "pass {pass_number}");
        assert_eq!(plan.age, Some(pass_number + 3));
    }
    let plan = pass(&mut state, &aged(7, [500, 0, 0, 0], [0; 4]), RULE);
    assert_eq!(plan.cold.file_pages, 500);
    assert_eq!(plan.cold.seq, 4);
}

#[test]
fn agings_before_the_first_eviction_are_a_knob() {
    for agings_min in [0, 4, 9] {
        let mut state = State::default();
        let rule = Rule { agings_min, ..RULE };
        let first = (1..20).find(|number| {
            let plan = pass(&mut state, &aged(number + 3, [500, 0, 0, 0], [0; 4]), rule);
            plan.cold.file_pages > 0
        });
        // Never before three periods were seen.
        assert_eq!(first, Some(agings_min.max(3) + 1));
    }
}

#[test]
fn a_young_cgroup_is_left_alone_unless_forced() {
    let young = [generation(3, 2_000, 900, 0)];
    let mut state = State::default();
    assert_eq!(pass(&mut state, &young, RULE), Plan::default());
    assert_eq!(state, State::default());
    let plan = pass(&mut state, &young, Rule { forced: true, ..RULE });
    assert_eq!(plan.age, Some(3));
    assert_eq!(state.passes, 0, "a forced pass is not a period");
}

#[test]
fn what_was_read_lately_is_not_taken_for_cold() {
    let mut state = settled([1000, 0, 0, 0], [0; 4]);
    // 600 pages are read: they enter the oldest generation.
    let plan = pass(&mut state, &aged(8, [1600, 0, 0, 0], [0; 4]), RULE);
    assert_eq!(plan.cold.file_pages, 1000);
    // Now they stand first in the list.
    let plan = pass(&mut state, &aged(9, [1600, 0, 0, 0], [0; 4]), RULE);
    assert_eq!((plan.cold.file_pages, plan.held), (0, Some(Counter::StopRecentReads)));
    let plan = pass(&mut state, &aged(10, [1600, 0, 0, 0], [0; 4]), RULE);
    assert_eq!(plan.cold.file_pages, 1000);
    // Three periods later they are as cold as the others.
    let plan = pass(&mut state, &aged(11, [1600, 0, 0, 0], [0; 4]), RULE);
    assert_eq!(plan.cold.file_pages, 1600);
}

#[test]
fn what_was_evicted_does_not_hide_what_was_read() {
    let mut state = settled([1000, 0, 0, 0], [0; 4]);
    let mut eviction =
        Eviction::new(&state, Cold { seq: 4, file_pages: 1000, anon_pages: 0 }, 50, 1000);
    let mut sample = Sample::default();
    while let Step::File(pages) = eviction.next(sample, false) {
        sample.stolen += pages;
    }
    eviction.finish(&mut state);
    assert_eq!(state.evicted, 1000);
    // As many are read as were evicted: all of them are new.
    let plan = pass(&mut state, &aged(8, [1000, 0, 0, 0], [0; 4]), RULE);
    assert_eq!(plan.cold.file_pages, 0);
    assert_eq!(state.grown[0], 1000);
}

#[test]
fn a_mistake_is_followed_by_ever_longer_rests() {
    let mut state = settled([1000, 0, 0, 0], [0; 4]);
    let mut rests = Vec::new();
    for round in 0..4 {
        state.evicted = 160;
        assert_eq!(state.settle(state.refaults + 11 + round), 11 + round);
        rests.push(state.skip);
        for _ in 0..state.skip {
            let plan = pass(&mut state, &aged(9, [1000, 0, 0, 0], [0; 4]), RULE);
            assert_eq!(plan.held, Some(Counter::StopBackedOff));
            assert!(plan.age.is_some(), "it is aged all the same");
        }
    }
    assert_eq!(rests, [2, 4, 8, 16]);
    state.evicted = 160;
    let _ = state.settle(state.refaults + 10);
    assert_eq!((state.skip, state.backoff), (0, 3), "a sixteenth is no mistake");
}

fn eviction(file_pages: u64, anon_pages: u64, swappiness_max: u64, allowed: u64) -> Eviction {
    let cold = Cold { seq: 1, file_pages, anon_pages };
    Eviction::new(&State::default(), cold, swappiness_max, allowed)
}

#[test]
fn steps_grow_while_nothing_comes_back() {
    let mut eviction = eviction(20_000, 0, 50, u64::MAX);
    let (mut sample, mut steps) = (Sample::default(), Vec::new());
    let stop = loop {
        match eviction.next(sample, false) {
            Step::File(pages) => {
                steps.push(pages);
                sample.stolen += pages;
            }
            step => break step,
        }
    };
    assert_eq!(steps, [64, 256, 1024, 4096, 8192, 6368]);
    assert_eq!(stop, Step::Stop(Counter::StopDone));
    assert_eq!(eviction.evicted, 20_000);
}

#[test]
fn of_pages_that_nobody_sees_used_a_step_takes_a_share() {
    let state = State { step: STEP_MAX, ..State::default() };
    let step = |file_pages, unmapped| {
        let cold = Cold { seq: 1, file_pages, anon_pages: 0 };
        let mut eviction = Eviction::new(&state, cold, 50, u64::MAX);
        let step = eviction.next(Sample { unmapped, ..Sample::default() }, false);
        let Step::File(pages) = step else { panic!("{step:?}") };
        assert_eq!(eviction.has_more(), pages < file_pages);
        pages
    };
    assert_eq!(step(64_000, 0), STEP_MAX);
    assert_eq!(step(40_000, 40_000), 5000);
    assert_eq!(step(40_000, u64::MAX), 5000);
    // So many are mapped in any case.
    assert_eq!(step(40_000, 33_000), 7000);
    assert_eq!(step(5000, 5000), UNSEEN_MIN);
    assert_eq!(step(100, 1000), 100);
}

#[test]
fn it_ends_where_pages_come_back() {
    let mut eviction = eviction(20_000, 0, 50, u64::MAX);
    let mut sample = Sample::default();
    for step in 0..BAD_STEPS_MAX {
        assert_eq!(eviction.next(sample, false), Step::File(64), "step {step}");
        sample.stolen += 64;
        sample.refaults += 9;
    }
    assert_eq!(eviction.next(sample, false), Step::Stop(Counter::StopRefaults));
    let mut state = State::default();
    eviction.finish(&mut state);
    assert_eq!((state.skip, state.evicted, state.refaults), (2, 192, 27));
}

#[test]
fn one_ended_by_its_time_is_judged_as_a_whole() {
    for (back, backoff) in [(4, 0), (64, 1)] {
        let mut state = State::default();
        let mut eviction = eviction(10_000, 0, 50, u64::MAX);
        eviction.next(Sample::default(), false);
        eviction.next(Sample { stolen: 64, refaults: back, ..Sample::default() }, false);
        eviction.finish(&mut state);
        assert_eq!((state.backoff, state.skip), (backoff, if backoff > 0 { 2 } else { 0 }));
    }
}

#[test]
fn after_pressure_it_begins_with_the_least_step() {
    let mut state = State::default();
    let mut eviction = eviction(10_000, 0, 50, u64::MAX);
    for stolen in [0, 64, 192] {
        eviction.next(Sample { stolen, refaults: 0, ..Sample::default() }, false);
    }
    eviction.next(Sample { stolen: 448, refaults: 0, ..Sample::default() }, true);
    eviction.finish(&mut state);
    assert_eq!(state.step, 64);
}

#[test]
fn it_ends_under_pressure_and_where_nothing_comes() {
    let mut pressed = eviction(500, 0, 50, u64::MAX);
    assert_eq!(pressed.next(Sample::default(), true), Step::Stop(Counter::StopEvictionPressure));
    let mut empty = eviction(500, 0, 50, u64::MAX);
    assert_eq!(empty.next(Sample::default(), false), Step::File(64));
    assert_eq!(empty.next(Sample::default(), false), Step::Stop(Counter::StopNothing));
}

#[test]
fn anonymous_pages_come_last_and_have_their_share() {
    // A quarter of all at swappiness_max 50, none at 0, all of them alone.
    for (file, anon, max, want) in [
        (900, 900, 50, 450),
        (900, 100, 50, 100),
        (900, 900, 0, 0),
        (0, 900, 50, 900),
        (900, 900, 200, 900),
    ] {
        assert_eq!(eviction(file, anon, max, u64::MAX).anon_pages, want);
    }
    let mut both = eviction(64, 64, 200, u64::MAX);
    assert_eq!(both.next(Sample::default(), false), Step::File(64));
    let sample = Sample { stolen: 64, refaults: 0, ..Sample::default() };
    assert_eq!(both.next(sample, false), Step::Anon(64));
}

#[test]
fn what_is_protected_is_not_evicted() {
    let mut guarded = eviction(900, 900, 200, 10);
    assert_eq!(guarded.next(Sample::default(), false), Step::File(10));
    let sample = Sample { stolen: 10, refaults: 0, ..Sample::default() };
    assert_eq!(guarded.next(sample, false), Step::Stop(Counter::StopDone));
    let mut none = eviction(900, 900, 200, 0);
    assert_eq!(none.next(Sample::default(), false), Step::Stop(Counter::StopProtected));
}

proptest! {
    #[test]
    fn any_state_and_any_generations(
        bytes in prop::collection::vec(any::<u8>(), STATE_BYTES),
        rows in prop::collection::vec(any::<[u64; 4]>(), 0..6),
        period_ms in any::<u64>(),
        agings_min in any::<u64>(),
        forced in any::<bool>(),
        samples in prop::collection::vec(any::<[u64; 3]>(), 0..40),
        allowed in any::<u64>(),
    ) {
        let mut bytes = bytes;
        bytes[0] = STATE_VERSION;
        let Some(mut state) = State::from_bytes(&bytes) else { return Ok(()) };
        let generations: Vec<_> =
            rows.iter().map(|row| generation(row[0], row[1], row[2], row[3])).collect();
        let _ = state.settle(period_ms);
        let plan = pass(&mut state, &generations, Rule { period_ms, agings_min, forced });
        let mut eviction = Eviction::new(&state, plan.cold, agings_min % 201, allowed);
        let mut asked: u64 = 0;
        for [stolen, refaults, unmapped] in samples {
            match eviction.next(Sample { stolen, refaults, unmapped }, false) {
                Step::File(pages) | Step::Anon(pages) => {
                    prop_assert!(pages > 0 && pages <= STEP_MAX);
                    asked = asked.saturating_add(pages);
                }
                Step::Stop(_) => break,
            }
        }
        eviction.finish(&mut state);
    }
}
