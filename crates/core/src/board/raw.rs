//! The board file as decoded, before any check.
//!
//! The board reads it with the [`Walk`] that scanned it before; the host and the
//! tests with serde's decoders, which have to find the same. One visitor for
//! those goes by the table of keys, and recurses as deep as it, six levels.
//!
//! What has no JSON type of its own (a number or a word, a fraction) is left to
//! the text, and so are the guests' and the agent's sections, whose readers go
//! by the text alone.

use core::fmt;

use heapless::{Vec, VecView};
use serde::de::{
    Deserialize, DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor,
};

use super::json::Walk;
use super::keys::{self, AGENT, GUESTS, Key, Kind, unquoted};
use super::{COMMAND_WORDS_MAX, HOST_CGROUPS_MAX, MODULES_MAX, PAYLOADS_MAX};

/// Values of a file that has everything as often as it may, but for the guests'
/// and the agent's; a payload has eight keys.
const VALUES_MAX: usize =
    GUESTS + MODULES_MAX + HOST_CGROUPS_MAX + PAYLOADS_MAX * (8 + COMMAND_WORDS_MAX);

/// A board file as decoded: its values in the order of the text.
#[derive(Debug, Default)]
pub struct Raw<'a> {
    values: Vec<Entry<'a>, VALUES_MAX>,
}

#[derive(Clone, Copy, Debug)]
struct Entry<'a> {
    /// Place of the key in [`keys::all`].
    key: usize,
    /// The payload it is of; 0 outside of payloads.
    payload: usize,
    value: Value<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Value<'a> {
    /// An object or array is there; what it holds has entries of its own.
    Opened,
    Flag(bool),
    Number(i16),
    Text(&'a str),
}

/// The values of the file, or those of one payload.
#[derive(Clone, Copy)]
pub(super) struct Values<'r, 'a> {
    raw: &'r Raw<'a>,
    payload: usize,
}

impl<'a> Raw<'a> {
    /// Reads a text that was scanned: what is left of it is known, and of its
    /// type.
    pub(super) fn walked(text: &'a [u8]) -> Option<Self> {
        let mut raw = Self::default();
        let (mut walk, mut payload) = (Walk::default(), 0);
        while let Some(value) = walk.next(text).ok()? {
            let Some((key, Key { path, kind, .. })) = keys::lookup(walk.path()) else { continue };
            if let GUESTS | AGENT = key {
                walk.skip(text, value.depth).ok()?;
                continue;
            }
            match path {
                "payloads[]" => payload = value.index,
                path if path.starts_with("payloads[]") => {}
                _ => payload = 0,
            }
            let value = value.span.text(text);
            let value = match kind {
                Kind::Object | Kind::Array(_) => Value::Opened,
                Kind::Boolean => Value::Flag(value == "true"),
                Kind::Integer(of) => Value::Number(i16::try_from(of.parse(value)?).ok()?),
                Kind::Text(_) => Value::Text(unquoted(value)?),
                _ => continue,
            };
            raw.values.push(Entry { key, payload, value }).ok()?;
        }
        Some(raw)
    }

    pub(super) fn top(&self) -> Values<'_, 'a> {
        self.payload(0)
    }

    pub(super) fn payload(&self, payload: usize) -> Values<'_, 'a> {
        Values { raw: self, payload }
    }
}

