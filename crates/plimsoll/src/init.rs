//! PID 1 where there is no next init, or it could not be started: reaps, runs
//! the payloads, powers off or reboots on request.

use core::ffi::CStr;
use core::sync::atomic::{AtomicI32, Ordering};

use heapless::{String, Vec};
use plimsoll_core::board::{
    self, BOARD_BYTES_MAX, Board, COMMAND_WORDS_MAX, Faults, PAYLOADS_MAX, Payload, Side,
};
use plimsoll_core::boot::{BOARD_COPY_PATH, QM_START_PATH};
use plimsoll_core::facts::CGROUP_ROOT;
use plimsoll_core::kernel::{Errno, Kernel as _};
use plimsoll_core::number::decimal;
use plimsoll_core::path;
use plimsoll_core::payload::{End, Next, Restarts};
use plimsoll_core::record::cut;
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{Access, OFlags};
use rustix::process::{Pid, WaitOptions};
use rustix::system::RebootCommand;
use rustix::thread::CapabilitySet;

use crate::linux::{CPath, Linux, c_path, open};
use crate::pid1::timespec;
use crate::start::Start;
use crate::sys::{self, Fork};
use crate::{pid1, power};

/// The signals PID 1 acts on: a child's end, and busybox's words for halting,
/// powering off and rebooting, SIGINT being Ctrl-Alt-Del.
const SIGNALS: [u32; 5] = [sys::SIGCHLD, sys::SIGTERM, sys::SIGINT, sys::SIGUSR1, sys::SIGUSR2];
/// Longest sleep, in microseconds, where nothing is due: 60 s.
const IDLE_US: u64 = 60_000_000;
/// What a fault costs before PID 1 goes on, in microseconds: 100 ms, so that
/// one which comes back at once leaves the CPU to others.
const RESUME_US: u64 = 100_000;
/// Exit status of a payload's process whose program can't be executed, as a
/// shell has it.
const NOT_EXECUTED: u8 = 127;
/// Exit status of a QM payload that could not be put under QM's limits.
const NOT_FENCED: u8 = 126;

static TEXT: sys::Once<[u8; BOARD_BYTES_MAX + 1]> = sys::Once::new([0; BOARD_BYTES_MAX + 1]);

struct Slot {
    pid: Option<Pid>,
    start_at_us: Option<u64>,
    restarts: Restarts,
}

/// The payloads' processes in the order of the board file, 0 where there is
/// none: what [`pid1::recover`] takes along.
static PIDS: [AtomicI32; PAYLOADS_MAX] = [const { AtomicI32::new(0) }; PAYLOADS_MAX];

/// See [`PIDS`].
pub(crate) fn pids() -> impl Iterator<Item = i32> {
    PIDS.iter().map(|pid| pid.load(Ordering::Relaxed))
}

/// PID 1's life where it stays plimsoll. `resumed`: after a fault, with the
/// PIDs of its payloads as arguments.
pub(crate) fn run(start: Start, resumed: bool) -> ! {
    sys::on_fault(fault);
    sys::block(&SIGNALS);
    if resumed {
        error!("PID 1 was brought back");
        sys::sleep_us(RESUME_US);
    }
    let text: &'static mut [u8] = TEXT.take().map_or(&mut [], |text| text);
    let read = Linux.read_at(BOARD_COPY_PATH, 0, text).unwrap_or(0);
    let text = text.get_mut(..read).unwrap_or_default();
    let board = board::read(text, board::decode_core, &mut Faults::default());
    let may_start_qm = rustix::fs::access(QM_START_PATH, Access::EXISTS).is_ok();
    let mut slots: Vec<Slot, PAYLOADS_MAX> = Vec::new();
    for (n, payload) in board.payloads.iter().enumerate() {
        let runs =
            start.arg(n + 1).filter(|_| resumed).and_then(|pid| i32::try_from(decimal(pid)?).ok());
        let pid = runs.and_then(Pid::from_raw);
        let held = payload.side == Side::Qm && !may_start_qm;
        if held {
            warn!("payload {}: not started, QM is held", payload.name);
        }
        let start_at_us = (!held && !resumed).then_some(0);
        // As many as the board has.
        let _ = slots.push(Slot { pid, start_at_us, restarts: Restarts::default() });
    }
    info!("plimsoll stays PID 1");
    let signals = sys::signal_fd(&SIGNALS).ok();
    loop {
        let now = sys::now_us();
        for (slot, payload) in slots.iter_mut().zip(&board.payloads) {
            if slot.start_at_us.is_some_and(|at| at <= now) {
                slot.start_at_us = None;
                slot.pid = spawn(start, &board, payload);
            }
        }
        for (pid, slot) in PIDS.iter().zip(&slots) {
            pid.store(slot.pid.map_or(0, |pid| pid.as_raw_nonzero().get()), Ordering::Relaxed);
        }
        let due = slots.iter().filter_map(|slot| slot.start_at_us).min();
        let timeout = timespec(due.map_or(IDLE_US, |due| due.saturating_sub(now)).min(IDLE_US));
        match &signals {
            Some(signals) => {
                let mut fds = [PollFd::new(signals, PollFlags::IN)];
                let _ = rustix::event::poll(&mut fds, Some(&timeout));
                let mut info = [0; 128];
                while rustix::io::read(signals, &mut info).is_ok_and(|read| read == info.len()) {
                    let [a, b, c, d, ..] = info;
                    act(u32::from_ne_bytes([a, b, c, d]), &board);
                }
            }
            // Without signalfd it still reaps and restarts.
            None => sys::sleep_us(1_000_000),
        }
        reap(&mut slots, &board);
    }
}

