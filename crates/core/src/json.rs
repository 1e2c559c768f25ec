//! Writing JSON. Derived serializers cost 3 KB more than this, since they are
//! compiled anew for each type of field.

use core::fmt::{self, Write as _};

/// A value as JSON.
pub struct Json<T>(pub T);

impl fmt::Display for Json<&str> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"")?;
        for c in self.0.chars() {
            match c {
                '"' | '\\' => write!(f, "\\{c}")?,
                '\0'..='\x1f' => write!(f, "\\u{:04x}", u32::from(c))?,
                _ => f.write_char(c)?,
            }
        }
        f.write_str("\"")
    }
}

/// An object of a state and numbers.
pub(crate) fn standing(
    f: &mut fmt::Formatter<'_>,
    state: &str,
    numbers: &[(&str, u64)],
) -> fmt::Result {
    write!(f, "{{\"state\":\"{state}\"")?;
    numbers.iter().try_for_each(|(name, number)| write!(f, ",\"{name}\":{number}"))?;
    f.write_str("}")
}

/// Text written to the beginning of a buffer.
pub struct Slice<'a> {
    buf: &'a mut [u8],
    len: usize,
}

impl<'a> Slice<'a> {
    /// Nothing is written yet.
    pub fn new(buf: &'a mut [u8]) -> Self {
        Self { buf, len: 0 }
    }

    /// Bytes written.
    #[must_use]
    pub fn written(&self) -> usize {
        self.len
    }
}

impl fmt::Write for Slice<'_> {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        let room = self.buf.get_mut(self.len..).unwrap_or_default();
        room.get_mut(..s.len()).ok_or(fmt::Error)?.copy_from_slice(s.as_bytes());
        self.len += s.len();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Json;

    #[test]
    fn a_text_is_read_back_as_it_was() {
        for text in ["", "40%", "\"\\\u{1}\n\t\u{7f}ä‰"] {
            let read: String = serde_json::from_str(&Json(text).to_string()).unwrap();
            assert_eq!(read, text);
        }
    }
}
