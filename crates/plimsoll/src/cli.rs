//! The commands: what plimsoll does under any PID but 1.

use core::fmt::{self, Write as _};

use plimsoll_core::board::{self, BOARD_BYTES_MAX, Faults};
use plimsoll_core::boot::BOARD_PATH;
use plimsoll_core::facts::Facts;
use plimsoll_core::json::{Json, Slice};
use plimsoll_core::kernel::Kernel as _;
use plimsoll_core::plan;
use plimsoll_core::status::{self, ANSWER_BYTES_MAX, Glance, REQUEST_BYTES_MAX};
use rustix::event::{PollFd, PollFlags};
use rustix::fd::OwnedFd;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::{Pid, Signal};

use crate::control::SOCKET_PATH;
use crate::kmsg::put;
use crate::linux::Linux;
use crate::pid1::{self, timespec};
use crate::start::Start;
use crate::sys::{self, STDERR, STDOUT};

/// Everything is as wanted.
pub(crate) const OK: u8 = 0;
/// The command was understood, but something is wrong.
const FAILED: u8 = 1;
/// The command was not understood.
pub(crate) const USAGE: u8 = 2;
/// How long the supervisor may take to answer, in microseconds: 5 s.
const ANSWER_US: u64 = 5_000_000;
/// From one question to the next where the answer is yet to come, in
/// microseconds: 50 ms.
const WAITS_US: u64 = 50_000;
/// Between two lines of `watch`, in microseconds.
const WATCH_US: u64 = 1_000_000;

const HELP: &str = "\
plimsoll check FILE       is this board file right? every mistake, one a line
plimsoll plan [FILE]      what would be done on this machine
plimsoll boot             what PID 1 would have done, where another init is up
plimsoll status [--json]  what was done, and how it is now
plimsoll watch            the same each second, a line each
plimsoll metrics          as OpenMetrics text
plimsoll set JSON         changes the agent: '{\"memcg\":{\"period_secs\":60}}'
plimsoll agent run-now memcg | compact
plimsoll guest explain --model eve --memory 1000000K --vcpus 1   overhead of a VMM
plimsoll guest list | admit NAME | remove NAME
plimsoll guest resize NAME 1536M | stop NAME   changes a guest's memory, a line each second
plimsoll poweroff | reboot | halt   where plimsoll is PID 1
plimsoll version
";

static TEXT: sys::Once<[u8; BOARD_BYTES_MAX + 1]> = sys::Once::new([0; BOARD_BYTES_MAX + 1]);
static ANSWER: sys::Once<[u8; ANSWER_BYTES_MAX]> = sys::Once::new([0; ANSWER_BYTES_MAX]);

