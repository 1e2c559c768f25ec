//! Clients of the control socket that mean no good.

use core::time::Duration;

use heapless::Vec;
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, recv,
    send, socket_with,
};

use crate::{Done, Random, failed, say, sys};

/// Where the supervisor listens.
const SOCKET_PATH: &str = "/run/plimsoll/control.sock";
/// A right request.
const REQUEST: &[u8] = br#"{"command":"status"}"#;
/// How a refusal begins.
const REFUSAL: &[u8] = br#"{"error":"#;
/// Longest wait for one connection or answer, in seconds: far above what the
/// supervisor gives a client, so that it counts as an error.
const PATIENCE_SECS: u64 = 5;
/// The message that is too long, in bytes.
const LONG_BYTES: usize = 64 << 10;
/// How long a slow client takes to ask, in microseconds.
const SLOW_US: u64 = 3_000_000;
/// Clients that are silent at once, at most.
const SILENT_MAX: usize = 256;
/// Longest garbage, in bytes: twice the longest request.
const GARBAGE_BYTES: usize = 1024;

/// How a client behaves.
#[derive(Clone, Copy)]
pub(crate) enum Mode {
    Silent,
    Flood,
    Long,
    Slow,
    Dead,
    Garbage,
}

impl Mode {
    /// The mode of that name.
    pub(crate) fn of(name: &str) -> Option<Self> {
        Some(match name {
            "silent" => Self::Silent,
            "flood" => Self::Flood,
            "long" => Self::Long,
            "slow" => Self::Slow,
            "dead" => Self::Dead,
            "garbage" => Self::Garbage,
            _ => return None,
        })
    }
}

/// What came of the requests.
#[derive(Default)]
struct Tally {
    answers: u64,
    refused: u64,
    errors: u64,
}

impl Tally {
    /// Counts what the supervisor sends to `socket`.
    fn take(&mut self, socket: &OwnedFd) {
        // The beginning tells; the rest of a message is dropped.
        let mut answer = [0; 64];
        match recv(socket, &mut answer, RecvFlags::empty()) {
            Ok((0, _)) | Err(_) => self.errors += 1,
            Ok(_) if answer.starts_with(REFUSAL) => self.refused += 1,
            Ok(_) => self.answers += 1,
        }
    }

    fn ask(&mut self, socket: &OwnedFd, message: &[u8]) {
        match send(socket, message, SendFlags::NOSIGNAL) {
            Ok(_) => self.take(socket),
            Err(_) => self.errors += 1,
        }
    }
}

fn client() -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    let patience = Some(Duration::from_secs(PATIENCE_SECS));
    // Of connect as well.
    set_socket_timeout(&socket, Timeout::Send, patience)?;
    set_socket_timeout(&socket, Timeout::Recv, patience)?;
    connect(&socket, &SocketAddrUnix::new(SOCKET_PATH)?)?;
    Ok(socket)
}

pub(crate) fn run(mode: Mode, count: u64) -> Done {
    let mut tally = Tally::default();
    if let Mode::Silent = mode {
        silent(&mut tally, count)?;
    } else {
        let mut random = Random(1);
        for _ in 0..count {
            match client() {
                Ok(socket) => one(mode, &socket, &mut tally, &mut random),
                Err(_) => tally.errors += 1,
            }
        }
    }
    let Tally { answers, refused, errors } = tally;
    say(format_args!("answers {answers} refused {refused} errors {errors}"));
    Ok(())
}

fn one(mode: Mode, socket: &OwnedFd, tally: &mut Tally, random: &mut Random) {
    match mode {
        // Says nothing: waits to be thrown out.
        Mode::Silent => tally.take(socket),
        Mode::Flood => tally.ask(socket, REQUEST),
        Mode::Long => tally.ask(socket, &[b' '; LONG_BYTES]),
        Mode::Slow => {
            sys::sleep_us(SLOW_US);
            tally.ask(socket, REQUEST);
        }
        Mode::Dead => {
            if send(socket, REQUEST, SendFlags::NOSIGNAL).is_err() {
                tally.errors += 1;
            }
        }
        Mode::Garbage => {
            let mut message = [0; GARBAGE_BYTES];
            for word in message.chunks_exact_mut(8) {
                word.copy_from_slice(&random.next().to_ne_bytes());
            }
            let len = 1 + usize::try_from(random.next()).unwrap_or(0) % GARBAGE_BYTES;
            tally.ask(socket, message.get(..len).unwrap_or(&message));
        }
    }
}

/// All connect before the first waits, so that they are there at once.
fn silent(tally: &mut Tally, count: u64) -> Done {
    let mut sockets: Vec<OwnedFd, SILENT_MAX> = Vec::new();
    for _ in 0..count {
        match client() {
            Ok(socket) => {
                sockets.push(socket).map_err(|_| failed("too many clients")(Errno::MFILE))?;
            }
            Err(_) => tally.errors += 1,
        }
    }
    for socket in &sockets {
        tally.take(socket);
    }
    Ok(())
}
