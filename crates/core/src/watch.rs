//! Keeping the limits true: each knob that was right once is looked at again,
//! and a value that drifted is reported and, if the board says so, mended.
//!
//! The cgroup of a systemd unit comes and goes, and is systemd's: its knobs are
//! looked at while there are processes in it, and mended by asking systemd, which
//! would otherwise undo it. Only what is urgent isn't left to it: QM's memory.max.

use heapless::{String, Vec};

use crate::apply::{knob_path, shows};
use crate::board::{Board, Qm};
use crate::boot::fallback_value;
use crate::facts::Facts;
use crate::kernel::{Kernel, Level};
use crate::limit::Memory;
use crate::number::decimal;
use crate::plan::{Plan, STEPS_MAX, Step, Value};
use crate::record::cut;
use crate::systemd::Text;

/// Between two looks, in microseconds: 1 s. A look is one read a knob.
pub const PERIOD_US: u64 = 1_000_000;
/// From one question about a unit to the next, in microseconds: at least 2 s,
/// doubled each time, at most 64 s. In between drift is mended in the kernel's
/// files.
const ASK_US: core::ops::RangeInclusive<u64> = 2_000_000..=64_000_000;
/// After so long without a question the waits begin anew, in microseconds.
const QUIET_US: u64 = 60_000_000;
/// The question, but for the settings.
const SET_PROPERTY: &str = "systemctl\0set-property\0--runtime\0--no-ask-password\0%\0";
/// Part of a lowered memory.max that has to be unused: what QM may take while it
/// is written.
const MARGIN: u64 = 16;
/// QM's fence.
const FENCE: &str = "memory.max";

/// What is watched, and what came of it.
pub struct Watch<'a> {
    knobs: Vec<Knob<'a>, STEPS_MAX>,
    question: Question<'a>,
    fallback: Value,
    /// Whether that is what QM has.
    fell_back: bool,
    /// What the percentages are of.
    memory: Memory,
    mend: bool,
    /// Times a knob was found with another value than the one wanted.
    pub drifts: u32,
    /// Times the wanted value was brought back.
    pub mended: u32,
}

struct Knob<'a> {
    /// systemd's unit, if it is one's.
    unit: Option<&'a str>,
    cgroup: &'a str,
    name: &'static str,
    wanted: Value,
    /// Drift already reported, so that it is said once.
    drifted: bool,
}

/// What systemd is asked: to bring back what is wanted of one unit. What drifts
/// elsewhere meanwhile is mended in the kernel's files.
struct Question<'a> {
    unit: &'a str,
    stage: Stage,
    next_us: u64,
    wait_us: u64,
    /// Something else is wanted since it was asked.
    again: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Nothing,
    /// It is to be asked, from `next_us` on.
    ToAsk,
    Asked,
    Done,
    /// It did not, or will not.
    NotDone,
}

impl<'a> Watch<'a> {
    /// Watches those knobs of the plan that the kernel shows as wanted now, of
    /// memory.max also the fallback; and all that are for systemd to write.
    pub fn new<K: Kernel>(
        kernel: &mut K,
        plan: &Plan<'a>,
        board: &Board<'_>,
        facts: &Facts,
    ) -> Self {
        let fallback = fallback_value(&board.qm, facts.memory);
        let mut fell_back = false;
        let mut knobs = Vec::new();
        for step in plan {
            let Step::Write { unit, path: cgroup, knob: name, value, .. } = *step else { continue };
            let Ok(file) = knob_path(cgroup, name) else { continue };
            let shown = shows(kernel, &file);
            let is = |value: Value| shown == cut::<32>(format_args!("{value}"));
            let wanted = if unit.is_some() || is(value) {
                value
            } else if name == FENCE && is(fallback) {
                fell_back = true;
                fallback
            } else {
                continue;
            };
            // As many as the plan has.
            let _ = knobs.push(Knob { unit, cgroup, name, wanted, drifted: false });
        }
        let question =
            Question { unit: "", stage: Stage::Nothing, next_us: 0, wait_us: 0, again: false };
        let (mend, memory) = (board.mend_drift, facts.memory);
        Self { knobs, question, fallback, fell_back, memory, mend, drifts: 0, mended: 0 }
    }

