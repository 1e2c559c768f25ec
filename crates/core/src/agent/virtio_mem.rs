//! Memory that the host takes back: virtio-mem's request to shrink, block by block.
//!
//! The driver alone takes memory until none is left, and the OOM killer follows.
//! Here it is kept from what is online (its parameter `unplug_online`), and gets a
//! block only where enough stays available without it. Its request is nowhere but
//! in the kernel's log, and so is the size that it has.

#[cfg(test)]
mod tests;

use core::fmt;

use embedded_io::Read;
use heapless::Vec;

use super::lines::Lines;
use crate::json::{Json, standing};
use crate::limit::{Limit, Memory};
use crate::number::{decimal, in_radix};
use crate::split::{lines, split_once};

/// Devices minded; a guest has one, or one for each of its memory nodes.
pub const DEVICES_MAX: usize = 4;
/// How a line of the driver begins, but for the device's number.
const DRIVER: &str = "virtio_mem virtio";
/// How it goes on.
const PLUGGED: &str = " plugged size: 0x";
const REQUESTED: &str = " requested size: 0x";
/// A device's memory in /proc/iomem.
const RAM: &str = "System RAM (virtio_mem)";
/// From one look at memory that is missing to the next, in microseconds: 1 s.
const LOOK_US: u64 = 1_000_000;
/// From one try to the next where no block can be had, and from one reclaim of QM to
/// the next, in microseconds: 10 s, doubled each time, at most 5 min. What holds
/// blocks is pinned; what QM gave up may be in use, and come back from swap.
const RETRY_US: core::ops::RangeInclusive<u64> = 10_000_000..=300_000_000;

/// What a device says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// So many bytes it has.
    Plugged(u64),
    /// So many it is to have; always said after the other.
    Requested(u64),
}

/// Reads a record of /dev/kmsg (Documentation/ABI/testing/dev-kmsg): which device
/// says what, if it is the driver's. Facility 0 is the kernel's alone.
#[must_use]
pub fn heard(record: &[u8]) -> Option<(u64, Size)> {
    let line = record.split(|byte| *byte == b'\n').next()?;
    let (head, message) = split_once(core::str::from_utf8(line).ok()?, b';')?;
    let (device, size) = split_once(message.strip_prefix(DRIVER)?, b':')?;
    let size = if let Some(bytes) = size.strip_prefix(PLUGGED) {
        Size::Plugged(in_radix(bytes, 16)?)
    } else {
        Size::Requested(in_radix(size.strip_prefix(REQUESTED)?, 16)?)
    };
    let (priority, _) = split_once(head, b',')?;
    (decimal(priority)? >> 3 == 0).then_some((decimal(device)?, size))
}

/// The highest memory block of a device below `below` that is online, from
/// /proc/iomem.
///
/// # Errors
/// The reader's.
pub fn highest_block<R: Read>(
    iomem: R,
    device: u64,
    block_bytes: u64,
    below: u64,
    mut is_online: impl FnMut(u64) -> bool,
) -> Result<Option<u64>, R::Error> {
    let mut lines = Lines::new(iomem);
    let (mut within, mut highest) = (None, None);
    while let Some(line) = lines.next()? {
        let text = core::str::from_utf8(line.text).unwrap_or_default();
        let Some((range, name)) = split_once(text.trim_ascii_start(), b':') else { continue };
        let (range, name) = (range.trim_ascii_end(), name.trim_ascii_start());
        if let Some(number) = name.strip_prefix("virtio") {
            within = decimal(number);
        } else if name == RAM
            && within == Some(device)
            && let Some((first, last)) = split_once(range, b'-')
            && let (Some(first), Some(last)) = (in_radix(first, 16), in_radix(last, 16))
            && let (Some(first), Some(last)) =
                (first.checked_div(block_bytes), last.checked_div(block_bytes))
        {
            let end = last.saturating_add(1).min(below);
            highest = (first..end).rev().find(|block| is_online(*block)).max(highest);
        }
    }
    Ok(highest)
}

/// The machine's memory, in bytes, as /proc/meminfo has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Meminfo {
    /// MemTotal
    pub total: u64,
    /// MemFree
    pub free: u64,
    /// MemAvailable
    pub available: u64,
}

