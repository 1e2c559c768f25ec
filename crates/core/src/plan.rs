//! The plan: what to do about the board file on this machine, in order.
//!
//! Pure: the same board and facts give the same plan, on any machine.

use core::fmt;

use heapless::Vec;

use crate::board::{Board, CpuWeight, Side, VarQm};
use crate::boot::{MOUNTS, ONLINE, UNPLUG_ONLINE};
use crate::facts::{CGROUP_ROOT, Facts};
use crate::kernel::Mount;
use crate::limit::{Limit, Memory};
use crate::systemd;
use crate::var_qm::MOUNT_POINT;

/// Steps of a plan: 4 for each of 8 host cgroups, 12 levels of QM's path, 13
/// of QM's knobs, the supervisor's own.
pub const STEPS_MAX: usize = 64;

/// The controllers that every level down to QM's cgroup has, in the words of
/// cgroup.subtree_control.
pub const CONTROLLERS: &str = "+memory +pids +cpu";
/// The supervisor's own cgroup.
pub const SUPERVISOR_CGROUP: &str = "/plimsoll";
/// memory.min of the supervisor's cgroup: twice the budget of its processes,
/// which leaves room for the kernel's own structures charged to them.
pub const SUPERVISOR_MIN_BYTES: u64 = 512 * 1024;

/// What a knob is for, and so what follows if it can't be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Duty {
    /// Without it QM is not started: its memory.max.
    Fence,
    /// A limit of QM: the board says what follows.
    Limit,
    /// QM's share of the CPU: reported only.
    Share,
    /// Protection of the host or the supervisor: reported only.
    Protection,
}

/// One step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// Make a cgroup (its parents come before it).
    Cgroup {
        /// Path below the cgroup2 mount.
        path: &'a str,
    },
    /// Enable [`CONTROLLERS`] for the children of a cgroup.
    Enable {
        /// Path below the cgroup2 mount; "" is the root.
        path: &'a str,
    },
    /// Write a knob and read it back; or have systemd write it.
    Write {
        /// systemd's unit, if the cgroup is one's.
        unit: Option<&'a str>,
        /// Path below the cgroup2 mount.
        path: &'a str,
        /// File name.
        knob: &'static str,
        /// What the kernel's file shall show.
        value: Value,
        /// What it is for.
        duty: Duty,
    },
}

/// What a knob's file shall show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    /// "max"
    Max,
    /// A number.
    Number(u64),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Max => f.write_str("max"),
            Self::Number(number) => write!(f, "{number}"),
        }
    }
}

impl Value {
    /// A limit in the kernel's words.
    #[must_use]
    pub fn of(limit: Limit, memory: Memory) -> Self {
        limit.kernel_bytes(memory).map_or(Self::Max, Self::Number)
    }
}

impl fmt::Display for Step<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cgroup { path } => write!(f, "mkdir {CGROUP_ROOT}{path}"),
            Self::Enable { path } => {
                write!(f, "write {CGROUP_ROOT}{path}/cgroup.subtree_control = {CONTROLLERS}")
            }
            Self::Write { unit, path, knob, value, .. } => {
                if let Some(unit) = unit {
                    write!(f, "have {unit} ")?;
                }
                write!(f, "write {CGROUP_ROOT}{path}/{knob} = {value}")
            }
        }
    }
}

/// The steps in order.
pub type Plan<'a> = Vec<Step<'a>, STEPS_MAX>;

/// The plan ran out of [`STEPS_MAX`]: QM's cgroup is nested too deeply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong;

/// Makes the plan. Controllers that the root does not offer are asked for all
/// the same: the refusal belongs in the record.
pub fn plan<'a>(board: &Board<'a>, facts: &Facts) -> Result<Plan<'a>, TooLong> {
    let mut plan = Builder(Plan::new());
    let own = Value::Number(page_floor(SUPERVISOR_MIN_BYTES, facts));
    plan.knobs_of(None, SUPERVISOR_CGROUP)?.write("memory.min", own, Duty::Protection)?;
    for path in &board.host.cgroups {
        let unit = systemd::slice_of(path).filter(|_| board.qm.unit.is_some());
        let mut to = plan.knobs_of(unit, path)?;
        if let Some(bytes) = board.host.memory_min_bytes {
            let value = Value::Number(page_floor(bytes, facts));
            to.write("memory.min", value, Duty::Protection)?;
        }
    }
    plan_qm(&mut plan.knobs_of(board.qm.unit, board.qm.cgroup)?, board, facts)?;
    Ok(plan.0)
}

