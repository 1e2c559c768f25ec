//! The boot: the order of things, and what follows when one fails.
//!
//! Two rules hold whatever the kernel answers: QM may be started only when its
//! fence is read back, and every path ends, in bounded time, with the host's
//! init to be started.

use heapless::String;

use crate::apply::{self, failed, noted};
use crate::board::{self, BOARD_BYTES_MAX, Board, Faults, OnLimitFailure, Qm};
use crate::facts::{Facts, cmdline_value, read_text};
use crate::kernel::{Errno, Kernel, Mount, MountFlags};
use crate::limit::{Limit, Memory};
use crate::plan::{Duty, Plan, Step, Value, plan};
use crate::record::{Note, Outcome, Record, VERSION, cut, cut_text};
use crate::{PATH_MAX, path, var_qm};

/// Where the board file is unless `plimsoll.board=` on the kernel's command
/// line says otherwise.
pub const BOARD_PATH: &str = "/etc/plimsoll/board.json";
/// Where plimsoll keeps what the rest of the system may read.
pub const RUN_DIR: &str = "/run/plimsoll";
/// The record as JSON.
pub const RECORD_PATH: &str = "/run/plimsoll/boot.json";
/// The board file as read, for the supervisor: the root may change after it.
pub const BOARD_COPY_PATH: &str = "/run/plimsoll/board.json";
/// Exists only if QM may be started: a condition for whatever starts it.
pub const QM_START_PATH: &str = "/run/plimsoll/qm-start";
/// What becomes of PID 1 where nothing follows.
pub const STAYS: &str = "none: plimsoll stays PID 1";

/// The file systems that have to be there, with the flags and options systemd
/// gives them (mount_table in mount-setup.c): systemd leaves alone what is
/// mounted, so what is missing here would be missing for the whole boot.
/// memory_recursiveprot above all: without it a slice's memory.min protects
/// nothing below it.
pub const MOUNTS: [Mount<'static>; 5] = [
    Mount { source: "proc", target: "/proc", fstype: "proc", flags: STRICT, data: "" },
    Mount { source: "sysfs", target: "/sys", fstype: "sysfs", flags: STRICT, data: "" },
    Mount {
        source: "devtmpfs",
        target: "/dev",
        fstype: "devtmpfs",
        flags: MountFlags { nosuid: true, strictatime: true, ..NONE },
        data: "mode=0755,size=4m",
    },
    Mount {
        source: "tmpfs",
        target: "/run",
        fstype: "tmpfs",
        flags: MountFlags { nosuid: true, nodev: true, strictatime: true, ..NONE },
        data: "mode=0755,size=20%,nr_inodes=800k",
    },
    Mount {
        source: "cgroup2",
        target: "/sys/fs/cgroup",
        fstype: "cgroup2",
        flags: STRICT,
        data: "nsdelegate,memory_recursiveprot",
    },
];

const NONE: MountFlags = MountFlags {
    nosuid: false,
    nodev: false,
    noexec: false,
    strictatime: false,
    noatime: false,
    rdonly: false,
};
const STRICT: MountFlags = MountFlags { nosuid: true, nodev: true, noexec: true, ..NONE };

/// Mounts what is missing of [`MOUNTS`].
pub fn mounts<K: Kernel>(kernel: &mut K, record: &mut Record) {
    for mount in &MOUNTS {
        if kernel.is_mount_point(mount.target) == Ok(true) {
            noted(kernel, record, "mount", mount.target, Outcome::Skipped, "mounted already");
            continue;
        }
        // On a root that lacks the directory: made where it can be.
        let _ = kernel.mkdir(mount.target);
        match kernel.mount(mount) {
            Ok(()) => noted(kernel, record, "mount", mount.target, Outcome::Agrees, ""),
            // Mounted by the kernel itself, on a root without statx.
            Err(Errno::BUSY) => {
                noted(kernel, record, "mount", mount.target, Outcome::Skipped, "mounted already")
            }
            Err(errno) => failed(kernel, record, "mount", mount.target, errno),
        };
    }
}

