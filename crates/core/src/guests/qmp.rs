//! The QEMU Machine Protocol, as far as memory goes: what a guest has, what its
//! virtio-mem devices are asked to have (docs/interop/qmp-spec of QEMU), and while
//! that changes what its virtio-balloon says is available in it (docs/interop/
//! virtio-balloon-stats).
//!
//! One question at a time. What comes is the VMM's, which a guest may have taken
//! over: what isn't the answer to the question is passed over, and a size that is
//! none ends the session.

use core::fmt::Write as _;

use heapless::{String, Vec};

use super::value::Field;
use crate::board::json::Walk;
use crate::board::keys::unquoted;
use crate::number::decimal;
use crate::split::split_once;

/// Longest message, in bytes: sixteen devices need 4000, a greeting 300.
pub const MESSAGE_BYTES_MAX: usize = 8192;
/// Longest question, in bytes: a `qom-set` with the longest id.
pub const ASK_BYTES_MAX: usize = 256;
/// virtio-mem devices of a guest: one, or one for each of its memory nodes.
pub const DEVICES_MAX: usize = 4;
/// Longest id of a device, in bytes; libvirt's have ten (`virtiomem0`).
const ID_MAX: usize = 64;
/// Name of a guest's balloon, which is libvirt's.
const BALLOON: &str = "balloon0";
/// How long an answer may take, in microseconds: 5 s. QEMU answers between two
/// turns of its main loop, which a snapshot may hold up.
const ANSWER_US: u64 = 5_000_000;
/// From one look at the devices to the next, in microseconds: 1 s.
const LOOK_US: u64 = 1_000_000;
/// The same while they change, in microseconds: 100 ms. QEMU tells of a change at
/// most once a second.
const HURRY_US: u64 = 100_000;

/// A virtio-mem device, sizes in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Device {
    id: String<ID_MAX>,
    /// What it has.
    pub size: u64,
    /// What it is asked to have.
    pub requested: u64,
    max: u64,
    block: u64,
}

/// A guest's memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// What no virtio-mem device has, in bytes.
    pub fixed: u64,
    /// The devices, in QEMU's order.
    pub devices: Vec<Device, DEVICES_MAX>,
    /// What is available in the guest, where its balloon says so.
    pub available: Available,
}

/// The guest's MemAvailable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Available {
    /// In bytes; without a balloon, or from one that doesn't know, more than there is.
    pub bytes: u64,
    /// When it was said, in seconds of the host's clock; 0: never.
    pub at_secs: u64,
}

impl Sizes {
    fn sum(&self, of: impl Fn(&Device) -> u64) -> u64 {
        self.devices.iter().map(of).fold(0, u64::saturating_add)
    }

    /// What the devices have, in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.sum(|device| device.size)
    }

    /// What they are asked to have.
    #[must_use]
    pub fn requested(&self) -> u64 {
        self.sum(|device| device.requested)
    }

    /// What they can have.
    #[must_use]
    pub fn max(&self) -> u64 {
        self.sum(|device| device.max)
    }

    /// What the guest may use: what it has, and what it is about to get.
    #[must_use]
    pub fn claimed(&self) -> u64 {
        self.fixed.saturating_add(self.sum(|device| device.size.max(device.requested)))
    }

    /// The same devices asked to have `total` together, as near as their blocks
    /// allow: the first are filled first, the last emptied first.
    #[must_use]
    pub fn asked_for(&self, total: u64) -> Self {
        let mut asked = self.clone();
        let (mut more, mut less) =
            (total.saturating_sub(self.size()), self.size().saturating_sub(total));
        let whole = |bytes: u64, block: u64| bytes.checked_div(block).unwrap_or(0) * block;
        for device in &mut asked.devices {
            let take = whole(more.min(device.max.saturating_sub(device.size)), device.block);
            device.requested = device.size.saturating_add(take);
            more -= take;
        }
        for device in asked.devices.iter_mut().rev() {
            let give = whole(less.min(device.size), device.block);
            device.requested = device.requested.saturating_sub(give);
            less -= give;
        }
        asked
    }
}

/// Why a session ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// What came is no message.
    Text,
    /// A size is none, or there are more devices than are known here.
    Size,
    /// The VMM refused what it was asked.
    Refused,
    /// No answer in time.
    Late,
    /// It hung up.
    Closed,
}

