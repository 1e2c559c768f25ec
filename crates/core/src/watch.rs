//! Keeping the limits true: each knob that was right once is looked at again,
//! and a value that drifted is reported and, if the board says so, mended.

use heapless::{String, Vec};

use crate::apply::{knob_path, shows};
use crate::board::Board;
use crate::boot::fallback_value;
use crate::facts::Facts;
use crate::kernel::{Kernel, Level};
use crate::plan::{Plan, STEPS_MAX, Step, Value};
use crate::record::cut;

/// Between two looks, in microseconds: 1 s. A look is one read a knob.
pub const PERIOD_US: u64 = 1_000_000;

/// What is watched, and what came of it.
pub struct Watch<'a> {
    knobs: Vec<Knob<'a>, STEPS_MAX>,
    mend: bool,
    /// Times a knob was found with another value than the one wanted.
    pub drifts: u32,
    /// Times the wanted value was brought back.
    pub mended: u32,
}

struct Knob<'a> {
    cgroup: &'a str,
    name: &'static str,
    wanted: Value,
    /// Drift already reported, so that it is said once.
    drifted: bool,
}

impl<'a> Watch<'a> {
    /// Watches those knobs of the plan that the kernel shows as wanted now; of
    /// memory.max also the fallback.
    pub fn new<K: Kernel>(
        kernel: &mut K,
        plan: &Plan<'a>,
        board: &Board<'_>,
        facts: &Facts,
    ) -> Self {
        let fallback = fallback_value(board, facts);
        let mut knobs = Vec::new();
        for step in plan {
            let Step::Write { path, knob, value, .. } = *step else { continue };
            let Ok(file) = knob_path(path, knob) else { continue };
            let shown = shows(kernel, &file);
            let is = |value: Value| shown == cut::<32>(format_args!("{value}"));
            let wanted = if is(value) {
                value
            } else if knob == "memory.max" && is(fallback) {
                fallback
            } else {
                continue;
            };
            // As many as the plan has.
            let _ = knobs.push(Knob { cgroup: path, name: knob, wanted, drifted: false });
        }
        Self { knobs, mend: board.mend_drift, drifts: 0, mended: 0 }
    }

    /// Wants another value of a knob of a cgroup from now on, if it is watched.
    pub fn want<K: Kernel>(&mut self, kernel: &mut K, cgroup: &str, name: &str, value: Value) {
        let known = |knob: &&mut Knob<'_>| knob.cgroup == cgroup && knob.name == name;
        let Some(knob) = self.knobs.iter_mut().find(known) else { return };
        knob.wanted = value;
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
        let mut amiss = false;
        for knob in &mut self.knobs {
            let Ok(file) = knob_path(knob.cgroup, knob.name) else { continue };
            let wanted: String<32> = cut(format_args!("{}", knob.wanted));
            let shown = shows(kernel, &file);
            if shown == wanted {
                knob.drifted = false;
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
            if self.mend
                && kernel.write(&file, wanted.as_bytes()).is_ok()
                && shows(kernel, &file) == wanted
            {
                knob.drifted = false;
                self.mended = self.mended.saturating_add(1);
                kernel.log(Level::Info, format_args!("mended {file}: {wanted}"));
            }
            amiss |= knob.drifted;
        }
        amiss
    }
}
