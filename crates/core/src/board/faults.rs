//! What is wrong with a board file.

use core::fmt;

use heapless::{String, Vec};

use super::json::{self, Span};
use super::keys;
use crate::json::Json;
use crate::limit::Limit;
use crate::record::{self, cut_text};

/// Faults kept: as many as one look takes in; the rest is counted.
pub const FAULTS_MAX: usize = 8;
/// Longest path of a key, in bytes: the longest known,
/// `agent.memcg.cgroups[15].eviction_run_aging_count_min`, has 52.
pub const KEY_PATH_MAX: usize = 64;
/// What is shown of a refused value, in bytes: a UUID and its quotes have 38.
pub const FAULT_VALUE_MAX: usize = 40;

/// One refused value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Where it is: `qm.memory_limit.max`, `payloads[1].name`; empty for the
    /// file as a whole.
    pub path: String<KEY_PATH_MAX>,
    /// The value as the file has it, strings with their quotes; empty where it
    /// is missing.
    pub value: String<FAULT_VALUE_MAX>,
    /// What is allowed there.
    pub allowed: &'static str,
    /// Line of the value, from 1; 0 where no file is meant.
    pub line: u32,
    /// Column of the value in characters, from 1; 0 where no file is meant.
    pub column: u32,
}

impl fmt::Display for Fault {
    /// As a compiler would say it: `LINE:COLUMN: FIELD: found VALUE, allowed is ...`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, value, allowed, line, column } = self;
        if *line > 0 {
            write!(f, "{}:{}: ", u64::from(*line), u64::from(*column))?;
        }
        if !path.is_empty() {
            write!(f, "{path}: ")?;
        }
        let value = if value.is_empty() { "nothing" } else { value };
        write!(f, "found {value}, allowed is {allowed}")
    }
}

/// As an array of objects with field, value and allowed.
impl fmt::Display for Json<&Faults> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut comma = "[";
        for Fault { path, value, allowed, .. } in &self.0.kept {
            let (path, value, allowed) = (Json(&**path), Json(&**value), Json(*allowed));
            write!(f, r#"{comma}{{"field":{path},"value":{value},"allowed":{allowed}}}"#)?;
            comma = ",";
        }
        f.write_str(if comma == "[" { "[]" } else { "]" })
    }
}

/// The faults of one board file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    kept: Vec<Fault, FAULTS_MAX>,
    more: u32,
}

impl Fault {
    /// A limit that makes no sense on this machine.
    pub(super) fn of_limit(path: &str, limit: Limit, allowed: &'static str) -> Self {
        let value = record::cut(format_args!("{limit}"));
        Self { path: cut_text(path), value, allowed, line: 0, column: 0 }
    }
}

impl Faults {
    /// Whether the board file is accepted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// The faults that were kept, in the order in which they were found.
    pub fn iter(&self) -> core::slice::Iter<'_, Fault> {
        self.kept.iter()
    }

    /// How many there are beyond those kept.
    #[must_use]
    pub fn more(&self) -> u32 {
        self.more
    }

    /// Whether a fault was found at `path` or below it.
    pub(crate) fn within(&self, path: &str) -> bool {
        self.kept.iter().any(|fault| {
            fault
                .path
                .strip_prefix(path)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        })
    }

    pub(super) fn push(&mut self, fault: Fault) {
        if self.kept.push(fault).is_err() {
            self.more = self.more.saturating_add(1);
        }
    }

    /// A fault of what stands at `span`.
    pub(super) fn refuse(&mut self, text: &[u8], path: &str, span: Span, allowed: &'static str) {
        let (line, column) = json::position(text, span.start);
        let value = text.get(span.start..span.end).unwrap_or_default();
        // A value of several lines is shown by its first.
        let value = value.split(|byte| *byte == b'\n').next().unwrap_or_default();
        // What is no text, a syntax error may have cut or made; its place is enough.
        let value = core::str::from_utf8(value).unwrap_or_default();
        self.push(Fault { path: cut_text(path), value: cut_text(value), allowed, line, column });
    }

    /// A fault of the key at `path`, or of what should contain it where it is
    /// missing.
    pub(crate) fn refuse_key(&mut self, text: &[u8], path: &str, allowed: &'static str) {
        let (parent, _) = keys::split_last(path);
        let span = json::find(text, path).unwrap_or_else(|| {
            let start = json::find(text, parent).map_or(0, |span| span.start);
            Span { member: start, start, end: start }
        });
        self.refuse(text, path, span, allowed);
    }
}
