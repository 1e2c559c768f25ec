//! Powering off and rebooting, where plimsoll stayed PID 1: everything ends, is
//! written and unmounted, and each of the three has a deadline.

use heapless::Vec;
use plimsoll_core::PATH_MAX;
use plimsoll_core::agent::lines::Lines;
use plimsoll_core::apply::knob_path;
use plimsoll_core::board::Board;
use plimsoll_core::facts::read_text;
use plimsoll_core::split::{lines, split};
use plimsoll_core::status::keyed_value;
use rustix::fs::OFlags;
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::process::WaitOptions;
use rustix::system::RebootCommand;

use crate::file::File;
use crate::linux::{CPath, Linux, c_bytes, open};
use crate::sys::{self, Fork};

/// From SIGTERM to SIGKILL, in microseconds: 3 s.
const TERM_US: u64 = 3_000_000;
/// For writing and unmounting, in microseconds: 10 s; a disk that takes longer
/// is broken.
const UNMOUNT_US: u64 = 10_000_000;
/// Between two looks whether a process has ended, in microseconds.
const LOOK_US: u64 = 10_000;
/// Areas of swap at most: MAX_SWAPFILES of the kernel.
const SWAPS_MAX: usize = 32;
/// File systems unmounted at most.
const MOUNTS_MAX: usize = 32;

/// Ends everything and asks the kernel for `command`. If the kernel refuses,
/// returns.
pub(crate) fn down(command: RebootCommand, name: &str, board: &Board<'_>) {
    info!("{name}: ending all processes");
    sys::kill_all(sys::SIGTERM);
    // The supervisor does not hear SIGTERM: it is what is left in the end.
    wait_for(TERM_US, || !is_populated(board));
    sys::kill_all(sys::SIGKILL);
    wait_for(TERM_US, || false);
    info!("{name}: writing and unmounting");
    match sys::fork() {
        Ok(Fork::Child) => {
            rustix::fs::sync();
            swap_off();
            unmount_all();
            sys::exit(0)
        }
        Ok(Fork::Parent(_)) => wait_for(UNMOUNT_US, || false),
        Err(_) => rustix::fs::sync(),
    }
    info!("{name}");
    if let Err(error) = rustix::system::reboot(command) {
        error!("{name}: failed, error {}", i64::from(error.raw_os_error()));
    }
}

/// Reaps until there is no child, `done` says so, or the time is over.
fn wait_for(us: u64, done: impl Fn() -> bool) {
    let deadline = sys::now_us().saturating_add(us);
    while sys::now_us() < deadline && !done() {
        match rustix::process::wait(WaitOptions::NOHANG) {
            Ok(None) => sys::sleep_us(LOOK_US),
            Ok(Some(_)) => {}
            Err(_) => return,
        }
    }
}

/// Whether a process is left on either side, the supervisor being on none.
fn is_populated(board: &Board<'_>) -> bool {
    let mut buf = [0; 64];
    board.host.cgroups.iter().chain([&board.qm.cgroup]).any(|cgroup| {
        knob_path(cgroup, "cgroup.events").is_ok_and(|path| {
            let events = read_text(&mut Linux, &path, &mut buf);
            keyed_value(events, "populated").is_some_and(|populated| populated > 0)
        })
    })
}

/// Ends swapping: a swap file keeps its file system mounted and writable. Of the
/// kernel's list it is always the first line that goes.
fn swap_off() {
    let mut buf = [0; 512];
    for _ in 0..SWAPS_MAX {
        let swaps = read_text(&mut Linux, "/proc/swaps", &mut buf);
        let name = lines(swaps).nth(1).and_then(|line| split(line, b' ').next());
        let Some(path) = name.and_then(|name| unescaped(name.as_bytes())) else { return };
        if sys::swapoff(&path).is_err() {
            return;
        }
    }
}

/// Unmounts what lies on block devices, the last mounted first, and makes the
/// root read-only.
fn unmount_all() {
    for _ in 0..MOUNTS_MAX {
        let Some(target) = last_block_mount() else { break };
        if rustix::mount::unmount(&*target, UnmountFlags::empty()).is_err() {
            let _ = rustix::mount::mount_remount(&*target, MountFlags::RDONLY, c"");
            let _ = rustix::mount::unmount(&*target, UnmountFlags::DETACH);
        }
    }
    let _ = rustix::mount::mount_remount(c"/", MountFlags::RDONLY, c"");
}

/// The last line of /proc/self/mounts whose device is below /dev and whose
/// target is not the root. The file is read as a stream: it may be long.
fn last_block_mount() -> Option<CPath> {
    let mut mounts = Lines::new(File(open(c"/proc/self/mounts", OFlags::RDONLY).ok()?));
    let mut last = None;
    while let Some(line) = mounts.next().ok()? {
        last = block_target(line.text).or(last);
    }
    last
}

fn block_target(line: &[u8]) -> Option<CPath> {
    let mut words = line.split(|byte| *byte == b' ');
    let device = words.next()?;
    let target = words.next()?;
    if !device.starts_with(b"/dev/") || target == b"/" {
        return None;
    }
    unescaped(target)
}

/// A path of /proc/self/mounts or /proc/swaps, where blanks and the like are
/// written as three octal digits.
fn unescaped(mut rest: &[u8]) -> Option<CPath> {
    let mut path: Vec<u8, PATH_MAX> = Vec::new();
    while let Some((byte, after)) = rest.split_first() {
        let (byte, after) = match after {
            [a, b, c, after @ ..] if *byte == b'\\' => (
                a.wrapping_sub(b'0') << 6 | b.wrapping_sub(b'0') << 3 | c.wrapping_sub(b'0'),
                after,
            ),
            _ => (*byte, after),
        };
        path.push(byte).ok()?;
        rest = after;
    }
    c_bytes(&path).ok()
}
