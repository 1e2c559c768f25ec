//! What `cargo xtask bench` compares with: the kernel's own cost of a pass. And
//! what it needs besides: pages in many cgroups, the memory of a cgroup's
//! processes.

use core::fmt::Write as _;

use heapless::String;
use plimsoll_core::agent::lru_gen::Dump;
use plimsoll_core::agent::memcg::PAGES_MIN;
use plimsoll_core::number::decimal;
use plimsoll_core::status::keyed_value;
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::file::File;
use crate::memory::{anonymous, mib};
use crate::{Done, Failed, failed, say, sys};

/// Where the bench has mounted debugfs.
const LRU_GEN: &str = "/sys/kernel/debug/lru_gen";
/// What one read(2) takes and one write(2) gives at most, in bytes: more the
/// kernel does not give of a list at once.
const BATCH_BYTES: usize = 4096;
/// Room for all commands: 5,000 cgroups with ids of 20 digits need 300 KiB.
const COMMANDS_MIB: u64 = 1;
/// A process's time is brought up to date when it sleeps; so long, in
/// microseconds.
const SETTLE_US: u64 = 1000;
/// Between two looks at the memory of a cgroup's processes, in microseconds.
const LOOK_US: u64 = 10_000;

type Path = String<192>;

fn path(what: core::fmt::Arguments<'_>) -> Result<Path, Failed> {
    let mut path = Path::new();
    path.write_fmt(what).map_err(|_| Failed("a path is too long", Errno::NAMETOOLONG))?;
    Ok(path)
}

fn open(path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty())
}

/// Reads the beginning of a file, as much as fits and is UTF-8.
fn text<'b>(path: &str, buf: &'b mut [u8]) -> Result<&'b str, Errno> {
    let file = open(path, OFlags::RDONLY)?;
    let mut filled = 0;
    while let Some(rest) = buf.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match rustix::io::read(&file, rest)? {
            0 => break,
            read => filled += read,
        }
    }
    Ok(core::str::from_utf8(buf.get(..filled).unwrap_or_default()).unwrap_or_default())
}

/// CPU time of a cgroup, in microseconds.
fn used_us(cgroup: &str) -> Result<u64, Failed> {
    sys::sleep_us(SETTLE_US);
    let mut buf = [0; 512];
    let stat = path(format_args!("{cgroup}/cpu.stat"))?;
    let stat = text(&stat, &mut buf).map_err(failed("read cpu.stat"))?;
    keyed_value(stat, "usage_usec").ok_or(Failed("no usage in cpu.stat", Errno::NODATA))
}

/// Ages all cgroups below `below` that have pages enough, with nothing around
/// it; `own` is the directory of the cgroup that this process has for itself.
///
/// What to command is worked out before the clock runs.
pub(crate) fn bare(below: &str, own: &str) -> Done {
    let mut commands = Commands::new()?;
    commands.take(below)?;
    let before = used_us(own)?;
    let dump = open(LRU_GEN, OFlags::RDONLY).map_err(failed("open lru_gen"))?;
    let mut buf = [0; BATCH_BYTES];
    while rustix::io::read(&dump, &mut buf).map_err(failed("read lru_gen"))? > 0 {}
    let read = used_us(own)?;
    commands.write()?;
    let written = used_us(own)?;
    let (read_us, write_us) = (read.saturating_sub(before), written.saturating_sub(read));
    say(format_args!("read {read_us} write {write_us} commands {}", commands.count));
    Ok(())
}

struct Commands {
    text: &'static mut [u8],
    filled: usize,
    count: u64,
}

impl Commands {
    fn new() -> Result<Self, Failed> {
        let text = mib(COMMANDS_MIB).and_then(anonymous).map_err(failed("no memory"))?;
        Ok(Self { text, filled: 0, count: 0 })
    }

    /// Works out the agings, as a pass of plimsoll without swap commands them.
    fn take(&mut self, below: &str) -> Done {
        let mut dump = Dump::new(File(open(LRU_GEN, OFlags::RDONLY).map_err(failed("lru_gen"))?));
        while let Some(lruvec) = dump.next().map_err(|_| Failed("read lru_gen", Errno::IO))? {
            let pages: u64 = lruvec.generations.iter().map(|one| one.file_pages).sum();
            let inside = lruvec.path.strip_prefix(below).is_some_and(|rest| rest.starts_with('/'));
            if let Some(youngest) = lruvec.generations.last().filter(|_| inside)
                && pages >= PAGES_MIN
            {
                let (id, node, seq) = (lruvec.id, u64::from(lruvec.node), youngest.seq);
                let mut command: String<96> = String::new();
                let _ = writeln!(command, "+ {id} {node} {seq} 0 1");
                self.push(command.as_bytes())?;
            }
        }
        Ok(())
    }

