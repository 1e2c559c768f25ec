//! Lines for the kernel log: the console shows them, and the journal keeps them
//! from the boot's first moment.

use core::fmt::{self, Write as _};

use heapless::Vec;
use plimsoll_core::kernel::Level;
use rustix::fd::{AsFd as _, BorrowedFd};
use rustix::fs::OFlags;

/// Bytes of a line, prefix included: the kernel cuts a record at about 1 KiB,
/// a console at 80 to 200 columns is read by people.
const LINE_BYTES: usize = 512;

// The macros of the log crate would keep a place in the source for each line,
// and look at the level there: 5 KB.
macro_rules! error {
    ($($line:tt)+) => {
        crate::kmsg::log(plimsoll_core::kernel::Level::Error, format_args!($($line)+))
    };
}
macro_rules! warn {
    ($($line:tt)+) => {
        crate::kmsg::log(plimsoll_core::kernel::Level::Warning, format_args!($($line)+))
    };
}
macro_rules! info {
    ($($line:tt)+) => {
        crate::kmsg::log(plimsoll_core::kernel::Level::Info, format_args!($($line)+))
    };
}

/// Says a line.
pub(crate) fn log(level: Level, line: fmt::Arguments<'_>) {
    // Opened each time: a line is rare, and a descriptor held open would stand
    // in the way of whoever unmounts /dev.
    let open = |path| crate::linux::open(path, OFlags::WRONLY | OFlags::NONBLOCK);
    if let Ok(kmsg) = open(c"/dev/kmsg") {
        // Facility daemon (3 << 3): facility 0 is the kernel's own.
        let priority = 24 + level as u64;
        put(kmsg.as_fd(), format_args!("<{priority}>plimsoll: {line}\n"));
    } else if let Ok(console) = open(c"/dev/console") {
        put(console.as_fd(), format_args!("plimsoll: {line}\r\n"));
    }
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
