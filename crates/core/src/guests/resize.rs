//! A guest's way to another size: step by step, as fast as it follows, and no
//! faster than the machine's memory and pressure allow.

use core::fmt;

use super::MIB;
use super::qmp::{Available, Sizes};
use crate::json::{Json, standing};

/// What is asked for at once, in bytes: two memory blocks of Linux as they mostly
/// are. What the guest can't give is known after so much, not after all of it.
const STEP_BYTES: u64 = 256 * MIB;
/// A guest that does not move is asked again after so long, in microseconds: 5 s,
/// doubled each time, at most 60 s. Its driver tries again by itself after 50 s, and
/// at most 300.
const NUDGE_US: core::ops::RangeInclusive<u64> = 5_000_000..=60_000_000;

/// How long a guest's balloon may take to say for the first time what is available,
/// in microseconds: 5 s. It is asked each second. A guest without a driver for it
/// never does.
const SILENT_US: u64 = 5_000_000;

/// How it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It moves.
    Moving,
    /// The guest does not do what it was asked.
    Still,
    /// There is pressure: on the machine where it grows, in the VMM where it
    /// shrinks.
    Pressed,
    /// So many bytes more have to be available: on the machine where it grows, in the
    /// guest where it shrinks.
    Short(u64),
    /// So many bytes are promised to others.
    Promised(u64),
    /// The VMM does not answer.
    Silent,
    /// It is stopped.
    Stopped,
    /// The size is reached.
    Done,
}

impl State {
    /// In words.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Moving => "moving",
            Self::Still => "held: the guest does not follow",
            Self::Pressed => "held: pressure",
            Self::Short(_) => "held: too little is available",
            Self::Promised(_) => "held: promised to others",
            Self::Silent => "held: the VMM does not answer",
            Self::Stopped => "stopped",
            Self::Done => "done",
        }
    }
}

/// What the machine allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gate {
    /// MemAvailable, in bytes.
    pub available: u64,
    /// What of it is to stay, here and in the guest.
    pub margin: u64,
    /// Whether its tasks stand still for memory or io.
    pub pressed: bool,
    /// Whether the VMM's do.
    pub vmm_pressed: bool,
}

/// One such way; sizes are the whole guest's, in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resize {
    target: u64,
    stop: bool,
    pub(super) state: State,
    /// Where and when it began.
    begun: Option<(u64, u64)>,
    size: u64,
    moved_us: u64,
    nudge_us: u64,
    /// When the guest said last what is available in it; what it had then, and what
    /// it had when it said so before: it may have counted at any time between.
    said_secs: u64,
    had: [u64; 2],
}

impl Resize {
    /// From one size to another.
    #[must_use]
    pub fn new(size: u64, target: u64) -> Self {
        let (state, nudge_us) = (State::Moving, *NUDGE_US.start());
        Self {
            target,
            stop: false,
            state,
            begun: None,
            size,
            moved_us: 0,
            nudge_us,
            said_secs: 0,
            had: [0; 2],
        }
    }

    /// Stays where it is.
    pub fn stop(&mut self) {
        self.stop = true;
    }

    /// Whether nothing more comes of it.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self.state, State::Stopped | State::Done)
    }

    /// What an answer that tells of it is called.
    #[must_use]
    pub fn key(&self) -> &'static str {
        match self.state {
            State::Stopped => "stopped",
            State::Done => "resized",
            _ => "resizing",
        }
    }

    /// What the devices are to be asked for now, if anything.
    pub fn next(&mut self, sizes: &Sizes, gate: Gate, now: u64) -> Option<Sizes> {
        let (size, requested) = (sizes.size(), sizes.requested());
        let whole = sizes.fixed.saturating_add(size);
        if self.begun.is_none() || whole != self.size {
            (self.size, self.moved_us, self.nudge_us) = (whole, now, *NUDGE_US.start());
        }
        let (_, begun_us) = *self.begun.get_or_insert((whole, now));
        let Available { bytes, at_secs } = sizes.available;
        if at_secs != self.said_secs {
            (self.said_secs, self.had) = (at_secs, [self.had[1], size]);
        }
        if self.is_over() {
            return None;
        }
        if self.stop {
            self.state = State::Stopped;
            return (requested != size).then(|| sizes.asked_for(size));
        }
        let goal = sizes.asked_for(self.target.saturating_sub(sizes.fixed)).requested();
        let grows = goal > size;
        let under_way = if grows { size..=goal } else { goal..=size };
        if requested == size && size == goal {
            self.state = State::Done;
            return None;
        }
        if requested != size && under_way.contains(&requested) {
            if now.saturating_sub(self.moved_us) < self.nudge_us {
                return None;
            }
            self.state = State::Still;
            self.moved_us = now;
            self.nudge_us = self.nudge_us.saturating_mul(2).min(*NUDGE_US.end());
            return Some(sizes.asked_for(requested));
        }
        let step = goal.abs_diff(size).min(STEP_BYTES);
        let (available, pressed) = match grows {
            true => (gate.available, gate.pressed),
            false if at_secs == 0 && now.saturating_sub(begun_us) >= SILENT_US => {
                (u64::MAX, gate.vmm_pressed)
            }
            false => (bytes.saturating_sub(self.had[0].saturating_sub(size)), gate.vmm_pressed),
        };
        self.state = match step.saturating_add(gate.margin).checked_sub(available) {
            _ if pressed => State::Pressed,
            Some(missing @ 1..) => State::Short(missing),
            _ => State::Moving,
        };
        if self.state != State::Moving {
            return None;
        }
        self.moved_us = now;
        let next = if grows { size.saturating_add(step) } else { size.saturating_sub(step) };
        // Blocks may be larger than a step.
        let asked = sizes.asked_for(next);
        Some(if asked.requested() == size { sizes.asked_for(goal) } else { asked })
    }
}

impl fmt::Display for Json<&Resize> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Resize { target, state, size, begun, moved_us, .. } = self.0;
        let left = size.abs_diff(*target);
        let (from, begun_us) = begun.unwrap_or((*size, 0));
        let ms = moved_us.saturating_sub(begun_us) / 1000;
        let rate = size.abs_diff(from).saturating_mul(1000).checked_div(ms).unwrap_or(0);
        let missing = match state {
            State::Short(missing) | State::Promised(missing) => *missing,
            _ => 0,
        };
        let members = [
            ("target_bytes", *target),
            ("memory_bytes", *size),
            ("left_bytes", left),
            ("bytes_per_sec", rate),
            ("left_secs", left.checked_div(rate).unwrap_or(0)),
            ("missing_bytes", missing),
        ];
        standing(f, state.word(), &members)
    }
}

#[cfg(test)]
mod tests;
