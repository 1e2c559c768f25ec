//! Lines of a stream, through a bounded buffer.
//!
//! For the kernel's texts, which have no length known beforehand.

use embedded_io::Read;

/// Bytes of the buffer: a page, since one read of a kernel file (seq_file) gives
/// at most that.
const BUFFER_BYTES: usize = 4096;

/// A reader's lines, one at a time.
pub struct Lines<R> {
    reader: R,
    buffer: [u8; BUFFER_BYTES],
    /// Where the line given last begins.
    given: usize,
    /// Where the next one begins; `given <= next <= end`.
    next: usize,
    /// Where what was read ends.
    end: usize,
    /// Whether the line given last was cut, so that its rest comes next.
    cut: bool,
}

/// One line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// The line without its newline.
    pub text: &'a [u8],
    /// Whether it did not fit the buffer with its newline, 4096 bytes: this is
    /// its beginning, the rest is skipped.
    pub cut: bool,
    /// Whether its newline was seen: neither cut nor the stream's end.
    pub ended: bool,
}

impl<R: Read> Lines<R> {
    /// The lines of `reader`, from where it stands.
    pub fn new(reader: R) -> Self {
        Self { reader, buffer: [0; BUFFER_BYTES], given: 0, next: 0, end: 0, cut: false }
    }

