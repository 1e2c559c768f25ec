//! What `plimsoll status` asks and what the supervisor answers.

use core::fmt;

use heapless::String;
use serde::Deserialize;

use crate::board::json::Walk;
use crate::board::keys::{split_last, unquoted};
use crate::json::Json;
use crate::number::decimal;

/// Longest request, in bytes.
pub const REQUEST_BYTES_MAX: usize = 512;
/// Longest answer, in bytes: a record and the supervisor's own state.
pub const ANSWER_BYTES_MAX: usize = crate::record::JSON_BYTES_MAX + 1024;

/// A request over the control socket: one JSON object a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request<'a> {
    /// The only one in this version: "status".
    pub command: &'a str,
}

/// The supervisor as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
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

impl fmt::Display for Json<&Live> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let live = self.0;
        write!(
            f,
            "{{\"worker\":{},\"keeper\":{},\"revivals\":{},\"drifts\":{},\"mended\":{},\
             \"init\":{},\"qm_current_bytes\":{},\"qm_oom_kills\":{}}}",
            i64::from(live.worker),
            i64::from(live.keeper),
            u64::from(live.revivals),
            u64::from(live.drifts),
            u64::from(live.mended),
            Json(&*live.init),
            live.qm_current_bytes,
            live.qm_oom_kills,
        )
    }
}

/// What the table's head is made of, as paths in the answer to "status".
const HEAD: [&str; 14] = [
    "live.worker",
    "live.keeper",
    "live.revivals",
    "live.drifts",
    "live.mended",
    "live.init",
    "live.qm_current_bytes",
    "live.qm_oom_kills",
    "boot.board",
    "boot.kernel",
    "boot.mem_total_kib",
    "boot.page_bytes",
    "boot.qm_start",
    "boot.qm_reason",
];
/// What a line is made of: [`crate::record::Entry`].
const ENTRY: [&str; 6] = ["t_us", "step", "target", "wanted", "found", "outcome"];

/// Says the answer to "status" as a table, a line at a time; whether QM may be
/// started, `None` where it is no such answer. The answer has its fields in the
/// order in which [`Live`] and [`crate::record::Record`] have them.
pub fn table(answer: &[u8], say: &mut dyn FnMut(fmt::Arguments<'_>)) -> Option<bool> {
    let mut head = [""; HEAD.len()];
    let mut entry = [""; ENTRY.len()];
    let mut dropped = "";
    let mut walk = Walk::with_escapes();
    while let Some(value) = walk.next(answer).ok()? {
        let raw = core::str::from_utf8(answer.get(value.span.start..value.span.end)?).ok()?;
        let text = unquoted(raw).unwrap_or(raw);
        match walk.path() {
            "boot.entries" => say_head(&head, say),
            "boot.dropped" => dropped = text,
            path if path.starts_with("boot.entries[") => {
                let (_, name) = split_last(path);
                keep(&ENTRY, &mut entry, name, text);
                if name == "outcome" {
                    say_entry(&entry, say)?;
                }
            }
            path => keep(&HEAD, &mut head, path, text),
        }
    }
    if !matches!(dropped, "" | "0") {
        say(format_args!("{dropped} steps more did not fit\n"));
    }
    let [.., start, _] = head;
    (!start.is_empty()).then_some(start == "true")
}

fn keep<'a>(names: &[&str], slots: &mut [&'a str], name: &str, text: &'a str) {
    for (known, slot) in names.iter().zip(slots) {
        if *known == name {
            *slot = text;
        }
    }
}

fn say_head(head: &[&str; HEAD.len()], say: &mut dyn FnMut(fmt::Arguments<'_>)) {
    let [worker, keeper, revivals, drifts, mended, init, bytes, kills, head @ ..] = head;
    let [board, kernel, total, page, start, reason] = head;
    let verdict = if *start == "true" { "may start" } else { "held" };
    say(format_args!("board   {board} on {kernel}\n"));
    say(format_args!("memory  {total} KiB in pages of {page} B\n"));
    say(format_args!("QM      {verdict}: {reason}\n"));
    say(format_args!("        {bytes} B in use, {kills} killed for memory\n"));
    say(format_args!(
        "watch   worker {worker}, keeper {keeper}, {revivals} brought back; \
         {drifts} drifts, {mended} mended\n"
    ));
    say(format_args!("init    {init}\n\n"));
}

fn say_entry(entry: &[&str; ENTRY.len()], say: &mut dyn FnMut(fmt::Arguments<'_>)) -> Option<()> {
    let [t_us, step, target, wanted, found, outcome] = entry;
    let t_us = decimal(t_us)?;
    let (secs, micros) = (t_us / 1_000_000, t_us % 1_000_000);
    let note = if *outcome == "agrees" { wanted } else { found };
    say(format_args!("{secs:>4}.{micros:06} {outcome:<8} {step} {target} {note}\n"));
    Some(())
}

/// The value of `key` in a file of lines "key value", such as memory.events.
#[must_use]
pub fn keyed_value(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(' ')?;
        if name == key { decimal(value.trim_ascii()) } else { None }
    })
}

#[cfg(test)]
mod tests {
    use super::{Json, Live, table};
    use crate::fake::FakeKernel;
    use crate::record::{Note, Outcome, Record};

    fn answer() -> String {
        let (mut record, kernel) = (Record::new(), &mut FakeKernel::mounted());
        for outcome in [Outcome::Agrees, Outcome::Failed] {
            let (wanted, found) = (format_args!("40%"), format_args!("\"35 %\""));
            record.note(kernel, &Note { step: "board", target: "qm.max", wanted, found, outcome });
        }
        record.entries[1].t_us = 12_000_034;
        (record.qm_start, record.dropped) = (true, 7);
        let live = Live {
            worker: 5,
            keeper: 6,
            revivals: 1,
            drifts: 2,
            mended: 3,
            init: "systemd".try_into().unwrap(),
            qm_current_bytes: 4096,
            qm_oom_kills: 9,
        };
        format!(r#"{{"version":1,"live":{},"boot":{}}}"#, Json(&live), Json(&record))
    }

    #[test]
    fn an_answer_becomes_a_table() {
        let mut text = String::new();
        let start = table(answer().as_bytes(), &mut |line| text += &line.to_string());
        assert_eq!(start, Some(true));
        assert!(text.contains("watch   worker 5, keeper 6, 1 brought back; 2 drifts, 3 mended\n"));
        assert!(text.contains(" agrees   board qm.max 40%\n"), "{text}");
        assert!(text.contains("  12.000034 failed   board qm.max \\\"35 %\\\"\n"), "{text}");
        assert!(text.ends_with("7 steps more did not fit\n"));
    }

    #[test]
    fn what_is_no_answer_is_none() {
        let answer = answer();
        for text in ["", "{}", r#"{"error":"no status"}"#, &answer[..answer.len() - 1]] {
            assert_eq!(table(text.as_bytes(), &mut |_| {}), None, "{text}");
        }
    }
}
