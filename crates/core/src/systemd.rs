//! What systemd is told: the limits, where a cgroup is one of its units'.
//!
//! Before it starts, by drop-ins under /run. Of all directories' drop-ins those
//! with the latest file names count (systemd.unit(5), systemd-system.conf(5)),
//! so `99-` goes before an image's own and automotive-image-builder's `10-`.
//! Later, by the words of `systemctl set-property`.

use heapless::String;

use crate::apply::{failed, noted};
use crate::board::{Board, VarQm, text};
use crate::boot::{QM_START_PATH, hold};
use crate::kernel::{Errno, Kernel, Result};
use crate::plan::{Plan, Step, Value};
use crate::record::{Outcome, Record, cut};
use crate::var_qm::MOUNT_POINT;

/// Longest drop-in, in bytes: QM's has about 450, with the longest names and
/// numbers 900.
const TEXT_MAX: usize = 1024;
/// systemd's own program, in an image that has it.
const PROGRAM: &str = "%/usr/lib/systemd/systemd";
const UNIT_DROP_IN: &str = "/run/systemd/system/%.d/99-plimsoll.conf";
const MANAGER_DROP_IN: &str = "/run/systemd/system.conf.d/99-plimsoll.conf";
/// A unit as whole: systemd makes none that lasts of what it finds mounted.
const UNIT: &str = "/run/systemd/system/%";
const VAR_QM_UNIT: &str = "var-qm.mount";

/// A text in the making.
pub struct Text {
    bytes: String<TEXT_MAX>,
    fits: bool,
}

impl Text {
    /// A text with arguments in place of each '%'.
    #[must_use]
    pub fn of(template: &str, arguments: &[&str]) -> Self {
        let mut text = Self { bytes: String::new(), fits: true };
        text.add(template, arguments);
        text
    }

    #[inline(never)]
    fn add(&mut self, template: &str, arguments: &[&str]) {
        let mut arguments = arguments.iter();
        for c in template.chars() {
            let argument = if c == '%' { arguments.next() } else { None };
            let added = match argument {
                Some(argument) => self.bytes.push_str(argument),
                None => self.bytes.push(c),
            };
            self.fits &= added.is_ok();
        }
    }

    /// Adds a knob in systemd's words, such as `MemoryMax=823468032`, and what
    /// ends it; nothing where it has none.
    pub(crate) fn add_setting(&mut self, knob: &str, value: Value, end: &str) {
        let number: String<32> = cut(format_args!("{value}"));
        let number = if value == Value::Max { "infinity" } else { &number };
        if (knob, number) == ("cpu.idle", "1") {
            self.add("CPUWeight=idle%", &[end]);
        } else if let Some((_, name)) = SETTINGS.iter().find(|(file, _)| *file == knob) {
            self.add("%=%%", &[name, number, end]);
        }
    }

    /// The text, if it had room.
    pub fn get(&self) -> Result<&str> {
        if self.fits { Ok(&self.bytes) } else { Err(Errno::NOSPC) }
    }
}

/// The names of settings that take a limit as the knob shows it: bytes in whole
/// pages, so that systemd's view and the kernel's agree.
const SETTINGS: [(&str, &str); 7] = [
    ("memory.min", "MemoryMin"),
    ("memory.low", "MemoryLow"),
    ("memory.high", "MemoryHigh"),
    ("memory.max", "MemoryMax"),
    ("memory.swap.max", "MemorySwapMax"),
    ("cpu.weight", "CPUWeight"),
    ("pids.max", "TasksMax"),
];

/// A cgroup's parent, "" for the root, and its name.
#[must_use]
pub fn split(cgroup: &str) -> (&str, &str) {
    let slash = cgroup.bytes().rposition(|byte| byte == b'/');
    match slash.and_then(|slash| Some((cgroup.get(..slash)?, cgroup.get(slash + 1..)?))) {
        Some(split) => split,
        None => ("", cgroup),
    }
}

/// The unit of a cgroup that is a slice, from its path or its name.
#[must_use]
pub fn slice_of(cgroup: &str) -> Option<&str> {
    let (_, name) = split(cgroup);
    (name.ends_with(".slice") && text::is_unit(name)).then_some(name)
}

/// Whether systemd gives the unit this cgroup, in some slice: a slice `a-b.slice`
/// is below `a.slice`.
#[must_use]
pub fn owns(unit: &str, cgroup: &str) -> bool {
    let (slices, name) = split(cgroup);
    let mut path = if slice_of(unit).is_some() { cgroup } else { slices };
    while !path.is_empty() {
        let (above, name) = split(path);
        let Some(stem) = name.strip_suffix(".slice") else { return false };
        let dash = stem.bytes().rposition(|byte| byte == b'-');
        let around = dash.and_then(|dash| stem.get(..dash)).unwrap_or_default();
        if split(above).1.strip_suffix(".slice").unwrap_or_default() != around {
            return false;
        }
        path = above;
    }
    name == unit
}

