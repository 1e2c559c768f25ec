//! The payloads of a board file.

use heapless::{Vec, VecView};

use super::check::path;
use super::faults::Faults;
use super::raw::{Raw, Values};
use super::{COMMAND_WORDS_MAX, PAYLOADS_MAX, Payload, Restart, Side, text};

/// Restarts in any 60 seconds where the file says nothing: enough for a crash
/// on a bad input or two, too few to keep a CPU busy with starting.
const RESTART_MAX: u8 = 10;

/// What a payload is checked with.
pub(super) struct Check<'t, 'f> {
    pub(super) text: &'t [u8],
    pub(super) faults: &'f mut Faults,
    /// Score of a host payload that gives none.
    pub(super) host_score: i16,
    /// Score of a QM payload that gives none.
    pub(super) qm_score: i16,
}

impl Check<'_, '_> {
    /// Appends the payloads that can be run. One without name, side or command
    /// is left out.
    pub(super) fn all<'a>(mut self, raw: &Raw<'a>, payloads: &mut VecView<Payload<'a>>) {
        for index in 0..PAYLOADS_MAX {
            let values = raw.payload(index);
            if !values.has("payloads[]") {
                break;
            }
            let Some(payload) = self.one(index, values) else { continue };
            if payloads.iter().any(|other| other.name == payload.name) {
                self.refuse(index, "name", "a name that no other payload has");
            } else {
                // One for one out of no more than fit.
                let _ = payloads.push(payload);
            }
        }
    }

    fn one<'a>(&mut self, index: usize, values: Values<'_, 'a>) -> Option<Payload<'a>> {
        let name = self.required(index, "name", values.text("payloads[].name"));
        let side = self.required(index, "side", values.text("payloads[].side"));
        let has_command = values.has("payloads[].command").then_some(());
        self.required(index, "command", has_command)?;
        let (name, side) = (name?, if side? == "qm" { Side::Qm } else { Side::Host });
        let mut command: Vec<&'a str, COMMAND_WORDS_MAX> = Vec::new();
        values.texts("payloads[].command[]", |_| true, &mut command);
        if !command.iter().all(|word| text::is_word(word)) {
            return None;
        }
        if !command.first().is_some_and(|program| text::is_path(program)) {
            self.refuse(index, "command", "1 to 16 strings, the first an absolute path");
            return None;
        }
        let mut score = values.number("payloads[].oom_score_adj");
        if side == Side::Qm && score.is_some_and(|score| score < 0) {
            self.refuse(index, "oom_score_adj", "0 to 1000 on the QM side");
            score = None;
        }
        Some(Payload {
            name,
            side,
            command,
            oom_score_adj: score.unwrap_or(match side {
                Side::Host => self.host_score,
                Side::Qm => self.qm_score,
            }),
            restart: match values.text("payloads[].restart") {
                Some("on-failure") => Restart::OnFailure,
                Some("always") => Restart::Always,
                _ => Restart::No,
            },
            restart_max: values
                .number("payloads[].restart_max")
                .and_then(|max| u8::try_from(max).ok())
                .unwrap_or(RESTART_MAX),
        })
    }

    /// What was refused is missing too, but has its fault already.
    fn required<T>(&mut self, index: usize, key: &str, value: Option<T>) -> Option<T> {
        if value.is_none()
            && !self.faults.within(&path(format_args!("payloads[{}].{key}", index as u64)))
        {
            self.refuse(index, key, "a payload with name, side and command");
        }
        value
    }

    fn refuse(&mut self, index: usize, key: &str, allowed: &'static str) {
        let key = path(format_args!("payloads[{}].{key}", index as u64));
        self.faults.refuse_key(self.text, &key, allowed);
    }
}
