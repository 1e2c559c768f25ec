//! The first pass over a board file's text: every member against the table of
//! keys.

use super::BOARD_BYTES_MAX;
use super::faults::{FAULT_VALUE_MAX, Faults};
use super::json::{self, Span, SyntaxError, Value, Walk};
use super::keys::{self, KEYS, Key, Kind};

/// Strikes out what is unknown, of the wrong type or out of range; whether the
/// rest is worth decoding.
pub(super) fn scan(text: &mut [u8], faults: &mut Faults) -> bool {
    let error = if text.len() > BOARD_BYTES_MAX {
        SyntaxError { at: BOARD_BYTES_MAX, allowed: "a file of at most 16384 bytes" }
    } else if let Err(error) = core::str::from_utf8(text) {
        SyntaxError { at: error.valid_up_to(), allowed: "a file in UTF-8" }
    } else {
        let mut walk = Walk::default();
        let Err(error) = scan_members(&mut walk, text, faults) else { return true };
        refuse_syntax(text, walk.path(), error, faults);
        return false;
    };
    refuse_syntax(text, "", error, faults);
    false
}

fn refuse_syntax(text: &[u8], path: &str, error: SyntaxError, faults: &mut Faults) {
    let end = error.at.saturating_add(FAULT_VALUE_MAX).min(text.len());
    faults.refuse(text, path, Span { member: error.at, start: error.at, end }, error.allowed);
}

fn scan_members(walk: &mut Walk, text: &mut [u8], faults: &mut Faults) -> Result<(), SyntaxError> {
    // Of each known key, whether the open objects have it already.
    let mut seen: u64 = 0;
    while let Some(value) = walk.next(text)? {
        let element = walk.path().ends_with(']');
        if value.depth == 0 {
            continue;
        }
        let Some((at, key)) = keys::find(walk.path()).and_then(|at| Some((at, KEYS.get(at)?)))
        else {
            faults.refuse(text, walk.path(), value.span, "a key of boards/README.md");
            strike(walk, text, &value, value.depth)?;
            continue;
        };
        if let Some(array) = array_of(key).filter(|array| is_full(array, value.index)) {
            faults.refuse(text, walk.path(), value.span, array.range);
            strike(walk, text, &value, value.depth - 1)?;
        } else if !element && seen & (1 << at) != 0 {
            faults.refuse(text, walk.path(), value.span, "each key once");
            // Which of the two is meant can't be known.
            let first = json::find(text, walk.path());
            strike(walk, text, &value, value.depth)?;
            if let Some(first) = first {
                json::strike(text, first.member, first.end);
            }
        } else if !accepts(key, text, &value) {
            faults.refuse(text, walk.path(), value.span, key.range);
            // An element that can be decoded is left out by the check.
            if !element {
                strike(walk, text, &value, value.depth)?;
            } else if !key.kind.fits(value.shape) {
                strike(walk, text, &value, value.depth - 1)?;
            }
        } else if let Kind::Object = key.kind {
            seen &= !below(key.path);
        }
        if !element {
            seen |= 1 << at;
        }
    }
    Ok(())
}

/// The key of the array that has this element.
fn array_of(element: &Key) -> Option<&'static Key> {
    let path = element.path.strip_suffix("[]")?;
    KEYS.iter().find(|key| key.path == path)
}

fn is_full(array: &Key, index: usize) -> bool {
    matches!(array.kind, Kind::Array(max) if index >= max)
}

/// The bits of the keys below an object.
fn below(object: &str) -> u64 {
    let is_below =
        |key: &Key| key.path.strip_prefix(object).is_some_and(|rest| rest.starts_with('.'));
    KEYS.iter().rev().fold(0, |bits, key| bits << 1 | u64::from(is_below(key)))
}

fn accepts(key: &Key, text: &[u8], value: &Value) -> bool {
    let raw = text.get(value.span.start..value.span.end).unwrap_or_default();
    key.kind.fits(value.shape) && core::str::from_utf8(raw).is_ok_and(|raw| key.kind.accepts(raw))
}

/// Strikes out the value, or with a lesser depth than its own the array that
/// holds it, and walks on behind it.
fn strike(
    walk: &mut Walk,
    text: &mut [u8],
    value: &Value,
    depth: usize,
) -> Result<(), SyntaxError> {
    let member = if depth < value.depth { walk.member_of(depth) } else { value.span.member };
    let end = walk.skip(text, depth)?;
    json::strike(text, member, end);
    Ok(())
}
