//! The boot's record: what was wanted, what the kernel shows, when.
//!
//! The supervisor writes the types as JSON, and the host's tool reads them back.

use core::fmt::{self, Write as _};

use heapless::string::StringView;
use heapless::{String, Vec};
use serde::Deserialize;

use crate::json::{Json, Slice};
use crate::kernel::{Errno, Kernel, Level};

/// Entries kept: 48 modules, 8 host cgroups with 2 entries each, about 30 of
/// the boot's own and 8 faults of a board file fit.
pub const ENTRIES_MAX: usize = 112;
/// Bytes of the record as JSON, at most: [`ENTRIES_MAX`] full entries of 460
/// bytes and the head, with room for some escapes.
pub const JSON_BYTES_MAX: usize = 56 * 1024;

/// Version of the record's format.
pub const VERSION: u8 = 1;

/// What came of one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// The kernel shows what was wanted.
    Agrees,
    /// The kernel took the value but shows another one.
    Differs,
    /// The kernel refused; `found` says how.
    Failed,
    /// Not needed or not possible here; `found` says why.
    Skipped,
}

impl Outcome {
    /// The word used in the record and on the console.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Agrees => "agrees",
            Self::Differs => "differs",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
        }
    }
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Entry {
    /// Microseconds from the kernel's start to the step's end.
    pub t_us: u64,
    /// What kind of step: mount, module, board, cgroup, limit, oom-score, ...
    pub step: String<16>,
    /// The file, device or field it is about.
    pub target: String<128>,
    /// The value wanted.
    pub wanted: String<128>,
    /// The value read back, or why there is none.
    pub found: String<96>,
    /// What came of it.
    pub outcome: Outcome,
}

/// The record of one boot.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Record {
    /// [`VERSION`], once the record is finished.
    pub version: u8,
    /// Path of the board file.
    pub board: String<128>,
    /// Release of the running kernel.
    pub kernel: String<64>,
    /// MemTotal, in KiB.
    pub mem_total_kib: u64,
    /// Bytes in a page.
    pub page_bytes: u64,
    /// When user space (plimsoll itself) started, microseconds since the
    /// kernel's start.
    pub start_us: u64,
    /// How long module loading and waiting for devices took, in microseconds.
    pub waited_us: u64,
    /// Whether QM may be started.
    pub qm_start: bool,
    /// Why QM may not be started, or under which limit it may.
    pub qm_reason: String<128>,
    /// Steps that did not fit.
    pub dropped: u16,
    /// The steps in order.
    pub entries: Vec<Entry, ENTRIES_MAX>,
}

impl Record {
    /// An empty record, of a QM that is held until something says otherwise.
    /// All of it is zero, so that a static one takes no room in the binary.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            version: 0,
            board: String::new(),
            kernel: String::new(),
            mem_total_kib: 0,
            page_bytes: 0,
            start_us: 0,
            waited_us: 0,
            qm_start: false,
            qm_reason: String::new(),
            dropped: 0,
            entries: Vec::new(),
        }
    }

    /// Notes a step and says it on the kernel log.
    pub fn note<K: Kernel>(&mut self, kernel: &mut K, note: &Note<'_>) {
        let t_us = kernel.now_us();
        let level = match note.outcome {
            Outcome::Agrees | Outcome::Skipped => Level::Info,
            Outcome::Differs => Level::Warning,
            Outcome::Failed => Level::Error,
        };
        kernel.log(level, format_args!("{note}"));
        let entry = Entry {
            t_us,
            step: cut_text(note.step),
            target: cut_text(note.target),
            wanted: cut(note.wanted),
            found: cut(note.found),
            outcome: note.outcome,
        };
        if self.entries.push(entry).is_err() {
            self.dropped = self.dropped.saturating_add(1);
        }
    }

    /// Writes the record as JSON; how many bytes, or `None` if `buf` is too
    /// small ([`JSON_BYTES_MAX`] is not).
    pub fn to_json(&self, buf: &mut [u8]) -> Option<usize> {
        let mut json = Slice::new(buf);
        write!(json, "{}", Json(self)).ok()?;
        Some(json.written())
    }
}