/// QM's cgroup: the order of the knobs is systemd's (cgroup_context_apply),
/// high before max among them.
fn plan_qm(to: &mut Knobs<'_, '_>, board: &Board<'_>, facts: &Facts) -> Result<(), TooLong> {
    let qm = &board.qm;
    match qm.cpu_weight {
        CpuWeight::Idle => to.write("cpu.idle", Value::Number(1), Duty::Share)?,
        CpuWeight::Weight(weight) => {
            to.write("cpu.idle", Value::Number(0), Duty::Share)?;
            to.write("cpu.weight", Value::Number(u64::from(weight)), Duty::Share)?;
        }
    }
    let limits = [
        ("memory.min", qm.memory_min, Duty::Limit),
        ("memory.low", qm.memory_low, Duty::Limit),
        ("memory.high", qm.memory_high, Duty::Limit),
        ("memory.max", qm.memory_max, Duty::Fence),
        ("memory.swap.max", qm.swap_max, Duty::Limit),
    ];
    for (knob, limit, duty) in limits {
        to.write(knob, Value::of(limit, facts.memory), duty)?;
    }
    // A slice's is always 0 to systemd.
    if qm.unit.and_then(systemd::slice_of).is_none() {
        to.write("memory.oom.group", Value::Number(u64::from(qm.oom_group)), Duty::Limit)?;
    }
    let pids = qm.pids_max.map_or(Value::Max, |max| Value::Number(u64::from(max)));
    to.write("pids.max", pids, Duty::Limit)
}

/// Bytes rounded down to whole pages, as the kernel does with a limit.
fn page_floor(bytes: u64, facts: &Facts) -> u64 {
    bytes - bytes.checked_rem(facts.memory.page_bytes).unwrap_or(0)
}

struct Builder<'a>(Plan<'a>);

impl<'a> Builder<'a> {
    #[inline(never)]
    fn push(&mut self, step: Step<'a>) -> Result<(), TooLong> {
        // Parents are shared: each is made, and each controller enabled, once.
        if self.0.contains(&step) {
            return Ok(());
        }
        self.0.push(step).map_err(|_| TooLong)
    }

    /// The cgroup and those above it, each with the controllers of the level
    /// below enabled in it.
    fn cgroup(&mut self, path: &'a str) -> Result<(), TooLong> {
        let mut parent = "";
        let slashes = path.bytes().enumerate().filter(|(at, byte)| *at > 0 && *byte == b'/');
        let ends = slashes.map(|(at, _)| at);
        for end in ends.chain([path.len()]) {
            self.push(Step::Enable { path: parent })?;
            parent = path.get(..end).unwrap_or(path);
            self.push(Step::Cgroup { path: parent })?;
        }
        Ok(())
    }

    /// Makes the cgroup, unless it is a unit's, which systemd makes.
    fn knobs_of(&mut self, unit: Option<&'a str>, path: &'a str) -> Result<Knobs<'_, 'a>, TooLong> {
        if unit.is_none() {
            self.cgroup(path)?;
        }
        Ok(Knobs { plan: self, unit, path })
    }
}

/// The knobs of one cgroup, and whose they are to write.
struct Knobs<'p, 'a> {
    plan: &'p mut Builder<'a>,
    unit: Option<&'a str>,
    path: &'a str,
}

impl Knobs<'_, '_> {
    fn write(&mut self, knob: &'static str, value: Value, duty: Duty) -> Result<(), TooLong> {
        let Self { unit, path, .. } = *self;
        self.plan.push(Step::Write { unit, path, knob, value, duty })
    }
}

/// Says everything that a boot with this plan does, in order, one line a call.
pub fn outline(board: &Board<'_>, plan: &Plan<'_>, line: &mut dyn FnMut(fmt::Arguments<'_>)) {
    for Mount { target, fstype, data, .. } in &MOUNTS {
        line(format_args!("mount {fstype} on {target}, unless mounted {data}"));
    }
    let virtio_mem = board.virtio_mem.is_some();
    for (file, value) in [ONLINE].iter().filter(|_| virtio_mem) {
        line(format_args!("write {file} = {value}"));
    }
    for module in &board.modules {
        line(format_args!("load {module}"));
    }
    for (file, value) in [UNPLUG_ONLINE].iter().filter(|_| virtio_mem) {
        line(format_args!("write {file} = {value}"));
    }
    for step in plan {
        line(format_args!("{step}"));
    }
    if let Some(VarQm { identity, options, wait_secs, .. }) = &board.var_qm {
        let wait_secs = u64::from(*wait_secs);
        line(format_args!(
            "mount {identity} on {MOUNT_POINT}, waiting {wait_secs} s at most nodev,nosuid {options}"
        ));
    }
    let score = i64::from(board.init_oom_score_adj);
    line(format_args!("write /proc/1/oom_score_adj = {score}"));
    if let Some(init) = board.next_init {
        line(format_args!("start {init} as PID 1"));
        return;
    }
    line(format_args!("stay PID 1"));
    for payload in &board.payloads {
        let side = match payload.side {
            Side::Host => "the host",
            Side::Qm => "QM",
        };
        let program = payload.command.first().copied().unwrap_or_default();
        let score = i64::from(payload.oom_score_adj);
        line(format_args!("start {program} for {side} as {}, OOM score {score}", payload.name));
    }
}
