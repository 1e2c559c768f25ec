//! Bytes up to an end mark, passed on as they come.

use std::io::BufRead;

use anyhow::{Result, bail};

/// Reads from `reader` until `mark`, handing on what comes before it as soon as
/// it cannot be the mark's beginning. What follows the mark stays in `reader`.
pub fn until(
    reader: &mut impl BufRead,
    mark: &[u8],
    mut take: impl FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    // Bytes read but not handed on: they may be the beginning of the mark.
    let mut held = Vec::new();
    loop {
        let new = reader.fill_buf()?;
        if new.is_empty() {
            bail!("the guest's output ended without its mark");
        }
        let (before, count) = (held.len(), new.len());
        held.extend_from_slice(new);
        if let Some(at) = held.windows(mark.len()).position(|window| window == mark) {
            reader.consume(at + mark.len() - before);
            return take(held.get(..at).unwrap_or_default());
        }
        reader.consume(count);
        let keep = longest_start(&held, mark);
        let sure = held.len() - keep;
        if sure > 0 {
            take(held.get(..sure).unwrap_or_default())?;
            held.drain(..sure);
        }
    }
}

/// Length of the longest end of `bytes` that `mark` begins with.
fn longest_start(bytes: &[u8], mark: &[u8]) -> usize {
    let longest = bytes.len().min(mark.len());
    (0..=longest).rev().find(|n| bytes.ends_with(mark.get(..*n).unwrap_or_default())).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use super::*;

    fn read(text: &str, chunk: usize) -> (Result<()>, String, String) {
        let mut reader = BufReader::with_capacity(chunk, text.as_bytes());
        let mut taken = String::new();
        let result = until(&mut reader, b"END\n", |bytes| {
            taken += str::from_utf8(bytes)?;
            Ok(())
        });
        let mut rest = String::new();
        std::io::Read::read_to_string(&mut reader, &mut rest).unwrap();
        (result, taken, rest)
    }

    #[test]
    fn stops_at_the_mark_however_it_is_cut() {
        for chunk in 1..20 {
            for text in ["", "a", "EN", "ENDEN", "a\nEND", "line\nEEND"] {
                let (result, taken, rest) = read(&format!("{text}END\n7\n"), chunk);
                assert!(result.is_ok());
                assert_eq!((taken.as_str(), rest.as_str()), (text, "7\n"));
            }
        }
    }

    #[test]
    fn no_mark_is_an_error() {
        let (result, taken, _) = read("textEN", 3);
        assert!(result.is_err());
        assert_eq!(taken, "text");
    }
}
