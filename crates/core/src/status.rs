//! What `plimsoll status` asks and what the supervisor answers.

use core::fmt;

use crate::board::json::Walk;
use crate::board::keys::{split_last, unquoted};
use crate::json::Json;
use crate::number::decimal;
use crate::split::{lines, split_once};
use heapless::String;

/// Longest request, in bytes: one that sets every knob and sixteen cgroups.
pub const REQUEST_BYTES_MAX: usize = 6 * 1024;
/// Longest answer, in bytes: a record, and the supervisor's own state with every
/// knob, sixteen cgroups among them.
pub const ANSWER_BYTES_MAX: usize = crate::record::JSON_BYTES_MAX + 12 * 1024;

/// A request over the control socket: one JSON object a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request<'a> {
    /// `{"command":"status"}`
    Status,
    /// `{"command":"metrics"}`: OpenMetrics text.
    Metrics,
    /// `{"command":"set","agent":{...}}`, see [`crate::agent::settings::set`].
    Set,
    /// `{"command":"run-now","loop":"memcg"}`
    RunNow(&'a str),
    /// `{"command":"guest-list"}`
    GuestList,
    /// `{"command":"guest-admit","guest":"ivi"}`
    GuestAdmit(&'a str),
    /// `{"command":"guest-remove","guest":"ivi"}`
    GuestRemove(&'a str),
    /// `{"command":"guest-resize","guest":"ivi","size":"1536M"}`; without a size: how
    /// it stands.
    GuestResize(&'a str, Option<&'a str>),
    /// `{"command":"guest-stop","guest":"ivi"}`: the resizing.
    GuestStop(&'a str),
}

/// What a request may say besides its agent, and what each may be.
const WORDS: [(&str, &str); 4] = [
    ("command", "command: allowed is a string, once"),
    ("loop", "loop: allowed is memcg or compact, once"),
    ("guest", "guest: allowed is a name, once"),
    ("size", "size: allowed is a string such as 1536M, once"),
];

impl<'a> Request<'a> {
    /// Reads a request. What stands below `agent` is left to who sets it.
    ///
    /// # Errors
    /// What is allowed instead.
    pub fn parse(text: &'a [u8]) -> Result<Self, &'static str> {
        if text.len() > REQUEST_BYTES_MAX {
            return Err("a request has at most 6144 bytes");
        }
        let mut walk = Walk::default();
        let mut given = [None; WORDS.len()];
        let mut agent = false;
        while let Some(value) = walk.next(text).map_err(|_| "a request is a JSON object")? {
            let path = walk.path();
            if path == "agent" || path.starts_with("agent.") {
                agent = true;
            } else if !path.is_empty() {
                let mut words = WORDS.iter().zip(&mut given);
                let Some(((_, allowed), word)) = words.find(|((name, _), _)| *name == path) else {
                    return Err("keys: allowed are command, loop, guest, size and agent");
                };
                if word.is_some() {
                    return Err(allowed);
                }
                *word = Some(unquoted(value.span.text(text)).ok_or(*allowed)?);
            }
        }
        let [command, name, guest, size] = given;
        const ALONE: &str = "status and metrics stand alone";
        const GUESTS: &str = "guest-list: allowed alone; guest-admit, -remove, -stop: with guest alone; guest-resize: with guest and maybe size";
        let (loop_name, guest_name) = (name.unwrap_or_default(), guest.unwrap_or_default());
        let of_guest = [false, true, false];
        // Whether loop, guest and agent stand beside it, and what is allowed.
        let (request, beside, allowed) = match command {
            Some("status") => (Self::Status, [false; 3], ALONE),
            Some("metrics") => (Self::Metrics, [false; 3], ALONE),
            Some("set") => (Self::Set, [false, false, true], "set: allowed with agent alone"),
            Some("run-now") => {
                (Self::RunNow(loop_name), [true, false, false], "run-now: allowed with loop alone")
            }
            Some("guest-list") => (Self::GuestList, [false; 3], GUESTS),
            Some("guest-admit") => (Self::GuestAdmit(guest_name), of_guest, GUESTS),
            Some("guest-remove") => (Self::GuestRemove(guest_name), of_guest, GUESTS),
            Some("guest-resize") => (Self::GuestResize(guest_name, size), of_guest, GUESTS),
            Some("guest-stop") => (Self::GuestStop(guest_name), of_guest, GUESTS),
            _ => {
                return Err(
                    "command: allowed is status, metrics, set, run-now or guest-list, -admit, -remove, -resize, -stop",
                );
            }
        };
        let takes_size = matches!(request, Self::GuestResize(..)) || size.is_none();
        let is_whole = beside == [name.is_some(), guest.is_some(), agent] && takes_size;
        if is_whole { Ok(request) } else { Err(allowed) }
    }
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
    /// memory.swap.current of QM, in bytes.
    pub qm_swap_bytes: u64,
    /// memory.high of QM, in bytes; `u64::MAX` is none.
    pub qm_high_bytes: u64,
    /// memory.max of QM, in bytes; `u64::MAX` is none.
    pub qm_max_bytes: u64,
    /// Processes of QM that the kernel killed for memory (memory.events oom_kill).
    pub qm_oom_kills: u64,
    /// Time in which tasks of QM stood still for memory or io, in microseconds.
    pub qm_stalled_us: u64,
    /// The same of the whole machine.
    pub machine_stalled_us: u64,
}

impl fmt::Display for Json<&Live> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let live = self.0;
        write!(
            f,
            "{{\"worker\":{},\"keeper\":{},\"revivals\":{},\"drifts\":{},\"mended\":{},\
             \"init\":{},\"qm_current_bytes\":{},\"qm_swap_bytes\":{},\"qm_high_bytes\":{},\
             \"qm_max_bytes\":{},\"qm_oom_kills\":{},\"qm_stalled_us\":{},\
             \"machine_stalled_us\":{}}}",
            i64::from(live.worker),
            i64::from(live.keeper),
            u64::from(live.revivals),
            u64::from(live.drifts),
            u64::from(live.mended),
            Json(&*live.init),
            live.qm_current_bytes,
            live.qm_swap_bytes,
            live.qm_high_bytes,
            live.qm_max_bytes,
            live.qm_oom_kills,
            live.qm_stalled_us,
            live.machine_stalled_us,
        )
    }
}

/// The supervisor's own numbers as OpenMetrics text, without its end. As
/// Prometheus reads it, in either of its formats: the names of counters have
/// their `_total` also where they are described.
pub struct Metrics<'a>(pub &'a Live);

impl fmt::Display for Metrics<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let live = self.0;
        family(f, "qm_memory_bytes", "gauge", "Memory and swap of QM, and its limits.")?;
        for (what, bytes) in [
            ("current", live.qm_current_bytes),
            ("swap", live.qm_swap_bytes),
            ("high", live.qm_high_bytes),
            ("max", live.qm_max_bytes),
        ] {
            match bytes {
                u64::MAX => writeln!(f, "plimsoll_qm_memory_bytes{{what=\"{what}\"}} +Inf")?,
                _ => writeln!(f, "plimsoll_qm_memory_bytes{{what=\"{what}\"}} {bytes}")?,
            }
        }
        let mut count = |name, help, count: u64| {
            family(f, name, "counter", help)?;
            writeln!(f, "plimsoll_{name} {count}")
        };
        count("qm_oom_kills_total", "Processes of QM killed for memory.", live.qm_oom_kills)?;
        count("limit_drifts_total", "Limits found changed.", live.drifts.into())?;
        count("limits_mended_total", "Changed limits brought back.", live.mended.into())?;
        count("revivals_total", "Supervisor processes brought back.", live.revivals.into())?;
        let help = "Time in which tasks stood still for memory or io.";
        family(f, "stalled_seconds_total", "counter", help)?;
        for (scope, us) in [("qm", live.qm_stalled_us), ("machine", live.machine_stalled_us)] {
            let (secs, us) = (us / 1_000_000, us % 1_000_000);
            writeln!(f, "plimsoll_stalled_seconds_total{{scope=\"{scope}\"}} {secs}.{us:06}")?;
        }
        Ok(())
    }
}

