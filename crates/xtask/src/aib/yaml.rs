//! YAML as automotive-image-builder reads it: a tree with the place of every
//! key and value, scalars typed as PyYAML types them (YAML 1.1, so `yes` is
//! true and `1e-1` a text).

use std::collections::HashMap;
use std::rc::Rc;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle};

/// Largest file, in bytes: a manifest with all its files inline is far below.
const BYTES_MAX: usize = 1 << 20;
/// Deepest nesting: a manifest has about eight levels.
const DEPTH_MAX: usize = 64;

/// Where something stands, both from 1; a column counts characters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) line: usize,
    pub(super) column: usize,
}

/// What is no YAML, or more than is read here.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) place: Place,
    pub(super) why: String,
}

#[derive(Debug)]
pub(super) struct Node {
    pub(super) place: Place,
    pub(super) value: Value,
}

#[derive(Debug)]
pub(super) enum Value {
    /// As in the file, a key that stands twice too.
    Mapping(Vec<(Key, Rc<Node>)>),
    Sequence(usize),
    Null,
    Flag(bool),
    /// In JSON's notation.
    Number(String),
    Text(String),
    /// A number or date in a notation that JSON doesn't have.
    Odd(String),
}

#[derive(Debug)]
pub(super) struct Key {
    pub(super) place: Place,
    pub(super) name: String,
}

impl Node {
    /// As JSON; what a mapping or a sequence holds is left out.
    pub(super) fn json(&self) -> String {
        match &self.value {
            Value::Mapping(_) => "{}".into(),
            Value::Sequence(_) => "[]".into(),
            Value::Null => "null".into(),
            Value::Flag(flag) => flag.to_string(),
            Value::Number(number) => number.clone(),
            Value::Text(text) | Value::Odd(text) => quoted(text),
        }
    }
}

/// A text as JSON.
pub(super) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// A text as YAML: plain where every reader takes it for a text.
pub(super) fn scalar(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '%' | '/' | '-' | '_');
    let is_plain = text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '/')
        && text.split(' ').all(|word| !word.is_empty() && word.chars().all(plain))
        && matches!(typed(text), Value::Text(_))
        && (text == "infinity" || text.parse::<f64>().is_err());
    if is_plain { text.into() } else { quoted(text) }
}

/// A collection that hasn't ended.
struct Open {
    place: Place,
    anchor: usize,
    /// The key whose value comes next.
    key: Option<Key>,
    value: Value,
}

/// Reads the only document of a file.
pub(super) fn read(text: &str) -> Result<Rc<Node>, Refused> {
    if text.len() > BYTES_MAX {
        return Err(refused(Place { line: 1, column: 1 }, "a file of more than 1 MiB"));
    }
    let mut parser = Parser::new_from_str(text);
    let mut tree = Tree::default();
    while let Some(event) = parser.next_event() {
        let (event, span) = event.map_err(|error| Refused {
            place: place(*error.marker()),
            why: format!("no YAML: {}", error.info()),
        })?;
        tree.take(event, place(span.start))?;
    }
    Ok(tree.root.unwrap_or_else(|| node(Place { line: 1, column: 1 }, Value::Null)))
}

#[derive(Default)]
struct Tree {
    root: Option<Rc<Node>>,
    open: Vec<Open>,
    anchors: HashMap<usize, Rc<Node>>,
}

