//! The kernel's list of generations.

use std::convert::Infallible;

use embedded_io::{ErrorType, Read};
use plimsoll_core::agent::lru_gen::{Dump, GENERATIONS_MAX, Generation, Lruvec};

/// Whatever the kernel lists, and in whatever pieces, what is given is sound
/// and the same.
pub(super) fn check(data: &[u8]) {
    let whole = read(data, usize::MAX);
    for size in [17, 509] {
        assert_eq!(read(data, size), whole);
    }
}

/// id, path, node, generations.
type Owned = (u64, String, u32, Vec<Generation>);

fn read(data: &[u8], size: usize) -> (Vec<Owned>, u32) {
    let mut dump = Dump::new(Pieces { data, size });
    let mut all = Vec::new();
    while let Ok(Some(Lruvec { id, path, node, generations })) = dump.next() {
        assert!(path.starts_with('/') && !path.contains('\n'));
        assert!((1..=GENERATIONS_MAX).contains(&generations.len()));
        assert!(generations.windows(2).all(|pair| pair[0].seq + 1 == pair[1].seq));
        all.push((id, path.into(), node, generations.to_vec()));
    }
    (all, dump.malformed())
}

/// Gives `data` in pieces of at most `size` bytes.
struct Pieces<'a> {
    data: &'a [u8],
    size: usize,
}

impl ErrorType for Pieces<'_> {
    type Error = Infallible;
}

impl Read for Pieces<'_> {
    fn read(&mut self, buf: &mut [u8]) -> Result<usize, Infallible> {
        let size = self.size.min(buf.len());
        self.data.read(&mut buf[..size])
    }
}
