//! The guests of a board file, read from its text.

use super::check::path;
use super::faults::Faults;
use super::json::Walk;
use super::keys::{self, Kind, unquoted};
use super::{Board, Guest, Guests, text};
use crate::guests::{Field, GUESTS_MAX, Model};

/// What the keys of a guest begin with.
const ENTRY: &str = "guests.list[]";
const APART: &str =
    "a cgroup neither in nor above QM's or another guest's, nor a host's or above it";

/// Takes what `text` gives below `guests`. The text was scanned: what is left of
/// it is known, of its type and in range. A guest without name, cgroup or
/// memory, or with a name or cgroup that it can't have, is left out and a fault.
pub(super) fn read<'a>(board: &mut Board<'a>, text: &'a [u8], faults: &mut Faults) {
    // The list may stand before what holds for all of it.
    for entries in [false, true] {
        let mut walk = Walk::default();
        while let Ok(Some(value)) = walk.next(text) {
            let Some((_, key)) = keys::lookup(walk.path()) else { continue };
            let (kind, raw) = (key.kind, value.span.text(text));
            let (section, name) = keys::split_last(key.path);
            if entries && key.path == ENTRY {
                enter(&mut board.guests);
            } else if entries && section == ENTRY {
                take_entry(&mut board.guests, kind, name, raw);
            } else if !entries && section == "guests" {
                take(&mut board.guests, kind, name, raw);
            }
        }
    }
    for index in 0..GUESTS_MAX {
        let Some((name, allowed)) = wrong(board, index) else { continue };
        let at = path(format_args!("guests.list[{}].{name}", index as u64));
        // What was refused is missing too, but has its fault already.
        if !faults.within(&at) {
            faults.refuse_key(text, &at, allowed);
        }
        if let Some(guest) = board.guests.list.get_mut(index) {
            guest.name = "";
        }
    }
    board.guests.list.retain(|guest| !guest.name.is_empty());
}

fn take<'a>(guests: &mut Guests<'a>, kind: Kind, name: &str, raw: &'a str) {
    let text = unquoted(raw).unwrap_or(raw);
    match kind {
        Kind::Guest(field) => _ = guests.values.set(field, text),
        Kind::Text(_) if name == "model" => guests.model = Model::named(text).unwrap_or_default(),
        Kind::Text(_) => guests.peaks = text,
        _ => {}
    }
}

fn enter(guests: &mut Guests<'_>) {
    let Guests { model, values, .. } = *guests;
    // The scan leaves no more than fit.
    let _ = guests.list.push(Guest { name: "", cgroup: "", qmp: None, model, values });
}

fn take_entry<'a>(guests: &mut Guests<'a>, kind: Kind, name: &str, raw: &'a str) {
    let Some(guest) = guests.list.last_mut() else { return };
    let text = unquoted(raw).unwrap_or(raw);
    match (kind, name) {
        (Kind::Guest(field), _) => _ = guest.values.set(field, text),
        (_, "name") => guest.name = text,
        (_, "cgroup") => guest.cgroup = text,
        (_, "qmp") => guest.qmp = Some(text),
        _ => guest.model = Model::named(text).unwrap_or_default(),
    }
}

/// What a guest can't be without, or can't have; and what is allowed.
fn wrong(board: &Board<'_>, index: usize) -> Option<(&'static str, &'static str)> {
    const COMPLETE: &str = "a guest with name, cgroup and memory";
    let guest = board.guests.list.get(index)?;
    let mut before = board.guests.list.iter().take(index);
    let touches =
        |other: &str| text::is_inside(guest.cgroup, other) || text::is_inside(other, guest.cgroup);
    let mut hosts = board.host.cgroups.iter();
    if guest.name.is_empty() {
        Some(("name", COMPLETE))
    } else if guest.cgroup.is_empty() {
        Some(("cgroup", COMPLETE))
    } else if guest.values.given(Field::Memory).is_err() {
        Some(("memory", COMPLETE))
    } else if before.clone().any(|other| other.name == guest.name) {
        Some(("name", "a name that no other guest has"))
    } else if touches(board.qm.cgroup)
        || before.any(|other| !other.name.is_empty() && touches(other.cgroup))
        || hosts.any(|host| text::is_inside(host, guest.cgroup))
    {
        Some(("cgroup", APART))
    } else {
        None
    }
}