/// What stands before the values of a metric.
pub(crate) fn family(
    f: &mut fmt::Formatter<'_>,
    name: &str,
    kind: &str,
    help: &str,
) -> fmt::Result {
    writeln!(f, "# HELP plimsoll_{name} {help}\n# TYPE plimsoll_{name} {kind}")
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
        let raw = value.span.text(answer);
        let text = unquoted(raw).unwrap_or(raw);
        match walk.path() {
            "boot.entries" => say_head(&head, say),
            path if path.starts_with("agent.") => say_agent(path, text, say),
            path if path.starts_with("virtio_mem.") => say(format_args!("{path} {text}\n")),
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

/// A line for each setting, and one for each counter that is not 0.
fn say_agent(path: &str, text: &str, say: &mut dyn FnMut(fmt::Arguments<'_>)) {
    let Some(path) = path.strip_prefix("agent.") else { return };
    if path == "way" {
        say(format_args!("agent   evicts by {text}\n"));
    } else if let Some(name) = path.strip_prefix("settings.") {
        let (name, part) = split_last(name);
        match part {
            _ if matches!(text, "{" | "[") => {}
            "value" => say(format_args!("set     {name} {text}")),
            "from" if name == "memcg.cgroups" => say(format_args!("set     {name} ({text})\n")),
            "from" => say(format_args!(" ({text})\n")),
            // A member of an entry: memcg.cgroups.value[0].path
            _ => {
                let (list, at) = split_last(name);
                let at = at.strip_prefix("value").unwrap_or_default();
                say(format_args!("set     {list}{at}.{part} {text}\n"));
            }
        }
    } else if let Some(name) = path.strip_prefix("counters.")
        && !matches!(text, "0" | "{")
    {
        say(format_args!("count   {name} {text}\n"));
    }
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

/// What `watch` shows of a status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Glance([u64; GLANCE.len()]);

/// Paths of what is shown, and whether it is a count of which the growth is.
const GLANCE: [(&str, bool); 8] = [
    ("live.qm_current_bytes", false),
    ("live.qm_swap_bytes", false),
    ("live.qm_stalled_us", true),
    ("agent.counters.memcg_passes", true),
    ("agent.counters.memcg_evicted_bytes", true),
    ("agent.counters.memcg_refaulted_bytes", true),
    ("agent.counters.compact_gained_bytes", true),
    ("live.drifts", true),
];

impl Glance {
    /// What stands above the columns.
    pub const HEAD: &str =
        "   QM KiB  swap KiB  stall us  passes  evicted KiB  refaults KiB  compacted KiB  drifts";

    /// Takes it from the answer to "status"; what is missing is 0.
    #[must_use]
    pub fn of(answer: &[u8]) -> Self {
        let mut glance = Self::default();
        let mut walk = Walk::with_escapes();
        while let Ok(Some(value)) = walk.next(answer) {
            for ((path, _), slot) in GLANCE.iter().zip(&mut glance.0) {
                if *path == walk.path() {
                    *slot = decimal(value.span.text(answer)).unwrap_or(0);
                }
            }
        }
        glance
    }

    /// A line: what grew since the last one.
    #[must_use]
    pub fn since(&self, last: Option<&Self>) -> Line {
        let mut line = *self;
        for ((_, grows), (now, before)) in
            GLANCE.iter().zip(line.0.iter_mut().zip(last.unwrap_or(self).0))
        {
            *now = if *grows { now.saturating_sub(before) } else { *now };
        }
        Line(line)
    }
}

/// A line of `watch`.
pub struct Line(Glance);

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [current, swap, stall, passes, evicted, refaults, compacted, drifts] = self.0.0;
        let (current, swap) = (current / 1024, swap / 1024);
        let (evicted, refaults, compacted) = (evicted / 1024, refaults / 1024, compacted / 1024);
        write!(
            f,
            "{current:>9} {swap:>9} {stall:>9} {passes:>7} {evicted:>12} {refaults:>13} \
             {compacted:>14} {drifts:>7}"
        )
    }
}

/// The value of `key` in a file of lines "key value", such as memory.events.
#[must_use]
pub fn keyed_value(text: &str, key: &str) -> Option<u64> {
    lines(text).find_map(|line| {
        let (name, value) = split_once(line, b' ')?;
        if name == key { decimal(value.trim_ascii()) } else { None }
    })
}

#[cfg(test)]
mod tests {
    use super::{Json, Live, Request, table};
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
            qm_swap_bytes: 0,
            qm_high_bytes: 8192,
            qm_max_bytes: u64::MAX,
            qm_oom_kills: 9,
            qm_stalled_us: 1_000_002,
            machine_stalled_us: 3,
        };
        format!(r#"{{"version":1,"live":{},"boot":{}}}"#, Json(&live), Json(&record))
    }

    #[test]
    fn guests_are_asked_for_by_name() {
        let parse = |text: &'static str| Request::parse(text.as_bytes());
        assert_eq!(parse(r#"{"command":"guest-list"}"#), Ok(Request::GuestList));
        let admit = r#"{"command":"guest-admit","guest":"ivi"}"#;
        assert_eq!(parse(admit), Ok(Request::GuestAdmit("ivi")));
        let resize = r#"{"command":"guest-resize","guest":"ivi","size":"1536M"}"#;
        assert_eq!(parse(resize), Ok(Request::GuestResize("ivi", Some("1536M"))));
        let stands = r#"{"command":"guest-resize","guest":"ivi"}"#;
        assert_eq!(parse(stands), Ok(Request::GuestResize("ivi", None)));
        let stop = r#"{"command":"guest-stop","guest":"ivi"}"#;
        assert_eq!(parse(stop), Ok(Request::GuestStop("ivi")));
        let remove = r#"{"guest":"ivi","command":"guest-remove"}"#;
        assert_eq!(parse(remove), Ok(Request::GuestRemove("ivi")));
        for text in [
            r#"{"command":"guest-resize"}"#,
            r#"{"command":"guest-resize","size":"1G"}"#,
            r#"{"command":"guest-resize","guest":"a","size":7}"#,
            r#"{"command":"guest-resize","guest":"a","size":"1G","loop":"memcg"}"#,
            r#"{"command":"guest-stop","guest":"a","size":"1G"}"#,
            r#"{"command":"set","agent":{},"size":"1G"}"#,
            r#"{"command":"guest-admit"}"#,
            r#"{"command":"guest-admit","guest":7}"#,
            r#"{"command":"guest-admit","guest":"a","guest":"b"}"#,
            r#"{"command":"guest-list","guest":"a"}"#,
            r#"{"command":"status","guest":"a"}"#,
            r#"{"guest":"a"}"#,
        ] {
            assert!(parse(text).unwrap_err().contains("allowed") || text.contains("status"));
        }
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
