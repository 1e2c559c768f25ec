//! One pass over the cgroups: what is cold is evicted, then all are aged.

use heapless::Vec;
use plimsoll_core::agent::counters::{Counter, Counters};
use plimsoll_core::agent::lru_gen::{Dump, Generation};
use plimsoll_core::agent::memcg::{self, Eviction, PAGES_MIN, Plan, Rule, State};
use plimsoll_core::agent::psi::{Gate, Stall};
use plimsoll_core::agent::settings::{Memcg, RULES_MAX, Settings};
use plimsoll_core::facts::read_text;
use plimsoll_core::kernel::{Errno, Result};
use plimsoll_core::split::lines;

use crate::agent::{Report, WAY_LRU_GEN};
use crate::cgroup::{self, Cgroup, RULE};
use crate::evict::{Candidate, Evictions, Way};
use crate::linux::Linux;
use crate::lru::LruGen;
use crate::walk::{self, kind_of};
use crate::{start, sys};

/// Share of a period that evictions may take: less than a pass may be late, see
/// [`memcg::pass`].
const PERIOD_SHARE: u64 = 5;
/// Between two steps of an eviction, in microseconds: what is used every second
/// comes back within it. In a period of a few seconds it is less.
const PAUSE_US: u64 = 1_000_000;

/// What a pass is about.
#[derive(Clone, Copy)]
pub(crate) struct Order<'a> {
    pub(crate) settings: &'a Settings,
    pub(crate) qm_cgroup: &'a str,
    /// The rules whose cgroups are due, a bit each.
    pub(crate) rules: u32,
    /// Somebody wants it now.
    pub(crate) forced: bool,
}

/// Runs the pass.
pub(crate) fn run(order: Order<'_>, report: &mut Report) {
    report.counters.add(Counter::MemcgPasses, 1);
    let period_us = shortest_period_us(order);
    let limit_us = period_us / PERIOD_SHARE;
    let pause_us = PAUSE_US.min(limit_us);
    let lru_gen = LruGen::open();
    report.way = match &lru_gen {
        Ok(_) => WAY_LRU_GEN,
        Err(errno) => WAY_LRU_GEN + u64::from(errno.0),
    };
    let commands = || lru_gen.as_ref().ok().and_then(|lru_gen| lru_gen.commands().ok());
    let evictions = Evictions {
        candidates: Vec::new(),
        agings: commands(),
        commands: commands(),
        report,
        begun: false,
        end_us: sys::now_us().saturating_add(limit_us),
        pause_us,
        page_bytes: start::page_bytes(),
    };
    let mut pass =
        Pass { order, evictions, roots: [None; RULES_MAX], swap: has_swap(), swappiness: false };
    pass.look_at_roots();
    match &lru_gen {
        Ok(lru_gen) => pass.dump(lru_gen),
        Err(_) => pass.walk(),
    }
    pass.evictions.run();
}

fn shortest_period_us(order: Order<'_>) -> u64 {
    let due = |rule: &Memcg| order.rules & (1 << rule.rule) != 0;
    let shortest = order.settings.rules().filter(due).map(|rule| rule.period_secs).min();
    shortest.unwrap_or(1).saturating_mul(1_000_000)
}

/// Whether any page can be swapped out.
fn has_swap() -> bool {
    let mut buf = [0; 2048];
    let meminfo = read_text(&mut Linux, "/proc/meminfo", &mut buf);
    lines(meminfo).any(|line| {
        line.strip_prefix("SwapFree:")
            .is_some_and(|rest| !rest.trim_ascii_start().starts_with("0 "))
    })
}

/// Pressure at the top of a rule: what it was at the last pass, and now.
#[derive(Clone, Copy)]
struct Root {
    before: Option<Stall>,
    now: Stall,
}

pub(crate) struct Pass<'a> {
    order: Order<'a>,
    evictions: Evictions<'a>,
    roots: [Option<Root>; RULES_MAX],
    /// Whether anything can be swapped out.
    swap: bool,
    /// Whether memory.reclaim takes a swappiness.
    swappiness: bool,
}

