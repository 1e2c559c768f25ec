//! The control socket: how the supervisor is asked and told.
//!
//! One JSON object a message, both ways; metrics are answered as text. What a
//! client does or leaves harms nobody: it has a second, one message, and one of
//! a few places.

use core::ffi::CStr;
use core::fmt::{self, Write as _};

use plimsoll_core::agent::counters::Shown;
use plimsoll_core::agent::settings;
use plimsoll_core::apply;
use plimsoll_core::board::Faults;
use plimsoll_core::boot::RECORD_PATH;
use plimsoll_core::facts::read_text;
use plimsoll_core::guests::Field;
use plimsoll_core::guests::host::Admission;
use plimsoll_core::guests::host::Resizing;
use plimsoll_core::json::{Json, Slice};
use plimsoll_core::kernel::{Errno, Kernel as _};
use plimsoll_core::number::decimal;
use plimsoll_core::record::cut_text;
use plimsoll_core::status::{Live, Metrics, REQUEST_BYTES_MAX, Request, keyed_value};
use rustix::fd::{AsFd as _, OwnedFd};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, sockopt,
};

use crate::agent::WAY_LRU_GEN;
use crate::cgroup::Cgroup;
use crate::linux::{Linux, errno};
use crate::pair::Pair;
use crate::pressure::Source;
use crate::supervisor::Worker;
use crate::{start, sys};

/// Where commands reach the supervisor.
pub(crate) const SOCKET_PATH: &CStr = c"/run/plimsoll/control.sock";
/// Clients served at once; one more takes the place of the one that has said
/// nothing for longest.
pub(crate) const CLIENTS_MAX: usize = 4;
/// How long a client may take to say what it wants, in microseconds.
const CLIENT_US: u64 = 1_000_000;
/// For what is no guest, or one that can't be removed.
const NO_GUEST: &str =
    r#"{"error":"guest: allowed is one of the board file; remove: one that does not run"}"#;
/// For a guest whose size can't be changed, or isn't being.
const NO_SIZES: &str = r#"{"error":"guest: allowed is one that runs and answers on its qmp socket; to stop: one whose size is being changed"}"#;
/// Connections that may wait.
const BACKLOG: i32 = 8;

/// A client that has not yet said what it wants.
pub(crate) struct Client {
    pub(crate) socket: OwnedFd,
    pub(crate) deadline_us: u64,
}

pub(crate) fn listen() -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
        .map_err(errno)?;
    let _ = rustix::fs::unlink(SOCKET_PATH);
    // The mode is there from the first moment, not after a chmod.
    let old = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
    let bound = SocketAddrUnix::new(SOCKET_PATH).and_then(|path| rustix::net::bind(&socket, &path));
    rustix::process::umask(old);
    bound.map_err(errno)?;
    rustix::net::listen(&socket, BACKLOG).map_err(errno)?;
    Ok(socket)
}

