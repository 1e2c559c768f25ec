//! The kernel's lists of free blocks: /proc/buddyinfo and /proc/pagetypeinfo.
//!
//! Both have one line for each zone (and type), with one number for each order:
//!
//! ```text
//! Node 0, zone    DMA32 149091      4      0      2      2
//! Node    0, zone    DMA32, type      Movable >100000      3      0      0      1
//! ```

use embedded_io::Read;

use crate::agent::lines::Lines;
use crate::number::decimal;

/// Orders that are told apart: kernels have 11 with pages of 4 KiB, arm64 has 14
/// with pages of 64 KiB.
pub const ORDERS_MAX: usize = 16;

/// How many free blocks there are of each order, in all zones together. A block
/// has 2^order pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Blocks([u64; ORDERS_MAX]);

impl Blocks {
    /// Pages in blocks of orders below `order`.
    #[must_use]
    pub fn pages_below(&self, order: u64) -> u64 {
        let pages =
            self.0.iter().zip(0..order).map(|(count, order)| count.saturating_mul(1 << order));
        pages.fold(0, u64::saturating_add)
    }
}

/// Free blocks of all types, from /proc/buddyinfo. What is no such line, or no
/// number, counts nothing.
///
/// # Errors
/// The reader's.
pub fn all_types<R: Read>(buddyinfo: R) -> Result<Blocks, R::Error> {
    let mut lines = Lines::new(buddyinfo);
    let mut all = Blocks::default();
    while let Some(line) = lines.next()? {
        let mut words = words(line.text, line.ended);
        let head = [(); 4].map(|()| words.next());
        if let [Some("Node"), _, Some("zone"), _] = head {
            for (cell, sum) in words.zip(&mut all.0) {
                *sum = sum.saturating_add(count(cell).0);
            }
        }
    }
    Ok(all)
}

/// Free blocks of type Movable, from /proc/pagetypeinfo; `None` where it has no
/// such line.
///
/// The kernel counts to 100000 and then prints ">100000". What buddyinfo, `all`,
/// counted of that order and the other types don't have is movable then; too
/// much rather than too little, should one of those be capped as well. All this
/// adds up over the zones, so none is kept apart.
///
/// # Errors
/// The reader's.
pub fn movable<R: Read>(pagetypeinfo: R, all: &Blocks) -> Result<Option<Blocks>, R::Error> {
    let mut lines = Lines::new(pagetypeinfo);
    let (mut movable, mut others) = (Blocks::default(), Blocks::default());
    let mut capped = [false; ORDERS_MAX];
    let mut found = false;
    while let Some(line) = lines.next()? {
        let mut words = words(line.text, line.ended);
        // The other lists of this file have no word "type" here.
        let head = [(); 6].map(|()| words.next());
        let [Some("Node"), _, Some("zone"), _, Some("type"), Some(of)] = head else { continue };
        let is_movable = of == "Movable";
        found |= is_movable;
        let sums = if is_movable { &mut movable.0 } else { &mut others.0 };
        for ((cell, sum), capped) in words.zip(sums).zip(&mut capped) {
            let (count, more) = count(cell);
            *sum = sum.saturating_add(count);
            *capped |= is_movable && more;
        }
    }
    let rest = all.0.iter().zip(&others.0).map(|(all, others)| all.saturating_sub(*others));
    for ((sum, rest), capped) in movable.0.iter_mut().zip(rest).zip(capped) {
        if capped {
            *sum = rest.max(*sum);
        }
    }
    Ok(found.then_some(movable))
}

/// The words of a line; none of one that is not whole.
fn words(text: &[u8], whole: bool) -> core::str::SplitAsciiWhitespace<'_> {
    let text = if whole { core::str::from_utf8(text).unwrap_or_default() } else { "" };
    text.split_ascii_whitespace()
}

/// What a cell counts, and whether there may be more.
fn count(cell: &str) -> (u64, bool) {
    let digits = cell.strip_prefix('>');
    (decimal(digits.unwrap_or(cell)).unwrap_or(0), digits.is_some())
}