/// Writes the drop-ins. Where QM's can't be had, QM is held.
///
/// Without `qm.unit` there is nothing to do, unless the board file was refused:
/// then the key may be among what was, and on an image with systemd the name of
/// QM's cgroup is taken for its unit's. `root` is where the image is mounted, ""
/// where that is "/".
pub fn drop_ins<K: Kernel>(
    kernel: &mut K,
    record: &mut Record,
    board: &Board<'_>,
    plan: &Plan<'_>,
    accepted: bool,
    root: &str,
) {
    let (slices, name) = split(board.qm.cgroup);
    let unit = match board.qm.unit {
        Some(unit) => unit,
        None if accepted || !text::is_unit(name) => return,
        None if kernel.read_at(&Text::of(PROGRAM, &[root]).bytes, 0, &mut [0]).is_err() => return,
        None => name,
    };
    for dir in ["/run/systemd", "/run/systemd/system"] {
        let _ = kernel.mkdir(dir);
    }
    if let Some(score) = board.host.oom_score_adj {
        let text = Text::of("[Manager]\nDefaultOOMScoreAdjust=%\n", &[&decimal(score)]);
        write(kernel, record, MANAGER_DROP_IN, "", &text);
    }
    // What systemd starts in QM's cgroup is for a moment a process that shares PID
    // 1's memory: where the kernel kills it with QM's others, it counts the kill as
    // one of PID 1's cgroup, and systemd (from 253 on) would stop that.
    let text = Text::of("[Scope]\nOOMPolicy=continue\n", &[]);
    write(kernel, record, UNIT_DROP_IN, "init.scope", &text);
    // A slice's condition is an assertion: what is in the slice is started
    // without one whose condition fails.
    let is_slice = slice_of(unit).is_some();
    let head = if is_slice { ["Assert", "Slice"] } else { ["Condition", "Service"] };
    let [check, section] = head;
    let mut text = Text::of("[Unit]\n%PathExists=%\n", &[check, QM_START_PATH]);
    if let Some(var_qm) = board.var_qm.as_ref().filter(|var_qm| !var_qm.start_qm_without) {
        // Who unmounts it, a soft-reboot too, stops QM; to start it mounts it.
        text.add("%PathIsMountPoint=%\nRequiresMountsFor=%\n", &[check, MOUNT_POINT, MOUNT_POINT]);
        mount_unit(kernel, record, var_qm);
    }
    if !record.qm_start {
        // systemd names the unit by it where it says that it was not started.
        text.add("Description=QM, held by plimsoll: %\n", &[&record.qm_reason]);
    }
    text.add("\n[%]\n", &[section]);
    for step in plan {
        let Step::Write { path, knob, value, .. } = *step else { continue };
        if path == board.qm.cgroup {
            text.add_setting(knob, value, "\n");
        } else if let Some(slice) = slice_of(path) {
            let mut text = Text::of("[Slice]\n", &[]);
            // As automotive-image-builder's enable_reclaim_protection: the
            // default is what the units in the slice get.
            text.add_setting(knob, value, "\nDefault");
            text.add_setting(knob, value, "\n");
            write(kernel, record, UNIT_DROP_IN, slice, &text);
        }
    }
    if !is_slice {
        // Which slice it is in is part of where its cgroup is.
        let slice = slice_of(slices).unwrap_or("-.slice");
        let policy = if board.qm.oom_group { "kill" } else { "continue" };
        let score = decimal(board.qm.oom_score_adj);
        text.add("Slice=%\nOOMPolicy=%\nOOMScoreAdjust=%\n", &[slice, policy, &score]);
    }
    if !write(kernel, record, UNIT_DROP_IN, unit, &text) && record.qm_start {
        hold(kernel, record, "its drop-in could not be written");
    }
}

/// The unit of /var/qm, if this boot mounted it.
fn mount_unit<K: Kernel>(kernel: &mut K, record: &mut Record, var_qm: &VarQm<'_>) {
    let entries = record.entries.iter();
    let mut mounted = entries.filter(|e| e.target == MOUNT_POINT && e.outcome == Outcome::Agrees);
    let Some(device) = mounted.next().map(|entry| entry.found.clone()) else { return };
    let comma = if var_qm.options.is_empty() { "" } else { "," };
    let text = Text::of(
        "[Mount]\nWhat=%\nWhere=%\nType=%\nOptions=nodev,nosuid%%\n",
        &[&device, MOUNT_POINT, var_qm.fstype, comma, var_qm.options],
    );
    write(kernel, record, UNIT, VAR_QM_UNIT, &text);
}

fn decimal(number: i16) -> String<32> {
    cut(format_args!("{}", i64::from(number)))
}

/// Writes a file for systemd and reads it back.
#[inline(never)]
fn write<K: Kernel>(
    kernel: &mut K,
    record: &mut Record,
    file: &str,
    name: &str,
    text: &Text,
) -> bool {
    let file = Text::of(file, &[name]);
    let head = "# By plimsoll, from the board file. Made anew at each boot.\n%";
    let whole = Text::of(head, &[&text.bytes]);
    // Where it can't be made, the file can't either.
    let _ = kernel.mkdir(split(&file.bytes).0);
    let mut shown = [0; TEXT_MAX];
    let read = kernel
        .replace(&file.bytes, whole.bytes.as_bytes())
        .and_then(|()| kernel.read_at(&file.bytes, 0, &mut shown));
    let errno = match read {
        Ok(read)
            if text.fits && whole.fits && shown.get(..read) == Some(whole.bytes.as_bytes()) =>
        {
            return noted(kernel, record, "drop-in", &file.bytes, Outcome::Agrees, "");
        }
        Ok(_) => Errno::IO,
        Err(errno) => errno,
    };
    failed(kernel, record, "drop-in", &file.bytes, errno)
}

#[cfg(test)]
mod tests;
