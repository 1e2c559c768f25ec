//! The first pass over the text of a board file or a request: every member
//! against the table of keys.

use super::BOARD_BYTES_MAX;
use super::faults::{FAULT_VALUE_MAX, Faults};
use super::json::{self, Span, SyntaxError, Value, Walk};
use super::keys::{self, Key, Kind};
use super::kind::Text;

/// What a text may hold.
struct Scope {
    /// The key at a path, and its place in [`keys::all`] or one past their end.
    lookup: fn(&str) -> Option<(usize, Key)>,
    /// The same in words.
    keys: &'static str,
}

static BOARD: Scope = Scope { lookup: keys::lookup, keys: "a key of boards/README.md" };

static REQUEST: Scope = Scope {
    lookup: |path| match path.strip_prefix("agent") {
        _ if path == COMMAND.path => Some((keys::COUNT, COMMAND)),
        Some(_) => keys::lookup(path),
        None => None,
    },
    keys: "command, agent, or a key below it of boards/README.md",
};

/// The one key of a request that no board file has.
const COMMAND: Key = Key { path: "command", kind: Kind::Text(Text::Set) };

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
    let mut seen = [false; keys::COUNT + 1];
    while let Some(value) = walk.next(text)? {
        if value.depth == 0 {
            continue;
        }
        let Err(wrong) = judge(scope, walk.path(), text, &value, &mut seen) else { continue };
        faults.refuse(text, walk.path(), value.span, wrong.allowed);
        let first = if wrong.again { json::find(text, walk.path()) } else { None };
        if let Some(depth) = wrong.strike {
            strike(walk, text, &value, depth)?;
        }
        if let Some(first) = first {
            json::strike(text, first.member, first.end);
        }
    }
    Ok(())
}

/// Why a value is refused.
struct Wrong {
    allowed: &'static str,
    /// What is struck out with it, see [`strike`].
    strike: Option<usize>,
    /// Whether the key is there twice: which of the two is meant can't be known.
    again: bool,
}

fn judge(
    scope: &Scope,
    path: &str,
    text: &[u8],
    value: &Value,
    seen: &mut [bool],
) -> Result<(), Wrong> {
    let wrong = |allowed, strike| Err(Wrong { allowed, strike, again: false });
    let depth = value.depth;
    let Some((at, key)) = (scope.lookup)(path) else { return wrong(scope.keys, Some(depth)) };
    let element = path.ends_with(']');
    let again = match seen.get_mut(at) {
        Some(seen) if !element => core::mem::replace(seen, true),
        _ => false,
    };
    if let Some(array) = array_of(key).filter(|array| is_full(*array, value.index)) {
        return wrong(array.range(), Some(depth - 1));
    }
    if again {
        return Err(Wrong { allowed: "each key once", strike: Some(depth), again });
    }
    let fits = key.kind.fits(value.shape);
    if !fits || !key.kind.accepts(value.span.text(text)) {
        // An element that can be decoded is left out by the check.
        let above = if fits { None } else { Some(depth - 1) };
        return wrong(key.kind.range(), if element { above } else { Some(depth) });
    }
    if let Kind::Object = key.kind {
        forget_below(key.path, seen);
    }
    Ok(())
}

/// What an array may be, where the key is that of an element.
fn array_of(element: Key) -> Option<Kind> {
    let path = element.path.strip_suffix("[]")?;
    keys::all().find(|key| key.path == path).map(|key| key.kind)
}

fn is_full(array: Kind, index: usize) -> bool {
    matches!(array, Kind::Array(array) if index >= array.max())
}

/// The keys below an object are yet to be seen in it.
fn forget_below(object: &str, seen: &mut [bool]) {
    for (seen, key) in seen.iter_mut().zip(keys::all()) {
        *seen &= !key.path.strip_prefix(object).is_some_and(|rest| rest.starts_with('.'));
    }
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