/// Runs the command and ends the process.
pub(crate) fn run(start: Start) -> ! {
    let status = match (start.arg(1), start.arg(2), start.argc()) {
        (Some("check"), Some(path), 3) => check(path),
        (Some("plan"), path, 2 | 3) => plan(path.unwrap_or(BOARD_PATH)),
        (Some("boot"), None, 2) => boot(),
        (Some("status"), None, 2) => status(false),
        (Some("status"), Some("--json"), 3) => status(true),
        (Some("watch"), None, 2) => watch(),
        (Some("metrics"), None, 2) => command(format_args!(r#"{{"command":"metrics"}}"#)),
        (Some("set"), Some(agent), 3) => {
            command(format_args!(r#"{{"command":"set","agent":{agent}}}"#))
        }
        (Some("agent"), Some("run-now"), 4) => {
            let name = Json(start.arg(3).unwrap_or_default());
            command(format_args!(r#"{{"command":"run-now","loop":{name}}}"#))
        }
        (Some("guest"), Some("list"), 3) => command(format_args!(r#"{{"command":"guest-list"}}"#)),
        (Some("guest"), Some("resize"), 5) => {
            let name = Json(start.arg(3).unwrap_or_default());
            let size = Json(start.arg(4).unwrap_or_default());
            // How it goes is asked without a size: another may have stopped it.
            followed(
                format_args!(r#"{{"command":"guest-resize","guest":{name},"size":{size}}}"#),
                format_args!(r#"{{"command":"guest-resize","guest":{name}}}"#),
            )
        }
        (Some("guest"), Some(what @ ("admit" | "remove" | "stop")), 4) => {
            let name = Json(start.arg(3).unwrap_or_default());
            command(format_args!(r#"{{"command":"guest-{what}","guest":{name}}}"#))
        }
        (Some("guest"), Some("explain"), _) => crate::guest::explain(start),
        (Some("halt"), None, 2) => signal_init(Signal::USR1),
        (Some("poweroff"), None, 2) => signal_init(Signal::USR2),
        (Some("reboot"), None, 2) => signal_init(Signal::TERM),
        (Some("version"), None, 2) => {
            put(STDOUT, format_args!("plimsoll {}\n", env!("CARGO_PKG_VERSION")));
            OK
        }
        (Some("help" | "--help" | "-h"), None, 2) => write_all(HELP.as_bytes()),
        _ => {
            put(STDERR, format_args!("{HELP}"));
            USAGE
        }
    };
    sys::exit(status)
}

/// The board file's text; says why there is none.
fn read(path: &str) -> Option<&'static mut [u8]> {
    let text = TEXT.take()?;
    match Linux.read_at(path, 0, text) {
        Ok(read) => text.get_mut(..read),
        Err(errno) => {
            put(STDERR, format_args!("{path}: {errno}\n"));
            None
        }
    }
}

/// Reads a board file and says every mistake.
fn load<'a>(path: &str, text: &'a mut [u8]) -> (board::Board<'a>, bool) {
    let mut faults = Faults::default();
    let board = board::read(text, board::decode_core, &mut faults);
    for fault in faults.iter() {
        put(STDERR, format_args!("{path}:{fault}\n"));
    }
    if faults.more() > 0 {
        put(STDERR, format_args!("{path}: {} faults more\n", u64::from(faults.more())));
    }
    (board, faults.is_empty())
}

fn check(path: &str) -> u8 {
    let Some(text) = read(path) else { return FAILED };
    let (_, accepted) = load(path, text);
    if accepted {
        put(STDOUT, format_args!("{path}: accepted\n"));
    }
    if accepted { OK } else { FAILED }
}

fn plan(path: &str) -> u8 {
    let Some(text) = read(path) else { return FAILED };
    let (board, accepted) = load(path, text);
    let facts = Facts::gather(&mut Linux);
    if let Err(fault) = board.against(facts.memory) {
        put(STDERR, format_args!("{path}: {fault}\n"));
    }
    let Ok(plan) = plan::plan(&board, &facts) else { return FAILED };
    plan::outline(&board, &plan, &mut |line| put(STDOUT, format_args!("{line}\n")));
    if accepted { OK } else { FAILED }
}

/// The boot under an init that is up already, once.
fn boot() -> u8 {
    if !rustix::process::geteuid().is_root() {
        put(STDERR, format_args!("plimsoll boot: for root alone\n"));
        return FAILED;
    }
    if connect().is_ok() {
        put(STDERR, format_args!("plimsoll is there already: plimsoll status\n"));
        return OK;
    }
    if pid1::run_late() { OK } else { FAILED }
}

/// The commands that PID 1 understands are signals.
fn signal_init(signal: Signal) -> u8 {
    match rustix::process::kill_process(Pid::INIT, signal) {
        Ok(()) => OK,
        Err(error) => {
            put(STDERR, format_args!("PID 1: error {}\n", i64::from(error.raw_os_error())));
            FAILED
        }
    }
}

fn status(json: bool) -> u8 {
    let Some(answer) = ANSWER.take() else { return FAILED };
    let Some(answer) = told(br#"{"command":"status"}"#, answer) else { return FAILED };
    if json {
        return write_all(answer).max(write_all(b"\n"));
    }
    match status::table(answer, &mut |line| put(STDOUT, line)) {
        Some(true) => OK,
        Some(false) => FAILED,
        None => {
            put(STDERR, format_args!("the answer is not a status: "));
            write_all(answer);
            FAILED
        }
    }
}

/// A line each second, until it is interrupted or the supervisor is gone.
fn watch() -> u8 {
    let Some(buf) = ANSWER.take() else { return FAILED };
    let mut last = None;
    loop {
        let Some(answer) = told(br#"{"command":"status"}"#, buf) else { return FAILED };
        let now = Glance::of(answer);
        if last.is_none() {
            put(STDOUT, format_args!("{}\n", Glance::HEAD));
        }
        put(STDOUT, format_args!("{}\n", now.since(last.as_ref())));
        last = Some(now);
        sys::sleep_us(WATCH_US);
    }
}

/// Has the supervisor do something, and prints its answer; whether it was done.
fn command(request: fmt::Arguments<'_>) -> u8 {
    followed(request, request)
}

/// The same; `again` asks how it goes, each second a line, until it is over. Who
/// interrupts that ends the lines alone.
fn followed(request: fmt::Arguments<'_>, again: fmt::Arguments<'_>) -> u8 {
    let (Some(text), Some(answer)) = (TEXT.take(), ANSWER.take()) else { return FAILED };
    let mut request = request;
    let mut waited_us = 0;
    loop {
        let mut slice = Slice::new(text);
        if slice.write_fmt(request).is_err() {
            put(STDERR, format_args!("a request has at most {REQUEST_BYTES_MAX} bytes\n"));
            return USAGE;
        }
        let len = slice.written();
        let text = text.get(..len).unwrap_or_default();
        let Some(answer) = told(text, answer) else { return FAILED };
        if answer.starts_with(br#"{"error""#) {
            put(STDERR, format_args!("{}\n", core::str::from_utf8(answer).unwrap_or_default()));
            return FAILED;
        }
        let waits = answer.starts_with(br#"{"waits""#);
        if waits && waited_us < ANSWER_US {
            sys::sleep_us(WAITS_US);
            waited_us += WAITS_US;
            continue;
        }
        let end: &[u8] = if answer.ends_with(b"\n") { b"" } else { b"\n" };
        let status = write_all(answer).max(write_all(end));
        if !answer.starts_with(br#"{"resizing""#) {
            let whole = !answer.starts_with(br#"{"stopped""#);
            return if whole { status } else { FAILED };
        }
        request = again;
        sys::sleep_us(WATCH_US);
    }
}

/// The supervisor's answer; says why there is none.
fn told<'b>(request: &[u8], answer: &'b mut [u8]) -> Option<&'b [u8]> {
    match ask(request, answer) {
        Ok(len) => answer.get(..len),
        Err(error) => {
            let (path, error) = (SOCKET_PATH.to_str().unwrap_or_default(), error.raw_os_error());
            put(STDERR, format_args!("{path}: error {}\n", i64::from(error)));
            None
        }
    }
}

/// Sends one request and takes one answer; how many bytes.
fn ask(request: &[u8], answer: &mut [u8]) -> rustix::io::Result<usize> {
    let socket = connect()?;
    rustix::net::send(&socket, request, SendFlags::NOSIGNAL)?;
    let mut fds = [PollFd::new(&socket, PollFlags::IN)];
    if rustix::event::poll(&mut fds, Some(&timespec(ANSWER_US)))? == 0 {
        return Err(rustix::io::Errno::TIMEDOUT);
    }
    let (read, _) = rustix::net::recv(&socket, answer, RecvFlags::DONTWAIT)?;
    Ok(read)
}

fn connect() -> rustix::io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(SOCKET_PATH)?)?;
    Ok(socket)
}

fn write_all(mut bytes: &[u8]) -> u8 {
    while !bytes.is_empty() {
        match rustix::io::write(STDOUT, bytes) {
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return FAILED,
        }
    }
    OK
}