    fn push(&mut self, command: &[u8]) -> Done {
        let end = self.filled.saturating_add(command.len());
        let room = self.text.get_mut(self.filled..end);
        room.ok_or(Failed("too many cgroups", Errno::NOMEM))?.copy_from_slice(command);
        self.filled = end;
        self.count += 1;
        Ok(())
    }

    fn write(&self) -> Done {
        let file = open(LRU_GEN, OFlags::WRONLY).map_err(failed("open lru_gen"))?;
        let mut rest = self.text.get(..self.filled).unwrap_or_default();
        while !rest.is_empty() {
            let most = rest.get(..BATCH_BYTES).unwrap_or(rest);
            let whole = most.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
            let (batch, after) = rest.split_at_checked(whole).unwrap_or((rest, &[]));
            rustix::io::write(&file, batch).map_err(failed("write lru_gen"))?;
            rest = after;
        }
        Ok(())
    }
}

/// Charges each of the cgroups that `load cgroups PARENT COUNT` has made with
/// KIB of a file, its own part each, read by this process.
pub(crate) fn charge(parent: &str, count: u64, file: &str, kib: u64) -> Done {
    let file = open(file, OFlags::RDONLY).map_err(failed("open the file"))?;
    let bytes = kib.saturating_mul(1024);
    let mut buf = [0; BATCH_BYTES];
    for number in 0..count {
        let procs = path(format_args!("{parent}/idle-{number}/cgroup.procs"))?;
        let procs = open(&procs, OFlags::WRONLY).map_err(failed("open cgroup.procs"))?;
        rustix::io::write(&procs, b"0").map_err(failed("join a cgroup"))?;
        let from = number.saturating_mul(bytes);
        for at in (from..from.saturating_add(bytes)).step_by(BATCH_BYTES) {
            rustix::io::pread(&file, &mut buf, at).map_err(failed("read the file"))?;
        }
    }
    say(format_args!("charged {count}"));
    Ok(())
}

/// What the processes of a cgroup take together.
#[derive(Default)]
struct Taken {
    threads: u64,
    /// Peak resident set sizes, in KiB.
    peak_kib: u64,
    /// Proportional set sizes, in KiB.
    pss_kib: u64,
}

/// Watches the processes of a cgroup for SECS; says the most they took.
pub(crate) fn peak(cgroup: &str, secs: u64) -> Done {
    let procs = path(format_args!("{cgroup}/cgroup.procs"))?;
    let end = sys::now_us().saturating_add(secs.saturating_mul(1_000_000));
    let mut most = Taken::default();
    while sys::now_us() < end {
        let mut buf = [0; BATCH_BYTES];
        let mut now = Taken::default();
        for pid in text(&procs, &mut buf).map_err(failed("read cgroup.procs"))?.lines() {
            // One that has ended since is nothing to count.
            let _ = now.add(pid);
        }
        most.threads = most.threads.max(now.threads);
        most.peak_kib = most.peak_kib.max(now.peak_kib);
        most.pss_kib = most.pss_kib.max(now.pss_kib);
        sys::sleep_us(LOOK_US);
    }
    let Taken { threads, peak_kib, pss_kib } = most;
    say(format_args!("threads {threads} peak_kib {peak_kib} pss_kib {pss_kib}"));
    Ok(())
}

impl Taken {
    /// Adds a process; `None` where it is gone.
    fn add(&mut self, pid: &str) -> Option<()> {
        let mut buf = [0; BATCH_BYTES];
        let status = text(&path(format_args!("/proc/{pid}/status")).ok()?, &mut buf).ok()?;
        let (threads, peak_kib) = (value(status, "Threads:")?, value(status, "VmHWM:")?);
        let rollup = path(format_args!("/proc/{pid}/smaps_rollup")).ok()?;
        let pss_kib = value(text(&rollup, &mut buf).ok()?, "Pss:")?;
        self.threads += threads;
        self.peak_kib += peak_kib;
        self.pss_kib += pss_kib;
        Some(())
    }
}

/// The number behind a word that a line begins with.
fn value(text: &str, word: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(word))?;
    decimal(rest.split_ascii_whitespace().next()?)
}