/// Reads the board file into `text` and checks it. A refused file gives the
/// board that is left of it, with QM under its fallback limit.
pub fn read_board<'a, K: Kernel>(
    kernel: &mut K,
    record: &mut Record,
    text: &'a mut [u8],
) -> (Board<'a>, bool) {
    record.board = board_path(kernel);
    let path = record.board.clone();
    let read = match kernel.read_at(&path, 0, text) {
        Ok(read) => read,
        Err(errno) => {
            failed(kernel, record, "board", &path, errno);
            0
        }
    };
    let text = text.get_mut(..read).unwrap_or_default();
    let mut faults = Faults::default();
    let board = board::read(text, board::decode_core, &mut faults);
    for fault in faults.iter() {
        record.note(
            kernel,
            &Note {
                step: "board",
                target: &fault.path,
                wanted: format_args!("{}", fault.allowed),
                found: format_args!("{} (line {})", fault.value, u64::from(fault.line)),
                outcome: Outcome::Failed,
            },
        );
    }
    if faults.more() > 0 {
        let more: String<32> = cut(format_args!("{} faults more", u64::from(faults.more())));
        noted(kernel, record, "board", &path, Outcome::Failed, &more);
    }
    if faults.is_empty() {
        noted(kernel, record, "board", &path, Outcome::Agrees, "");
    }
    (board, faults.is_empty())
}

/// The board file's path.
fn board_path<K: Kernel>(kernel: &mut K) -> String<128> {
    let mut buf = [0; 2048];
    let cmdline = read_text(kernel, "/proc/cmdline", &mut buf);
    cut_text(cmdline_value(cmdline, "plimsoll.board").unwrap_or(BOARD_PATH))
}

/// Copies the board file, faults and all, to where the supervisor and a PID 1
/// that stays read it.
fn copy_board<K: Kernel>(kernel: &mut K, record: &mut Record, buf: &mut [u8]) {
    let path = board_path(kernel);
    let _ = kernel.mkdir(RUN_DIR);
    let read = kernel.read_at(&path, 0, buf).unwrap_or(0);
    if let Err(errno) = kernel.replace(BOARD_COPY_PATH, buf.get(..read).unwrap_or_default()) {
        failed(kernel, record, "record", BOARD_COPY_PATH, errno);
    }
}

/// The kernel's policy for memory that is added (Documentation/admin-guide/mm/
/// memory-hotplug.rst). By default Debian's kernels leave it offline, and the
/// driver then stops at 1 GiB; what is not movable may never be given back.
pub const ONLINE: (&str, &str) =
    ("/sys/devices/system/memory/auto_online_blocks", "online_movable");
/// Whether the driver takes memory back that is online, as it does by default: by
/// force, whoever needs it.
pub const UNPLUG_ONLINE: (&str, &str) = ("/sys/module/virtio_mem/parameters/unplug_online", "N");

/// Sets one of the two above, where the kernel has it.
fn virtio_mem<K: Kernel>(kernel: &mut K, record: &mut Record, (file, value): (&str, &str)) {
    if kernel.read_at(file, 0, &mut [0]) == Err(Errno::NOENT) {
        noted(kernel, record, "virtio-mem", file, Outcome::Skipped, "not there");
    } else {
        apply::write(kernel, record, "virtio-mem", file, format_args!("{value}"));
    }
}

