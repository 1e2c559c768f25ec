//! A walk over the members of a JSON text that knows where each one stands.
//!
//! It accepts what serde_json does, except more than [`DEPTH_MAX`] levels and,
//! unless told otherwise, escapes in strings. It doesn't recurse, and it borrows the text only while
//! it steps, so that what lies behind it may be overwritten.

use heapless::{String, Vec};

use super::faults::KEY_PATH_MAX;
use crate::record::{self, append};

/// Levels of nesting: the deepest key is at the fifth, a manifest's never
/// beyond the sixth.
pub(crate) const DEPTH_MAX: usize = 8;

/// What a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    Object,
    Array,
    String,
    Number,
    Boolean,
    Null,
}

/// Where a value stands, in bytes from the beginning of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    /// Begin of its key, or of the value where it has none.
    pub(crate) member: usize,
    pub(crate) start: usize,
    pub(crate) end: usize,
}

impl Span {
    /// The value's own text; empty where it is not UTF-8.
    pub(crate) fn text(self, text: &[u8]) -> &str {
        let value = text.get(self.start..self.end).unwrap_or_default();
        core::str::from_utf8(value).unwrap_or_default()
    }
}

/// One step of the walk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Value {
    pub(crate) shape: Shape,
    /// `end` of an object or array is that of its opening bracket.
    pub(crate) span: Span,
    /// How many objects and arrays it stands in.
    pub(crate) depth: usize,
    /// Its place in the object or array, from 0.
    pub(crate) index: usize,
}

/// The text is no JSON.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SyntaxError {
    pub(crate) at: usize,
    pub(crate) allowed: &'static str,
}

/// An object or array that is open.
struct Frame {
    array: bool,
    member: usize,
    path_len: usize,
    items: usize,
}

/// A walk over one text.
#[derive(Default)]
pub(crate) struct Walk {
    /// Whether strings may have escapes, which are left as they are.
    escapes: bool,
    at: usize,
    begun: bool,
    path: String<KEY_PATH_MAX>,
    frames: Vec<Frame, DEPTH_MAX>,
}

/// What a single step met.
enum Step {
    Value(Value),
    Close,
    End,
}

impl Walk {
    /// A walk over a text whose strings may have escapes.
    pub(crate) fn with_escapes() -> Self {
        Self { escapes: true, ..Self::default() }
    }

    /// Path of the last value.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// Begin of the member whose value is the open object or array `depth`
    /// levels below the top.
    pub(crate) fn member_of(&self, depth: usize) -> usize {
        self.frames.get(depth).map_or(0, |frame| frame.member)
    }

    /// The next value; `None` at the end of the text.
    pub(crate) fn next(&mut self, text: &[u8]) -> Result<Option<Value>, SyntaxError> {
        loop {
            match self.step(text)? {
                Step::Value(value) => return Ok(Some(value)),
                Step::Close => {}
                Step::End => return Ok(None),
            }
        }
    }

    /// Walks on until no more than `depth` objects and arrays are open; where
    /// the last of them ended.
    pub(crate) fn skip(&mut self, text: &[u8], depth: usize) -> Result<usize, SyntaxError> {
        while self.frames.len() > depth {
            self.step(text)?;
        }
        Ok(self.at)
    }

    fn step(&mut self, text: &[u8]) -> Result<Step, SyntaxError> {
        self.blanks(text);
        let Some(frame) = self.frames.last_mut() else {
            if self.begun {
                let end = self.at >= text.len();
                return if end { Ok(Step::End) } else { self.expected("nothing after the end") };
            }
            self.begun = true;
            if text.get(self.at) != Some(&b'{') {
                return self.expected("an object");
            }
            return self.value(text, self.at, 0);
        };
        let (array, index) = (frame.array, frame.items);
        self.path.truncate(frame.path_len);
        if text.get(self.at) == Some(if array { &b']' } else { &b'}' }) {
            self.at += 1;
            self.frames.pop();
            return Ok(Step::Close);
        }
        frame.items += 1;
        if index > 0 {
            self.byte(text, b',', if array { "',' or ']'" } else { "',' or '}'" })?;
            self.blanks(text);
        }
        let member = self.at;
        if array {
            self.enter_item(index);
        } else {
            self.string(text, "a key in double quotes")?;
            let key = text.get(member + 1..self.at - 1).unwrap_or_default();
            self.enter_key(core::str::from_utf8(key).unwrap_or_default());
            self.blanks(text);
            self.byte(text, b':', "':'")?;
            self.blanks(text);
        }
        self.value(text, member, index)
    }

    /// A key that could be taken for a path is quoted, and so matches none.
    fn enter_key(&mut self, key: &str) {
        let quote = if key.is_empty() || key.contains(['.', '[', ']']) { "\"" } else { "" };
        let dot = if self.path.is_empty() { "" } else { "." };
        for part in [dot, quote, key, quote] {
            append(&mut self.path, part);
        }
    }

    fn enter_item(&mut self, index: usize) {
        let item: String<32> = record::cut(format_args!("[{}]", index as u64));
        append(&mut self.path, &item);
    }

