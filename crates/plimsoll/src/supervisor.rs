//! The supervisor: a worker that keeps the limits true and answers on the
//! control socket, and a keeper that brings it back. Each watches the other
//! through a pidfd, so that killing either changes nothing.

use core::ffi::CStr;
use core::fmt::Write as _;

use heapless::String;
use plimsoll_core::apply;
use plimsoll_core::board::{self, BOARD_BYTES_MAX, Faults};
use plimsoll_core::boot::{BOARD_COPY_PATH, RECORD_PATH};
use plimsoll_core::facts::{CGROUP_ROOT, Facts, read_text};
use plimsoll_core::json::{Json, Slice};
use plimsoll_core::kernel::{Errno, Kernel as _};
use plimsoll_core::number::decimal;
use plimsoll_core::plan::{self, SUPERVISOR_CGROUP};
use plimsoll_core::record::{Outcome, Record, cut};
use plimsoll_core::status::{ANSWER_BYTES_MAX, Live, REQUEST_BYTES_MAX, Request, keyed_value};
use plimsoll_core::watch::{PERIOD_US, Watch};
use rustix::event::{PollFd, PollFlags};
use rustix::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use rustix::fs::{MemfdFlags, OFlags};
use rustix::io::FdFlags;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, sockopt,
};

use crate::linux::{Linux, c_path, errno, open};
use crate::pair::Pair;
use crate::pid1::{READY, timespec};
use crate::start::Start;
use crate::sys;

/// Where commands reach the supervisor.
pub(crate) const SOCKET_PATH: &CStr = c"/run/plimsoll/control.sock";
/// argv[0]: systemd-shutdown spares root's processes whose name begins with '@'.
const NAME: &CStr = c"@plimsoll";
/// Score of the supervisor's processes: never chosen.
const OOM_SCORE_ADJ: i64 = -1000;
/// Clients served at once; more wait in the socket's queue.
const CLIENTS_MAX: usize = 4;
/// How long a client may take to say what it wants, in microseconds.
const CLIENT_US: u64 = 1_000_000;
/// Connections that may wait.
const BACKLOG: i32 = 8;

/// Puts this process, the supervisor to be, out of harm's way.
pub(crate) fn protect(record: &mut Record) {
    let kernel = &mut Linux;
    let score = format_args!("{OOM_SCORE_ADJ}");
    apply::write(kernel, record, "oom-score", "/proc/self/oom_score_adj", score);
    let procs: String<64> = cut(format_args!("{CGROUP_ROOT}{SUPERVISOR_CGROUP}/cgroup.procs"));
    match kernel.write(&procs, b"0") {
        Ok(()) => {
            apply::noted(kernel, record, "supervisor", &procs, Outcome::Agrees, "");
        }
        Err(errno) => {
            apply::failed(kernel, record, "supervisor", &procs, errno);
        }
    }
}

/// From the boot to the supervisor: executes a copy of the program in memory,
/// so that no file of the root file system stays open, and the boot's memory
/// is given back. Where that can't be done, goes on as it is.
pub(crate) fn become_supervisor(to_pid1: OwnedFd) -> ! {
    if let Err(errno) = exec_copy(&to_pid1) {
        warn!("supervisor: stays on the root file system ({errno})");
    }
    supervise(Some(to_pid1))
}

/// The copy in memory. Its argument is the descriptor that leads to PID 1.
pub(crate) fn run(start: Start) -> ! {
    supervise(start.arg(1).and_then(|fd| i32::try_from(decimal(fd)?).ok()).and_then(sys::adopt))
}

fn exec_copy(to_pid1: &OwnedFd) -> Result<(), Errno> {
    let exe = open(c"/proc/self/exe", OFlags::RDONLY)?;
    let size = rustix::fs::fstat(&exe).map_err(errno)?.st_size;
    let mut left = usize::try_from(size).map_err(|_| Errno::INVAL)?;
    let copy = rustix::fs::memfd_create(c"plimsoll", MemfdFlags::CLOEXEC).map_err(errno)?;
    while left > 0 {
        match rustix::fs::sendfile(&copy, &exe, None, left).map_err(errno)? {
            0 => return Err(Errno::IO),
            sent => left = left.saturating_sub(sent),
        }
    }
    drop(exe);
    let number: String<16> = cut(format_args!("{}", i64::from(to_pid1.as_raw_fd())));
    let number = c_path(&number)?;
    rustix::io::fcntl_setfd(to_pid1, FdFlags::empty()).map_err(errno)?;
    let failed = sys::exec_fd(copy.as_fd(), &[NAME, &number]);
    Err(Errno(u16::try_from(failed.into_raw()).unwrap_or(Errno::IO.0)))
}

