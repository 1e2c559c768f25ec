//! What the texts in a board file may look like.

use super::Uuid;
use crate::limit::Limit;
use crate::number::{decimal, in_radix};
use crate::plan::SUPERVISOR_CGROUP;
use crate::split::split;

/// Longest cgroup path, in bytes: with the mount point before it and a
/// payload's cgroup and a file's name behind it, it is below
/// [`crate::PATH_MAX`].
pub(crate) const CGROUP_MAX: usize = 128;
/// Longest word of a command and longest path, in bytes: [`crate::PATH_MAX`]
/// with the NUL.
const WORD_MAX: usize = crate::PATH_MAX - 1;
/// Longest name of a board, a module or a payload, in bytes; MODULE_NAME_LEN
/// of the kernel is 56.
const NAME_MAX: usize = 55;
/// Longest label, in UTF-16 units: the name of a GPT entry. An ext4 label has
/// 16 bytes.
const LABEL_MAX: usize = 36;
/// Longest mount options, in bytes: ext4's longest sensible ones are half.
const OPTIONS_MAX: usize = 128;
/// Longest name of a compression algorithm, in bytes: the kernel's have at most
/// 7 ("deflate", "lzo-rle").
const ALGORITHM_MAX: usize = 32;

/// A limit as systemd reads it, but neither empty nor a percentage with blanks.
pub(super) fn limit(text: &str) -> Option<Limit> {
    // Not `str::contains`, which searches for a text: 2 KB of code.
    let blank = text.bytes().any(|byte| byte == b' ') && text.ends_with(['%', '‰', '‱']);
    if text.is_empty() || blank { None } else { Limit::parse(text).ok() }
}

/// A limit above 0.
pub(super) fn ceiling(text: &str) -> Option<Limit> {
    limit(text).filter(|limit| !matches!(limit, Limit::Permyriad(0) | Limit::Bytes(0)))
}

/// A limit above 0 and below infinity.
pub(super) fn fallback(text: &str) -> Option<Limit> {
    ceiling(text).filter(|limit| *limit != Limit::Infinity)
}

/// A size as automotive-image-builder's schema has it, in bytes.
pub(super) fn size(text: &str) -> Option<u64> {
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit());
    let digits = text.strip_suffix(unit)?;
    let (base, power): (u64, u32) = match unit.trim_start_matches(' ') {
        "kB" => (1000, 1),
        "KiB" => (1024, 1),
        "MB" => (1000, 2),
        "MiB" => (1024, 2),
        "GB" => (1000, 3),
        "GiB" => (1024, 3),
        "TB" => (1000, 4),
        "TiB" => (1024, 4),
        _ => return None,
    };
    decimal(digits)?.checked_mul(base.pow(power))
}

/// A size above 0.
pub(super) fn some_size(text: &str) -> Option<u64> {
    size(text).filter(|bytes| *bytes != 0)
}

/// A JSON number from 0 to below 1 with up to nine decimals, in billionths.
pub(super) fn billionths(number: &str) -> Option<u32> {
    let decimals = match number.strip_prefix("0.") {
        Some(decimals) => decimals,
        None => return (number == "0").then_some(0),
    };
    let mut value = 0;
    if decimals.len() > 9 {
        return None;
    }
    for place in 0..9 {
        let digit = decimals.as_bytes().get(place).map_or(Some(0), |d| char::from(*d).to_digit(10));
        value = value * 10 + digit?;
    }
    Some(value)
}

/// A JSON number without fraction or exponent, from `min` to `max`.
pub(super) fn integer(number: &str, min: i32, max: i32) -> Option<i32> {
    let (digits, sign) = number.strip_prefix('-').map_or((number, 1), |digits| (digits, -1));
    let value = sign * i32::try_from(decimal(digits)?).ok()?;
    (number != "-0" && min <= value && value <= max).then_some(value)
}

impl Uuid {
    /// The UUID that stands for none.
    pub const NIL: Self = Self([0; 16]);

