//! The kernel's list of generations: MGLRU's file lru_gen in debugfs.
//!
//! Its form is that of lru_gen_seq_show in the kernel's mm/vmscan.c: for each
//! memory cgroup a line "memcg ID PATH", in it for each memory node a line
//! "node NID", in it a row for each generation, oldest first.

use embedded_io::Read;
use heapless::{String, Vec};

use super::lines::{Line, Lines};
use crate::number::decimal;
use crate::split::split_once;

/// Generations of one cgroup on one node: the kernel's MAX_NR_GENS.
pub const GENERATIONS_MAX: usize = 4;
/// Longest path of a cgroup, in bytes: containers nested four deep, each with
/// an id of 64 digits and its names, need 500. A longer one is counted.
pub const CGROUP_PATH_MAX: usize = 1024;

/// How the headers begin.
const MEMCG: &[u8] = b"memcg ";
const NODE: &[u8] = b" node ";

/// One generation of a cgroup's pages on one node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Generation {
    /// Its number: the oldest has the least, each next one has one more.
    pub seq: u64,
    /// Time since it was made, in milliseconds. The kernel counts it in 32 bits:
    /// after 49.7 days it begins anew.
    pub age_ms: u64,
    /// Anonymous and shared-memory pages.
    pub anon_pages: u64,
    /// Pages of files.
    pub file_pages: u64,
}

/// The pages of one cgroup on one memory node.
#[derive(Debug, PartialEq, Eq)]
pub struct Lruvec<'a> {
    /// The cgroup's id, as commands to the kernel name it. 0 stands for the
    /// whole machine where the kernel's memory controller is off.
    pub id: u64,
    /// Its path below the cgroup2 mount, beginning with '/'; "/" is the root.
    pub path: &'a str,
    /// The memory node.
    pub node: u32,
    /// 1 to 4 generations, oldest first.
    pub generations: &'a [Generation],
}

/// The list, read as a stream.
///
/// On a machine with several memory nodes, cgroups that come or go between two
/// reads may make the kernel go on with a node of another cgroup without saying
/// so: a generation's number may then not be that cgroup's.
pub struct Dump<R> {
    lines: Lines<R>,
    at: Place,
}

/// Where in the list: what its lines so far said.
struct Place {
    memcg: Part<u64>,
    path: String<CGROUP_PATH_MAX>,
    node: Part<u32>,
    generations: Vec<Generation, GENERATIONS_MAX>,
    malformed: u32,
}

/// A part of the list and the number in its header.
#[derive(Clone, Copy)]
enum Part<T> {
    /// None has begun.
    None,
    /// What it says does not count, or is given already.
    Skipped,
    /// In it.
    Of(T),
}

impl<R: Read> Dump<R> {
    /// The list that `reader` gives from its beginning.
    pub fn new(reader: R) -> Self {
        let at = Place {
            memcg: Part::None,
            path: String::new(),
            node: Part::None,
            generations: Vec::new(),
            malformed: 0,
        };
        Self { lines: Lines::new(reader), at }
    }

    /// The next cgroup on the next node whose generations are all there and
    /// sound; `None` at the end.
    ///
    /// # Errors
    /// The reader's. Nothing is lost by one: the next call goes on.
    #[expect(clippy::should_implement_trait, reason = "what is given borrows the buffers")]
    pub fn next(&mut self) -> Result<Option<Lruvec<'_>>, R::Error> {
        while let Some(line) = self.lines.next()? {
            if is_header(line.text) && self.at.whole().is_some() {
                self.lines.again();
                break;
            }
            self.at.take(&line);
        }
        Ok(self.at.give())
    }

    /// How much was skipped so far because it is not as the kernel writes it: a
    /// cgroup counts once, and so does one node of a cgroup.
    #[must_use]
    pub fn malformed(&self) -> u32 {
        self.at.malformed
    }
}