impl Tree {
    fn take(&mut self, event: Event<'_>, place: Place) -> Result<(), Refused> {
        match event {
            Event::DocumentStart(_) if self.root.is_some() => {
                return Err(refused(place, "a second document"));
            }
            Event::Scalar(text, style, anchor, tag) => {
                let value = match tag {
                    None if style == ScalarStyle::Plain => typed(&text),
                    None => Value::Text(text.to_string()),
                    Some(tag) if tag.suffix == "str" => Value::Text(text.to_string()),
                    Some(tag) => return Err(refused(place, &format!("the tag {tag}"))),
                };
                self.add(place, anchor, value, Some(&text))?;
            }
            Event::Alias(anchor) => {
                let Some(node) = self.anchors.get(&anchor) else {
                    return Err(refused(place, "an alias of what contains it"));
                };
                self.put(Rc::clone(node), place, None)?;
            }
            Event::MappingStart(anchor, _) => {
                self.begin(place, anchor, Value::Mapping(Vec::new()))?;
            }
            Event::SequenceStart(anchor, _) => self.begin(place, anchor, Value::Sequence(0))?,
            Event::MappingEnd | Event::SequenceEnd => {
                if let Some(Open { place, anchor, value, .. }) = self.open.pop() {
                    self.add(place, anchor, value, None)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn begin(&mut self, place: Place, anchor: usize, value: Value) -> Result<(), Refused> {
        if self.open.len() == DEPTH_MAX {
            return Err(refused(place, "more than 64 levels"));
        }
        self.open.push(Open { place, anchor, key: None, value });
        Ok(())
    }

    /// A node that is complete; `text` where it may be a key.
    fn add(
        &mut self,
        place: Place,
        anchor: usize,
        value: Value,
        text: Option<&str>,
    ) -> Result<(), Refused> {
        let node = node(place, value);
        if anchor != 0 {
            self.anchors.insert(anchor, Rc::clone(&node));
        }
        self.put(node, place, text)
    }

    fn put(&mut self, node: Rc<Node>, place: Place, text: Option<&str>) -> Result<(), Refused> {
        let Some(Open { key, value, .. }) = self.open.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        match value {
            Value::Mapping(entries) => match (key.take(), text) {
                (Some(key), _) => entries.push((key, node)),
                (None, Some(name)) => *key = Some(Key { place, name: name.into() }),
                (None, None) => return Err(refused(place, "a key that is no word")),
            },
            Value::Sequence(len) => *len += 1,
            _ => {}
        }
        Ok(())
    }
}

fn node(place: Place, value: Value) -> Rc<Node> {
    Rc::new(Node { place, value })
}

fn place(marker: Marker) -> Place {
    Place { line: marker.line(), column: marker.col() + 1 }
}

fn refused(place: Place, what: &str) -> Refused {
    Refused { place, why: format!("{what} is not read here") }
}

/// What PyYAML makes of a plain scalar.
fn typed(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => {
            return Value::Flag(true);
        }
        "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            return Value::Flag(false);
        }
        _ => {}
    }
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", text.strip_prefix('+').unwrap_or(text)),
    };
    if is_odd(text, digits) {
        return Value::Odd(text.into());
    }
    let all = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_digit());
    let (whole, decimals) = digits.split_once('.').unwrap_or((digits, ""));
    let is_number = all(whole)
        && all(decimals)
        && if digits.contains('.') {
            digits.len() > 1 && (!whole.is_empty() || digits == text)
        } else {
            digits == "0" || !digits.is_empty() && !digits.starts_with('0')
        };
    if !is_number {
        return Value::Text(text.into());
    }
    let whole = match whole.trim_start_matches('0') {
        "" => "0",
        whole => whole,
    };
    let dot = if decimals.is_empty() { "" } else { "." };
    Value::Number(format!("{sign}{whole}{dot}{decimals}"))
}

/// Whether it is a number in a notation of YAML 1.1 alone: octal, hexadecimal,
/// binary, to base 60, with underscores or an exponent, infinity, not a number;
/// or a date.
fn is_odd(text: &str, digits: &str) -> bool {
    let of = |text: &str, among: &str| !text.is_empty() && text.chars().all(|c| among.contains(c));
    let based = |prefix, among| digits.strip_prefix(prefix).is_some_and(|rest| of(rest, among));
    let starts = digits.trim_start_matches('.').starts_with(|c: char| c.is_ascii_digit());
    let grouped = starts && digits.contains([':', '_']) && of(digits, "0123456789_:.");
    let has_exponent = digits.split_once(['e', 'E']).is_some_and(|(number, exponent)| {
        number.contains('.')
            && of(number, "0123456789_.")
            && exponent.strip_prefix(['-', '+']).is_some_and(|rest| of(rest, "0123456789"))
    });
    let is_date = digits.split('-').count() == 3
        && digits.split('-').all(|part| part.len() <= 4 && of(part, "0123456789"))
        && text == digits;
    based("0x", "0123456789abcdefABCDEF_")
        || based("0b", "01_")
        || based("0", "01234567_")
        || grouped
        || has_exponent
        || is_date
        || matches!(digits, ".inf" | ".Inf" | ".INF" | ".nan" | ".NaN" | ".NAN")
}

