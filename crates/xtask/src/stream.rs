//! What a guest sends over its virtio ports: bytes up to an end mark, passed on
//! as they come.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, channel};

use anyhow::{Context, Result, bail};

/// A command's exit status, and the files that could be read.
pub type Control = (i32, BTreeMap<String, Vec<u8>>);

/// Reads a stream to its end mark in a thread, passing it on as it comes.
pub fn spool<W: Write + Send + 'static>(
    from: UnixStream,
    end: &str,
    mut to: Option<W>,
) -> Receiver<Result<Vec<u8>>> {
    let end = end.to_string();
    in_thread(move || {
        let mut all = Vec::new();
        until(&mut BufReader::new(from), end.as_bytes(), |bytes| {
            all.extend_from_slice(bytes);
            if let Some(to) = &mut to {
                to.write_all(bytes)?;
                to.flush()?;
            }
            Ok(())
        })?;
        Ok(all)
    })
}

/// Reads in a thread what guest-run reports on its control port: the exit
/// status, then each file of `get` and whether it could be read.
pub fn read_control(control: UnixStream, end: &str, get: Vec<String>) -> Receiver<Result<Control>> {
    let end = end.to_string();
    in_thread(move || {
        let mut control = BufReader::new(control);
        let status = read_number(&mut control)?;
        let mut files = BTreeMap::new();
        for path in get {
            let mut content = Vec::new();
            until(&mut control, end.as_bytes(), |bytes| {
                content.extend_from_slice(bytes);
                Ok(())
            })?;
            if read_number(&mut control)? == 0 {
                files.insert(path, content);
            }
        }
        Ok((status, files))
    })
}

fn read_number(from: &mut impl BufRead) -> Result<i32> {
    let mut line = String::new();
    from.read_line(&mut line)?;
    line.trim().parse().with_context(|| format!("guest-run sent {line:?} for a status"))
}

fn in_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Receiver<Result<T>> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || sender.send(work()));
    receiver
}

/// Reads from `reader` until `mark`, handing on what comes before it as soon as
/// it cannot be the mark's beginning. What follows the mark stays in `reader`.
fn until(
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