impl Fault {
    /// In words.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Text => "no message of QMP",
            Self::Size => "sizes that can't be, or more than 4 virtio-mem devices",
            Self::Refused => "the VMM refuses",
            Self::Late => "no answer",
            Self::Closed => "closed",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Question {
    Capabilities,
    Base,
    Devices,
    Request,
    Polling,
    Statistics,
}

/// What is known of one connection.
#[derive(Debug)]
pub struct Session {
    greeted: bool,
    /// What was asked last, and whether its answer is to come.
    question: Question,
    waits: bool,
    /// The question's id, which its answer has.
    id: u64,
    until_us: u64,
    next_us: u64,
    base: u64,
    /// What the devices are to be asked for, and how many of them still.
    request: Sizes,
    left: usize,
    /// What is available was asked since the last look at the devices.
    watched: bool,
    /// Whether there is a balloon that counts; `None` while nobody asked.
    balloon: Option<bool>,
    available: Available,
}

impl Session {
    /// A connection that was just made.
    #[must_use]
    pub fn new(now: u64) -> Self {
        Self {
            greeted: false,
            question: Question::Capabilities,
            waits: true,
            id: 0,
            until_us: now.saturating_add(ANSWER_US),
            next_us: now,
            base: 0,
            request: Sizes::default(),
            left: 0,
            watched: false,
            balloon: None,
            available: Available::default(),
        }
    }

    /// Takes a message, without the newline: the sizes, where it tells them.
    ///
    /// # Errors
    /// The session is over.
    pub fn hear(&mut self, message: &[u8], now: u64) -> Result<Option<Sizes>, Fault> {
        let Message { kind, id, base, mut sizes, available } = Message::read(message)?;
        match kind {
            Kind::Greeting if !self.greeted => {
                (self.greeted, self.waits) = (true, false);
                return Ok(None);
            }
            Kind::Changed => {
                self.hurry(now);
                return Ok(None);
            }
            Kind::Return | Kind::Error if self.greeted && self.waits && id == Some(self.id) => {}
            _ => return Ok(None),
        }
        (self.waits, self.next_us) = (false, now);
        let asked = core::mem::replace(&mut self.question, Question::Devices);
        self.watched = matches!(asked, Question::Polling | Question::Statistics);
        match asked {
            Question::Polling => {
                let there = kind == Kind::Return;
                self.balloon = Some(there);
                self.available.bytes = if there { 0 } else { u64::MAX };
            }
            Question::Statistics => self.available = available,
            _ if kind == Kind::Error => return Err(Fault::Refused),
            Question::Capabilities => self.question = Question::Base,
            Question::Base => {
                self.base = Some(base).filter(|it| Field::Memory.allows(*it)).ok_or(Fault::Size)?;
            }
            Question::Request => {}
            Question::Devices => {
                self.next_us = now.saturating_add(LOOK_US);
                sizes.fixed = sizes.fixed.saturating_add(self.base);
                sizes.available = self.available;
                let whole = sizes.fixed.saturating_add(sizes.max());
                return if Field::Memory.allows(whole) {
                    Ok(Some(sizes))
                } else {
                    Err(Fault::Size)
                };
            }
        }
        Ok(None)
    }

    /// Has the devices asked for what `sizes` say.
    pub fn request(&mut self, sizes: Sizes) {
        self.left = sizes.devices.len();
        self.request = sizes;
    }

    /// Looks again soon: something changes.
    fn hurry(&mut self, now: u64) {
        self.next_us = self.next_us.min(now.saturating_add(HURRY_US));
    }