    /// Reads the usual form, 36 characters, in either case.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; 16];
        let mut rest = text;
        for (at, byte) in bytes.iter_mut().enumerate() {
            if let 4 | 6 | 8 | 10 = at {
                rest = rest.strip_prefix('-')?;
            }
            let pair = rest.get(..2)?;
            if !pair.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return None;
            }
            *byte = u8::try_from(in_radix(pair, 16)?).ok()?;
            rest = rest.get(2..)?;
        }
        rest.is_empty().then_some(Self(bytes))
    }
}

/// A UUID other than the nil one.
pub(super) fn uuid(text: &str) -> Option<Uuid> {
    Uuid::parse(text).filter(|uuid| *uuid != Uuid::NIL)
}

/// An absolute path as the kernel would print it: no "." or "..", no empty
/// part, and not "/" itself.
pub(super) fn is_path(text: &str) -> bool {
    text.len() <= WORD_MAX
        && text
            .strip_prefix('/')
            .is_some_and(|parts| split(parts, b'/').all(|part| !matches!(part, "" | "." | "..")))
}

/// A cgroup other than the root and plimsoll's own.
pub(super) fn is_cgroup(text: &str) -> bool {
    is_path(text)
        && text.len() <= CGROUP_MAX
        && text.bytes().all(|byte| byte.is_ascii_graphic())
        && !is_inside(text, SUPERVISOR_CGROUP)
}

/// A cgroup of the agent's: "/" for all, or one that isn't plimsoll's own.
/// Unlike those that plimsoll makes, it may have a name of any letters.
pub(super) fn is_scope(text: &str) -> bool {
    let named = is_path(text) && !is_inside(text, SUPERVISOR_CGROUP);
    text == "/" || (named && text.len() <= CGROUP_MAX && !text.contains(char::is_control))
}

/// A directory of swap files.
pub(crate) fn is_directory(text: &str) -> bool {
    is_path(text) && text.len() <= CGROUP_MAX
}

/// A compression algorithm as the kernel names them, or none.
pub(crate) fn is_algorithm(text: &str) -> bool {
    let name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    text.len() <= ALGORITHM_MAX && text.bytes().all(name)
}

/// A service or slice of systemd, with the cgroup of its own name: systemd
/// escapes one that begins with '.' or '_'. No template, and not the root slice.
pub(crate) fn is_unit(text: &str) -> bool {
    let sound =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b':' | b'-' | b'_' | b'.' | b'@');
    let stem = text.strip_suffix(".service").or_else(|| text.strip_suffix(".slice"));
    let stem = stem.unwrap_or_default().as_bytes();
    text.len() < CGROUP_MAX
        && stem.first().is_some_and(u8::is_ascii_alphanumeric)
        && stem.last() != Some(&b'@')
        && stem.iter().all(|byte| sound(*byte))
}

/// Whether `path` is `parent` or below it.
pub(crate) fn is_inside(path: &str, parent: &str) -> bool {
    path.strip_prefix(parent).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// A file's path, or a module's name as the kernel prints it.
pub(super) fn is_module(text: &str) -> bool {
    let name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    is_path(text) || ((1..=NAME_MAX).contains(&text.len()) && text.bytes().all(name))
}

/// A payload's name: without a dot, so that no file of the kernel has it.
pub(super) fn is_payload(text: &str) -> bool {
    let name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    (1..=NAME_MAX).contains(&text.len()) && text.bytes().all(name)
}

/// The name of a board.
pub(super) fn is_name(text: &str) -> bool {
    (1..=NAME_MAX).contains(&text.len())
}

/// A word of a command.
pub(super) fn is_word(text: &str) -> bool {
    text.len() <= WORD_MAX
}

/// A label of a file system or a name of a GPT entry.
pub(super) fn is_label(text: &str) -> bool {
    (1..=LABEL_MAX).contains(&text.encode_utf16().count())
}

/// Mount options that leave nodev and nosuid alone and mount one device once.
pub(super) fn is_options(text: &str) -> bool {
    let sound = |option: &str| {
        let name = split(option, b'=').next().unwrap_or_default();
        !name.is_empty()
            && option.bytes().all(|byte| byte.is_ascii_graphic())
            && !matches!(name, "dev" | "suid" | "remount" | "bind" | "rbind" | "move")
    };
    text.is_empty() || (text.len() <= OPTIONS_MAX && split(text, b',').all(sound))
}
