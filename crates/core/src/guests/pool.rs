//! A reserve that all running guests have together.
//!
//! Each guest's share of it is in proportion to its memory, so every start and
//! stop changes all of them. A limit is lowered only to what a look has just
//! shown to be free: so the shares are what is aimed at, and what is granted is
//! what counts. The sum of what is granted never exceeds the reserve, whatever
//! comes in what order.
//!
//! A newcomer waits until all who have more than their new share have been
//! probed (memory.reclaim, which takes nothing by force). Then it gets what is
//! free, or is refused. What is freed later goes to those who have less than
//! their share.

use core::fmt;

use heapless::{String, Vec};

use super::value::Field;
use super::{GUESTS_MAX, MIB, NAME_MAX};

/// Grants are multiples of this, in bytes: the largest page of the two
/// architectures, so that the kernel's file shows a limit as it was written.
const BLOCK_BYTES: u64 = 64 << 10;
/// A grant below this starts no VMM, in bytes: a QEMU that hasn't run its guest
/// yet has 42 to 49 MiB.
pub const LEAST_BYTES: u64 = 64 * MIB;
/// A limit is lowered by at least this, unless the share is reached, in bytes:
/// a VMM's use is never still.
const STEP_BYTES: u64 = MIB;

/// What is to be done, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action<'a> {
    /// memory.reclaim of the guest's cgroup, as much as is missing between its
    /// use with the margin and this limit; then [`Pool::probed`].
    Probe {
        /// Whose.
        name: &'a str,
        /// What its limit ought to be, in bytes.
        limit_bytes: u64,
    },
    /// memory.max of the guest's cgroup. The first one of a guest that waited
    /// is its admission.
    Limit {
        /// Whose.
        name: &'a str,
        /// In bytes.
        bytes: u64,
    },
    /// The guest is not to be started.
    Refuse {
        /// Who.
        name: &'a str,
        /// Why not.
        why: &'a Refusal,
    },
}

/// Why a guest is not to be started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A guest of this name runs or waits, or it is no name.
    Name,
    /// There are [`GUESTS_MAX`] already.
    Full,
    /// Its memory, this many bytes, is no size for a guest.
    Size(u64),
    /// Its own memory is more than guests may have together.
    Memory(Missing),
    /// Of the reserve too little is free.
    Reserve(Missing),
}

/// What a guest can't have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// How much there is too little, in bytes.
    pub bytes: u64,
    /// The guest that has the most: of the reserve, above its share. Empty where
    /// none has.
    pub holder: String<NAME_MAX>,
    /// How much that is, in bytes.
    pub held_bytes: u64,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, missing) = match self {
            Self::Name => return f.write_str("name: taken, or none"),
            Self::Full => return f.write_str("guests: 16 already, allowed are 16"),
            Self::Size(bytes) => {
                let allowed = Field::Memory.allowed();
                return write!(f, "memory: found {bytes}, allowed is {allowed}");
            }
            Self::Memory(missing) => ("memory", missing),
            Self::Reserve(missing) => ("reserve", missing),
        };
        write!(f, "{what}: {} bytes missing", missing.bytes)?;
        if !missing.holder.is_empty() {
            write!(f, ", {} holds {}", missing.holder, missing.held_bytes)?;
        }
        Ok(())
    }
}

/// A guest that runs or waits to.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Guest {
    name: String<NAME_MAX>,
    memory_bytes: u64,
    /// What its limit is above its memory, in bytes; 0 while it waits.
    grant_bytes: u64,
    /// Whether an answer to a probe is to come.
    probed: bool,
}

impl Guest {
    fn waits(&self) -> bool {
        self.grant_bytes == 0
    }

    fn limit(&self, grant_bytes: u64) -> u64 {
        self.memory_bytes.saturating_add(grant_bytes)
    }
}

/// Who does [`Action`]s; whether it was done. A limit that could not be lowered
/// stays what it was, and nobody gets what it would have freed.
pub type Sink<'s> = &'s mut dyn FnMut(Action<'_>) -> bool;

/// The reserve and who has what of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    reserve_bytes: u64,
    memory_bytes: u64,
    margin_bytes: u64,
    guests: Vec<Guest, GUESTS_MAX>,
}

/// Of a reserve that guests with `all` bytes have together, the share of one
/// with `memory`, in whole blocks; `None` where the sizes are absurd.
pub(super) fn share(reserve: u64, memory: u64, all: u64) -> Option<u64> {
    let blocks = (reserve / BLOCK_BYTES).checked_mul(memory / BLOCK_BYTES)?;
    blocks.checked_div(all.div_ceil(BLOCK_BYTES))?.checked_mul(BLOCK_BYTES)
}

