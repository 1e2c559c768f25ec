//! QMP servers that mean no good: what `plimsoll guest` must get over.
//!
//! One client after another, each until it hangs up; a line says how long it
//! stayed and how much it asked.

use plimsoll_core::number::decimal;
use plimsoll_core::record::cut;
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, accept_with,
    bind, listen, recv, send, socket_with,
};

use crate::{Done, Failed, Random, failed, say, sys};

/// Clients that may wait.
const BACKLOG: i32 = 4;
/// As QEMU 10 greets.
const GREETING: &[u8] = br#"{"QMP": {"version": {"qemu": {"micro": 13, "minor": 0, "major": 10}, "package": ""}, "capabilities": ["oob"]}}
"#;
const EVENT: &[u8] = br#"{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "MEMORY_DEVICE_SIZE_CHANGE", "data": {"id": "vmem", "size": 1, "qom-path": "/machine/peripheral/vmem"}}
"#;
const DONE: &[u8] = b"{\"return\": {}}\n";
const SUMMARY: &[u8] = b"{\"return\": {\"base-memory\": 67108864, \"plugged-memory\": 0}}\n";
/// What `lie` says one after another, an answer to a question each: the first is one
/// that could be; the last ones answer more than was asked, or somebody else.
const LIES: [&[u8]; 13] = [
    br#"{"return": [{"type": "virtio-mem", "data": {"id": "vmem", "memdev": "/objects/m", "memaddr": 0, "node": 0, "block-size": 2097152, "max-size": 1099511627776, "requested-size": 1099511627776, "size": 1099511627776}}]}
"#,
    br#"{"return": [{"type": "virtio-mem", "data": {"id": "vmem", "memdev": "/objects/m", "memaddr": 0, "node": 0, "block-size": 2097152, "max-size": 1073741824, "requested-size": 18446744073709551616, "size": 18446744073709551616}}]}
"#,
    br#"{"return": [{"type": "virtio-mem", "data": {"id": "vmem", "memdev": "/objects/m", "memaddr": 0, "node": 0, "block-size": -2097152, "max-size": -1, "requested-size": -1, "size": -1}}]}
"#,
    br#"{"return": [{"type": "virtio-mem", "data": {"id": "vmem", "memdev": "/objects/m", "memaddr": 0, "node": 0, "block-size": "2097152", "max-size": "1073741824", "requested-size": "0", "size": "many"}}]}
"#,
    br#"{"return": [{"type": "virtio-mem", "data": {"id": "vmem", "memdev": "/objects/m", "memaddr": 0, "node": 0, "block-size": 0, "max-size": 0, "requested-size": 1073741824, "size": 18446744073709551615}}]}
"#,
    br#"{"return": [{"type": "virtio-mem", "data": {"id": "vmem", "size": 1e30, "max-size": 1.5, "requested-size": null}}, {"type": "virtio-mem"}, {}, 7]}
"#,
    br#"{"return": [{"type": "virtio-mem", "data": {"id": "other", "memdev": "/objects/m", "memaddr": 0, "node": 0, "block-size": 2097152, "max-size": 1073741824, "requested-size": 0, "size": 0}}]}
"#,
    b"{\"return\": []}\n",
    b"{\"return\": {\"return\": {}}}\n",
    b"{\"error\": {\"class\": 7}}\n",
    b"{\"return\": {}, \"id\": \"nobody's\"}\n",
    b"{\"return\": {}, \"error\": {\"class\": \"GenericError\", \"desc\": \"both\"}}\n",
    b"{\"return\": 1}\n{\"return\": 2}\n{\"return\": 3}\n{\"error\": {\"class\": \"GenericError\", \"desc\": \"of nobody's question\"}}\n",
];
/// Between two bytes of a slow server, in microseconds: a greeting takes 6 s.
const SLOW_US: u64 = 50_000;
/// A piece of garbage, and how many pieces are a line.
const PIECE_BYTES: usize = 64 << 10;
const PIECES_A_LINE: u64 = 32;

/// How a server behaves.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Hang,
    Close,
    Flood,
    Lie,
    Slow,
    Garbage,
}

impl Mode {
    /// The mode of that name.
    pub(crate) fn of(name: &str) -> Option<Self> {
        Some(match name {
            "hang" => Self::Hang,
            "close" => Self::Close,
            "flood" => Self::Flood,
            "lie" => Self::Lie,
            "slow" => Self::Slow,
            "garbage" => Self::Garbage,
            _ => return None,
        })
    }
}

