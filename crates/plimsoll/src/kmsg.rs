//! Lines for the kernel log: the console shows them, and the journal keeps them
//! from the boot's first moment.

use core::fmt::{self, Write as _};

use heapless::Vec;
use log::{Level, LevelFilter, Log, Metadata, Record};
use rustix::fd::{AsFd as _, BorrowedFd};
use rustix::fs::OFlags;

/// Bytes of a line, prefix included: the kernel cuts a record at about 1 KiB,
/// a console at 80 to 200 columns is read by people.
const LINE_BYTES: usize = 512;

// The log crate's own macros would keep a place in the source for each line:
// 5 KB.
macro_rules! error {
    ($($line:tt)+) => { crate::kmsg::say(log::Level::Error, format_args!($($line)+)) };
}
macro_rules! warn {
    ($($line:tt)+) => { crate::kmsg::say(log::Level::Warn, format_args!($($line)+)) };
}
macro_rules! info {
    ($($line:tt)+) => { crate::kmsg::say(log::Level::Info, format_args!($($line)+)) };
}

struct Kmsg;

/// Has `log` write to the kernel log.
pub(crate) fn init() {
    if log::set_logger(&Kmsg).is_ok() {
        log::set_max_level(LevelFilter::Info);
    }
}

/// Says a line.
pub(crate) fn say(level: Level, line: fmt::Arguments<'_>) {
    log::logger().log(&Record::builder().level(level).args(line).build());
}

impl Log for Kmsg {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let line = record.args();
        // Opened each time: a line is rare, and a descriptor held open would
        // stand in the way of whoever unmounts /dev.
        let open = |path| crate::linux::open(path, OFlags::WRONLY | OFlags::NONBLOCK);
        if let Ok(kmsg) = open(c"/dev/kmsg") {
            // Facility daemon (3 << 3): facility 0 is the kernel's own.
            let priority: u64 = match record.level() {
                Level::Error => 24 + 3,
                Level::Warn => 24 + 4,
                _ => 24 + 6,
            };
            put(kmsg.as_fd(), format_args!("<{priority}>plimsoll: {line}\n"));
        } else if let Ok(console) = open(c"/dev/console") {
            put(console.as_fd(), format_args!("plimsoll: {line}\r\n"));
        }
    }

    fn flush(&self) {}
}

/// Formats into one buffer and writes it at once: each write is a record.
pub(crate) fn put(fd: BorrowedFd<'_>, text: fmt::Arguments<'_>) {
    struct Line(Vec<u8, LINE_BYTES>);
    impl fmt::Write for Line {
        fn write_str(&mut self, s: &str) -> fmt::Result {
            let room = self.0.capacity() - self.0.len();
            let fits = s.as_bytes().get(..room.min(s.len())).unwrap_or_default();
            self.0.extend_from_slice(fits).map_err(|_| fmt::Error)
        }
    }
    let mut line = Line(Vec::new());
    let _ = line.write_fmt(text);
    let _ = rustix::io::write(fd, &line.0);
}
