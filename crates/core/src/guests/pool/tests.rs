use std::collections::{BTreeMap, VecDeque};
use std::string::String;
use std::vec::Vec;

use super::*;

const MARGIN: u64 = 32 * MIB;

/// xorshift64: the same sequences on every machine.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end.max(1)
    }
}

/// A guest's cgroup.
#[derive(Debug, Default)]
struct Cgroup {
    memory: u64,
    /// memory.max
    max: u64,
    /// What reclaim can't take.
    held: u64,
    cache: u64,
}

/// A kernel that has the limits, and guests that use what they may.
struct Machine {
    pool: Pool,
    reserve: u64,
    memory: u64,
    cgroups: BTreeMap<String, Cgroup>,
    probes: VecDeque<(String, u64)>,
    refused: Vec<(String, Refusal)>,
    dice: Dice,
    /// Whether a probe may fail.
    faulty: bool,
}

impl Machine {
    fn new(reserve: u64, memory: u64, seed: u64) -> Self {
        let pool = Pool::new(reserve, memory, MARGIN);
        let (cgroups, probes, refused) = (BTreeMap::new(), VecDeque::new(), Vec::new());
        Self { pool, reserve, memory, cgroups, probes, refused, dice: Dice(seed), faulty: false }
    }

    /// An input, and its outputs one by one, each against the invariants.
    fn input(&mut self, input: impl FnOnce(&mut Pool, Sink<'_>)) {
        let Self { pool, reserve, memory, cgroups, probes, refused, dice, faulty } = self;
        input(pool, &mut |action| {
            match action {
                Action::Probe { name, limit_bytes } => {
                    let cgroup = &cgroups[name];
                    assert!(limit_bytes > cgroup.memory && limit_bytes < cgroup.max, "{action:?}");
                    assert!(probes.iter().all(|(other, _)| other != name), "one probe at a time");
                    probes.push_back((name.into(), limit_bytes));
                }
                Action::Limit { name, bytes } => {
                    let cgroup = cgroups.get_mut(name).unwrap();
                    if cgroup.max > bytes && *faulty && dice.below(10) == 0 {
                        return false;
                    }
                    if cgroup.max > bytes {
                        // Between the look and the write it grows by up to the margin.
                        let room = (cgroup.max - cgroup.held - cgroup.cache).min(MARGIN);
                        cgroup.held += dice.below(room + 1);
                    }
                    assert!(cgroup.held + cgroup.cache <= bytes, "killed: {cgroup:?} at {bytes}");
                    assert!(bytes >= cgroup.memory + LEAST_BYTES);
                    cgroup.max = bytes;
                    let limits: u64 = cgroups.values().map(|cgroup| cgroup.max).sum();
                    let running = cgroups.values().filter(|cgroup| cgroup.max > 0);
                    let own: u64 = running.map(|cgroup| cgroup.memory).sum();
                    assert!(limits <= *reserve + own, "{limits} of {reserve} and {own}");
                    assert!(own <= *memory);
                }
                Action::Refuse { name, why } => {
                    assert!(!why.to_string().is_empty());
                    // A name that is taken is another's.
                    if *why != Refusal::Name {
                        cgroups.remove(name);
                    }
                    refused.push((name.into(), why.clone()));
                }
            }
            true
        });
    }

    fn start(&mut self, name: &str, memory: u64) {
        let fresh = || Cgroup { memory, ..Cgroup::default() };
        self.cgroups.entry(name.into()).or_insert_with(fresh);
        self.input(|pool, sink| pool.start(name, memory, sink));
    }

    fn stop(&mut self, name: &str) {
        self.cgroups.remove(name);
        self.probes.retain(|(other, _)| other != name);
        self.input(|pool, sink| pool.stop(name, sink));
    }

    /// memory.reclaim, and the answer.
    fn answer(&mut self) -> bool {
        let Some((name, limit)) = self.probes.pop_front() else { return false };
        let cgroup = self.cgroups.get_mut(&name).unwrap();
        let too_much = (cgroup.held + cgroup.cache + MARGIN).saturating_sub(limit);
        cgroup.cache -= cgroup.cache.min(too_much);
        let current = cgroup.held + cgroup.cache;
        let fails = self.faulty && self.dice.below(10) == 0;
        let answer = (!fails).then_some(current);
        self.input(|pool, sink| pool.probed(&name, answer, sink));
        true
    }

    fn look(&mut self, name: &str) {
        let current = self.cgroups[name].held + self.cgroups[name].cache;
        self.input(|pool, sink| pool.seen(name, current, sink));
    }

    /// A guest's memory becomes another; whether it may.
    fn resize(&mut self, name: &str, memory: u64) -> bool {
        let current = self.cgroups[name].held + self.cgroups[name].cache;
        let memory_of = |pool: &Pool| pool.guests[pool.find(name).unwrap()].memory_bytes;
        // What it counts as: less only as far as its limit can fall.
        let mut trial = self.pool.clone();
        let _ = trial.resize(name, memory, current, &mut |_| true);
        self.cgroups.get_mut(name).unwrap().memory = memory_of(&trial);
        let mut done = Ok(());
        self.input(|pool, sink| done = pool.resize(name, memory, current, sink));
        self.cgroups.get_mut(name).unwrap().memory = memory_of(&self.pool);
        done.is_ok()
    }

    fn max(&self, name: &str) -> u64 {
        let max = self.cgroups[name].max;
        assert_eq!(self.pool.limit(name), (max > 0).then_some(max));
        max
    }

    fn running(&self) -> Vec<String> {
        let running = self.cgroups.iter().filter(|(_, cgroup)| cgroup.max > 0);
        running.map(|(name, _)| name.clone()).collect()
    }

    /// All the same, a guest that runs uses more or less.
    fn change_use(&mut self) {
        for cgroup in self.cgroups.values_mut().filter(|cgroup| cgroup.max > 0) {
            match self.dice.below(4) {
                0 => cgroup.held = self.dice.below(cgroup.max - cgroup.cache + 1),
                1 => cgroup.cache = self.dice.below(cgroup.max - cgroup.held + 1),
                _ => {}
            }
        }
    }
}

/// A has 600 MiB for itself and holds 500 of them; B of half its memory comes,
/// and A's share is 400 MiB.
fn seeds_case(held: u64) -> Machine {
    let mut machine = Machine::new(600 * MIB, 8192 * MIB, 1);
    machine.start("a", 1024 * MIB);
    assert_eq!(machine.max("a"), 1624 * MIB);
    machine.cgroups.get_mut("a").unwrap().held = (1024 + held) * MIB;
    machine.start("b", 512 * MIB);
    assert_eq!(machine.probes, [("a".into(), (1024 + 400) * MIB)]);
    assert_eq!(machine.pool.limit("b"), None, "waits for the answer");
    machine
}

#[test]
fn a_running_guest_keeps_what_it_uses_and_the_newcomer_gets_the_rest() {
    let mut machine = seeds_case(500);
    while machine.answer() {}
    // 500 and the margin; what A used while the limit was written is within it.
    assert_eq!(machine.max("a"), (1024 + 532) * MIB);
    assert_eq!(machine.max("b"), (512 + 68) * MIB);
    assert_eq!(machine.pool.free_bytes(), 0);
    // It frees, and both have their shares.
    machine.cgroups.get_mut("a").unwrap().held = (1024 + 100) * MIB;
    machine.look("a");
    assert_eq!(machine.max("a"), (1024 + 400) * MIB);
    assert_eq!(machine.max("b"), (512 + 200) * MIB);
    // A third one: the shares are 300, 150 and 150.
    machine.start("c", 512 * MIB);
    while machine.answer() {}
    let maxes = ["a", "b", "c"].map(|name| machine.max(name));
    assert_eq!(maxes, [(1024 + 300) * MIB, (512 + 150) * MIB, (512 + 150) * MIB]);
    machine.stop("b");
    assert_eq!(machine.max("a"), (1024 + 400) * MIB);
    assert_eq!(machine.max("c"), (512 + 200) * MIB);
}

#[test]
fn page_cache_is_taken_before_anything_else() {
    let mut machine = seeds_case(100);
    machine.cgroups.get_mut("a").unwrap().cache = 450 * MIB;
    while machine.answer() {}
    assert_eq!((machine.max("a"), machine.max("b")), ((1024 + 400) * MIB, (512 + 200) * MIB));
}

#[test]
fn a_refusal_names_the_number_and_the_holder() {
    let mut machine = seeds_case(540);
    while machine.answer() {}
    // 28 MiB are free, 64 would do. A holds 572, its share alone is all.
    let why = &machine.refused[0].1;
    assert_eq!(
        why.to_string(),
        format!("reserve: {} bytes missing, a holds {}", 36 * MIB, 172 * MIB)
    );
    assert_eq!(machine.pool.limit("b"), None);
    assert_eq!(machine.max("a"), 1624 * MIB, "A gets back what B can't use");

    machine.start("huge", 7169 * MIB);
    let why = machine.refused[1].1.to_string();
    assert_eq!(why, format!("memory: {} bytes missing, a holds {}", MIB, 1024 * MIB));
    for (name, memory, refusal) in [
        ("a", 1024 * MIB, "name: taken, or none"),
        ("", 1024 * MIB, "name: taken, or none"),
        ("z", 0, "memory: found 0, allowed is `1M` to `64T`, a multiple of `1K`"),
        ("z", u64::MAX, "memory: found 18446744073709551615, allowed is"),
        ("z", (1 << 46) + 1024, "memory: found 70368744178688, allowed is"),
    ] {
        machine.start(name, memory);
        let why = machine.refused.last().unwrap().1.to_string();
        assert!(why.starts_with(refusal), "{why}");
        machine.cgroups.retain(|name, _| name == "a");
    }
}

#[test]
fn a_limit_follows_the_memory() {
    let mut machine = Machine::new(600 * MIB, 2048 * MIB, 1);
    machine.start("a", 1024 * MIB);
    assert!(machine.resize("a", 1536 * MIB));
    assert_eq!(machine.max("a"), (1536 + 600) * MIB);
    assert!(!machine.resize("a", 2049 * MIB), "more than there is");
    assert_eq!(machine.max("a"), (1536 + 600) * MIB);
    // Down to what it uses, and the margin; then to where it belongs.
    machine.cgroups.get_mut("a").unwrap().held = 2000 * MIB;
    assert!(machine.resize("a", 1024 * MIB));
    assert_eq!(machine.max("a"), 2032 * MIB);
    machine.cgroups.get_mut("a").unwrap().held = 100 * MIB;
    assert!(machine.resize("a", 1024 * MIB));
    assert_eq!(machine.max("a"), (1024 + 600) * MIB);
    // Its memory counts for its share.
    machine.start("b", 1024 * MIB);
    while machine.answer() {}
    assert!(machine.resize("b", 512 * MIB));
    while machine.answer() {}
    machine.look("b");
    assert_eq!((machine.max("a"), machine.max("b")), ((1024 + 400) * MIB, (512 + 200) * MIB));
}

#[test]
fn no_more_than_fit() {
    let mut machine = Machine::new(4096 * MIB, u64::MAX, 7);
    for at in 0..=GUESTS_MAX {
        machine.start(&format!("g{at}"), 256 * MIB);
        while machine.answer() {}
    }
    let [(name, Refusal::Full)] = machine.refused.as_slice() else { panic!() };
    assert_eq!((name.as_str(), machine.running().len()), ("g16", GUESTS_MAX));
    for (_, limit, aim) in machine.pool.guests() {
        assert!(limit >= (256 + 64) * MIB && aim == (256 + 256) * MIB);
    }
    let mut none = Machine::new(0, u64::MAX, 7);
    none.start("a", 256 * MIB);
    assert_eq!(none.refused[0].1.to_string(), format!("reserve: {LEAST_BYTES} bytes missing"));
}

#[test]
fn a_thousand_sequences() {
    let (mut starts, mut refusals, mut probes, mut resizes) = (0, 0, 0, 0);
    for seed in 1..=1000_u64 {
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let reserve = dice.below(4096) * MIB + dice.below(MIB);
        let memory = dice.below(64 << 10) * MIB;
        let mut machine = Machine::new(reserve, memory, dice.below(u64::MAX) | 1);
        machine.faulty = seed % 2 == 0;
        for _ in 0..60 {
            let name = format!("g{}", dice.below(20));
            let running = machine.running();
            let any = running.get(usize::try_from(dice.below(64)).unwrap() % running.len().max(1));
            match dice.below(9) {
                8 => {
                    let memory = (dice.below(1 << 23) + 1) * 1024;
                    resizes += any.map_or(0, |name| u32::from(machine.resize(name, memory)));
                }
                0 | 1 => {
                    starts += 1;
                    machine.start(&name, (dice.below(1 << 23) + 1) * 1024);
                }
                2 => machine.stop(&name),
                3 => machine.input(Pool::press),
                4 | 5 => probes += u32::from(machine.answer()),
                6 => any.into_iter().for_each(|name| machine.look(name)),
                _ => machine.change_use(),
            }
        }
        refusals += machine.refused.len();
        settles(machine);
    }
    assert!(starts > 5000 && refusals > 1000 && probes > 1000, "{starts} {refusals} {probes}");
    assert!(resizes > 1000, "{resizes}");
}

/// When nobody uses anything any more, each has what it ought to have.
fn settles(mut machine: Machine) {
    machine.faulty = false;
    while machine.answer() {}
    assert!(machine.cgroups.values().all(|cgroup| cgroup.max > 0), "nobody waits for ever");
    for cgroup in machine.cgroups.values_mut() {
        (cgroup.held, cgroup.cache) = (0, 0);
    }
    for name in machine.running() {
        machine.look(&name);
    }
    let pool = &machine.pool;
    let aims: u64 = pool.guests.iter().map(|guest| pool.aim(guest)).sum();
    for guest in &pool.guests {
        let aim = pool.aim(guest);
        // Where the least of the small ones is more than their shares, others go short.
        assert!(guest.grant_bytes == aim || aims > pool.reserve_bytes, "{pool:?}");
        assert!(guest.grant_bytes <= aim, "{pool:?}");
    }
}