impl Pass<'_> {
    /// Reads the pressure at the top of each rule: where it has not moved, none
    /// of the cgroups below it was under pressure, and their files need not be
    /// read.
    fn look_at_roots(&mut self) {
        for rule in self.order.settings.rules() {
            if self.order.rules & (1 << rule.rule) == 0 {
                continue;
            }
            let path = self.order.settings.rule_path(rule.rule, self.order.qm_cgroup);
            let Ok(cgroup) = Cgroup::open(path) else { continue };
            let Some(now) = cgroup.stall() else { continue };
            let mut state = cgroup.state(RULE).unwrap_or_default();
            let before = stall_of(&state);
            if let Some(root) = self.roots.get_mut(rule.rule) {
                *root = Some(Root { before, now });
            }
            (state.stall_at_us, state.stall_us) = (now.at_us, now.total_us);
            let _ = cgroup.keep(RULE, &state);
        }
    }

    /// Goes through the kernel's list of generations.
    fn dump(&mut self, lru_gen: &LruGen) {
        let Ok(file) = lru_gen.dump() else {
            self.evictions.report.counters.add(Counter::ErrorRefused, 1);
            return;
        };
        let mut dump = Dump::new(file);
        loop {
            let Ok(next) = dump.next() else {
                self.evictions.report.counters.add(Counter::ErrorRefused, 1);
                break;
            };
            let Some(lruvec) = next else { break };
            let Some(memcg) = self.rule_of(lruvec.path) else { continue };
            self.evictions.report.counters.add(Counter::MemcgSeen, 1);
            if pages(lruvec.generations, memcg.swap) < PAGES_MIN {
                self.evictions.report.counters.add(Counter::MemcgSmall, 1);
                continue;
            }
            let lru = (Some(lruvec.id), lruvec.node);
            self.lruvec(At::Path(lruvec.path), lru, lruvec.generations, memcg);
        }
        let malformed = u64::from(dump.malformed());
        self.evictions.report.counters.add(Counter::ErrorMalformed, malformed);
    }

    /// The rule of a cgroup whose turn it is.
    fn rule_of(&self, path: &str) -> Option<Memcg> {
        let memcg = self.order.settings.for_cgroup(self.order.qm_cgroup, path)?;
        (!memcg.disable && self.order.rules & (1 << memcg.rule) != 0).then_some(memcg)
    }

    fn lost(&mut self, errno: Errno) {
        self.evictions.report.counters.add(kind_of(errno), 1);
    }

    /// One memory node of a cgroup, and its id in MGLRU's list.
    fn lruvec(
        &mut self,
        mut at: At<'_>,
        lru: (Option<u64>, u32),
        generations: &[Generation],
        memcg: Memcg,
    ) {
        if let Err(errno) = self.look(&mut at, lru, generations, memcg) {
            self.lost(errno);
        }
    }

    fn look(
        &mut self,
        at: &mut At<'_>,
        (lru, node): (Option<u64>, u32),
        generations: &[Generation],
        memcg: Memcg,
    ) -> Result<()> {
        let mut state = at.state(node)?;
        let old = state;
        if !self.is_quiet(memcg.rule) && self.is_pressed(at.open()?, &mut state, memcg) {
            self.evictions.report.counters.add(Counter::StopPeriodPressure, 1);
            return at.open()?.keep(node, &state);
        }
        if state.evicted > 0
            && let Some(sample) = at.open()?.sample()
        {
            let back = state.settle(sample.refaults);
            self.evictions.report.counters.add(Counter::MemcgRefaultedPages, back);
        }
        let rule = Rule {
            period_ms: memcg.period_secs.saturating_mul(1000),
            agings_min: memcg.eviction_run_aging_count_min,
            forced: self.order.forced,
        };
        let Plan { mut cold, age, held } = memcg::pass(&mut state, generations, rule);
        if let Some(reason) = held {
            self.evictions.report.counters.add(reason, 1);
        }
        if !(memcg.swap && self.swap) {
            cold.anon_pages = 0;
        }
        if cold.file_pages == 0 && cold.anon_pages == 0 {
            if let (Some(id), Some(seq), Some(commands)) = (lru, age, &mut self.evictions.agings) {
                commands.age((id, node), seq, memcg.swap, &mut self.evictions.report.counters);
            }
            return if state == old { Ok(()) } else { at.open()?.keep(node, &state) };
        }
        let way = match lru {
            Some(id) => Way::LruGen { id, seq: cold.seq, age, swap: memcg.swap },
            None => Way::Reclaim { swappiness: self.swappiness },
        };
        let cgroup = core::mem::replace(at, At::Path("")).into_open()?;
        let allowed = cgroup.unprotected_bytes() / start::page_bytes();
        let gate = cgroup.stall().map(|stall| Gate::new(memcg.eviction_psi_percent_limit, stall));
        let eviction = Eviction::new(&state, cold, memcg.swappiness_max, allowed);
        self.evictions.add(Candidate { cgroup, way, node, state, eviction, gate });
        Ok(())
    }

    /// Goes down the directories, where there is no list of generations.
    fn walk(&mut self) {
        let Order { settings, qm_cgroup, .. } = self.order;
        for top in settings.tops(qm_cgroup) {
            if let Ok(cgroup) = Cgroup::open(top) {
                // Of nothing: tells whether this kernel knows the word (6.11).
                self.swappiness = cgroup.write(c"memory.reclaim", b"0 swappiness=0").is_ok();
            }
            let mut lost = Counters::default();
            walk::leaves(top, &mut |cgroup, path| self.leaf(cgroup, path), &mut |what| {
                lost.add(what, 1);
            });
            self.evictions.report.counters.merge(&lost);
        }
    }

    /// A cgroup without others below it. Half of its pages stand for an old
    /// generation: nothing tells their age, and what the kernel counts as
    /// inactive means little where nobody ages. So all have to wait their
    /// periods, and what comes back tells where the half that is used begins.
    fn leaf(&mut self, cgroup: Cgroup, path: &str) {
        let Some(memcg) = self.rule_of(path) else { return };
        self.evictions.report.counters.add(Counter::MemcgSeen, 1);
        let Some((anon_pages, file_pages)) = cgroup.reclaimable_pages() else {
            return self.lost(Errno::NOENT);
        };
        let (anon_pages, file_pages) = (anon_pages / 2, file_pages / 2);
        let generation = |seq, age_ms| Generation { seq, age_ms, anon_pages: 0, file_pages: 0 };
        let generations = [
            Generation { anon_pages, file_pages, ..generation(1, u64::MAX) },
            generation(2, u64::MAX),
            generation(3, u64::MAX),
        ];
        if pages(&generations, memcg.swap) < PAGES_MIN {
            self.evictions.report.counters.add(Counter::MemcgSmall, 1);
        } else if !self.swappiness && !memcg.swap && self.swap {
            // memory.reclaim would swap out what was not to be.
            self.evictions.report.counters.add(Counter::StopNoSwappiness, 1);
        } else {
            self.lruvec(At::Open(cgroup), (None, 0), &generations, memcg);
        }
    }

    /// Whether nothing below the top of a rule was under pressure since the last
    /// pass, or that can't be measured.
    fn is_quiet(&self, rule: usize) -> bool {
        self.roots.get(rule).copied().flatten().is_none_or(|Root { before, now }| {
            before.is_some_and(|before| before.total_us == now.total_us)
        })
    }

    /// Whether the cgroup was under pressure since the last pass.
    fn is_pressed(&self, cgroup: &Cgroup, state: &mut State, memcg: Memcg) -> bool {
        let Some(stall) = cgroup.stall() else { return false };
        // While the root stood still, so did this one.
        let root = self.roots.get(memcg.rule).copied().flatten();
        let root_us = root.and_then(|root| root.before).map_or(0, |before| before.at_us);
        let since = Stall { at_us: state.stall_at_us.max(root_us), total_us: state.stall_us };
        (state.stall_at_us, state.stall_us) = (stall.at_us, stall.total_us);
        stall.exceeds(since, memcg.period_psi_percent_limit)
    }
}

