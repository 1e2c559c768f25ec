//! What the value of a key may be.
//!
//! A [`Kind`] has two bytes: what a kind has more of, limits and words, is in a
//! table of its own, a row for each that differs.

use super::json::Shape;
use super::text;
use super::{COMMAND_WORDS_MAX, HOST_CGROUPS_MAX, MODULES_MAX, PAYLOADS_MAX};
use crate::agent::settings::{CGROUPS_MAX, Knob, Word};
use crate::guests::model::MODELS;
use crate::guests::{Field, GUESTS_MAX, Model};
use crate::number::decimal;

/// What the value of a key must be.
#[derive(Clone, Copy)]
pub enum Kind {
    /// An object with keys of its own.
    Object,
    /// An array of at most so many.
    Array(Array),
    /// true or false.
    Boolean,
    /// A whole number.
    Integer(Integer),
    /// The number's word, or a whole number.
    WordOrInteger(Integer),
    /// A number from 0 to below 1.
    Fraction,
    /// A string.
    Text(Text),
    /// true or false, the value of a knob.
    Switch(Knob),
    /// A whole number in the range of a knob, its value.
    Count(Knob),
    /// A string, the value of a setting.
    Word(Word),
    /// A size, percentage or count that a guest's overhead is worked out from.
    Guest(Field),
}

