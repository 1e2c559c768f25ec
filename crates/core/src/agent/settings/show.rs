//! The settings as status has them.

use core::fmt;

use super::{Entry, Knob, MEMCG_KNOBS, Origin, ROOT, Settings};
use crate::board::keys::{self, AGENT, Kind, split_last};
use crate::json::Json;

impl fmt::Display for Json<&Settings> {
    /// Every value as `{"value":60,"from":"set"}`, nested as in the board file.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let settings = self.0;
        f.write_str("{")?;
        let (mut begin, mut end) = ("", "");
        for (at, key) in keys::all().enumerate() {
            let origin = at.checked_sub(AGENT).and_then(|at| settings.origins.get(at));
            let Some(origin) = origin else { continue };
            let value = |name: &&str| !name.bytes().any(|byte| byte == b']');
            let Some(name) = key.path.strip_prefix(ROOT).filter(value) else { continue };
            let (section, name) = split_last(name);
            if section.is_empty() {
                write!(f, "{end}\"{name}\":")?;
                (begin, end) = ("{", "},");
            } else {
                write!(f, "{begin}\"{name}\":{{\"value\":")?;
                settings.value(key.kind, f)?;
                write!(f, ",\"from\":\"{}\"}}", origin.word())?;
                begin = ",";
            }
        }
        f.write_str("}}")
    }
}

impl Settings {
    fn value(&self, kind: Kind, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match kind {
            Kind::Switch(knob) => f.write_str(flag(self.get(knob))),
            Kind::Count(knob) => write!(f, "{}", self.get(knob)),
            Kind::Word(word) => write!(f, "{}", Json(self.word(word))),
            _ => {
                let mut begin = "[";
                for entry in &self.cgroups {
                    write!(f, "{begin}{}", Json(entry))?;
                    begin = ",";
                }
                f.write_str(if begin == "[" { "[]" } else { "]" })
            }
        }
    }
}

/// The value of a switch.
fn flag(value: u64) -> &'static str {
    if value == 0 { "false" } else { "true" }
}

impl fmt::Display for Json<&Entry> {
    /// As in the board file: only what it gives.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entry = self.0;
        let exact = flag(u64::from(entry.exact));
        write!(f, "{{\"path\":{},\"exact\":{exact}", Json(&*entry.path))?;
        for knob in Knob::ALL.into_iter().take(MEMCG_KNOBS) {
            let Some(value) = entry.get(knob) else { continue };
            let (_, name) = split_last(knob.name());
            write!(f, ",\"{name}\":")?;
            if knob.is_switch() {
                f.write_str(flag(value))?;
            } else {
                write!(f, "{value}")?;
            }
        }
        f.write_str("}")
    }
}

impl Origin {
    /// The word used in status.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Board => "board",
            Self::Set => "set",
        }
    }
}
