//! The supervisor: a worker that keeps the limits true and answers on the
//! control socket, and a keeper that brings it back. Each watches the other
//! through a pidfd, so that killing either changes nothing.

use core::ffi::CStr;

use heapless::String;
use plimsoll_core::agent::swap::qm_swap_max;
use plimsoll_core::apply;
use plimsoll_core::board::{self, BOARD_BYTES_MAX, Faults, Qm};
use plimsoll_core::boot::BOARD_COPY_PATH;
use plimsoll_core::facts::{self, CGROUP_ROOT, Facts};
use plimsoll_core::guests::GUESTS_MAX;
use plimsoll_core::kernel::{Errno, Kernel as _};
use plimsoll_core::number::decimal;
use plimsoll_core::plan::{self, SUPERVISOR_CGROUP, Value};
use plimsoll_core::record::{Outcome, Record, cut};
use plimsoll_core::status::ANSWER_BYTES_MAX;
use plimsoll_core::watch::{PERIOD_US, Watch};
use rustix::event::{PollFd, PollFlags};
use rustix::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use rustix::fs::{MemfdFlags, OFlags};
use rustix::io::FdFlags;

use crate::agent::Agent;
use crate::control::{CLIENTS_MAX, Client, listen};
use crate::hosts::Hosts;
use crate::linux::{Linux, c_path, errno, open};
use crate::pair::Pair;
use crate::pid1::{READY, timespec};
use crate::start::Start;
use crate::units::Units;
use crate::{swap, sys};

/// argv[0]: systemd-shutdown spares root's processes whose name begins with '@'.
const NAME: &CStr = c"@plimsoll";
/// Score of the supervisor's processes: never chosen.
const OOM_SCORE_ADJ: i64 = -1000;

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
    let _ = rustix::thread::set_name(c"plimsoll");
    // The others' signals at shutdown are not for it: it ends with the kernel.
    sys::block(&[sys::SIGHUP, sys::SIGINT, sys::SIGTERM, sys::SIGPIPE]);
    leave_console();
    let listener = listen();
    if let Err(errno) = &listener {
        error!("control socket: {errno}");
    }
    let Some(mut worker) = prepare(listener.ok()) else { sys::exit(1) };
    // That took far more of the stack than anything that follows.
    sys::give_back_stack();
    // What the next init changes from here on is seen, and a request answered.
    if let Some(to_pid1) = to_pid1 {
        let _ = rustix::io::write(to_pid1, &[READY]);
    }
    let mut pair = Pair::default();
    let mut role = Role::Worker;
    loop {
        // Each returns in a new process that has the other role.
        role = match role {
            Role::Worker => work(&mut worker, &mut pair),
            Role::Keeper => {
                // A VMM speaks with one at a time.
                worker.hosts.forget();
                keep(&mut pair)
            }
        };
    }
}

/// Reads the board file and the kernel's limits. Apart from [`supervise`], whose
/// frame stays.
#[inline(never)]
fn prepare(listener: Option<OwnedFd>) -> Option<Worker<'static>> {
    let kernel = &mut Linux;
    let (text, answer) = (TEXT.take()?, ANSWER.take()?);
    let read = kernel.read_at(BOARD_COPY_PATH, 0, text).unwrap_or(0);
    let text = text.get_mut(..read).unwrap_or_default();
    let mut board = board::read(text, board::decode_core, &mut Faults::default());
    let facts = Facts::gather(kernel);
    // As at boot.
    if board.against(facts.memory).is_err() {
        board.qm.fence();
    }
    let plan = plan::plan(&board, &facts).unwrap_or_default();
    let watch = Watch::new(kernel, &plan, &board, &facts);
    let units = Units::new();
    let hosts = Hosts::new(board.guests, facts.memory);
    let agent = Agent::new(board.agent, board.virtio_mem);
    Some(Worker { watch, units, hosts, agent, listener, answer, qm: board.qm })
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

/// What the worker works with.
pub(crate) struct Worker<'a> {
    pub(crate) watch: Watch<'a>,
    units: Units,
    pub(crate) hosts: Hosts<'a>,
    pub(crate) agent: Agent,
    pub(crate) listener: Option<OwnedFd>,
    pub(crate) answer: &'static mut [u8; ANSWER_BYTES_MAX],
    pub(crate) qm: Qm<'a>,
}

/// What the worker waits for.
#[derive(Clone, Copy)]
enum Source {
    Peer,
    Listener,
    Client(usize),
    Agent,
    Units,
    Hosts,
}

