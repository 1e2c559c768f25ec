//! The root file system, where plimsoll is the initramfs's /init: which one the
//! kernel's command line wants, and mounting it.
//!
//! The words are those the kernel itself would take without an initramfs.

use core::ffi::CStr;
use core::fmt;

use heapless::String;

use crate::apply::noted;
use crate::board::{Identity, Uuid};
use crate::facts::read_text;
use crate::kernel::{Errno, Kernel, Mount, MountFlags, Result};
use crate::number::decimal;
use crate::record::{Note, Outcome, Record, refusal};
use crate::split::split_once;
use crate::var_qm::{LOOK_US, options};
use crate::volume::ext4::{self, Fault};
use crate::volume::{self, VolumeError};
use crate::{PATH_MAX, path};

/// Where it is mounted, until it becomes `/`.
pub const ROOT: &str = "/sysroot";
/// What moves there from the initramfs; /sys takes cgroup2 along, /run the
/// record.
pub const MOVED: [(&CStr, &CStr); 4] = [
    (c"/dev", c"/sysroot/dev"),
    (c"/proc", c"/sysroot/proc"),
    (c"/sys", c"/sysroot/sys"),
    (c"/run", c"/sysroot/run"),
];
/// Bytes of the kernel's command line: COMMAND_LINE_SIZE of x86_64 and aarch64.
pub const CMDLINE_BYTES: usize = 2048;
/// How long the device is waited for without `rootwait`, in seconds: what a
/// disk on a bus that is probed in the background takes.
const WAIT_SECS: u64 = 10;
/// The same with a bare `rootwait`, in seconds: a disk that spins up. The kernel
/// waits for ever; here the payloads of the board file start then.
const ROOTWAIT_SECS: u64 = 30;
/// The most that `rootwait=` and `rootdelay=` may say, in seconds. PID 1 waits
/// for both and for /var/qm.
pub const SECS_MAX: u64 = 60;

const ROOTS: &str = "UUID=, PARTUUID=, LABEL=, PARTLABEL= or a path below /dev";
const SECONDS: &str = "seconds, 0 to 60";
const PROGRAM: &str = "an absolute path of at most 255 bytes";

/// What the command line says of the root.
#[derive(Debug, PartialEq, Eq)]
pub struct Wanted<'a> {
    /// Value of `root=`.
    name: &'a str,
    source: Option<Source<'a>>,
    wait_secs: u64,
    delay_secs: u64,
    rdonly: bool,
    fstype: Option<&'a str>,
    flags: &'a str,
    /// Value of `init=`, unless it is plimsoll: that one has run already.
    pub init: Option<&'a str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source<'a> {
    Device(&'a str),
    Volume(Identity<'a>),
}

/// What the command line wants as root, if `/` is the kernel's own rootfs and
/// there is a `root=`. Words that are wrong are noted.
pub fn wanted<'t, K: Kernel>(
    kernel: &mut K,
    record: &mut Record,
    text: &'t mut [u8],
) -> Option<Wanted<'t>> {
    // Mounted first, so the first line; it is not there for who was moved off it.
    let mut mounts = [0; 64];
    if !read_text(kernel, "/proc/mounts", &mut mounts).starts_with("rootfs / rootfs ") {
        return None;
    }
    parse(read_text(kernel, "/proc/cmdline", text), &mut |word, value, allowed| {
        let (wanted, found) = (format_args!("{allowed}"), format_args!("{value}"));
        let outcome = Outcome::Failed;
        record.note(kernel, &Note { step: "root", target: word, wanted, found, outcome });
    })
}

/// Words that have a value; of the same ones the last counts.
const KEYS: [&str; 6] = ["root", "init", "rootwait", "rootdelay", "rootfstype", "rootflags"];

/// Reads the command line; `None` without `root=`. `fault` gets each word that
/// is wrong, its value, and what is allowed: it then counts as not said.
fn parse<'t>(cmdline: &'t str, fault: &mut dyn FnMut(&str, &str, &str)) -> Option<Wanted<'t>> {
    let mut said = [None; KEYS.len()];
    let mut rdonly = true;
    for word in cmdline.split_ascii_whitespace() {
        match word {
            // What follows is the next init's.
            "--" => break,
            "ro" => rdonly = true,
            "rw" => rdonly = false,
            _ => {}
        }
        let (key, value) = split_once(word, b'=').unwrap_or((word, ""));
        for (name, said) in KEYS.iter().zip(&mut said) {
            if *name == key {
                *said = Some(value);
            }
        }
    }
    let [root, init, rootwait, rootdelay, fstype, flags] = said;
    let name = root?;
    let source = source(name);
    if source.is_none() {
        fault("root", name, ROOTS);
    }
    let is_program = |path: &&str| path.starts_with('/') && path.len() < PATH_MAX;
    if let Some(path) = init.filter(|path| !is_program(path)) {
        fault("init", path, PROGRAM);
    }
    let mut seconds = |word, said: Option<&str>, default| {
        let Some(text) = said else { return default };
        if let Some(secs) = decimal(text).filter(|secs| *secs <= SECS_MAX) {
            return secs;
        }
        fault(word, text, SECONDS);
        default
    };
    let wait_secs = match rootwait {
        Some("") => ROOTWAIT_SECS,
        rootwait => seconds("rootwait", rootwait, WAIT_SECS),
    };
    Some(Wanted {
        name,
        source,
        wait_secs,
        delay_secs: seconds("rootdelay", rootdelay, 0),
        rdonly,
        fstype,
        flags: flags.unwrap_or_default(),
        init: init.filter(|path| is_program(path) && !path.ends_with("/plimsoll")),
    })
}