/// Loads the board's modules in the order given. What virtio-mem is to keep to is
/// said before its driver sees a request that it could act on: at first it has
/// nothing to give back.
pub fn modules<K: Kernel>(kernel: &mut K, record: &mut Record, board: &Board<'_>) {
    let begin = kernel.now_us();
    if board.virtio_mem.is_some() {
        virtio_mem(kernel, record, ONLINE);
    }
    let mut buf = [0; 64];
    let release: String<64> = cut(format_args!(
        "{}",
        read_text(kernel, "/proc/sys/kernel/osrelease", &mut buf).trim_ascii()
    ));
    for module in &board.modules {
        let path = if module.starts_with('/') {
            path(format_args!("{module}"))
        } else {
            path(format_args!("/lib/modules/{release}/{module}.ko"))
        };
        match path.and_then(|path| kernel.load_module(&path)) {
            Ok(()) => noted(kernel, record, "module", module, Outcome::Agrees, ""),
            Err(Errno::EXIST) => {
                noted(kernel, record, "module", module, Outcome::Skipped, "loaded already")
            }
            Err(Errno::NOENT) if is_builtin(kernel, &release, module) => {
                noted(kernel, record, "module", module, Outcome::Skipped, "built in")
            }
            Err(errno) => failed(kernel, record, "module", module, errno),
        };
    }
    if board.virtio_mem.is_some() {
        virtio_mem(kernel, record, UNPLUG_ONLINE);
    }
    let took = kernel.now_us().saturating_sub(begin);
    record.waited_us = record.waited_us.saturating_add(took);
}

/// Whether /lib/modules/RELEASE/modules.builtin names the module, read as a
/// stream: the file has tens of kilobytes. '-' and '_' are the same there.
fn is_builtin<K: Kernel>(kernel: &mut K, release: &str, module: &str) -> bool {
    let Ok(path) = path(format_args!("/lib/modules/{release}/modules.builtin")) else {
        return false;
    };
    let mut buf = [0; 4096];
    let mut line: heapless::Vec<u8, PATH_MAX> = heapless::Vec::new();
    let mut offset = 0;
    loop {
        let read = kernel.read_at(&path, offset, &mut buf).unwrap_or(0);
        for byte in buf.get(..read).unwrap_or_default() {
            if *byte == b'\n' {
                if names_module(&line, module) {
                    return true;
                }
                line.clear();
            } else if line.push(*byte).is_err() {
                line.clear();
            }
        }
        offset += read as u64;
        if read < buf.len() {
            return false;
        }
    }
}

fn names_module(line: &[u8], module: &str) -> bool {
    let name = line.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    let stem = name.strip_suffix(b".ko").unwrap_or(name);
    let same = |byte: u8| if byte == b'-' { b'_' } else { byte };
    stem.len() == module.len() && stem.iter().zip(module.bytes()).all(|(a, b)| same(*a) == same(b))
}

/// Makes the plan and applies it; then whether QM's fence stands is known.
pub fn limits<'a, K: Kernel>(
    kernel: &mut K,
    record: &mut Record,
    board: &mut Board<'a>,
    mut accepted: bool,
) -> Plan<'a> {
    let facts = Facts::gather(kernel);
    record.kernel = facts.release.clone();
    record.page_bytes = facts.memory.page_bytes;
    record.mem_total_kib = facts.memory.total_pages.saturating_mul(facts.memory.page_bytes) / 1024;
    if let Err(fault) = board.against(facts.memory) {
        accepted = false;
        let (wanted, found) = (format_args!("{}", fault.allowed), format_args!("{}", fault.value));
        let note =
            Note { step: "board", target: &fault.path, wanted, found, outcome: Outcome::Failed };
        record.note(kernel, &note);
        board.qm.fence();
    }
    let Ok(plan) = plan(board, &facts) else {
        hold(kernel, record, "the plan is too long");
        return Plan::new();
    };
    let mut fence = false;
    let mut refused = false;
    for step in &plan {
        let agrees = apply::step(kernel, record, step);
        match step {
            Step::Write { duty: Duty::Fence, .. } => fence = agrees,
            Step::Write { duty: Duty::Limit, .. } => refused |= !agrees,
            _ => {}
        }
    }
    if facts.memory.total_pages == 0 {
        hold(kernel, record, "the machine's memory is unknown: /proc/meminfo");
    } else if board.qm.unit.is_some() && !facts.controllers.memory {
        hold(kernel, record, "there is no memory controller");
    } else if !fence || refused {
        fall_back(kernel, record, board, &facts);
    } else {
        let reason = match (accepted, board.qm.unit) {
            (false, _) => "the board file was refused: the fallback is in force",
            (true, None) => "its limits are in force",
            (true, Some(_)) => "its limits are with systemd",
        };
        record.qm_start = true;
        record.qm_reason = cut_text(reason);
    }
    plan
}