impl Place {
    /// The cgroup's id and the node, where there is something to give. Without
    /// a row there is not: the kernel writes none where a cgroup ages while it
    /// is listed.
    fn whole(&self) -> Option<(u64, u32)> {
        match (self.memcg, self.node) {
            (Part::Of(id), Part::Of(node)) if !self.generations.is_empty() => Some((id, node)),
            _ => None,
        }
    }

    fn give(&mut self) -> Option<Lruvec<'_>> {
        let (id, node) = self.whole()?;
        self.node = Part::Skipped;
        Some(Lruvec { id, path: &self.path, node, generations: &self.generations })
    }

    fn take(&mut self, line: &Line<'_>) {
        // A line without its newline may lack more than that, so it is none.
        let text = if line.ended { line.text } else { b"" };
        let utf8 = || core::str::from_utf8(text).unwrap_or("");
        if line.text.starts_with(MEMCG) {
            self.memcg(utf8());
        } else if line.text.starts_with(NODE) {
            self.node(utf8());
        } else {
            self.row(text);
        }
    }

    fn memcg(&mut self, text: &str) {
        self.node = Part::None;
        self.memcg = match self.header(text) {
            // A cgroup that was removed but still has pages: no command reaches it.
            Some(0) if self.path != "/" => Part::Skipped,
            Some(id) => Part::Of(id),
            None => self.malformed(),
        };
    }

    /// The id; the path goes where it belongs.
    fn header(&mut self, text: &str) -> Option<u64> {
        let (id, path) = split_once(text.get(MEMCG.len()..)?.trim_ascii_start(), b' ')?;
        self.path.clear();
        // The path is empty where the memory controller is off.
        self.path.push_str(if path.is_empty() { "/" } else { path }).ok()?;
        self.path.starts_with('/').then(|| decimal(id))?
    }

    fn node(&mut self, text: &str) {
        self.generations.clear();
        let node = || u32::try_from(decimal(text.get(NODE.len()..)?.trim_ascii_start())?).ok();
        self.node = match (self.memcg, node()) {
            (Part::Skipped, _) => Part::Skipped,
            (Part::Of(_), Some(node)) => Part::Of(node),
            _ => self.malformed(),
        };
    }

    fn row(&mut self, text: &[u8]) {
        if matches!((self.memcg, self.node), (Part::Skipped, _) | (_, Part::Skipped)) {
            return;
        }
        if !matches!(self.node, Part::Of(_)) || self.push(text).is_none() {
            self.node = self.malformed();
        }
    }

    /// Adds a row; `None` where it is none, or one too many.
    fn push(&mut self, text: &[u8]) -> Option<()> {
        let [seq, age_ms, anon_pages, file_pages] = numbers(text)?;
        let follows = |last: &Generation| last.seq.checked_add(1) == Some(seq);
        let is_next = self.generations.last().is_none_or(follows);
        let generation = Generation { seq, age_ms, anon_pages, file_pages };
        is_next.then(|| self.generations.push(generation).ok())?
    }

    fn malformed<T>(&mut self) -> Part<T> {
        self.malformed = self.malformed.saturating_add(1);
        Part::Skipped
    }
}

/// The numbers of a row. Most of it are blanks, and a list has thousands of rows:
/// words and `decimal` would cost five times as much.
fn numbers(mut row: &[u8]) -> Option<[u64; 4]> {
    const BLANKS: [u8; 8] = [b' '; 8];
    let mut numbers = [0_u64; 4];
    for number in &mut numbers {
        while let Some((&BLANKS, rest)) = row.split_first_chunk() {
            row = rest;
        }
        row = row.trim_ascii_start();
        let digits = row.len();
        while let Some((digit @ b'0'..=b'9', rest)) = row.split_first() {
            *number = number.checked_mul(10)?.checked_add(u64::from(digit - b'0'))?;
            row = rest;
        }
        if row.len() == digits {
            return None;
        }
    }
    row.trim_ascii_start().is_empty().then_some(numbers)
}

fn is_header(text: &[u8]) -> bool {
    text.starts_with(MEMCG) || text.starts_with(NODE)
}

#[cfg(test)]
mod tests;