fn source(name: &str) -> Option<Source<'_>> {
    if name.starts_with("/dev/") {
        return Some(Source::Device(name));
    }
    let (key, value) = split_once(name, b'=')?;
    let mut identity = Identity::default();
    match key {
        "UUID" => identity.fs_uuid = Some(Uuid::parse(value)?),
        "PARTUUID" => identity.partition_uuid = Some(Uuid::parse(value)?),
        "LABEL" | "PARTLABEL" if !value.is_empty() => identity.label = Some(value),
        _ => return None,
    }
    Some(Source::Volume(identity))
}

/// Waits for the root's device and mounts it at [`ROOT`]; whether it is mounted.
pub fn mount<K: Kernel>(kernel: &mut K, record: &mut Record, wanted: &Wanted<'_>) -> bool {
    if kernel.is_mount_point(ROOT) == Ok(true) {
        return noted(kernel, record, "root", ROOT, Outcome::Skipped, "mounted already");
    }
    let Some(source) = &wanted.source else { return false };
    let begin = kernel.now_us();
    kernel.sleep_us(wanted.delay_secs * 1_000_000);
    let device = wait(kernel, source, wanted.wait_secs * 1_000_000);
    record.waited_us = record.waited_us.saturating_add(kernel.now_us().saturating_sub(begin));
    let device = match device {
        Ok(device) => device,
        Err(error) => {
            let found = format_args!("{error}");
            return refused(kernel, record, wanted, found);
        }
    };
    match mount_device(kernel, wanted, &device) {
        Ok(rdonly) => {
            let word = |rdonly| if rdonly { "ro" } else { "rw" };
            let differs = rdonly && !wanted.rdonly;
            let note = Note {
                step: "root",
                target: &device,
                wanted: format_args!("{}", word(wanted.rdonly)),
                found: format_args!("{}", word(rdonly)),
                outcome: if differs { Outcome::Differs } else { Outcome::Agrees },
            };
            record.note(kernel, &note);
            true
        }
        Err(errno) => refused(kernel, record, wanted, format_args!("{device}: {}", refusal(errno))),
    }
}

fn refused<K: Kernel>(
    kernel: &mut K,
    record: &mut Record,
    wanted: &Wanted<'_>,
    found: fmt::Arguments<'_>,
) -> bool {
    let outcome = Outcome::Failed;
    let allowed = format_args!("{}", wanted.name);
    record.note(kernel, &Note { step: "root", target: ROOT, wanted: allowed, found, outcome });
    false
}

/// Looks until the device is there or the time is over.
fn wait<K: Kernel>(
    kernel: &mut K,
    source: &Source<'_>,
    wait_us: u64,
) -> core::result::Result<String<PATH_MAX>, VolumeError> {
    let deadline = kernel.now_us().saturating_add(wait_us);
    loop {
        let late = kernel.now_us() >= deadline;
        let found = match source {
            Source::Device(name) => {
                // In the end mounting says what is wrong with it.
                let there = kernel.read_at(name, 0, &mut [0]).is_ok();
                path(format_args!("{name}"))
                    .ok()
                    .filter(|_| there || late)
                    .ok_or(VolumeError::NotFound { hint: None })
            }
            Source::Volume(identity) => match volume::find(kernel, identity) {
                Ok(volume) => Ok(volume.device),
                // Found by its GPT entry: another file system will do.
                Err(VolumeError::Corrupt { device, what: Fault::Magic(_) }) => {
                    path(format_args!("/dev/{device}")).map_err(VolumeError::List)
                }
                Err(error) => Err(error),
            },
        };
        match found {
            // A disk may answer with errors until it is ready.
            Err(VolumeError::NotFound { .. } | VolumeError::Io { .. }) if !late => {
                kernel.sleep_us(LOOK_US);
            }
            found => return found,
        }
    }
}

/// Mounts the device, by trial where the command line names no file system and
/// it is no ext4; whether it is read-only, which a protected device may force.
fn mount_device<K: Kernel>(kernel: &mut K, wanted: &Wanted<'_>, device: &str) -> Result<bool> {
    let _ = kernel.mkdir(ROOT);
    let mut flags = MountFlags { rdonly: wanted.rdonly, ..MountFlags::default() };
    let mut data = String::new();
    options(wanted.flags, &mut flags, &mut data)?;
    let mut superblock = [0; ext4::BYTES];
    let read = kernel.read_at(device, ext4::OFFSET, &mut superblock);
    let mut known = [0; 1024];
    let types = match wanted.fstype {
        Some(fstype) => fstype,
        None if read.is_ok() && ext4::check(&superblock).is_ok() => "ext4",
        None => read_text(kernel, "/proc/filesystems", &mut known),
    };
    loop {
        let mut refused = Errno::NODEV;
        let mut before = "";
        for fstype in types.split_ascii_whitespace() {
            // Those that need no device have "nodev" before their name.
            if core::mem::replace(&mut before, fstype) == "nodev" || fstype == "nodev" {
                continue;
            }
            let mount = Mount { source: device, target: ROOT, fstype, flags, data: &data };
            match kernel.mount(&mount) {
                Ok(()) => return Ok(flags.rdonly),
                Err(Errno::INVAL | Errno::NODEV) if refused != Errno::NODEV => {}
                Err(errno) => refused = errno,
            }
        }
        if flags.rdonly || !matches!(refused, Errno::ACCES | Errno::ROFS) {
            return Err(refused);
        }
        flags.rdonly = true;
    }
}

#[cfg(test)]
mod tests;