impl Pool {
    /// A pool without guests: the reserve, what the guests' own memory may come
    /// to besides, and what a guest keeps above its use.
    #[must_use]
    pub fn new(reserve_bytes: u64, memory_bytes: u64, margin_bytes: u64) -> Self {
        let reserve_bytes = reserve_bytes / BLOCK_BYTES * BLOCK_BYTES;
        Self { reserve_bytes, memory_bytes, margin_bytes, guests: Vec::new() }
    }

    /// A guest wants to start. It may when it gets its [`Action::Limit`].
    pub fn start(&mut self, name: &str, memory_bytes: u64, sink: Sink<'_>) {
        if let Err(why) = self.enter(name, memory_bytes) {
            sink(Action::Refuse { name, why: &why });
            return;
        }
        self.press(sink);
        self.settle(sink);
    }

    /// What the reserve is now, and what the guests' own memory may come to.
    pub fn allow(&mut self, reserve_bytes: u64, memory_bytes: u64) {
        self.reserve_bytes = reserve_bytes / BLOCK_BYTES * BLOCK_BYTES;
        self.memory_bytes = memory_bytes;
    }

    /// A guest's memory is another now, or is about to be: more, if there is as
    /// much, or less, as far as its use, just read, lets the limit fall.
    ///
    /// # Errors
    /// There is not as much.
    pub fn resize(
        &mut self,
        name: &str,
        memory_bytes: u64,
        use_bytes: u64,
        sink: Sink<'_>,
    ) -> Result<(), Missing> {
        let there = self.memory_bytes.saturating_sub(self.memory());
        let Some(at) = self.find(name) else { return Ok(()) };
        let Some(guest) = self.guests.get(at) else { return Ok(()) };
        let (had, grant, waits) = (guest.memory_bytes, guest.grant_bytes, guest.waits());
        if let Some(more) = memory_bytes.checked_sub(had.saturating_add(there)).filter(|it| *it > 0)
        {
            return Err(self.missing(more, |guest| guest.memory_bytes));
        }
        let used = use_bytes.saturating_add(self.margin_bytes).saturating_sub(grant);
        let used = used.div_ceil(BLOCK_BYTES).saturating_mul(BLOCK_BYTES);
        let memory_bytes = if memory_bytes < had && !waits {
            memory_bytes.max(used).min(had)
        } else {
            memory_bytes
        };
        let bytes = memory_bytes.saturating_add(grant);
        let name = match self.guests.get(at) {
            Some(guest) if memory_bytes != had => &guest.name,
            _ => return Ok(()),
        };
        if waits || sink(Action::Limit { name, bytes }) || memory_bytes > had {
            if let Some(guest) = self.guests.get_mut(at) {
                guest.memory_bytes = memory_bytes;
            }
            self.press(sink);
            self.settle(sink);
        }
        Ok(())
    }

    /// A guest is gone, or does not wait any more.
    pub fn stop(&mut self, name: &str, sink: Sink<'_>) {
        self.guests.retain(|guest| guest.name != name);
        self.settle(sink);
    }

    /// memory.current of a guest's cgroup, just read.
    pub fn seen(&mut self, name: &str, use_bytes: u64, sink: Sink<'_>) {
        if let Some(at) = self.find(name) {
            self.lower(at, use_bytes, sink);
            self.settle(sink);
        }
    }

    /// The answer to a probe: memory.current after it; `None` where it could not
    /// be done.
    pub fn probed(&mut self, name: &str, use_bytes: Option<u64>, sink: Sink<'_>) {
        let Some(at) = self.find(name) else { return };
        if let Some(guest) = self.guests.get_mut(at) {
            guest.probed = false;
        }
        if let Some(use_bytes) = use_bytes {
            self.lower(at, use_bytes, sink);
        }
        self.settle(sink);
    }

    /// Probes those who have more than their share, if anybody has less. A start
    /// does it; again after a while, since a VMM's page cache does not go away
    /// by itself.
    pub fn press(&mut self, sink: Sink<'_>) {
        let lacks = |guest: &Guest| guest.grant_bytes < self.aim(guest);
        if !self.guests.iter().any(lacks) {
            return;
        }
        for at in 0..self.guests.len() {
            let Some(guest) = self.guests.get(at) else { break };
            let aim = self.aim(guest);
            if guest.grant_bytes > aim && !guest.probed {
                sink(Action::Probe { name: &guest.name, limit_bytes: guest.limit(aim) });
                if let Some(guest) = self.guests.get_mut(at) {
                    guest.probed = true;
                }
            }
        }
    }

    /// memory.max of a guest that runs, in bytes.
    #[must_use]
    pub fn limit(&self, name: &str) -> Option<u64> {
        let guest = self.guests.get(self.find(name)?)?;
        (!guest.waits()).then(|| guest.limit(guest.grant_bytes))
    }