    /// The machine has this memory now: QM's limits that are a part of it follow.
    /// memory.max does not fall below what is in use, which would be a kill: the
    /// bytes that QM has too many until then.
    pub fn follow<K: Kernel>(&mut self, kernel: &mut K, qm: &Qm<'_>, memory: Memory) -> u64 {
        if memory.total_pages == 0 {
            return 0;
        }
        if memory != self.memory {
            let kib = memory.total_pages.saturating_mul(memory.page_bytes) / 1024;
            kernel.log(Level::Info, format_args!("the machine has {kib} KiB of memory now"));
            self.memory = memory;
            self.fallback = fallback_value(qm, memory);
        }
        let fence = if self.fell_back { self.fallback } else { Value::of(qm.memory_max, memory) };
        let swap = qm.swap_named.then(|| Value::of(qm.swap_max, memory));
        let mut too_many = 0;
        for (name, value) in [
            ("memory.min", Some(Value::of(qm.memory_min, memory))),
            ("memory.low", Some(Value::of(qm.memory_low, memory))),
            // Before memory.max: it is reclaimed at once.
            ("memory.high", Some(Value::of(qm.memory_high, memory))),
            (FENCE, Some(fence)),
            ("memory.swap.max", swap),
        ] {
            let known = |knob: &&Knob<'_>| knob.cgroup == qm.cgroup && knob.name == name;
            let (Some(knob), Some(value)) = (self.knobs.iter().find(known), value) else {
                continue;
            };
            if knob.wanted == value {
                continue;
            }
            if let (FENCE, Value::Number(bytes)) = (name, value) {
                let used = knob_path(qm.cgroup, "memory.current")
                    .ok()
                    .and_then(|file| decimal(&shows(kernel, &file)));
                let needed = used.unwrap_or(0).saturating_add(bytes / MARGIN);
                too_many = needed.saturating_sub(bytes);
                if too_many > 0 {
                    continue;
                }
            }
            self.want(kernel, qm.cgroup, name, value);
        }
        too_many
    }

    /// Wants another value of a knob of a cgroup from now on, if it is watched.
    pub fn want<K: Kernel>(&mut self, kernel: &mut K, cgroup: &str, name: &str, value: Value) {
        let known = |knob: &&mut Knob<'_>| knob.cgroup == cgroup && knob.name == name;
        let Some(knob) = self.knobs.iter_mut().find(known) else { return };
        knob.wanted = value;
        if let Some(unit) = knob.unit {
            // Not a drift to be reported, nor one that somebody makes again and again.
            knob.drifted = true;
            self.question.put(unit);
            self.question.wait_us = 0;
            // systemd is slower than the kernel's file, where there is one.
            if !is_populated(kernel, cgroup) {
                return;
            }
        }
        let Ok(file) = knob_path(cgroup, name) else { return };
        let wanted: String<32> = cut(format_args!("{value}"));
        match kernel.write(&file, wanted.as_bytes()) {
            Ok(()) => kernel.log(Level::Info, format_args!("limit {file}: {wanted}")),
            Err(errno) => {
                kernel.log(Level::Error, format_args!("limit {file}: wanted {wanted}, {errno}"));
            }
        }
    }

    /// One look at everything; whether anything is amiss at its end.
    pub fn look<K: Kernel>(&mut self, kernel: &mut K) -> bool {
        let now = kernel.now_us();
        let mut amiss = false;
        let (mut cgroup, mut populated) = ("", false);
        for knob in &mut self.knobs {
            let Ok(file) = knob_path(knob.cgroup, knob.name) else { continue };
            let wanted: String<32> = cut(format_args!("{}", knob.wanted));
            let shown = shows(kernel, &file);
            if knob.unit.is_some() {
                if cgroup != knob.cgroup {
                    (cgroup, populated) = (knob.cgroup, is_populated(kernel, knob.cgroup));
                }
                // A knob that isn't there is nobody's, but for the fence.
                if !populated || (shown.is_empty() && knob.name != FENCE) {
                    knob.drifted = false;
                    continue;
                }
            }
            let stage = self.question.stage_of(knob.unit);
            // Until systemd has answered it may be this program's own.
            let open = match stage {
                Stage::Done => self.question.again,
                stage => matches!(stage, Stage::ToAsk | Stage::Asked),
            };
            if shown == wanted {
                if knob.drifted && stage == Stage::Done && !open {
                    self.mended = self.mended.saturating_add(1);
                    say(kernel, Level::Info, "mended by systemd", &file, &wanted);
                }
                knob.drifted &= open;
                continue;
            }
            if !knob.drifted {
                knob.drifted = true;
                self.drifts = self.drifts.saturating_add(1);
                let shown = if shown.is_empty() { "nothing" } else { &shown };
                kernel.log(
                    Level::Warning,
                    format_args!("drift {file}: wanted {wanted}, found {shown}"),
                );
            }
            amiss = true;
            if let Some(unit) = knob.unit {
                let limit = if self.mend { knob.wanted } else { self.fallback };
                // Where the board file says so, what somebody set by hand stays;
                // but no limit at all is none.
                if knob.name == FENCE && (self.mend || shown == "max") {
                    fence(kernel, &file, &shown, limit);
                }
                if self.mend && stage == Stage::Nothing {
                    self.question.put(unit);
                }
                if self.question.is_with_systemd(unit, now) {
                    continue;
                }
            }
            if self.mend
                && kernel.write(&file, wanted.as_bytes()).is_ok()
                && shows(kernel, &file) == wanted
            {
                knob.drifted = false;
                self.mended = self.mended.saturating_add(1);
                say(kernel, Level::Info, "mended", &file, &wanted);
            }
        }
        if matches!(self.question.stage, Stage::Done | Stage::NotDone) {
            let again = core::mem::take(&mut self.question.again);
            self.question.stage = if again { Stage::ToAsk } else { Stage::Nothing };
        }
        amiss && self.knobs.iter().any(|knob| knob.drifted)
    }

