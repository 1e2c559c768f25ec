//! A guest's QMP socket: connected, read and written without ever waiting.
//!
//! What arrives stays in the socket until a message is whole, so that no guest
//! costs the supervisor a buffer.

use plimsoll_core::agent::psi::{Stall, WINDOW_MIN_US};
use plimsoll_core::agent::virtio_mem::Meminfo;
use plimsoll_core::facts::read_text;
use plimsoll_core::guests::host::Hosting;
use plimsoll_core::guests::qmp::{Fault, MESSAGE_BYTES_MAX, Session};
use plimsoll_core::guests::resize::Gate;
use plimsoll_core::watch::PERIOD_US;
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType};

use crate::cgroup::Cgroup;
use crate::linux::{Linux, c_path};
use crate::pressure::Source;

/// From one try to connect to the next, in microseconds: 500 ms, doubled each time,
/// at most 8 s. A VMM that starts has its socket before its guest runs.
const RETRY_US: core::ops::RangeInclusive<u64> = 500_000..=8_000_000;
/// A message that is not whole yet is looked at again after so long, in
/// microseconds: 20 ms. To poll would tell of its beginning without end.
const REST_US: u64 = 20_000;
/// Messages of one guest that are read in a second: three times what a change of
/// size needs. The rest waits in the socket, and then in the VMM.
const MESSAGES_MAX: u32 = 64;
/// More of the time than this in which tasks stand still is pressure, in percent.
const PRESSURE_PERCENT: u64 = 10;

/// One guest's.
#[derive(Default)]
pub(crate) struct Link {
    connection: Option<(OwnedFd, Session)>,
    /// When to connect, and how long to wait after the next failure.
    retry_us: u64,
    wait_us: u64,
    /// What went wrong was said.
    said: bool,
    /// Messages read since `second_us`.
    messages: u32,
    second_us: u64,
    /// When to look at a message that isn't whole.
    rest_us: Option<u64>,
    /// The machine's pressure and the VMM's, up to a second ago, while the guest's
    /// memory changes.
    stalls: [Option<Stall>; 2],
}

enum Received {
    Message(usize),
    Nothing,
    Part,
}

impl Link {
    /// What has come, and what is to be said; for the guest at this place.
    pub(crate) fn tick(&mut self, hosting: &mut Hosting<'_>, at: usize, now: u64) {
        let Some((name, cgroup, path)) = hosting.qmp(at) else {
            if self.connection.is_some() || self.retry_us > 0 {
                *self = Self::default();
            }
            return;
        };
        if self.connection.is_none() && now >= self.retry_us {
            match connect(path) {
                Ok(socket) => self.connection = Some((socket, Session::new(now))),
                Err(error) => {
                    // While it starts, that is no fault.
                    let early = self.wait_us < *RETRY_US.end();
                    let error = i64::from(error.raw_os_error());
                    self.failed(now, name, early, format_args!("{path}: error {error}"));
                }
            }
        }
        if let Err(fault) = self.talk(hosting, at, cgroup, now) {
            self.connection = None;
            hosting.silent(at);
            self.failed(now, name, false, format_args!("{path}: {}", fault.word()));
        }
    }

    fn failed(&mut self, now: u64, name: &str, early: bool, why: core::fmt::Arguments<'_>) {
        self.wait_us = self.wait_us.saturating_mul(2).clamp(*RETRY_US.start(), *RETRY_US.end());
        self.retry_us = now.saturating_add(self.wait_us);
        if !early && !core::mem::replace(&mut self.said, true) {
            warn!("guest {name}: QMP: {why}");
        }
    }