    /// The next question, if it is time for one. Who follows a change is told sooner,
    /// and what is available too.
    ///
    /// # Errors
    /// The session is over.
    pub fn ask(&mut self, now: u64, follows: bool) -> Result<Option<String<ASK_BYTES_MAX>>, Fault> {
        if follows {
            self.hurry(now);
        }
        if self.waits {
            return if now >= self.until_us { Err(Fault::Late) } else { Ok(None) };
        }
        if self.question == Question::Devices && self.left > 0 {
            self.question = Question::Request;
            self.left -= 1;
        } else if now < self.next_us {
            return Ok(None);
        } else if follows && !self.watched && self.question == Question::Devices {
            match self.balloon {
                None => self.question = Question::Polling,
                Some(true) => self.question = Question::Statistics,
                Some(false) => {}
            }
        }
        self.id = self.id.wrapping_add(1);
        let (verb, name, property, value) = match self.question {
            Question::Capabilities => ("qmp_capabilities", "", "", None),
            Question::Base => ("query-memory-size-summary", "", "", None),
            Question::Devices => ("query-memory-devices", "", "", None),
            Question::Request => {
                let device = self.request.devices.get(self.left).ok_or(Fault::Size)?;
                ("qom-set", &*device.id, "requested-size", Some(device.requested))
            }
            Question::Polling => ("qom-set", BALLOON, "guest-stats-polling-interval", Some(1)),
            Question::Statistics => ("qom-get", BALLOON, "guest-stats", None),
        };
        let mut text = String::new();
        let mut write = || {
            write!(text, r#"{{"execute":"{verb}","#)?;
            if !name.is_empty() {
                write!(
                    text,
                    r#""arguments":{{"path":"/machine/peripheral/{name}","property":"{property}""#
                )?;
                if let Some(value) = value {
                    write!(text, r#","value":{value}"#)?;
                }
                text.write_str("},")?;
            }
            writeln!(text, r#""id":{}}}"#, self.id)
        };
        write().map_err(|_| Fault::Text)?;
        (self.waits, self.until_us) = (true, now.saturating_add(ANSWER_US));
        Ok(Some(text))
    }

    /// When [`Self::ask`] has something to say.
    #[must_use]
    pub fn deadline_us(&self) -> u64 {
        match (self.waits, self.left == 0) {
            (true, _) => self.until_us,
            (false, true) => self.next_us,
            (false, false) => 0,
        }
    }
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Kind {
    Greeting,
    Return,
    Error,
    /// MEMORY_DEVICE_SIZE_CHANGE
    Changed,
    #[default]
    Other,
}

/// What of a message counts here.
#[derive(Default)]
struct Message {
    kind: Kind,
    id: Option<u64>,
    /// `base-memory`
    base: u64,
    sizes: Sizes,
    available: Available,
}

/// A memory device, as far as it was read.
#[derive(Default)]
struct Element {
    virtio_mem: bool,
    /// A DIMM: its memory is the guest's as well, that of an NVDIMM is not.
    dimm: bool,
    device: Device,
}

impl Message {
    fn read(text: &[u8]) -> Result<Self, Fault> {
        let mut walk = Walk::with_escapes();
        let (mut message, mut element) = (Self::default(), Element::default());
        while let Some(value) = walk.next(text).map_err(|_| Fault::Text)? {
            let raw = value.span.text(text);
            let path = walk.path();
            // Of an element of a list, what follows its index.
            let member = path.strip_prefix("return[").and_then(|rest| split_once(rest, b']'));
            let key = member.map_or(path, |(_, member)| member);
            let device = &mut element.device;
            let size = match key {
                "return.base-memory" => &mut message.base,
                "return.last-update" => &mut message.available.at_secs,
                "return.stats.stat-available-memory" => &mut message.available.bytes,
                ".data.size" => &mut device.size,
                ".data.requested-size" => &mut device.requested,
                ".data.max-size" => &mut device.max,
                ".data.block-size" => &mut device.block,
                _ => {
                    message.word(&mut element, key, raw)?;
                    continue;
                }
            };
            *size = decimal(raw).filter(|_| !raw.starts_with('+')).ok_or(Fault::Size)?;
        }
        message.add(element)?;
        Ok(message)
    }

    /// Takes what is no size.
    fn word(&mut self, element: &mut Element, key: &str, raw: &str) -> Result<(), Fault> {
        match key {
            "QMP" => self.kind = Kind::Greeting,
            "return" => (self.kind, self.available.bytes) = (Kind::Return, u64::MAX),
            "error" => self.kind = Kind::Error,
            "event" if raw == r#""MEMORY_DEVICE_SIZE_CHANGE""# => self.kind = Kind::Changed,
            "id" => self.id = decimal(raw),
            // The next element begins.
            "" => self.add(core::mem::take(element))?,
            ".type" => {
                element.virtio_mem = raw == r#""virtio-mem""#;
                element.dimm = raw == r#""dimm""#;
            }
            ".data.id" => {
                let plain = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.');
                let id = unquoted(raw).filter(|id| id.bytes().all(plain));
                element.device.id = id.and_then(|id| id.try_into().ok()).unwrap_or_default();
            }
            _ => {}
        }
        Ok(())
    }

    fn add(&mut self, element: Element) -> Result<(), Fault> {
        let Element { virtio_mem, dimm, device } = element;
        if dimm || (virtio_mem && device.id.is_empty()) {
            // One without a name can't be asked.
            self.sizes.fixed = self.sizes.fixed.saturating_add(device.size);
        } else if virtio_mem {
            if device.size.max(device.requested) > device.max || device.block == 0 {
                return Err(Fault::Size);
            }
            self.sizes.devices.push(device).map_err(|_| Fault::Size)?;
        }
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests;