/// An enum and the table of what each of it may be, from one list, so that they
/// can't differ.
macro_rules! rows {
    ($(#[$doc:meta])+ $name:ident, $row:ty: $($variant:ident = $value:expr;)+) => {
        $(#[$doc])+
        #[derive(Clone, Copy)]
        #[repr(u8)]
        pub enum $name {
            $($variant,)+
        }

        impl $name {
            const fn row(self) -> &'static $row {
                const ROWS: &[$row] = &[$($value),+];
                // There is one for each.
                &ROWS[self as usize]
            }
        }
    };
}

rows! {
    /// An array: its greatest length, and the same in words.
    Array, (usize, &'static str):
    HostCgroups = (HOST_CGROUPS_MAX, "at most 8 paths");
    Modules = (MODULES_MAX, "at most 48 strings");
    Payloads = (PAYLOADS_MAX, "at most 8 objects");
    Command = (COMMAND_WORDS_MAX, "1 to 16 strings, the first an absolute path");
    Guests = (GUESTS_MAX, "at most 16 objects");
    MemcgCgroups = (CGROUPS_MAX, "at most 16 objects");
}

/// A row of [`Integer`].
struct Between {
    /// What may stand for a number; empty where nothing may.
    word: &'static str,
    min: i32,
    /// Still allowed.
    max: i32,
    range: &'static str,
}

macro_rules! between {
    ($min:literal, $max:literal) => {
        between!("", $min, $max, concat!($min, " to ", $max))
    };
    ($word:literal, $min:literal, $max:literal) => {
        between!($word, $min, $max, concat!("`", $word, "`, or ", $min, " to ", $max))
    };
    ($word:literal, $min:literal, $max:literal, $range:expr) => {
        Between { word: $word, min: $min, max: $max, range: $range }
    };
}

rows! {
    /// A whole number.
    Integer, Between:
    CpuWeight = between!("idle", 1, 10_000);
    // To PID_MAX_LIMIT of a 64-bit kernel.
    PidsMax = between!("max", 1, 4_194_304);
    Score = between!(-1000, 1000);
    QmScore = between!(0, 1000);
    PayloadScore = between!("", -1000, 1000, "-1000 to 1000, on the QM side 0 to 1000");
    WaitSecs = between!(0, 30);
    RestartMax = between!(0, 60);
    BlockTimeoutSecs = between!(1, 600);
}

/// sun_path of a Unix address, without its NUL, in bytes.
const SOCKET_PATH_MAX: usize = 107;

rows! {
    /// A string: whether it may be this, and what it may be in words.
    Text, (fn(&str) -> bool, &'static str):
    Limit = (|text| text::limit(text).is_some(), "`N%` (up to 2 decimals), `N‰`, `N‱` up to 100 %, a size such as `1.5G` (B K M G T P E), or `infinity`");
    Ceiling = (|text| text::ceiling(text).is_some(), "above 0: `N%` (up to 2 decimals), `N‰`, `N‱` up to 100 %, a size such as `1.5G` (B K M G T P E), or `infinity`");
    Fallback = (|text| text::fallback(text).is_some(), "above 0: `N%` (up to 2 decimals), `N‰`, `N‱` up to 100 %, or a size such as `1.5G` (B K M G T P E)");
    Size = (|text| text::size(text).is_some(), "a whole number and kB, KiB, MB, MiB, GB, GiB, TB or TiB");
    SomeSize = (|text| text::some_size(text).is_some(), "above 0: a whole number and kB, KiB, MB, MiB, GB, GiB, TB or TiB");
    Uuid = (|text| text::uuid(text).is_some(), "a UUID such as `c36a70ca-8827-4e0e-977e-7179ccfe0e65`, not all zeros");
    Name = (text::is_name, "1 to 55 bytes");
    Cgroup = (text::is_cgroup, "a path such as `/system.slice` of at most 128 bytes; not `/`, not `/plimsoll` or below");
    Scope = (text::is_scope, "`/`, or a path such as `/system.slice` of at most 128 bytes; not `/plimsoll` or below");
    Unit = (text::is_unit, "a service or slice such as `qm.service`, the last name in `qm.cgroup`, below its slices alone");
    OnLimitFailure = (|text| matches!(text, "fallback" | "hold"), "`fallback` or `hold`");
    Label = (text::is_label, "1 to 36 UTF-16 units; more than 16 bytes only the name of a GPT entry can have");
    Fstype = (|text| text == "ext4", "`ext4`");
    Options = (text::is_options, "mount options of at most 128 bytes without blanks; not dev, suid, remount, bind, rbind, move");
    OnFailure = (|text| matches!(text, "hold" | "start"), "`hold` or `start`");
    Module = (text::is_module, "a name such as `virtio_blk`, with underscores, or an absolute path");
    Init = (|text| text == "none" || text::is_path(text), "an absolute path, or `none`");
    Payload = (text::is_payload, "1 to 55 of letters, digits, '-' and '_'; once in the file");
    Side = (|text| matches!(text, "host" | "qm"), "`host` or `qm`");
    CommandWord = (text::is_word, "at most 255 bytes");
    Restart = (|text| matches!(text, "no" | "on-failure" | "always"), "`no`, `on-failure` or `always`");
    Model = (|text| Model::named(text).is_some(), MODELS);
    Path = (text::is_path, "an absolute path of at most 255 bytes");
    MemoryMax = (|text| Field::Memory.parse(text).is_some(), Field::Memory.allowed());
    Socket = (|text| text::is_path(text) && text.len() <= SOCKET_PATH_MAX, "an absolute path of at most 107 bytes");
    // Of a request alone.
    Set = (|text| text == "set", "`set`");
}

impl Array {
    pub(super) fn max(self) -> usize {
        self.row().0
    }
}

impl Integer {
    /// The number that a text says, if it is allowed.
    pub(super) fn parse(self, raw: &str) -> Option<i32> {
        let Between { min, max, .. } = *self.row();
        text::integer(raw, min, max)
    }
}

impl Kind {
    /// The JSON type in words.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Object => "object",
            Self::Array(_) => "array",
            Self::Boolean | Self::Switch(_) => "boolean",
            Self::Integer(_) | Self::Count(_) => "integer",
            Self::Guest(field) if field.is_count() => "integer",
            Self::WordOrInteger(_) => "string or integer",
            Self::Fraction => "number",
            Self::Text(_) | Self::Word(_) | Self::Guest(_) => "string",
        }
    }

    /// What the value may be, in words.
    #[inline(never)]
    #[must_use]
    pub fn range(self) -> &'static str {
        match self {
            Self::Object => "an object",
            Self::Array(array) => array.row().1,
            Self::Boolean | Self::Switch(_) => "true or false",
            Self::Integer(integer) | Self::WordOrInteger(integer) => integer.row().range,
            Self::Fraction => "0 to below 1, up to nine decimals",
            Self::Text(text) => text.row().1,
            Self::Count(knob) => knob.allowed(),
            Self::Word(word) => word.allowed(),
            Self::Guest(field) => field.allowed(),
        }
    }

    /// Whether a value of this shape can be decoded at all.
    #[inline(never)]
    pub(super) fn fits(self, shape: Shape) -> bool {
        match self {
            Self::WordOrInteger(_) => matches!(shape, Shape::Number | Shape::String),
            Self::Object => shape == Shape::Object,
            Self::Array(_) => shape == Shape::Array,
            Self::Boolean | Self::Switch(_) => shape == Shape::Boolean,
            Self::Integer(_) | Self::Fraction | Self::Count(_) => shape == Shape::Number,
            Self::Guest(field) if field.is_count() => shape == Shape::Number,
            Self::Text(_) | Self::Word(_) | Self::Guest(_) => shape == Shape::String,
        }
    }

    /// Whether a value that fits may be `raw`, a string with its quotes.
    pub(super) fn accepts(self, raw: &str) -> bool {
        match self {
            Self::Object | Self::Array(_) | Self::Boolean | Self::Switch(_) => true,
            Self::Integer(integer) => integer.parse(raw).is_some(),
            Self::WordOrInteger(integer) => {
                unquoted(raw) == Some(integer.row().word) || integer.parse(raw).is_some()
            }
            Self::Fraction => text::billionths(raw).is_some(),
            Self::Text(text) => unquoted(raw).is_some_and(text.row().0),
            Self::Word(word) => unquoted(raw).is_some_and(|text| word.accepts(text)),
            Self::Guest(field) => field.parse(unquoted(raw).unwrap_or(raw)).is_some(),
            Self::Count(knob) => decimal(raw).is_some_and(|count| knob.range().contains(&count)),
        }
    }
}

/// The text between the quotes.
pub(crate) fn unquoted(raw: &str) -> Option<&str> {
    raw.strip_prefix('"')?.strip_suffix('"')
}
