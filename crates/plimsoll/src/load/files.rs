//! File pages: held, kept hot in part, thrashed.

use rustix::fd::OwnedFd;
use rustix::fs::{Mode as Permissions, OFlags};
use rustix::io::Errno;

use crate::memory::{Mapped, mib, page};
use crate::{Done, Failed, each_second, failed, say, sys};

/// What one read(2) takes, as common programs do.
const READ_BYTES: usize = 64 << 10;
/// Pages between two looks at the clock. In a cgroup above its memory.high one
/// page may take 2 s.
const PAGES_A_LOOK: u64 = 16;

/// It thrashes for so long, in microseconds, or until its disk has answered, and
/// rests for as long: that is pressure, and leaves an emulated CPU to others half of
/// the time. Or it rests for longer, and less is to be emulated.
const SPELL_US: u64 = 100_000;

/// How a file is read.
#[derive(Clone, Copy)]
pub(crate) enum Mode {
    Read,
    Map,
}

impl Mode {
    /// The mode of that name; mapped unless said otherwise.
    pub(crate) fn of(name: Option<&str>) -> Option<Self> {
        match name {
            Some("read") => Some(Self::Read),
            Some("map") | None => Some(Self::Map),
            Some(_) => None,
        }
    }
}

/// Opens a file that has at least so many MiB.
fn open(path: &str, amount_mib: u64) -> Result<(OwnedFd, usize), Failed> {
    let bytes = mib(amount_mib).map_err(failed("no such amount of memory"))?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Permissions::empty()).map_err(failed("open"))?;
    let size = rustix::fs::fstat(&file).map_err(failed("stat"))?.st_size;
    if u64::try_from(size).unwrap_or(0) < bytes as u64 {
        return Err(Failed("the file is too short", Errno::NODATA));
    }
    Ok((file, bytes))
}

fn read(file: &OwnedFd, bytes: usize) -> Done {
    let mut buf = [0; READ_BYTES];
    let mut at = 0;
    while at < bytes {
        match rustix::io::pread(file, &mut buf, at as u64).map_err(failed("read"))? {
            0 => return Err(Failed("the file became shorter", Errno::NODATA)),
            read => at = at.saturating_add(read),
        }
    }
    Ok(())
}

pub(crate) fn hold(path: &str, amount_mib: u64, hot_mib: u64, secs: u64, mode: Mode) -> Done {
    let (file, bytes) = open(path, amount_mib)?;
    let hot = mib(hot_mib).map_err(failed("no such amount of memory"))?.min(bytes);
    let mapped = match mode {
        Mode::Read => None,
        Mode::Map => Some(Mapped::new(&file, bytes).map_err(failed("mmap"))?),
    };
    let touch = |bytes| match &mapped {
        None => read(&file, bytes),
        Some(mapped) => {
            mapped.touch(bytes);
            Ok(())
        }
    };
    touch(bytes)?;
    say(format_args!("resident"));
    let rounds = each_second(secs, || touch(hot))?;
    say(format_args!("rounds {rounds}"));
    Ok(())
}

pub(crate) fn thrash(path: &str, amount_mib: u64, secs: u64, rests: u64) -> Done {
    let (file, bytes) = open(path, amount_mib)?;
    let mapped = Mapped::new(&file, bytes).map_err(failed("mmap"))?;
    say(format_args!("thrashing"));
    let end = sys::now_us().saturating_add(secs.saturating_mul(1_000_000));
    let mut offset: usize = 0;
    let mut touched: u64 = 0;
    let mut begin = sys::now_us();
    while begin < end {
        for _ in 0..PAGES_A_LOOK {
            mapped.touch_at(offset);
            offset = offset.wrapping_add(page());
        }
        touched += PAGES_A_LOOK;
        let spell = sys::now_us().saturating_sub(begin);
        if spell >= SPELL_US {
            sys::sleep_us(spell.saturating_mul(rests));
            begin = sys::now_us();
        }
    }
    say(format_args!("touched {touched}"));
    Ok(())
}