static TEXT: sys::Once<[u8; BOARD_BYTES_MAX + 1]> = sys::Once::new([0; BOARD_BYTES_MAX + 1]);
static ANSWER: sys::Once<[u8; ANSWER_BYTES_MAX]> = sys::Once::new([0; ANSWER_BYTES_MAX]);

/// Which of the two this process is.
enum Role {
    Worker,
    Keeper,
}

/// The supervisor's whole life.
fn supervise(to_pid1: Option<OwnedFd>) -> ! {
    let kernel = &mut Linux;
    let _ = rustix::thread::set_name(c"plimsoll");
    // The others' signals at shutdown are not for it: it ends with the kernel.
    sys::block(&[sys::SIGHUP, sys::SIGINT, sys::SIGTERM, sys::SIGPIPE]);
    leave_console();
    let listener = listen();
    if let Err(errno) = &listener {
        error!("control socket: {errno}");
    }
    let (Some(text), Some(answer)) = (TEXT.take(), ANSWER.take()) else { sys::exit(1) };
    let read = kernel.read_at(BOARD_COPY_PATH, 0, text).unwrap_or(0);
    let text = text.get_mut(..read).unwrap_or_default();
    let board = board::read(text, board::decode_core, &mut Faults::default());
    let facts = Facts::gather(kernel);
    let plan = plan::plan(&board, &facts).unwrap_or_default();
    let watch = Watch::new(kernel, &plan, &board, &facts);
    // What the next init changes from here on is seen, and a request answered.
    if let Some(to_pid1) = to_pid1 {
        let _ = rustix::io::write(to_pid1, &[READY]);
    }
    let mut pair = Pair::default();
    let mut worker = Worker { watch, listener: listener.ok(), answer, qm_cgroup: board.qm.cgroup };
    let mut role = Role::Worker;
    loop {
        // Each returns in a new process that has the other role.
        role = match role {
            Role::Worker => work(&mut worker, &mut pair),
            Role::Keeper => keep(&mut pair),
        };
    }
}

/// Its standard streams were PID 1's console, on a file system that somebody
/// will want to unmount.
fn leave_console() {
    if let Ok(null) = open(c"/dev/null", OFlags::RDWR) {
        let _ = rustix::stdio::dup2_stdin(&null);
        let _ = rustix::stdio::dup2_stdout(&null);
        let _ = rustix::stdio::dup2_stderr(&null);
    }
}

/// The keeper: asleep until the worker ends.
fn keep(pair: &mut Pair) -> Role {
    loop {
        let ended = match &pair.peer {
            Some((_, pidfd)) => {
                let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
                rustix::event::poll(&mut fds, None).is_ok_and(|ready| ready > 0)
            }
            None => false,
        };
        if ended {
            pair.lost("worker");
        }
        if pair.peer.is_none() {
            if pair.revive(sys::now_us()) {
                return Role::Worker;
            }
            if pair.peer.is_none() {
                sys::sleep_us(PERIOD_US);
            }
        }
    }
}

struct Worker<'a> {
    watch: Watch<'a>,
    listener: Option<OwnedFd>,
    answer: &'static mut [u8; ANSWER_BYTES_MAX],
    qm_cgroup: &'a str,
}

struct Client {
    socket: OwnedFd,
    deadline_us: u64,
}

/// What the worker waits for.
#[derive(Clone, Copy)]
enum Source {
    Peer,
    Listener,
    Client(usize),
}

/// The most sources at once.
const SOURCES_MAX: usize = CLIENTS_MAX + 2;

/// The worker: one poll for the peer, the socket, the clients and the clock.
fn work(worker: &mut Worker<'_>, pair: &mut Pair) -> Role {
    let mut clients: [Option<Client>; CLIENTS_MAX] = [const { None }; CLIENTS_MAX];
    let mut next_look = sys::now_us();
    loop {
        let now = sys::now_us();
        if pair.peer.is_none() && pair.revive(now) {
            return Role::Keeper;
        }
        if now >= next_look {
            worker.watch.look(&mut Linux);
            next_look = now.saturating_add(PERIOD_US);
        }
        for client in &mut clients {
            client.take_if(|client| now >= client.deadline_us);
        }
        for source in wait(worker, pair, &clients, next_look.saturating_sub(now)) {
            match source {
                Source::Peer => pair.lost("keeper"),
                Source::Listener => worker.accept(&mut clients),
                Source::Client(at) => {
                    if let Some(client) = clients.get_mut(at).and_then(Option::take) {
                        worker.serve(&client.socket, pair);
                    }
                }
            }
        }
    }
}