    /// Whether a guest of this name runs or waits.
    #[must_use]
    pub fn knows(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    /// The guests' own memory, in bytes.
    #[must_use]
    pub fn memory(&self) -> u64 {
        self.guests.iter().map(|guest| guest.memory_bytes).sum()
    }

    /// What a guest keeps above its use, in bytes.
    #[must_use]
    pub fn margin_bytes(&self) -> u64 {
        self.margin_bytes
    }

    /// What of the reserve nobody has, in bytes.
    #[must_use]
    pub fn free_bytes(&self) -> u64 {
        let granted = self.guests.iter().map(|guest| guest.grant_bytes).sum();
        self.reserve_bytes.saturating_sub(granted)
    }

    /// Of each guest its name, its limit (0 while it waits) and the one that is
    /// aimed at, in bytes.
    pub fn guests(&self) -> impl Iterator<Item = (&str, u64, u64)> {
        self.guests.iter().map(|guest| {
            let limit = if guest.waits() { 0 } else { guest.limit(guest.grant_bytes) };
            (&*guest.name, limit, guest.limit(self.aim(guest)))
        })
    }

    fn find(&self, name: &str) -> Option<usize> {
        self.guests.iter().position(|guest| guest.name == name)
    }

    /// What a guest ought to have of the reserve: its share, or the least.
    fn aim(&self, guest: &Guest) -> u64 {
        let share = share(self.reserve_bytes, guest.memory_bytes, self.memory());
        share.unwrap_or(0).max(LEAST_BYTES)
    }

    fn enter(&mut self, name: &str, memory_bytes: u64) -> Result<(), Refusal> {
        if !Field::Memory.allows(memory_bytes) {
            return Err(Refusal::Size(memory_bytes));
        }
        let name = String::try_from(name).map_err(|_| Refusal::Name)?;
        if name.is_empty() || self.find(&name).is_some() {
            return Err(Refusal::Name);
        }
        let there = self.memory_bytes.saturating_sub(self.memory());
        if memory_bytes > there {
            let missing = self.missing(memory_bytes - there, |guest| guest.memory_bytes);
            return Err(Refusal::Memory(missing));
        }
        let guest = Guest { name, memory_bytes, grant_bytes: 0, probed: false };
        self.guests.push(guest).map_err(|_| Refusal::Full)
    }

    fn missing(&self, bytes: u64, held: impl Fn(&Guest) -> u64) -> Missing {
        let holder = self.guests.iter().max_by_key(|guest| held(guest));
        let (name, held_bytes) = match holder {
            Some(guest) if held(guest) > 0 => (guest.name.clone(), held(guest)),
            _ => (String::new(), 0),
        };
        Missing { bytes, holder: name, held_bytes }
    }

    /// Lowers a guest's limit towards its share, as far as its use was just seen
    /// to allow.
    fn lower(&mut self, at: usize, use_bytes: u64, sink: Sink<'_>) {
        let Some(guest) = self.guests.get(at) else { return };
        let aim = self.aim(guest);
        let used = use_bytes.saturating_add(self.margin_bytes).saturating_sub(guest.memory_bytes);
        let needed = used.div_ceil(BLOCK_BYTES).saturating_mul(BLOCK_BYTES).max(aim);
        let less = guest.grant_bytes.saturating_sub(needed);
        if less >= STEP_BYTES || (less > 0 && needed == aim) {
            self.grant(at, needed, sink);
        }
    }

    /// Gives what is free: to those who wait once no answer is to come, and then
    /// to those who have less than their share.
    fn settle(&mut self, sink: Sink<'_>) {
        if self.guests.iter().any(Guest::waits) && self.guests.iter().any(|guest| guest.probed) {
            return;
        }
        let mut at = 0;
        while let Some(guest) = self.guests.get(at) {
            let free = self.free_bytes();
            if !guest.waits() {
                at += 1;
            } else if free >= LEAST_BYTES {
                self.grant(at, self.aim(guest).min(free), sink);
                at += 1;
            } else {
                let above = |guest: &Guest| guest.grant_bytes.saturating_sub(self.aim(guest));
                let why = Refusal::Reserve(self.missing(LEAST_BYTES - free, above));
                let refused = self.guests.remove(at);
                sink(Action::Refuse { name: &refused.name, why: &why });
            }
        }
        for at in 0..self.guests.len() {
            let Some(guest) = self.guests.get(at) else { break };
            let (had, aim) = (guest.grant_bytes, self.aim(guest));
            let more = aim.saturating_sub(had).min(self.free_bytes());
            if more > 0 {
                self.grant(at, had.saturating_add(more), sink);
            }
        }
    }

    fn grant(&mut self, at: usize, grant_bytes: u64, sink: Sink<'_>) {
        if let Some(guest) = self.guests.get_mut(at) {
            let bytes = guest.limit(grant_bytes);
            if sink(Action::Limit { name: &guest.name, bytes }) || grant_bytes > guest.grant_bytes {
                guest.grant_bytes = grant_bytes;
            }
        }
    }
}

#[cfg(test)]
mod tests;
