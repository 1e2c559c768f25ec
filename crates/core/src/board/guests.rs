//! The guests of a board file, read from its text.

use super::check::path;
use super::faults::Faults;
use super::json::Walk;
use super::keys::{self, Kind, unquoted};
use super::{Board, Guest, Guests, text};
use crate::guests::{Field, Model};

/// What the keys of a guest begin with.
const ENTRY: &str = "guests.list[]";
const APART: &str =
    "a cgroup neither in nor above QM's or another guest's, nor a host's or above it";

/// Takes what `text` gives below `guests`. The text was scanned: what is left of
/// it is known, of its type and in range. A guest without name, cgroup or
/// memory, or with a name or cgroup that it can't have, is left out and a fault.
pub(super) fn read<'a>(board: &mut Board<'a>, text: &'a [u8], faults: &mut Faults) {
    let mut guest = nobody(&board.guests);
    let mut entries = 0;
    // The list may stand before what holds for all of it.
    for section in ["guests", ENTRY] {
        let mut walk = Walk::default();
        while let Ok(Some(value)) = walk.next(text) {
            let Some((_, key)) = keys::lookup(walk.path()) else { continue };
            let (within, name) = keys::split_last(key.path);
            if within == section {
                take(&mut guest, key.kind, name, value.span.text(text));
                if name == "peaks" {
                    board.guests.peaks = unquoted(value.span.text(text)).unwrap_or_default();
                }
            } else if section == ENTRY && key.path == ENTRY {
                enter(board, &mut guest, entries, text, faults);
                entries += 1;
            }
        }
        if section == ENTRY {
            enter(board, &mut guest, entries, text, faults);
        } else {
            (board.guests.model, board.guests.values) = (guest.model, guest.values);
        }
    }
}

fn take<'a>(guest: &mut Guest<'a>, kind: Kind, name: &str, raw: &'a str) {
    let text = unquoted(raw).unwrap_or(raw);
    match (kind, name) {
        (Kind::Guest(field), _) => _ = guest.values.set(field, text),
        (_, "name") => guest.name = text,
        (_, "cgroup") => guest.cgroup = text,
        (_, "qmp") => guest.qmp = text,
        (_, "memory_max") => guest.memory_max = Field::Memory.parse(text).unwrap_or(0),
        (_, "model") => guest.model = Model::named(text).unwrap_or_default(),
        _ => {}
    }
}

/// A guest of which nothing is known.
fn nobody<'a>(guests: &Guests<'a>) -> Guest<'a> {
    let Guests { model, values, .. } = *guests;
    Guest { name: "", cgroup: "", model, values, memory_max: 0, qmp: "" }
}

/// Puts the guest that was read, the last of `entries`, into the list, and makes
/// it one of which nothing is known.
fn enter<'a>(
    board: &mut Board<'a>,
    guest: &mut Guest<'a>,
    entries: usize,
    text: &[u8],
    faults: &mut Faults,
) {
    let mut guest = core::mem::replace(guest, nobody(&board.guests));
    let Some(index) = entries.checked_sub(1) else { return };
    let memory = guest.values.get(Field::Memory);
    if guest.memory_max == 0 {
        guest.memory_max = memory;
    }
    let Some((name, allowed)) = wrong(board, &guest) else {
        // The scan leaves no more than fit.
        let _ = board.guests.list.push(guest);
        return;
    };
    let at = path(format_args!("guests.list[{}]{name}", index as u64));
    // What was refused is missing too, but has its fault already.
    if !faults.within(&at) {
        faults.refuse_key(text, &at, allowed);
    }
}

/// What a guest can't be without, or can't have; and what is allowed.
fn wrong(board: &Board<'_>, guest: &Guest<'_>) -> Option<(&'static str, &'static str)> {
    let Guest { name, cgroup, values, .. } = *guest;
    if name.is_empty() || cgroup.is_empty() || values.given(Field::Memory).is_err() {
        return Some(("", "a guest with name, cgroup and memory"));
    }
    if guest.memory_max < values.get(Field::Memory) {
        return Some((".memory_max", "not below memory"));
    }
    let touches = |other: &str| text::is_inside(other, cgroup) || text::is_inside(cgroup, other);
    let mut apart = !touches(board.qm.cgroup);
    for other in &board.guests.list {
        if other.name == name {
            return Some((".name", "a name that no other guest has"));
        }
        apart &= !touches(other.cgroup);
    }
    for host in &board.host.cgroups {
        apart &= !text::is_inside(host, cgroup);
    }
    if apart { None } else { Some((".cgroup", APART)) }
}