#[cfg(test)]
mod tests {
    use super::{Value, read, scalar, typed};

    #[test]
    fn types_are_those_of_pyyaml() {
        for (text, json) in [
            ("40%", "\"40%\""),
            ("100M", "\"100M\""),
            ("8 GiB", "\"8 GiB\""),
            ("08", "\"08\""),
            ("1e-1", "\"1e-1\""),
            ("0x28%", "\"0x28%\""),
            ("c36a70ca-8827-4e0e-977e-7179ccfe0e65", "\"c36a70ca-8827-4e0e-977e-7179ccfe0e65\""),
            ("", "null"),
            ("~", "null"),
            ("yes", "true"),
            ("Off", "false"),
            ("y", "\"y\""),
            ("0", "0"),
            ("100", "100"),
            ("-3", "-3"),
            ("0.10", "0.10"),
            (".3", "0.3"),
            ("1.", "1"),
            ("-.5", "\"-.5\""),
            (".", "\".\""),
            ("-", "\"-\""),
        ] {
            let node = super::Node { place: super::Place::default(), value: typed(text) };
            assert_eq!(node.json(), json, "{text:?}");
            assert!(!matches!(node.value, Value::Odd(_)), "{text:?}");
        }
        for text in ["010", "0x10", "0b1", "1_000", "1:30", "1.0e-3", ".inf", "-.INF", "2024-01-01"]
        {
            assert!(matches!(typed(text), Value::Odd(_)), "{text:?}");
        }
    }

    #[test]
    fn what_is_written_is_read_as_text() {
        for text in [
            "40%",
            "infinity",
            "8 GiB",
            "1.5G",
            "1G 500M",
            "12 ",
            "1e3",
            "0x10",
            "yes",
            "null",
            "",
            "a: b",
            "# no",
            "500",
            "1.5",
            "12e0",
            "-x",
            "{",
            "é\u{7f}\"",
            "1:30",
            "/sbin/init",
            "~",
            "1E5",
        ] {
            let written = format!("key: {}\n", scalar(text));
            let root = read(&written).unwrap();
            let Value::Mapping(entries) = &root.value else { panic!("{written}") };
            assert!(matches!(&entries[0].1.value, Value::Text(read) if read == text), "{written}");
        }
    }

    #[test]
    fn hostile_texts_are_refused() {
        let deep = "[".repeat(100_000);
        let laughs = (1..30).fold("a0: &a0 [x]\n".to_owned(), |text, at| {
            format!("{text}a{at}: &a{at} [*a{0}, *a{0}, *a{0}, *a{0}]\n", at - 1)
        });
        assert!(read(&laughs).is_ok());
        let large = "a: 1\n".repeat(1 << 18);
        for text in [
            "a: b: c",
            "a: &b [*b]",
            "? [a]\n: b",
            "--- a\n--- b",
            "a: !!binary b",
            "a: *b",
            "\"a",
            "a:\n\tb: c",
            "a: [",
            "%",
            &deep,
            &large,
        ] {
            assert!(read(text).is_err(), "{}", text.get(..20).unwrap_or(text));
        }
        for bytes in 0..=255_u8 {
            let _ = read(&String::from_utf8_lossy(&[b'a', b':', b' ', bytes, b'\n', bytes]));
        }
    }
}