    /// The command that asks systemd, if it is to be asked now, each word ended
    /// by a NUL: with all settings of the unit, since a knob that it has no word
    /// for (memory.oom.group) is written along with them.
    pub fn ask(&mut self, now: u64) -> Option<Text> {
        let question = &mut self.question;
        if question.stage != Stage::ToAsk || now < question.next_us {
            return None;
        }
        question.stage = Stage::Asked;
        let quiet = now >= question.next_us.saturating_add(QUIET_US);
        let wait_us = if quiet { 0 } else { question.wait_us.saturating_mul(2) };
        question.wait_us = wait_us.clamp(*ASK_US.start(), *ASK_US.end());
        question.next_us = now.saturating_add(question.wait_us);
        let mut text = Text::of(SET_PROPERTY, &[question.unit]);
        for knob in self.knobs.iter().filter(|knob| knob.unit == Some(question.unit)) {
            text.add_setting(knob.name, knob.wanted, "\0");
        }
        Some(text)
    }

    /// systemd has answered, or will not: the next look says what came of it,
    /// and mends in the kernel's files what is still amiss.
    pub fn answered(&mut self, done: bool) {
        self.question.stage = if done { Stage::Done } else { Stage::NotDone };
    }

    /// Another process goes on with this one's memory: who was asking is gone.
    pub fn forget_question(&mut self) {
        self.question.stage = Stage::Nothing;
    }
}

impl<'a> Question<'a> {
    /// Instead of another that is not asked yet: QM's knobs are the last in a look.
    fn put(&mut self, unit: &'a str) {
        if matches!(self.stage, Stage::Nothing | Stage::ToAsk) {
            (self.unit, self.stage) = (unit, Stage::ToAsk);
        } else {
            self.again |= self.unit == unit;
        }
    }

    fn stage_of(&self, unit: Option<&str>) -> Stage {
        if unit == Some(self.unit) { self.stage } else { Stage::Nothing }
    }

    fn is_with_systemd(&self, unit: &str, now: u64) -> bool {
        match self.stage_of(Some(unit)) {
            Stage::ToAsk => now >= self.next_us,
            stage => stage == Stage::Asked,
        }
    }
}

/// Whether there are processes in it: then systemd has written its knobs.
fn is_populated<K: Kernel>(kernel: &mut K, cgroup: &str) -> bool {
    knob_path(cgroup, "cgroup.events")
        .is_ok_and(|file| shows(kernel, &file).starts_with("populated 1"))
}

#[inline(never)]
fn say<K: Kernel>(kernel: &mut K, level: Level, what: &str, file: &str, value: &str) {
    kernel.log(level, format_args!("{what} {file}: {value}"));
}

/// Brings memory.max down to a limit, if it is above it or none at all.
fn fence<K: Kernel>(kernel: &mut K, file: &str, shown: &str, limit: Value) {
    let Value::Number(limit) = limit else { return };
    if decimal(shown).is_some_and(|shown| shown <= limit) {
        return;
    }
    let limit: String<32> = cut(format_args!("{limit}"));
    if kernel.write(file, limit.as_bytes()).is_ok() {
        say(kernel, Level::Warning, "fenced", file, &limit);
    }
}

#[cfg(test)]
mod tests;