impl<'r, 'a: 'r> Values<'r, 'a> {
    fn all(self, path: &str) -> impl Iterator<Item = Value<'a>> + use<'r, 'a> {
        let key = keys::find(path);
        let is_meant =
            move |entry: &&Entry<'_>| Some(entry.key) == key && entry.payload == self.payload;
        self.raw.values.iter().filter(is_meant).map(|entry| entry.value)
    }

    pub(super) fn has(self, path: &str) -> bool {
        self.all(path).next().is_some()
    }

    pub(super) fn flag(self, path: &str) -> Option<bool> {
        match self.all(path).next() {
            Some(Value::Flag(flag)) => Some(flag),
            _ => None,
        }
    }

    pub(super) fn number(self, path: &str) -> Option<i16> {
        match self.all(path).next() {
            Some(Value::Number(number)) => Some(number),
            _ => None,
        }
    }

    pub(super) fn text(self, path: &str) -> Option<&'a str> {
        match self.all(path).next() {
            Some(Value::Text(text)) => Some(text),
            _ => None,
        }
    }

    /// Appends those elements of an array that are accepted, as many as fit;
    /// its path with `[]`.
    pub(super) fn texts(self, path: &str, accepts: fn(&str) -> bool, texts: &mut VecView<&'a str>) {
        for value in self.all(path) {
            if let Value::Text(text) = value
                && accepts(text)
                && texts.push(text).is_err()
            {
                break;
            }
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Raw<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut raw = Self::default();
        let top = Reader { raw: &mut raw, key: None, payload: 0 };
        deserializer.deserialize_map(top)?;
        Ok(raw)
    }
}

/// Reads the value of one key, `None` being the whole file.
struct Reader<'r, 'a> {
    raw: &'r mut Raw<'a>,
    key: Option<usize>,
    payload: usize,
}

impl<'a> Reader<'_, 'a> {
    fn path(&self) -> &'static str {
        self.key.and_then(keys::key).map_or("", |key| key.path)
    }

    fn push<E: Error>(&mut self, value: Value<'a>) -> Result<(), E> {
        let Some(key) = self.key else { return Ok(()) };
        let entry = Entry { key, payload: self.payload, value };
        self.raw.values.push(entry).map_err(|_| E::custom("too many values"))
    }

    /// What reads a value within this one.
    fn within(&mut self, key: usize, payload: usize) -> Reader<'_, 'a> {
        Reader { raw: &mut *self.raw, key: Some(key), payload }
    }
}

/// Place of the key called `name` in the object at `parent`.
fn child(parent: &str, name: &str) -> Option<usize> {
    let is_child = |path: &str| {
        let rest = path.strip_prefix(parent);
        rest.and_then(|rest| if parent.is_empty() { Some(rest) } else { rest.strip_prefix('.') })
            == Some(name)
    };
    keys::all().position(|key| is_child(key.path))
}

impl<'de: 'a, 'a> DeserializeSeed<'de> for Reader<'_, 'a> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(mut self, deserializer: D) -> Result<(), D::Error> {
        let value = match self.key.and_then(keys::key).map(|key| key.kind) {
            Some(Kind::Object) if !matches!(self.key, Some(GUESTS | AGENT)) => {
                self.push(Value::Opened)?;
                return deserializer.deserialize_map(self);
            }
            Some(Kind::Array(_)) => {
                self.push(Value::Opened)?;
                return deserializer.deserialize_seq(self);
            }
            Some(Kind::Boolean) => Value::Flag(bool::deserialize(deserializer)?),
            Some(Kind::Integer(..)) => Value::Number(i16::deserialize(deserializer)?),
            Some(Kind::Text(_)) => Value::Text(<&str>::deserialize(deserializer)?),
            // The guests and the agent's settings are read from the text.
            _ => return IgnoredAny::deserialize(deserializer).map(|_| ()),
        };
        self.push(value)
    }
}

impl<'de: 'a, 'a> Visitor<'de> for Reader<'_, 'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object or array of the table of keys")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key()? {
            let payload = self.payload;
            match child(self.path(), name) {
                Some(key) => map.next_value_seed(self.within(key, payload))?,
                None => {
                    let _: IgnoredAny = map.next_value()?;
                }
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<(), A::Error> {
        let array = self.path();
        let element = keys::all().position(|key| key.path.strip_suffix("[]") == Some(array));
        let Some(key) = element else { return Err(A::Error::custom("an array without elements")) };
        let objects = keys::key(key).is_some_and(|key| matches!(key.kind, Kind::Object));
        for index in 0.. {
            let payload = if objects { index } else { self.payload };
            if seq.next_element_seed(self.within(key, payload))?.is_none() {
                break;
            }
        }
        Ok(())
    }
}
