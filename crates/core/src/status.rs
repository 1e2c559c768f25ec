//! What `plimsoll status` asks and what the supervisor answers.

use heapless::String;
use serde::{Deserialize, Serialize};

use crate::record::Record;

/// Longest request, in bytes.
pub const REQUEST_BYTES_MAX: usize = 512;
/// Longest answer, in bytes: a record and the supervisor's own state.
pub const ANSWER_BYTES_MAX: usize = crate::record::JSON_BYTES_MAX + 1024;

/// A request over the control socket: one JSON object a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request<'a> {
    /// The only one in this version: "status".
    pub command: &'a str,
}

/// The supervisor as it is now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Live {
    /// PID of the process that answers.
    pub worker: i32,
    /// PID of the process that brings it back; 0 while there is none.
    pub keeper: i32,
    /// Times one of the two was brought back.
    pub revivals: u32,
    /// Times a limit was found changed.
    pub drifts: u32,
    /// Times a changed limit was brought back.
    pub mended: u32,
    /// Name of PID 1.
    pub init: String<16>,
    /// memory.current of QM, in bytes; 0 where it can't be read.
    pub qm_current_bytes: u64,
    /// Processes of QM that the kernel killed for memory (memory.events oom_kill).
    pub qm_oom_kills: u64,
}

/// The answer to "status".
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Status {
    /// Of this format: 1.
    pub version: u8,
    /// The supervisor now.
    pub live: Live,
    /// The boot.
    pub boot: Record,
}

/// The value of `key` in a file of lines "key value", such as memory.events.
#[must_use]
pub fn keyed_value(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(' ')?;
        if name == key { value.trim().parse().ok() } else { None }
    })
}