/// Serves for ever; says 'listening', then a line for each client.
pub(crate) fn serve(path: &str, mode: Mode) -> Done {
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None);
    let socket = socket.map_err(failed("socket"))?;
    let _ = rustix::fs::unlink(path);
    let address = SocketAddrUnix::new(path).map_err(failed("no such path"))?;
    bind(&socket, &address).map_err(failed("bind"))?;
    listen(&socket, BACKLOG).map_err(failed("listen"))?;
    say(format_args!("listening"));
    let mut lies = LIES.iter().cycle();
    loop {
        let client = accept_with(&socket, flags).map_err(failed("accept"))?;
        let mut client = Client { socket: client, lines: 0, id: 0 };
        let begin = sys::now_us();
        // It ends when either hangs up.
        let Err(Failed(what, _)) = client.meet(mode, &mut lies);
        let ms = sys::now_us().saturating_sub(begin) / 1000;
        say(format_args!("client ms {ms} lines {} end {what}", client.lines));
    }
}

struct Client {
    socket: OwnedFd,
    /// It has said so many.
    lines: u64,
    /// The id of its last question.
    id: u64,
}

/// Never, but for an error: a client is met until one of both hangs up.
type Met = Result<core::convert::Infallible, Failed>;

impl Client {
    fn meet<'l>(&mut self, mode: Mode, lies: &mut impl Iterator<Item = &'l &'static [u8]>) -> Met {
        match mode {
            Mode::Hang => loop {
                self.hear()?;
            },
            Mode::Close => {
                self.say(GREETING)?;
                Err(Failed("closed", Errno::PIPE))
            }
            Mode::Flood => {
                self.say(GREETING)?;
                loop {
                    self.say(EVENT)?;
                }
            }
            Mode::Lie => {
                self.say(GREETING)?;
                // The first questions are for its capabilities and its memory.
                for truth in [DONE, SUMMARY] {
                    self.hear()?;
                    self.answer(truth)?;
                }
                for lie in lies {
                    self.hear()?;
                    self.answer(lie)?;
                }
                Err(Failed("no more lies", Errno::NODATA))
            }
            Mode::Slow => {
                self.slowly(GREETING)?;
                loop {
                    self.hear()?;
                    self.slowly(DONE)?;
                }
            }
            Mode::Garbage => self.garbage(),
        }
    }

    fn say(&self, mut bytes: &[u8]) -> Done {
        while !bytes.is_empty() {
            let sent = send(&self.socket, bytes, SendFlags::NOSIGNAL).map_err(failed("gone"))?;
            bytes = bytes.get(sent..).unwrap_or_default();
        }
        Ok(())
    }

    /// Answers what was asked last: with the question's id, as QEMU does.
    fn answer(&self, body: &[u8]) -> Done {
        let id = cut::<32>(format_args!("{{\"id\": {}, ", self.id));
        self.say(id.as_bytes())?;
        self.say(body.get(1..).unwrap_or_default())
    }

    /// Waits for what it asks.
    fn hear(&mut self) -> Done {
        let mut bytes = [0; 512];
        let (got, _) =
            recv(&self.socket, &mut bytes, RecvFlags::empty()).map_err(failed("gone"))?;
        let said = bytes.get(..got).filter(|said| !said.is_empty());
        let said = said.ok_or(Failed("gone", Errno::PIPE))?;
        let text = core::str::from_utf8(said).unwrap_or_default();
        let id = text.rsplit_once(':').map_or("", |(_, rest)| rest.trim_end_matches(['}', '\n']));
        self.id = decimal(id).unwrap_or(0);
        self.lines += said.iter().filter(|byte| **byte == b'\n').count() as u64;
        Ok(())
    }

    /// A byte at a time.
    fn slowly(&self, bytes: &[u8]) -> Done {
        for byte in bytes {
            self.say(core::slice::from_ref(byte))?;
            sys::sleep_us(SLOW_US);
        }
        Ok(())
    }

    /// Random bytes, whose lines are short, and lines of megabytes, in turn.
    fn garbage(&self) -> Met {
        let mut random = Random(1);
        let mut piece = [0; PIECE_BYTES];
        loop {
            for word in piece.chunks_exact_mut(8) {
                word.copy_from_slice(&random.next().to_ne_bytes());
            }
            self.say(&piece)?;
            piece.fill(b'[');
            for _ in 0..PIECES_A_LINE {
                self.say(&piece)?;
            }
            self.say(b"\n")?;
        }
    }
}