/// A fault in PID 1's own code.
extern "C" fn fault(signal: i32) -> ! {
    error!("PID 1: fault, signal {}", i64::from(signal));
    pid1::recover()
}

fn act(signal: u32, board: &Board<'_>) {
    match signal {
        sys::SIGUSR1 => power::down(RebootCommand::Halt, "halt", board),
        sys::SIGUSR2 => power::down(RebootCommand::PowerOff, "poweroff", board),
        sys::SIGTERM | sys::SIGINT => power::down(RebootCommand::Restart, "reboot", board),
        _ => {}
    }
}

fn reap(slots: &mut [Slot], board: &Board<'_>) {
    while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
        let end = match (status.exit_status(), status.terminating_signal()) {
            (Some(status), _) => End::Exited(status),
            (None, Some(signal)) => End::Signalled(signal),
            (None, None) => continue,
        };
        for (slot, payload) in slots.iter_mut().zip(&board.payloads) {
            if slot.pid == Some(pid) {
                slot.pid = None;
                ended(slot, payload, end);
            }
        }
    }
}

fn ended(slot: &mut Slot, payload: &Payload<'_>, end: End) {
    let now = sys::now_us();
    match end {
        End::Exited(status) => {
            info!("payload {}: ended with {}", payload.name, i64::from(status));
        }
        End::Signalled(signal) => {
            warn!("payload {}: ended by signal {}", payload.name, i64::from(signal));
        }
    }
    match slot.restarts.after(end, payload.restart, payload.restart_max, now) {
        Next::StartAt(at) => slot.start_at_us = Some(at),
        Next::Rest => {}
        Next::GiveUp => error!(
            "payload {}: given up after {} restarts in 60 s",
            payload.name,
            u64::from(payload.restart_max)
        ),
    }
}

fn spawn(start: Start, board: &Board<'_>, payload: &Payload<'_>) -> Option<Pid> {
    match sys::fork() {
        Ok(Fork::Child) => sys::exit(become_payload(start, board, payload)),
        Ok(Fork::Parent(pid)) => {
            info!(
                "payload {}: started, PID {}",
                payload.name,
                i64::from(pid.as_raw_nonzero().get())
            );
            Some(pid)
        }
        Err(_) => {
            error!("payload {}: fork failed", payload.name);
            None
        }
    }
}

/// From here on this is the payload's process; returns an exit status if its
/// program could not be executed.
fn become_payload(start: Start, board: &Board<'_>, payload: &Payload<'_>) -> u8 {
    let _ = rustix::process::setsid();
    if let Err(errno) = join_cgroup(board, payload) {
        error!("payload {}: its cgroup: {errno}", payload.name);
        if payload.side == Side::Qm {
            return NOT_FENCED;
        }
    }
    let score: String<8> = cut(format_args!("{}", i64::from(payload.oom_score_adj)));
    if let Err(errno) = Linux.write("/proc/self/oom_score_adj", score.as_bytes()) {
        error!("payload {}: its OOM score: {errno}", payload.name);
    }
    if payload.side == Side::Qm {
        // What the public qm.container drops: with them QM could lower its
        // score, lift its own resource limits, and reboot the machine.
        for capability in [CapabilitySet::SYS_RESOURCE, CapabilitySet::SYS_BOOT] {
            let _ = rustix::thread::remove_capability_from_bounding_set(capability);
        }
    }
    if let Ok(console) = open(c"/dev/console", OFlags::RDWR) {
        let _ = rustix::stdio::dup2_stdin(&console);
        let _ = rustix::stdio::dup2_stdout(&console);
        let _ = rustix::stdio::dup2_stderr(&console);
    }
    let mut words: Vec<CPath, COMMAND_WORDS_MAX> = Vec::new();
    for word in &payload.command {
        match c_path(word) {
            Ok(word) => drop(words.push(word)),
            Err(errno) => error!("payload {}: its command: {errno}", payload.name),
        }
    }
    let argv: Vec<&CStr, COMMAND_WORDS_MAX> = words.iter().map(|word| &**word).collect();
    sys::block(&[]);
    if let Some(program) = argv.first() {
        let errno = sys::exec(start, program, &argv);
        error!("payload {}: its program: error {}", payload.name, i64::from(errno.into_raw()));
    }
    NOT_EXECUTED
}

/// Goes into the cgroup of the payload's name below its side's.
fn join_cgroup(board: &Board<'_>, payload: &Payload<'_>) -> Result<(), Errno> {
    let side = match payload.side {
        Side::Qm => board.qm.cgroup,
        Side::Host => board.host.cgroups.first().ok_or(Errno::NOENT)?,
    };
    let mut path = path(format_args!("{CGROUP_ROOT}{side}/{}", payload.name))?;
    match Linux.mkdir(&path) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno),
    }
    path.push_str("/cgroup.procs").map_err(|_| Errno::NAMETOOLONG)?;
    Linux.write(&path, b"0")
}
