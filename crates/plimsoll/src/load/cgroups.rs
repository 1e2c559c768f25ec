//! Cgroups, many and short-lived or many and idle.

use heapless::String;
use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Signal, WaitOptions};

use crate::memory::{anonymous, mib, page};
use crate::{Done, Failed, each_second, failed, say, sleep_for_ever, sys};

/// How often a cgroup that is busy is tried again: one stays so for a moment
/// after its last process has ended.
const TRIES: u32 = 100;
/// Between two tries, in microseconds.
const TRY_US: u64 = 10_000;

type Name = String<64>;

fn name(what: core::fmt::Arguments<'_>) -> Name {
    let mut name = Name::new();
    let _ = core::fmt::write(&mut name, what);
    name
}

fn open(parent: &str) -> Result<OwnedFd, Failed> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(parent, flags, Mode::empty()).map_err(failed("open PARENT"))
}

fn make(parent: &OwnedFd, cgroup: &Name) -> Done {
    let mode = Mode::from_raw_mode(0o755);
    rustix::fs::mkdirat(parent, cgroup.as_str(), mode).map_err(failed("mkdir"))
}

fn remove(parent: &OwnedFd, cgroup: &Name) -> Done {
    for _ in 0..TRIES {
        match rustix::fs::unlinkat(parent, cgroup.as_str(), AtFlags::REMOVEDIR) {
            Err(Errno::BUSY) => sys::sleep_us(TRY_US),
            done => return done.map_err(failed("rmdir")),
        }
    }
    Err(Failed("rmdir", Errno::BUSY))
}

/// Puts this process into the cgroup.
fn join(parent: &OwnedFd, cgroup: &Name) -> Result<(), Errno> {
    let procs = name(format_args!("{cgroup}/cgroup.procs"));
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let procs = rustix::fs::openat(parent, procs.as_str(), flags, Mode::empty())?;
    rustix::io::write(&procs, b"0").map(|_| ())
}

/// Joins the cgroup and touches that much memory: the child's part.
fn charge(parent: &OwnedFd, cgroup: &Name, bytes: usize) -> Result<(), Errno> {
    join(parent, cgroup)?;
    anonymous(bytes)?.iter_mut().step_by(page()).for_each(|byte| *byte = core::hint::black_box(1));
    Ok(())
}

pub(crate) fn churn(parent: &str, count: u64, secs: u64, work: bool) -> Done {
    let parent = &open(parent)?;
    let cgroup = |number: u64| name(format_args!("churn-{number}"));
    let (mut oldest, mut made) = (0, 0);
    each_second(secs, || {
        let before = oldest..made;
        oldest = made;
        for _ in 0..count {
            make(parent, &cgroup(made))?;
            made += 1;
            if work {
                work_in(parent, &cgroup(made - 1))?;
            }
        }
        before.into_iter().try_for_each(|number| remove(parent, &cgroup(number)))
    })?;
    (oldest..made).try_for_each(|number| remove(parent, &cgroup(number)))?;
    say(format_args!("made {made}"));
    Ok(())
}

/// A child that touches 1 MiB in the cgroup and ends.
fn work_in(parent: &OwnedFd, cgroup: &Name) -> Done {
    match sys::fork() {
        Ok(sys::Fork::Child) => sys::exit(u8::from(charge(parent, cgroup, 1 << 20).is_err())),
        Ok(sys::Fork::Parent(pid)) => {
            let ended = rustix::process::waitpid(Some(pid), WaitOptions::empty());
            match ended.map_err(failed("waitpid"))?.and_then(|(_, status)| status.exit_status()) {
                Some(0) => Ok(()),
                _ => Err(Failed("a child could not work", Errno::CHILD)),
            }
        }
        Err(_) => Err(Failed("fork", Errno::AGAIN)),
    }
}

pub(crate) fn stay(parent: &str, count: u64, kib: u64) -> Done {
    let parent = &open(parent)?;
    let bytes = mib(kib).map_err(failed("no such amount of memory"))? >> 10;
    for number in 0..count {
        let cgroup = name(format_args!("idle-{number}"));
        make(parent, &cgroup)?;
        if bytes > 0 {
            live_in(parent, &cgroup, bytes)?;
        }
    }
    say(format_args!("made {count}"));
    sleep_for_ever()
}

/// A child that touches `bytes` in the cgroup and sleeps as long as we live.
/// Returns when the memory is charged.
fn live_in(parent: &OwnedFd, cgroup: &Name, bytes: usize) -> Done {
    let (from_child, to_parent) = rustix::pipe::pipe().map_err(failed("pipe"))?;
    match sys::fork() {
        Ok(sys::Fork::Child) => {
            drop(from_child);
            let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
            if charge(parent, cgroup, bytes).is_err() {
                sys::exit(1);
            }
            let _ = rustix::io::write(&to_parent, b"!");
            drop(to_parent);
            sleep_for_ever()
        }
        Ok(sys::Fork::Parent(_)) => {
            drop(to_parent);
            match rustix::io::read(&from_child, &mut [0; 1]).map_err(failed("read"))? {
                0 => Err(Failed("a child could not charge its memory", Errno::CHILD)),
                _ => Ok(()),
            }
        }
        Err(_) => Err(Failed("fork", Errno::AGAIN)),
    }
}