impl Meminfo {
    /// Reads its first lines; what is missing is 0, and then nothing is given away.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let bytes = |name: &str| {
            let line = lines(text).find_map(|line| line.strip_prefix(name));
            let kib = line.and_then(|line| decimal(line.split_ascii_whitespace().next()?));
            kib.unwrap_or(0).saturating_mul(1024)
        };
        Self {
            total: bytes("MemTotal:"),
            free: bytes("MemFree:"),
            available: bytes("MemAvailable:"),
        }
    }
}

/// What is to be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing before [`Shrink::deadline_us`].
    Wait,
    /// Reclaim so many bytes of QM.
    Reclaim(u64),
    /// Take a block offline.
    Offline(Target),
}

/// Which block: the highest one that is online.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// The device's number.
    pub device: u64,
    /// Below this one: those above were refused.
    pub below: u64,
    /// Bytes of a block.
    pub block_bytes: u64,
}

/// How it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The devices have what they are to have.
    Idle,
    /// Blocks go.
    Shrinking,
    /// So many bytes more have to be available before the next one goes.
    Short(u64),
    /// The kernel gives no block that is left.
    Refused,
}

impl State {
    /// In a word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Shrinking => "shrinking",
            Self::Short(_) => "held: too little is available",
            Self::Refused => "held: the kernel gives no block",
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Device {
    number: u64,
    plugged: u64,
    requested: u64,
    /// Bytes still to go.
    left: u64,
}

/// The shrinking of all devices, one after another.
#[derive(Debug)]
pub struct Shrink {
    /// What has to be available after each block, a part of what is there then.
    min_available: Limit,
    /// Bytes of a memory block; 0: not known yet.
    pub block_bytes: u64,
    devices: Vec<Device, DEVICES_MAX>,
    state: State,
    /// Blocks from here on were tried.
    below: u64,
    /// When to look again.
    look_us: u64,
    /// When QM may be reclaimed again.
    reclaim_us: u64,
    wait_us: u64,
    retry_us: u64,
    /// Whether the last block tried is for the request that counts.
    current: bool,
    /// Bytes given back since the request, and the time it took.
    freed: u64,
    busy_us: u64,
}

impl Shrink {
    /// Nothing was heard yet.
    #[must_use]
    pub fn new(min_available: Limit) -> Self {
        Self {
            min_available,
            block_bytes: 0,
            devices: Vec::new(),
            state: State::Idle,
            below: u64::MAX,
            look_us: 0,
            reclaim_us: 0,
            wait_us: 0,
            retry_us: 0,
            current: false,
            freed: 0,
            busy_us: 0,
        }
    }

    /// Takes what a device said; a request begins anew. False: of one too many.
    pub fn hear(&mut self, number: u64, size: Size) -> bool {
        let at = self.devices.iter().position(|device| device.number == number);
        let at = at.unwrap_or_else(|| {
            let _ = self.devices.push(Device { number, plugged: 0, requested: 0, left: 0 });
            self.devices.len() - 1
        });
        let Some(device) = self.devices.get_mut(at).filter(|device| device.number == number) else {
            return false;
        };
        match size {
            Size::Plugged(bytes) => device.plugged = bytes,
            Size::Requested(bytes) => {
                device.requested = bytes;
                device.left = device.plugged.saturating_sub(bytes);
                (self.freed, self.busy_us) = (0, 0);
                self.begin();
            }
        }
        true
    }

    fn begin(&mut self) {
        self.state = if self.left() > 0 { State::Shrinking } else { State::Idle };
        (self.below, self.look_us, self.retry_us, self.current) = (u64::MAX, 0, 0, false);
        self.reclaim_again();
    }

    /// Whether a device was heard of.
    #[must_use]
    pub fn has_devices(&self) -> bool {
        !self.devices.is_empty()
    }

    /// Bytes still to go.
    #[must_use]
    pub fn left(&self) -> u64 {
        self.sum(|device| device.left)
    }

    fn sum(&self, of: fn(&Device) -> u64) -> u64 {
        self.devices.iter().map(of).fold(0, u64::saturating_add)
    }

    /// How it stands.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// When [`Self::next`] has something to say; `u64::MAX` is never.
    #[must_use]
    pub fn deadline_us(&self) -> u64 {
        if self.state == State::Idle { u64::MAX } else { self.look_us }
    }