    fn value(&mut self, text: &[u8], member: usize, index: usize) -> Result<Step, SyntaxError> {
        let (start, depth) = (self.at, self.frames.len());
        let shape = match text.get(start) {
            Some(b'{') => self.open(Shape::Object, member)?,
            Some(b'[') => self.open(Shape::Array, member)?,
            Some(b'"') => self.string(text, "")?,
            Some(b'-' | b'0'..=b'9') => self.number(text)?,
            Some(b't') => self.literal(text, b"true", Shape::Boolean)?,
            Some(b'f') => self.literal(text, b"false", Shape::Boolean)?,
            Some(b'n') => self.literal(text, b"null", Shape::Null)?,
            _ => return self.expected("a value"),
        };
        let span = Span { member, start, end: self.at };
        Ok(Step::Value(Value { shape, span, depth, index }))
    }

    fn open(&mut self, shape: Shape, member: usize) -> Result<Shape, SyntaxError> {
        let array = shape == Shape::Array;
        let frame = Frame { array, member, path_len: self.path.len(), items: 0 };
        if self.frames.push(frame).is_err() {
            return self.expected("at most 8 levels of nesting");
        }
        self.at += 1;
        Ok(shape)
    }

    fn string(&mut self, text: &[u8], allowed: &'static str) -> Result<Shape, SyntaxError> {
        self.byte(text, b'"', allowed)?;
        loop {
            match text.get(self.at) {
                Some(b'"') => break,
                Some(b'\\') if self.escapes => self.at += 2,
                Some(b'\\') => return self.expected("a string without escapes (\\)"),
                None | Some(0..=0x1f | 0x7f) => {
                    return self.expected("a string without control characters that ends in \"");
                }
                Some(_) => self.at += 1,
            }
        }
        self.at += 1;
        Ok(Shape::String)
    }

    fn number(&mut self, text: &[u8]) -> Result<Shape, SyntaxError> {
        if text.get(self.at) == Some(&b'-') {
            self.at += 1;
        }
        if text.get(self.at) == Some(&b'0') {
            self.at += 1;
        } else {
            self.digits(text)?;
        }
        if text.get(self.at) == Some(&b'.') {
            self.at += 1;
            self.digits(text)?;
        }
        if let Some(b'e' | b'E') = text.get(self.at) {
            self.at += 1;
            if let Some(b'+' | b'-') = text.get(self.at) {
                self.at += 1;
            }
            self.digits(text)?;
        }
        Ok(Shape::Number)
    }

    fn digits(&mut self, text: &[u8]) -> Result<(), SyntaxError> {
        let start = self.at;
        while text.get(self.at).is_some_and(u8::is_ascii_digit) {
            self.at += 1;
        }
        if self.at == start { self.expected("a digit") } else { Ok(()) }
    }

    fn literal(&mut self, text: &[u8], word: &[u8], shape: Shape) -> Result<Shape, SyntaxError> {
        if !text.get(self.at..).is_some_and(|rest| rest.starts_with(word)) {
            return self.expected("a value");
        }
        self.at += word.len();
        Ok(shape)
    }

    fn byte(&mut self, text: &[u8], byte: u8, allowed: &'static str) -> Result<(), SyntaxError> {
        if text.get(self.at) != Some(&byte) {
            return self.expected(allowed);
        }
        self.at += 1;
        Ok(())
    }

    fn blanks(&mut self, text: &[u8]) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = text.get(self.at) {
            self.at += 1;
        }
    }

    fn expected<T>(&self, allowed: &'static str) -> Result<T, SyntaxError> {
        Err(SyntaxError { at: self.at, allowed })
    }
}

/// Where the value at `path` stands, the whole of it.
pub(crate) fn find(text: &[u8], path: &str) -> Option<Span> {
    let mut walk = Walk::default();
    while let Ok(Some(Value { span, depth, .. })) = walk.next(text) {
        if walk.path() == path {
            return walk.skip(text, depth).ok().map(|end| Span { end, ..span });
        }
    }
    None
}

/// The value at `path` as the text has it.
pub(crate) fn raw<'a>(text: &'a [u8], path: &str) -> Option<&'a str> {
    let span = find(text, path)?;
    Some(span.text(text))
}

/// Line and column of a byte, both from 1, the column in characters.
pub(crate) fn position(text: &[u8], at: usize) -> (u32, u32) {
    let (mut line, mut column) = (1, 1);
    for byte in text.get(..at).unwrap_or(text) {
        if *byte == b'\n' {
            (line, column) = (line + 1, 1);
        } else if *byte & 0xc0 != 0x80 {
            column += 1;
        }
    }
    (line, column)
}

/// Overwrites the member between `member` and `end` with one that means
/// nothing. Lines stay where they are.
pub(crate) fn strike(text: &mut [u8], member: usize, end: usize) {
    // The shortest member there is.
    const NOTHING: &[u8] = b"\"\":0";
    for (at, byte) in text.get_mut(member..end).unwrap_or_default().iter_mut().enumerate() {
        *byte = match NOTHING.get(at) {
            Some(nothing) => *nothing,
            None if *byte == b'\n' => b'\n',
            None => b' ',
        };
    }
}
