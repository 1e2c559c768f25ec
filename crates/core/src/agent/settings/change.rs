//! Reading settings out of a text, and changing them by a request.

use heapless::string::StringView;

use super::{CGROUPS_MAX, Entry, Knob, Origin, Settings};
use crate::board::json::Walk;
use crate::board::keys::{self, AGENT, Kind, unquoted};
use crate::board::{Faults, KEY_PATH_MAX, scan};
use crate::number::decimal;
use crate::record::cut;

/// What the keys of an entry begin with.
const ENTRY: &str = "agent.memcg.cgroups[]";

/// Changes the settings as `request` wants: the whole message, such as
/// `{"command":"set","agent":{"memcg":{"period_secs":60}}}`, with the names of
/// the board file. It is refused as a whole (`false`) where anything is wrong
/// with it, which `faults`, empty before, then says. What was refused is
/// overwritten in `request`.
pub fn set(settings: &mut Settings, request: &mut [u8], faults: &mut Faults) -> bool {
    if !scan::request(request, faults) || !faults.is_empty() {
        return false;
    }
    // What is wrong with a list now is so whatever was set before: it comes whole.
    Settings::default().update(request, Origin::Set, faults);
    let right = faults.is_empty();
    if right {
        settings.update(request, Origin::Set, faults);
    }
    right
}

impl Settings {
    /// Takes what `text` gives below `agent`; what it doesn't give stays. The
    /// text was scanned: what is left of it is known, of its type and in range.
    /// A list of entries replaces the old one as a whole; an entry without a
    /// path, or with that of another, is left out and a fault.
    pub(crate) fn update(&mut self, text: &[u8], origin: Origin, faults: &mut Faults) {
        let mut walk = Walk::default();
        while let Ok(Some(value)) = walk.next(text) {
            let Some((at, key)) = keys::lookup(walk.path()) else { continue };
            let raw = value.span.text(text);
            if key.path.starts_with(ENTRY) {
                self.take_entry(key.kind, raw);
            } else if let Some(at) = at.checked_sub(AGENT) {
                self.take(key.kind, raw);
                if let Some(of) = self.origins.get_mut(at) {
                    *of = origin;
                }
            }
        }
        self.check_entries(text, faults);
    }

    fn take(&mut self, kind: Kind, raw: &str) {
        match kind {
            Kind::Array(_) => self.cgroups.clear(),
            Kind::Word(word) => {
                if let Some(to) = self.words.get_mut(word as usize) {
                    assign(to, raw);
                }
            }
            _ => {
                if let Some((knob, number)) = number(kind, raw)
                    && let Some(value) = self.values.get_mut(knob as usize)
                {
                    *value = number;
                }
            }
        }
    }

    /// Takes an entry's begin or one of its members.
    fn take_entry(&mut self, kind: Kind, raw: &str) {
        if let Kind::Object = kind {
            // The scan leaves no more than fit.
            let _ = self.cgroups.push(Entry::default());
        }
        let Some(entry) = self.cgroups.last_mut() else { return };
        match kind {
            Kind::Text(_) => assign(&mut entry.path, raw),
            Kind::Boolean => entry.exact = raw == "true",
            _ => {
                if let Some((knob, number)) = number(kind, raw)
                    && let Some(value) = entry.values.get_mut(knob as usize)
                {
                    *value = u32::try_from(number).ok();
                }
            }
        }
    }

    fn check_entries(&mut self, text: &[u8], faults: &mut Faults) {
        for index in 0..CGROUPS_MAX {
            let Some(entry) = self.cgroups.get(index) else { break };
            let same = |other: &Entry| other.path == entry.path && other.exact == entry.exact;
            let allowed = if entry.path.is_empty() {
                "an entry with a path"
            } else if self.cgroups.iter().take(index).any(same) {
                "a path that no other entry has, but for one with exact and one without"
            } else {
                continue;
            };
            let path =
                cut::<KEY_PATH_MAX>(format_args!("agent.memcg.cgroups[{}].path", index as u64));
            // What was refused is missing too, but has its fault already.
            if !faults.within(&path) {
                faults.refuse_key(text, &path, allowed);
            }
            if let Some(entry) = self.cgroups.get_mut(index) {
                entry.path.clear();
            }
        }
        self.cgroups.retain(|entry| !entry.path.is_empty());
    }
}

/// The number at a knob's key, of a switch 0 or 1.
fn number(kind: Kind, raw: &str) -> Option<(Knob, u64)> {
    match kind {
        Kind::Switch(knob) => Some((knob, u64::from(raw == "true"))),
        Kind::Count(knob) => Some((knob, decimal(raw)?)),
        _ => None,
    }
}

/// Assigns a string with its quotes. What the scan accepted fits.
fn assign(to: &mut StringView, raw: &str) {
    to.clear();
    let _ = to.push_str(unquoted(raw).unwrap_or_default());
}
