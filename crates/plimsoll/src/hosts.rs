//! The guests' limits: looked after once a second. What the kernel, a disk or
//! systemd may hold up for as long as it likes, a child does.

use heapless::Vec;
use plimsoll_core::board::Guests;
use plimsoll_core::facts::{CGROUP_ROOT, read_text};
use plimsoll_core::guests::GUESTS_MAX;
use plimsoll_core::guests::host::Hosting;
use plimsoll_core::kernel::{Errno, Kernel as _, Result};
use plimsoll_core::limit::Memory;
use plimsoll_core::number::decimal;
use plimsoll_core::path;
use plimsoll_core::record::cut;
use plimsoll_core::systemd::Text;
use rustix::fd::{AsFd as _, BorrowedFd, OwnedFd};
use rustix::pipe::PipeFlags;

use crate::linux::Linux;
use crate::qmp::Link;
use crate::sys;
use crate::units::{self, Child};

/// How long an errand may take, in microseconds: 2 s. Page cache goes at gigabytes
/// a second, and what is slower (swap) may go on at the next probe; a disk writes a
/// number within that.
const ERRAND_US: u64 = 2_000_000;
/// What is asked for at once, in bytes: memory.reclaim fails as a whole, so that
/// a part of it is better asked for in pieces.
const PIECE_BYTES: u64 = 16 << 20;
/// What a unit is told.
const SET_PROPERTY: &str =
    "systemctl\0set-property\0--runtime\0--no-ask-password\0%\0MemoryMax=%\0";