impl Worker<'_> {
    pub(crate) fn accept(&self, clients: &mut [Option<Client>]) {
        let Some(listener) = &self.listener else { return };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let Ok(socket) = rustix::net::accept_with(listener, flags) else { return };
        // The socket's mode lets only root in; this is for one that changed it.
        if !sockopt::socket_peercred(&socket).is_ok_and(|peer| peer.uid.is_root()) {
            return;
        }
        // Its time begins now, not when the poll before it did.
        let deadline_us = sys::now_us().saturating_add(CLIENT_US);
        // Where all places are taken, by the one that has been silent longest.
        let place = clients
            .iter_mut()
            .min_by_key(|client| client.as_ref().map_or(0, |client| client.deadline_us));
        if let Some(place) = place {
            *place = Some(Client { socket, deadline_us });
        }
    }

    /// Takes one request and answers it. Nothing here waits.
    pub(crate) fn serve(&mut self, socket: &OwnedFd, pair: &mut Pair) {
        // One byte more than is allowed, to tell a request that is too long.
        let mut request = [0; REQUEST_BYTES_MAX + 1];
        let Ok((read, _)) = rustix::net::recv(socket, &mut request, RecvFlags::DONTWAIT) else {
            return;
        };
        let request = request.get_mut(..read).unwrap_or_default();
        let len = self.answer(request, pair);
        let answer = match len {
            Ok(len) => self.answer.get(..len).unwrap_or_default(),
            Err(fmt::Error) => br#"{"error":"the answer is too long"}"#,
        };
        let _ = rustix::net::send(socket, answer, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
    }

    /// Does what is requested and writes the answer; its length.
    fn answer(&mut self, request: &mut [u8], pair: &mut Pair) -> Result<usize, fmt::Error> {
        match Request::parse(request) {
            Ok(Request::Status) => self.status(pair),
            Ok(Request::Metrics) => self.metrics(pair),
            Ok(Request::RunNow(name)) if self.agent.run_now(name) => {
                self.say(format_args!(r#"{{"run":{}}}"#, Json(name)))
            }
            Ok(Request::RunNow(_)) => {
                self.say(format_args!(r#"{{"error":"loop: allowed is memcg or compact"}}"#))
            }
            Ok(Request::Set) => self.set(request, pair),
            Ok(Request::GuestList) => {
                let mut answer = Slice::new(self.answer);
                write!(answer, "{}", Json(&self.hosts.hosting))?;
                Ok(answer.written())
            }
            Ok(Request::GuestAdmit(name)) => self.admit(name),
            Ok(Request::GuestRemove(name)) => {
                if self.hosts.hosting.remove(&mut Linux, name) {
                    self.say(format_args!(r#"{{"removed":{}}}"#, Json(name)))
                } else {
                    self.say(format_args!("{NO_GUEST}"))
                }
            }
            Ok(Request::GuestResize(name, size)) => {
                let bytes = size.map(|text| Field::Memory.parse(text));
                if bytes == Some(None) {
                    let allowed = Field::Memory.allowed();
                    return self.say(format_args!(r#"{{"error":"size: allowed is {allowed}"}}"#));
                }
                self.resizing(name, bytes.flatten(), false)
            }
            Ok(Request::GuestStop(name)) => self.resizing(name, None, true),
            Err(error) => self.say(format_args!(r#"{{"error":{}}}"#, Json(error))),
        }
    }

    fn say(&mut self, text: fmt::Arguments<'_>) -> Result<usize, fmt::Error> {
        let mut answer = Slice::new(self.answer);
        answer.write_fmt(text)?;
        Ok(answer.written())
    }

    /// A guest that waits for the answers of others asks again.
    fn admit(&mut self, name: &str) -> Result<usize, fmt::Error> {
        let mut answer = Slice::new(self.answer);
        match self.hosts.hosting.admit(&mut Linux, name) {
            Admission::Admitted(hosted) => write!(answer, r#"{{"admitted":{}}}"#, Json(hosted))?,
            Admission::Waits => write!(answer, r#"{{"waits":{}}}"#, Json(name))?,
            Admission::Refused(why) => write!(answer, r#"{{"error":"refused: {why}"}}"#)?,
            Admission::Unknown => answer.write_str(NO_GUEST)?,
        }
        Ok(answer.written())
    }

    /// Who began it asks again how it goes.
    fn resizing(
        &mut self,
        name: &str,
        bytes: Option<u64>,
        stop: bool,
    ) -> Result<usize, fmt::Error> {
        let hosting = &mut self.hosts.hosting;
        let stands = if stop { hosting.stop(name) } else { hosting.resize(name, bytes) };
        let mut answer = Slice::new(self.answer);
        match stands {
            Resizing::Stands(name, resize) => {
                write!(
                    answer,
                    r#"{{"{}":{{"name":{},"resize":{}}}}}"#,
                    resize.key(),
                    Json(name),
                    Json(resize)
                )?;
            }
            Resizing::Range(least, most) => {
                write!(answer, r#"{{"error":"size: allowed is {least} to {most} bytes"}}"#)?;
            }
            Resizing::Unknown => answer.write_str(NO_SIZES)?,
        }
        Ok(answer.written())
    }

    fn set(&mut self, request: &mut [u8], pair: &mut Pair) -> Result<usize, fmt::Error> {
        let mut faults = Faults::default();
        if !settings::set(&mut self.agent.settings, request, &mut faults) {
            return self.say(format_args!(r#"{{"error":"refused","faults":{}}}"#, Json(&faults)));
        }
        self.agent.changed();
        // The one that would bring this process back has to know as well.
        pair.renew();
        info!("agent: settings changed");
        self.say(format_args!(r#"{{"set":true}}"#))
    }

    /// The supervisor now, the boot's record as it was written, and the agent.
    fn status(&mut self, pair: &Pair) -> Result<usize, fmt::Error> {
        let live = self.live(pair);
        let mut head = Slice::new(self.answer);
        write!(head, r#"{{"version":1,"live":{},"boot":"#, Json(&live))?;
        let mut len = head.written();
        let room = self.answer.get_mut(len..).ok_or(fmt::Error)?;
        len += Linux.read_at(RECORD_PATH, 0, room).map_err(|_| fmt::Error)?;
        let agent = &self.agent;
        let shown = Shown { counters: &agent.counters, page_bytes: start::page_bytes() };
        let mut tail = Slice::new(self.answer.get_mut(len..).ok_or(fmt::Error)?);
        tail.write_str(r#","agent":{"way":""#)?;
        match agent.way.checked_sub(WAY_LRU_GEN) {
            None => tail.write_str("none yet")?,
            Some(0) => tail.write_str("lru_gen")?,
            Some(number) => {
                let errno = Errno(u16::try_from(number).unwrap_or(0));
                write!(tail, "memory.reclaim, lru_gen: {errno}")?;
            }
        }
        let settings = Json(&agent.settings);
        write!(tail, r#"","settings":{settings},"counters":{}}}"#, Json(shown))?;
        if let Some(virtio_mem) = &agent.virtio_mem {
            write!(tail, r#","virtio_mem":{}"#, Json(&virtio_mem.shrink))?;
        }
        tail.write_str("}")?;
        Ok(len + tail.written())
    }

    fn metrics(&mut self, pair: &Pair) -> Result<usize, fmt::Error> {
        let live = self.live(pair);
        let counters = &self.agent.counters;
        let shown = Shown { counters, page_bytes: start::page_bytes() };
        let mut answer = Slice::new(self.answer);
        writeln!(answer, "{}{shown}# EOF", Metrics(&live))?;
        Ok(answer.written())
    }

    fn live(&self, pair: &Pair) -> Live {
        let kernel = &mut Linux;
        let mut buf = [0; 256];
        let init = cut_text(read_text(kernel, "/proc/1/comm", &mut buf).trim_ascii_end());
        let mut knob = |name: &str| {
            apply::knob_path(self.qm.cgroup, name)
                .map(|path| read_text(kernel, &path, &mut buf).trim_ascii_end())
                .map(|text| match text {
                    "max" => u64::MAX,
                    text => keyed_value(text, "oom_kill").or(decimal(text)).unwrap_or(0),
                })
                .unwrap_or(0)
        };
        let stalled_us = |source: Option<Source<'_>>| {
            source.and_then(Source::stall).map_or(0, |stall| stall.total_us)
        };
        let qm = Cgroup::open(self.qm.cgroup).ok();
        Live {
            worker: rustix::process::getpid().as_raw_nonzero().get(),
            keeper: pair.peer.as_ref().map_or(0, |(pid, _)| pid.as_raw_nonzero().get()),
            revivals: pair.revivals,
            drifts: self.watch.drifts,
            mended: self.watch.mended,
            init,
            qm_current_bytes: knob("memory.current"),
            qm_swap_bytes: knob("memory.swap.current"),
            qm_high_bytes: knob("memory.high"),
            qm_max_bytes: knob("memory.max"),
            qm_oom_kills: knob("memory.events"),
            qm_stalled_us: stalled_us(qm.as_ref().map(|qm| Source::Cgroup(qm.as_fd()))),
            machine_stalled_us: stalled_us(Some(Source::Machine)),
        }
    }
}