/// A limit was refused: the fallback, or no QM, as the board file says.
fn fall_back<K: Kernel>(kernel: &mut K, record: &mut Record, board: &Board<'_>, facts: &Facts) {
    if board.qm.on_limit_failure == OnLimitFailure::Hold {
        hold(kernel, record, "a limit was refused, and the board file says hold");
        return;
    }
    let agrees = apply::knob_path(board.qm.cgroup, "memory.max").is_ok_and(|file| {
        let value = fallback_value(&board.qm, facts.memory);
        apply::write(kernel, record, "limit", &file, format_args!("{value}"))
    });
    if agrees {
        record.qm_start = true;
        record.qm_reason = cut_text("a limit was refused: the fallback is in force");
    } else {
        hold(kernel, record, "its memory.max could not be set");
    }
}

/// memory.max where the wanted limits can't be had: never above what was wanted.
#[must_use]
pub fn fallback_value(qm: &Qm<'_>, memory: Memory) -> Value {
    let bytes = |limit: Limit| limit.kernel_bytes(memory).unwrap_or(u64::MAX);
    match bytes(qm.fallback_max).min(bytes(qm.memory_max)) {
        u64::MAX => Value::Max,
        least => Value::Number(least),
    }
}

/// QM is not started, and why.
pub fn hold<K: Kernel>(kernel: &mut K, record: &mut Record, reason: &str) {
    record.qm_start = false;
    record.qm_reason = cut_text(reason);
    noted(kernel, record, "qm", "start", Outcome::Failed, reason);
}

/// Finds and mounts /var/qm below `root`, if the board has it; without it QM is
/// held, unless the board file says otherwise.
pub fn var_qm<K: Kernel>(kernel: &mut K, record: &mut Record, board: &Board<'_>, root: &str) {
    let Some(wanted) = &board.var_qm else { return };
    if !var_qm::mount(kernel, record, wanted, root) && !wanted.start_qm_without {
        hold(kernel, record, "/var/qm is not mounted");
    }
}

/// The last words: the score of PID 1, the verdict on QM, the record's files.
/// `next` is what becomes of PID 1.
pub fn finish<K: Kernel>(
    kernel: &mut K,
    record: &mut Record,
    board: &Board<'_>,
    next: &str,
    json: &mut [u8],
) {
    copy_board(kernel, record, json.get_mut(..=BOARD_BYTES_MAX).unwrap_or_default());
    let score = format_args!("{}", i64::from(board.init_oom_score_adj));
    apply::write(kernel, record, "oom-score", "/proc/1/oom_score_adj", score);
    let reason = record.qm_reason.clone();
    if record.qm_start {
        match kernel.replace(QM_START_PATH, b"") {
            Ok(()) => noted(kernel, record, "qm", "start", Outcome::Agrees, &reason),
            Err(errno) => failed(kernel, record, "qm", QM_START_PATH, errno),
        };
    }
    let note = Note {
        step: "handoff",
        target: "next init",
        wanted: format_args!("{next}"),
        found: format_args!(""),
        outcome: Outcome::Agrees,
    };
    record.note(kernel, &note);
    record.version = VERSION;
    let written = match record.to_json(json).and_then(|len| json.get(..len)) {
        Some(json) => kernel.replace(RECORD_PATH, json),
        None => Err(Errno::NOSPC),
    };
    if let Err(errno) = written {
        failed(kernel, record, "record", RECORD_PATH, errno);
    }
}

#[cfg(test)]
mod tests;