/// What a child does.
enum Errand<'a> {
    /// It asks the cgroup for memory.
    Probe(&'a str),
    /// It keeps the guest's peak, and says what is kept.
    Peak(&'a str, OwnedFd),
    /// It tells a unit its limit.
    Unit,
}

type Links = Vec<Link, GUESTS_MAX>;
/// Apart from what is moved about, so that only guests that there are cost memory.
static LINKS: sys::Once<Links> = sys::Once::new(Vec::new());

/// What the worker has to do with guests.
pub(crate) struct Hosts<'a> {
    pub(crate) hosting: Hosting<'a>,
    /// One for each guest of the board file, in the same order.
    links: &'static mut [Link],
    peaks: &'a str,
    errand: Option<(Child, Errand<'a>)>,
}

impl<'a> Hosts<'a> {
    pub(crate) fn new(guests: Guests<'a>, memory: Memory) -> Self {
        let (count, peaks) = (guests.list.len(), guests.peaks);
        let links = LINKS.take().map_or(&mut [][..], |links| {
            for _ in 0..count {
                // As many as there may be.
                let _ = links.push(Link::default());
            }
            links.as_mut_slice()
        });
        Self { hosting: Hosting::new(guests, memory), links, peaks, errand: None }
    }

    /// Another process goes on with this one's memory: child and connections were
    /// not its, and what they did is done again.
    pub(crate) fn forget(&mut self) {
        self.errand = None;
        self.links.fill_with(Link::default);
    }

    /// Minds the child, or begins the next errand; and speaks with the VMMs.
    pub(crate) fn tick(&mut self, now: u64) {
        for (at, link) in self.links.iter_mut().enumerate() {
            link.tick(&mut self.hosting, at, now);
        }
        if let Some((child, _)) = &mut self.errand {
            let was_killed = child.killed;
            let ended = child.end(now);
            // It is there until the kernel lets it go, and no other before.
            if ended.is_none() || (child.killed && !was_killed) {
                return;
            }
            match self.errand.take() {
                Some((_, Errand::Probe(cgroup))) => self.hosting.probed(&mut Linux, cgroup),
                Some((_, Errand::Peak(name, pipe))) => self.hosting.kept(name, told(&pipe)),
                Some((_, Errand::Unit)) | None => {}
            }
        }
        self.errand = self.next();
    }

    /// Begins what is to be done next.
    fn next(&mut self) -> Option<(Child, Errand<'a>)> {
        if let Some((cgroup, bytes)) = self.hosting.next_probe(&mut Linux) {
            let child = Child::run("guest: probe", ERRAND_US, &mut || reclaim(cgroup, bytes));
            if child.is_none() {
                self.hosting.probed(&mut Linux, cgroup);
            }
            return Some((child?, Errand::Probe(cgroup)));
        }
        if let Some((name, bytes)) = self.hosting.next_peak() {
            let dir = self.peaks;
            let child = pipe().and_then(|(read, write)| {
                let work = &mut || keep(dir, name, bytes, &write);
                Some((Child::run("guest: peak", ERRAND_US, work)?, Errand::Peak(name, read)))
            });
            if child.is_none() {
                self.hosting.kept(name, None);
            }
            return child;
        }
        let (unit, bytes) = self.hosting.next_unit().filter(|_| units::systemd_runs())?;
        let limit = cut::<32>(format_args!("{bytes}"));
        let child = Child::start(&Text::of(SET_PROPERTY, &[unit, &limit]), units::ANSWER_US)?;
        Some((child, Errand::Unit))
    }

    /// When [`Self::tick`] has something to do besides what [`Self::sources`] tell.
    pub(crate) fn deadline_us(&self) -> u64 {
        let errand = match &self.errand {
            Some((child, _)) if !child.killed => child.deadline_us,
            _ => u64::MAX,
        };
        let links = self.links.iter().enumerate();
        links.map(|(at, link)| link.deadline_us(&self.hosting, at)).fold(errand, u64::min)
    }

    /// What wakes the worker before that.
    pub(crate) fn sources<'s>(&'s self, add: &mut dyn FnMut(BorrowedFd<'s>)) {
        if let Some((Child { pidfd: Some(pidfd), .. }, _)) = &self.errand {
            add(pidfd.as_fd());
        }
        for socket in self.links.iter().filter_map(Link::source) {
            add(socket.as_fd());
        }
    }
}

/// Asks a cgroup for so many bytes, as far as it has them. That it has not is no
/// failure.
fn reclaim(cgroup: &str, mut bytes: u64) -> u8 {
    let Ok(file) = path(format_args!("{CGROUP_ROOT}{cgroup}/memory.reclaim")) else { return 1 };
    while bytes > 0 {
        let piece = bytes.min(PIECE_BYTES);
        let text = cut::<32>(format_args!("{piece}"));
        if Linux.write(&file, text.as_bytes()).is_err() {
            break;
        }
        bytes -= piece;
    }
    0
}

fn pipe() -> Option<(OwnedFd, OwnedFd)> {
    rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()
}

/// What a child has said, if anything.
fn told(pipe: &OwnedFd) -> Option<u64> {
    let mut bytes = [0; 8];
    let read = rustix::io::read(pipe, &mut bytes);
    (read == Ok(bytes.len())).then(|| u64::from_le_bytes(bytes))
}

/// Keeps a guest's peak, if it is greater than the one on disk, and says which
/// one that is then.
fn keep(dir: &str, name: &str, bytes: u64, to: &OwnedFd) -> u8 {
    let kept = write_peak(dir, name, bytes);
    match &kept {
        Ok(kept) => _ = rustix::io::write(to, &kept.to_le_bytes()),
        Err(errno) => error!("guest {name}: its peak is not kept in {dir}: {errno}"),
    }
    u8::from(kept.is_err())
}

fn write_peak(dir: &str, name: &str, bytes: u64) -> Result<u64> {
    let file = path(format_args!("{dir}/{name}"))?;
    let mut buf = [0; 32];
    let had = decimal(read_text(&mut Linux, &file, &mut buf).trim_ascii_end()).unwrap_or(0);
    if bytes <= had {
        return Ok(had);
    }
    let text = cut::<32>(format_args!("{bytes}\n"));
    match Linux.replace(&file, text.as_bytes()) {
        Err(Errno::NOENT) => {
            Linux.mkdir(dir)?;
            Linux.replace(&file, text.as_bytes())?;
        }
        done => done?,
    }
    Ok(bytes)
}