/// Sleeps until something is ready or the time is over.
fn wait(
    worker: &Worker<'_>,
    pair: &Pair,
    clients: &[Option<Client>; CLIENTS_MAX],
    timeout_us: u64,
) -> heapless::Vec<Source, SOURCES_MAX> {
    let peer = pair.peer.iter().map(|(_, pidfd)| (Source::Peer, pidfd));
    let full = clients.iter().all(Option::is_some);
    let listener = worker.listener.iter().filter(|_| !full).map(|fd| (Source::Listener, fd));
    let asking = clients.iter().enumerate().filter_map(|(at, client)| {
        client.as_ref().map(|client| (Source::Client(at), &client.socket))
    });
    let mut sources: heapless::Vec<Source, SOURCES_MAX> = heapless::Vec::new();
    let mut fds: heapless::Vec<PollFd<'_>, SOURCES_MAX> = heapless::Vec::new();
    for (source, fd) in peer.chain(listener).chain(asking).take(SOURCES_MAX) {
        let _ = sources.push(source);
        let _ = fds.push(PollFd::new(fd, PollFlags::IN));
    }
    if rustix::event::poll(&mut fds, Some(&timespec(timeout_us))).is_err() {
        sources.clear();
    }
    let mut revents = fds.iter().map(|fd| fd.revents());
    sources.retain(|_| revents.next().is_some_and(|revents| !revents.is_empty()));
    sources
}

fn listen() -> Result<OwnedFd, Errno> {
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
    fn accept(&self, clients: &mut [Option<Client>]) {
        let Some(listener) = &self.listener else { return };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let Ok(socket) = rustix::net::accept_with(listener, flags) else { return };
        // The socket's mode lets only root in; this is for one that changed it.
        if !sockopt::socket_peercred(&socket).is_ok_and(|peer| peer.uid.is_root()) {
            return;
        }
        if let Some(free) = clients.iter_mut().find(|client| client.is_none()) {
            // Its time begins now, not when the poll before it did.
            let deadline_us = sys::now_us().saturating_add(CLIENT_US);
            *free = Some(Client { socket, deadline_us });
        }
    }

    /// Takes one request and answers it. Nothing here waits.
    fn serve(&mut self, socket: &OwnedFd, pair: &Pair) {
        // One byte more than is allowed, to tell a request that is too long.
        let mut request = [0; REQUEST_BYTES_MAX + 1];
        let Ok((read, _)) = rustix::net::recv(socket, &mut request, RecvFlags::DONTWAIT) else {
            return;
        };
        let request = request.get(..read).unwrap_or_default();
        let refusal = if request.len() > REQUEST_BYTES_MAX {
            Some(r#"{"error":"a request has at most 512 bytes"}"#)
        } else {
            match serde_json_core::from_slice::<Request<'_>>(request) {
                Ok((Request { command: "status" }, end)) if end == request.len() => None,
                Ok(_) => Some(r#"{"error":"command: allowed is \"status\""}"#),
                Err(_) => Some(r#"{"error":"a request is {\"command\":\"status\"}"}"#),
            }
        };
        let answer = match refusal {
            Some(refusal) => refusal.as_bytes(),
            None => self.status(pair).unwrap_or(br#"{"error":"no status"}"#),
        };
        let _ = rustix::net::send(socket, answer, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
    }

    /// The answer to "status": the supervisor now, and the boot's record as it
    /// was written.
    fn status(&mut self, pair: &Pair) -> Option<&[u8]> {
        let live = self.live(pair);
        let mut head = Slice::new(self.answer);
        write!(head, r#"{{"version":1,"live":{},"boot":"#, Json(&live)).ok()?;
        let mut len = head.written();
        // One byte is kept for the end.
        let room = self.answer.len().saturating_sub(1);
        len += Linux.read_at(RECORD_PATH, 0, self.answer.get_mut(len..room)?).ok()?;
        *self.answer.get_mut(len)? = b'}';
        self.answer.get(..=len)
    }

    fn live(&self, pair: &Pair) -> Live {
        let kernel = &mut Linux;
        let mut buf = [0; 256];
        let init =
            cut(format_args!("{}", read_text(kernel, "/proc/1/comm", &mut buf).trim_ascii_end()));
        let mut knob = |name: &str| {
            apply::knob_path(self.qm_cgroup, name)
                .map(|path| read_text(kernel, &path, &mut buf).trim_ascii_end())
                .map(|text| keyed_value(text, "oom_kill").or(decimal(text)))
                .ok()
                .flatten()
                .unwrap_or(0)
        };
        Live {
            worker: rustix::process::getpid().as_raw_nonzero().get(),
            keeper: pair.peer.as_ref().map_or(0, |(pid, _)| pid.as_raw_nonzero().get()),
            revivals: pair.revivals,
            drifts: self.watch.drifts,
            mended: self.watch.mended,
            init,
            qm_current_bytes: knob("memory.current"),
            qm_oom_kills: knob("memory.events"),
        }
    }
}