/// The most sources at once: the clients, the listener, the peer; the agent's
/// child, its pipe and two triggers; the kernel's log; systemctl and the units'
/// cgroups; the guests' child and their sockets.
const SOURCES_MAX: usize = CLIENTS_MAX + 10 + GUESTS_MAX;

/// The worker: one poll for the peer, the socket, the clients and the clock.
fn work(worker: &mut Worker<'_>, pair: &mut Pair) -> Role {
    let mut clients: [Option<Client>; CLIENTS_MAX] = [const { None }; CLIENTS_MAX];
    let mut next_look = sys::now_us();
    worker.agent.forget_child();
    worker.units.forget_child();
    worker.hosts.forget();
    worker.watch.forget_question();
    loop {
        let now = sys::now_us();
        if pair.peer.is_none() && pair.revive(now) {
            return Role::Keeper;
        }
        if now >= next_look {
            if worker.qm.unit.is_some() {
                worker.units.listen(worker.qm.cgroup);
            }
            let memory = facts::memory(&mut Linux);
            worker.agent.squeeze_bytes = worker.watch.follow(&mut Linux, &worker.qm, memory);
            worker.watch.look(&mut Linux);
            worker.hosts.hosting.look(&mut Linux, memory);
            next_look = now.saturating_add(PERIOD_US);
        }
        if let Some(due) = worker.units.tick(&mut worker.watch, now) {
            next_look = next_look.min(due);
        }
        worker.hosts.tick(now);
        // The one that would bring this process back has to know as well.
        if worker.hosts.hosting.changed() {
            pair.renew();
            continue;
        }
        if worker.agent.tick(worker.qm.cgroup) {
            worker.allow_swap();
        }
        let next = next_look.min(worker.agent.deadline_us(now)).min(worker.units.deadline_us());
        let next = next.min(worker.hosts.deadline_us());
        for source in wait(worker, pair, &clients, next.saturating_sub(now)) {
            match source {
                Source::Peer => pair.lost("keeper"),
                Source::Listener => worker.accept(&mut clients),
                Source::Client(at) => {
                    if let Some(client) = clients.get_mut(at).and_then(Option::take) {
                        worker.serve(&client.socket, pair);
                        sys::give_back_stack();
                    }
                }
                Source::Units if worker.units.heard() => next_look = now,
                // Minded in any case, before the next wait.
                Source::Agent | Source::Units | Source::Hosts => {}
            }
        }
        // Who asked in time was answered, however long this process had to wait
        // for a CPU.
        for client in &mut clients {
            client.take_if(|client| now >= client.deadline_us);
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
    let mut sources: heapless::Vec<Source, SOURCES_MAX> = heapless::Vec::new();
    let mut fds: heapless::Vec<PollFd<'_>, SOURCES_MAX> = heapless::Vec::new();
    let mut add = |source, fd, flags| {
        let _ = sources.push(source);
        let _ = fds.push(PollFd::from_borrowed_fd(fd, flags));
    };
    if let Some((_, pidfd)) = &pair.peer {
        add(Source::Peer, pidfd.as_fd(), PollFlags::IN);
    }
    // Who asks is answered before another may take the place.
    for (at, client) in clients.iter().enumerate() {
        if let Some(client) = client {
            add(Source::Client(at), client.socket.as_fd(), PollFlags::IN);
        }
    }
    if let Some(listener) = &worker.listener {
        add(Source::Listener, listener.as_fd(), PollFlags::IN);
    }
    worker.agent.sources(&mut |fd, flags| add(Source::Agent, fd, flags));
    worker.units.sources(&mut |fd| add(Source::Units, fd, PollFlags::IN));
    worker.hosts.sources(&mut |fd| add(Source::Hosts, fd, PollFlags::IN));
    let mut ready = heapless::Vec::new();
    if rustix::event::poll(&mut fds, Some(&timespec(timeout_us))).is_ok() {
        for (source, fd) in sources.iter().zip(&fds) {
            if !fd.revents().is_empty() {
                let _ = ready.push(*source);
            }
        }
    }
    ready
}

impl Worker<'_> {
    /// Swap was made: QM may use it.
    fn allow_swap(&mut self) {
        let Ok(present) = swap::present() else { return };
        let named = self.qm.swap_named.then_some(self.qm.swap_max);
        let limit = qm_swap_max(named, present);
        let value = Value::of(limit, facts::memory(&mut Linux));
        self.watch.want(&mut Linux, self.qm.cgroup, "memory.swap.max", value);
    }
}