    /// The next line; `None` at the end of the stream.
    ///
    /// # Errors
    /// The reader's. Nothing is lost by one: the next call goes on.
    #[expect(clippy::should_implement_trait, reason = "a line borrows the buffer")]
    pub fn next(&mut self) -> Result<Option<Line<'_>>, R::Error> {
        while self.cut {
            if let Some(newline) = self.newline(self.next) {
                self.next = newline + 1;
                self.cut = false;
            } else {
                self.next = self.end;
                self.cut = self.fill()? > 0;
            }
        }
        let mut searched = 0;
        loop {
            if let Some(newline) = self.newline(self.next + searched) {
                return Ok(Some(self.give(newline, true)));
            }
            searched = self.end - self.next;
            self.cut = searched == BUFFER_BYTES;
            if self.cut || self.fill()? == 0 {
                return Ok((searched > 0).then(|| self.give(self.end, false)));
            }
        }
    }

    /// Makes the next call of [`Self::next`] give the same line once more.
    pub fn again(&mut self) {
        self.next = self.given;
        self.cut = false;
    }

    /// Gives the line that ends at `end`.
    fn give(&mut self, end: usize, ended: bool) -> Line<'_> {
        self.given = self.next;
        self.next = end + usize::from(ended);
        let text = self.buffer.get(self.given..end).unwrap_or_default();
        Line { text, cut: self.cut, ended }
    }

    /// The first newline at or after `from`. Eight bytes at a time: most of what
    /// a pass costs besides the kernel is in here.
    fn newline(&self, from: usize) -> Option<usize> {
        const ONES: u64 = u64::from_ne_bytes([1; 8]);
        const NEWLINES: u64 = u64::from_ne_bytes([b'\n'; 8]);
        let has_newline = |word: &[u8; 8]| {
            let zero = u64::from_ne_bytes(*word) ^ NEWLINES;
            zero.wrapping_sub(ONES) & !zero & (ONES << 7) != 0
        };
        let unseen = self.buffer.get(from..self.end)?;
        let (words, _) = unseen.as_chunks();
        let skipped = 8 * words.iter().position(has_newline).unwrap_or(words.len());
        let mut rest = unseen.get(skipped..)?.iter();
        rest.position(|byte| *byte == b'\n').map(|at| from + skipped + at)
    }

    /// Reads more behind what is not given yet, which moves to the front. 0 is
    /// the end of the stream.
    fn fill(&mut self) -> Result<usize, R::Error> {
        // What holds anyway, said where the compiler can use it: no panic.
        let end = self.end.min(BUFFER_BYTES);
        let next = self.next.min(end);
        self.buffer.copy_within(next..end, 0);
        (self.given, self.next, self.end) = (0, 0, end - next);
        let free = self.buffer.get_mut(self.end..).unwrap_or_default();
        let read = self.reader.read(free)?.min(free.len());
        self.end += read;
        Ok(read)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use core::convert::Infallible;

    use embedded_io::{ErrorKind, ErrorType};
    use proptest::prelude::{Strategy, any, prop_assert_eq, proptest};

    use super::*;

    /// Gives `bytes` in pieces of at most these sizes, in turn.
    pub(in crate::agent) struct Pieces<'a> {
        bytes: &'a [u8],
        sizes: core::iter::Cycle<core::slice::Iter<'a, usize>>,
    }

    impl<'a> Pieces<'a> {
        pub(in crate::agent) fn new(bytes: &'a [u8], sizes: &'a [usize]) -> Self {
            Self { bytes, sizes: sizes.iter().cycle() }
        }
    }

    impl ErrorType for Pieces<'_> {
        type Error = Infallible;
    }

    impl Read for Pieces<'_> {
        fn read(&mut self, buf: &mut [u8]) -> Result<usize, Infallible> {
            let size = *self.sizes.next().unwrap();
            let (now, later) = self.bytes.split_at(size.min(buf.len()).min(self.bytes.len()));
            buf[..now.len()].copy_from_slice(now);
            self.bytes = later;
            Ok(now.len())
        }
    }

    /// Sizes of pieces for [`Pieces`].
    pub(in crate::agent) fn sizes() -> impl Strategy<Value = Vec<usize>> {
        proptest::collection::vec(1..5000_usize, 1..6)
    }

    type Owned = (Vec<u8>, bool, bool);

    fn owned(line: Line<'_>) -> Owned {
        (line.text.to_vec(), line.cut, line.ended)
    }

    fn lines(bytes: &[u8], sizes: &[usize]) -> Vec<Owned> {
        let mut lines = Lines::new(Pieces::new(bytes, sizes));
        let mut all = Vec::new();
        while let Some(line) = lines.next().unwrap() {
            all.push(owned(line));
        }
        assert_eq!(lines.next(), Ok(None));
        all
    }

    /// The same, of a text that is there as a whole.
    fn expected(bytes: &[u8]) -> Vec<Owned> {
        let of = |line: &[u8]| match line {
            _ if line.len() > BUFFER_BYTES => (line[..BUFFER_BYTES].to_vec(), true, false),
            [line @ .., b'\n'] => (line.to_vec(), false, true),
            _ => (line.to_vec(), line.len() == BUFFER_BYTES, false),
        };
        bytes.split_inclusive(|byte| *byte == b'\n').map(of).collect()
    }

    #[test]
    fn lengths_around_the_buffer() {
        for length in [0, 1, BUFFER_BYTES - 1, BUFFER_BYTES, BUFFER_BYTES + 1, 3 * BUFFER_BYTES] {
            for end in ["", "\n", "\nnext\n", "\n\nlast"] {
                let text = ["x".repeat(length).as_str(), end].concat();
                for size in [1, 7, BUFFER_BYTES, usize::MAX] {
                    assert_eq!(lines(text.as_bytes(), &[size]), expected(text.as_bytes()));
                }
            }
        }
    }

    #[test]
    fn a_line_can_be_had_again() {
        let text = ["a\n", &"x".repeat(5000), "\nb"].concat();
        let mut lines = Lines::new(text.as_bytes());
        lines.again();
        for expected in expected(text.as_bytes()) {
            for _ in 0..3 {
                assert_eq!(lines.next().unwrap().map(owned), Some(expected.clone()));
                lines.again();
            }
            lines.next().unwrap();
        }
        assert_eq!(lines.next(), Ok(None));
        lines.again();
        assert_eq!(lines.next(), Ok(None));
    }

    /// Fails every second time.
    struct Unsteady<'a>(&'a [u8], bool);

    impl ErrorType for Unsteady<'_> {
        type Error = ErrorKind;
    }

    impl Read for Unsteady<'_> {
        fn read(&mut self, buf: &mut [u8]) -> Result<usize, ErrorKind> {
            self.1 = !self.1;
            if self.1 { Err(ErrorKind::Interrupted) } else { Ok(self.0.read(buf).unwrap()) }
        }
    }

    #[test]
    fn an_error_loses_nothing() {
        let text = ["a\nb\n", &"x".repeat(9000), "\nlast"].concat();
        let mut lines = Lines::new(Unsteady(text.as_bytes(), false));
        let mut all = Vec::new();
        loop {
            match lines.next() {
                Ok(None) => break,
                Ok(Some(line)) => all.push(owned(line)),
                Err(_) => {}
            }
        }
        assert_eq!(all, expected(text.as_bytes()));
    }

    proptest! {
        #[test]
        fn any_pieces_give_the_same_lines(
            lengths in proptest::collection::vec(0..6000_usize, 0..8),
            whole in any::<bool>(),
            sizes in sizes(),
        ) {
            let mut text = Vec::new();
            for length in lengths {
                text.resize(text.len() + length, b'x');
                text.push(b'\n');
            }
            if !whole {
                text.pop();
            }
            prop_assert_eq!(lines(&text, &sizes), expected(&text));
        }
    }
}