    /// What is to be done now. A block takes all its memory along; what is in use of
    /// it takes the place of memory elsewhere that is available now.
    pub fn next(&mut self, memory: Meminfo, page_bytes: u64, now: u64) -> Step {
        let device = self.devices.iter().find(|device| device.left > 0);
        let (Some(&Device { number: device, .. }), true) = (device, now >= self.look_us) else {
            return Step::Wait;
        };
        let block_bytes = self.block_bytes;
        let stays = memory.total.saturating_sub(block_bytes);
        let total_pages = stays.checked_div(page_bytes).unwrap_or(0);
        let floor = self.min_available.bytes(Memory { total_pages, page_bytes });
        let needed = block_bytes.saturating_add(floor);
        // What is not free QM pays first; and what of it the kernel keeps to itself.
        let there = memory.free.min(memory.available);
        if there < needed && now >= self.reclaim_us {
            self.wait_us = longer(self.wait_us);
            self.reclaim_us = now.saturating_add(self.wait_us);
            return Step::Reclaim(needed - there);
        }
        if let Some(missing @ 1..) = needed.checked_sub(memory.available) {
            self.state = State::Short(missing);
            self.look_us = now.saturating_add(LOOK_US);
            return Step::Wait;
        }
        (self.state, self.current) = (State::Shrinking, true);
        Step::Offline(Target { device, below: self.below, block_bytes })
    }

    /// A block was tried: which, if any; and what MemTotal fell by, if it went.
    pub fn tried(&mut self, target: Target, block: Option<u64>, fell: Option<u64>, now: u64) {
        let device = self.devices.iter_mut().find(|device| device.number == target.device);
        match (block, fell, device) {
            // It was for a request that another has followed.
            (_, None | Some(0), _) | (None, ..) if !self.current => {}
            // The driver took nothing of it: it has what was requested, whatever
            // the log said.
            (Some(_), Some(0), Some(device)) => device.left = 0,
            (Some(block), Some(fell), Some(device)) => {
                device.left = device.left.saturating_sub(fell);
                self.freed = self.freed.saturating_add(fell);
                (self.below, self.retry_us, self.reclaim_us, self.wait_us) = (block, 0, 0, 0);
            }
            (Some(block), None, _) => self.below = block,
            // None of it is online: what is offline the driver takes itself.
            (None, _, Some(device)) if target.below == u64::MAX => device.left = 0,
            _ => {
                self.retry_us = longer(self.retry_us);
                self.look_us = now.saturating_add(self.retry_us);
                (self.state, self.below) = (State::Refused, u64::MAX);
            }
        }
        if self.left() == 0 {
            self.begin();
        }
    }

    /// QM may have more to give.
    pub fn reclaim_again(&mut self) {
        (self.reclaim_us, self.wait_us) = (0, 0);
    }

    /// What was to be done could not be begun.
    pub fn not_begun(&mut self, now: u64) {
        self.look_us = now.saturating_add(LOOK_US);
    }

    /// Work took so long.
    pub fn took(&mut self, us: u64) {
        self.busy_us = self.busy_us.saturating_add(us);
    }

    /// Bytes given back since the request.
    #[must_use]
    pub fn freed(&self) -> u64 {
        self.freed
    }

    /// Bytes given back in a second of work; 0 before the first ones.
    #[must_use]
    pub fn rate(&self) -> u64 {
        self.freed.saturating_mul(1000).checked_div(self.busy_us / 1000).unwrap_or(0)
    }

    /// How long the rest takes at that rate, in seconds; 0 where there is none.
    #[must_use]
    pub fn left_secs(&self) -> u64 {
        self.left().checked_div(self.rate()).unwrap_or(0)
    }

    /// Bytes that are missing before the next block can go.
    #[must_use]
    pub fn missing(&self) -> u64 {
        if let State::Short(missing) = self.state { missing } else { 0 }
    }
}

/// The wait after one of so many microseconds.
fn longer(wait_us: u64) -> u64 {
    wait_us.saturating_mul(2).clamp(*RETRY_US.start(), *RETRY_US.end())
}

impl fmt::Display for Json<&Shrink> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shrink = self.0;
        let numbers = [
            ("requested_bytes", shrink.sum(|device| device.requested)),
            ("given_back_bytes", shrink.freed),
            ("left_bytes", shrink.left()),
            ("bytes_per_sec", shrink.rate()),
            ("left_secs", shrink.left_secs()),
            ("missing_bytes", shrink.missing()),
        ];
        standing(f, shrink.state.word(), &numbers)
    }
}