/// A cgroup that for most of what is done need not be opened.
enum At<'a> {
    Path(&'a str),
    Open(Cgroup),
}

impl At<'_> {
    /// What is remembered of one of its memory nodes.
    fn state(&self, node: u32) -> Result<State> {
        match self {
            Self::Path(path) => cgroup::state_at(path, node),
            Self::Open(cgroup) => Ok(cgroup.state(node).unwrap_or_default()),
        }
    }

    fn open(&mut self) -> Result<&Cgroup> {
        if let Self::Path(path) = self {
            *self = Self::Open(Cgroup::open(path)?);
        }
        match self {
            Self::Open(cgroup) => Ok(cgroup),
            Self::Path(_) => Err(Errno::NOENT),
        }
    }

    fn into_open(self) -> Result<Cgroup> {
        match self {
            Self::Path(path) => Cgroup::open(path),
            Self::Open(cgroup) => Ok(cgroup),
        }
    }
}

fn stall_of(state: &State) -> Option<Stall> {
    (state.stall_at_us > 0).then_some(Stall { at_us: state.stall_at_us, total_us: state.stall_us })
}

fn pages(generations: &[Generation], swap: bool) -> u64 {
    generations.iter().fold(0_u64, |sum, generation| {
        let anon_pages = if swap { generation.anon_pages } else { 0 };
        sum.saturating_add(generation.file_pages).saturating_add(anon_pages)
    })
}