    fn talk(
        &mut self,
        hosting: &mut Hosting<'_>,
        at: usize,
        cgroup: &str,
        now: u64,
    ) -> Result<(), Fault> {
        if now.saturating_sub(self.second_us) >= PERIOD_US {
            (self.second_us, self.messages) = (now, 0);
        }
        self.rest_us = None;
        let mut buf = [0; MESSAGE_BYTES_MAX];
        while self.messages < MESSAGES_MAX {
            let Some((socket, session)) = &mut self.connection else { return Ok(()) };
            let len = match receive(socket, &mut buf)? {
                Received::Message(len) => len,
                Received::Nothing => break,
                Received::Part => {
                    self.rest_us = Some(now.saturating_add(REST_US));
                    break;
                }
            };
            self.messages += 1;
            let Some(sizes) = session.hear(buf.get(..len).unwrap_or_default(), now)? else {
                continue;
            };
            (self.said, self.wait_us) = (false, 0);
            let moves = hosting.moves(at);
            let gate = gate(&mut self.stalls, hosting, cgroup, moves);
            if let Some(asked) = hosting.sized(&mut Linux, at, &sizes, gate, now) {
                session.request(asked);
            }
        }
        let Some((socket, session)) = &mut self.connection else { return Ok(()) };
        if let Some(question) = session.ask(now, hosting.moves(at))? {
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            let sent = rustix::net::send(socket, question.as_bytes(), flags);
            if sent != Ok(question.len()) {
                return Err(Fault::Late);
            }
        }
        Ok(())
    }

    /// When [`Self::tick`] has something to do besides what [`Self::source`] tells.
    pub(crate) fn deadline_us(&self, hosting: &Hosting<'_>, at: usize) -> u64 {
        if hosting.qmp(at).is_none() {
            return u64::MAX;
        }
        let Some((_, session)) = &self.connection else { return self.retry_us };
        let second = match self.messages >= MESSAGES_MAX {
            true => self.second_us.saturating_add(PERIOD_US),
            false => u64::MAX,
        };
        session.deadline_us().min(self.rest_us.unwrap_or(u64::MAX)).min(second)
    }

    /// What wakes the worker before that.
    pub(crate) fn source(&self) -> Option<&OwnedFd> {
        let listens = self.rest_us.is_none() && self.messages < MESSAGES_MAX;
        self.connection.as_ref().filter(|_| listens).map(|(socket, _)| socket)
    }
}

/// What the machine allows, while the guest's memory changes.
fn gate(before: &mut [Option<Stall>; 2], hosting: &Hosting<'_>, cgroup: &str, moves: bool) -> Gate {
    let margin = hosting.margin_bytes();
    let mut gate = Gate { available: 0, margin, pressed: false, vmm_pressed: false };
    if !moves {
        *before = [None; 2];
        return gate;
    }
    let vmm = Cgroup::open(cgroup).ok();
    let now = [Source::Machine.stall(), vmm.as_ref().and_then(Cgroup::stall)];
    for ((before, now), presses) in
        before.iter_mut().zip(now).zip([&mut gate.pressed, &mut gate.vmm_pressed])
    {
        let (Some(now), Some(then)) = (now, *before) else {
            *before = now;
            continue;
        };
        *presses = now.exceeds(then, PRESSURE_PERCENT);
        if now.at_us.saturating_sub(then.at_us) >= WINDOW_MIN_US {
            *before = Some(now);
        }
    }
    let mut buf = [0; 256];
    gate.available = Meminfo::parse(read_text(&mut Linux, "/proc/meminfo", &mut buf)).available;
    gate
}

fn connect(path: &str) -> rustix::io::Result<OwnedFd> {
    let path = c_path(path).map_err(|_| Errno::NAMETOOLONG)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // Done at once, or refused.
    rustix::net::connect(&socket, &SocketAddrUnix::new(&*path)?)?;
    Ok(socket)
}

/// Takes a message out of the socket, if all of it is there: without its newline.
fn receive(socket: &OwnedFd, buf: &mut [u8; MESSAGE_BYTES_MAX]) -> Result<Received, Fault> {
    let peek = RecvFlags::DONTWAIT | RecvFlags::PEEK;
    let there = match rustix::net::recv(socket, &mut *buf, peek) {
        Ok((0, _)) => return Err(Fault::Closed),
        Ok((there, _)) => there,
        Err(Errno::AGAIN | Errno::INTR) => return Ok(Received::Nothing),
        Err(_) => return Err(Fault::Closed),
    };
    let seen = buf.get(..there).unwrap_or_default();
    let Some(end) = seen.iter().position(|byte| *byte == b'\n') else {
        return if there == buf.len() { Err(Fault::Text) } else { Ok(Received::Part) };
    };
    let message = buf.get_mut(..=end).unwrap_or_default();
    match rustix::net::recv(socket, message, RecvFlags::DONTWAIT) {
        Ok((read, _)) if read == end + 1 => Ok(Received::Message(end)),
        _ => Err(Fault::Closed),
    }
}
