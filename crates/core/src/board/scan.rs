//! The first pass over the text of a board file or a request: every member
//! against the table of keys.

use super::BOARD_BYTES_MAX;
use super::faults::{FAULT_VALUE_MAX, Faults};
use super::json::{self, Span, SyntaxError, Value, Walk};
use super::keys::{self, KEYS, Key, Kind};

/// What a text may hold.
struct Scope {
    /// The key at a path, and its place in [`KEYS`] or one past their end.
    lookup: fn(&str) -> Option<(usize, &'static Key)>,
    /// The same in words.
    keys: &'static str,
}

static BOARD: Scope = Scope { lookup: keys::lookup, keys: "a key of boards/README.md" };

static REQUEST: Scope = Scope {
    lookup: |path| match path.strip_prefix("agent") {
        _ if path == COMMAND.path => Some((KEYS.len(), &COMMAND)),
        Some(_) => keys::lookup(path),
        None => None,
    },
    keys: "command, agent, or a key below it of boards/README.md",
};

/// The one key of a request that no board file has.
static COMMAND: Key =
    Key { path: "command", kind: Kind::Text(|text| text == "set"), range: "`set`" };

/// Strikes out what is unknown, of the wrong type or out of range; whether the
/// rest is worth decoding.
pub(super) fn board(text: &mut [u8], faults: &mut Faults) -> bool {
    scan(&BOARD, text, faults)
}

/// The same for a request to change the agent's settings.
pub(crate) fn request(text: &mut [u8], faults: &mut Faults) -> bool {
    scan(&REQUEST, text, faults)
}

fn scan(scope: &Scope, text: &mut [u8], faults: &mut Faults) -> bool {
    let error = if text.len() > BOARD_BYTES_MAX {
        SyntaxError { at: BOARD_BYTES_MAX, allowed: "a file of at most 16384 bytes" }
    } else if let Err(error) = core::str::from_utf8(text) {
        SyntaxError { at: error.valid_up_to(), allowed: "a file in UTF-8" }
    } else {
        let mut walk = Walk::default();
        let Err(error) = scan_members(scope, &mut walk, text, faults) else { return true };
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

fn scan_members(
    scope: &Scope,
    walk: &mut Walk,
    text: &mut [u8],
    faults: &mut Faults,
) -> Result<(), SyntaxError> {
    // Of each key, whether the open objects have it already; the last is a request's own.
    let mut seen = [false; KEYS.len() + 1];
    while let Some(value) = walk.next(text)? {
        let element = walk.path().ends_with(']');
        if value.depth == 0 {
            continue;
        }
        let Some((at, key)) = (scope.lookup)(walk.path()) else {
            faults.refuse(text, walk.path(), value.span, scope.keys);
            strike(walk, text, &value, value.depth)?;
            continue;
        };
        if let Some(array) = array_of(key).filter(|array| is_full(array, value.index)) {
            faults.refuse(text, walk.path(), value.span, array.range);
            strike(walk, text, &value, value.depth - 1)?;
        } else if !element && seen.get(at) == Some(&true) {
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
            forget_below(key.path, &mut seen);
        }
        if let Some(seen) = seen.get_mut(at).filter(|_| !element) {
            *seen = true;
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

/// The keys below an object are yet to be seen in it.
fn forget_below(object: &str, seen: &mut [bool]) {
    for (seen, key) in seen.iter_mut().zip(KEYS) {
        *seen &= !key.path.strip_prefix(object).is_some_and(|rest| rest.starts_with('.'));
    }
}

fn accepts(key: &Key, text: &[u8], value: &Value) -> bool {
    key.kind.fits(value.shape) && key.kind.accepts(value.span.text(text))
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