impl Default for Record {
    fn default() -> Self {
        Self::new()
    }
}

/// A step as it is noted.
#[derive(Clone, Copy)]
pub struct Note<'a> {
    /// See [`Entry::step`].
    pub step: &'a str,
    /// See [`Entry::target`].
    pub target: &'a str,
    /// See [`Entry::wanted`].
    pub wanted: fmt::Arguments<'a>,
    /// See [`Entry::found`].
    pub found: fmt::Arguments<'a>,
    /// See [`Entry::outcome`].
    pub outcome: Outcome,
}

impl fmt::Display for Note<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.step, self.target, self.outcome.word())?;
        let wanted = cut::<128>(self.wanted);
        let found = cut::<96>(self.found);
        match self.outcome {
            Outcome::Agrees if wanted.is_empty() => Ok(()),
            Outcome::Agrees => write!(f, ", {wanted}"),
            Outcome::Skipped => write!(f, ", {found}"),
            Outcome::Differs | Outcome::Failed if wanted.is_empty() => write!(f, ", {found}"),
            Outcome::Differs | Outcome::Failed => write!(f, ", wanted {wanted}, found {found}"),
        }
    }
}

impl fmt::Display for Json<&Record> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let record = self.0;
        write!(
            f,
            "{{\"version\":{},\"board\":{},\"kernel\":{},\"mem_total_kib\":{},\
             \"page_bytes\":{},\"start_us\":{},\"waited_us\":{},\"qm_start\":{},\
             \"qm_reason\":{},\"dropped\":{},\"entries\":[",
            u64::from(record.version),
            Json(&*record.board),
            Json(&*record.kernel),
            record.mem_total_kib,
            record.page_bytes,
            record.start_us,
            record.waited_us,
            record.qm_start,
            Json(&*record.qm_reason),
            u64::from(record.dropped),
        )?;
        let mut comma = "";
        for entry in &record.entries {
            write!(f, "{comma}{}", Json(entry))?;
            comma = ",";
        }
        f.write_str("]}")
    }
}

impl fmt::Display for Json<&Entry> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Entry { t_us, step, target, wanted, found, outcome } = self.0;
        write!(
            f,
            "{{\"t_us\":{t_us},\"step\":{},\"target\":{},\"wanted\":{},\"found\":{},\
             \"outcome\":{}}}",
            Json(&**step),
            Json(&**target),
            Json(&**wanted),
            Json(&**found),
            Json(outcome.word()),
        )
    }
}

/// Formats into a bounded string; what does not fit ends in "...".
pub fn cut<const N: usize>(text: fmt::Arguments<'_>) -> String<N> {
    let mut out = String::new();
    // What was cut is known by its dots.
    let _ = Cutter(&mut out).write_fmt(text);
    out
}

/// The same of a text as it is.
#[must_use]
pub fn cut_text<const N: usize>(text: &str) -> String<N> {
    let mut out = String::new();
    append(&mut out, text);
    out
}

/// What marks a text that was cut.
const CUT: &str = "...";

/// Appends `text`, or as much of its beginning as fits before a mark; whether all
/// of it is there.
pub(crate) fn append(to: &mut StringView, text: &str) -> bool {
    if to.push_str(text).is_ok() {
        return true;
    }
    for c in text.chars() {
        if to.push(c).is_err() {
            break;
        }
    }
    while to.len() > to.capacity().saturating_sub(CUT.len()) {
        to.pop();
    }
    let _ = to.push_str(CUT);
    false
}

struct Cutter<'a>(&'a mut StringView);

impl fmt::Write for Cutter<'_> {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        if append(self.0, s) { Ok(()) } else { Err(fmt::Error) }
    }
}

/// A refusal in words, for [`Note::found`].
#[must_use]
pub fn refusal(errno: Errno) -> String<32> {
    cut(format_args!("{errno}"))
}
