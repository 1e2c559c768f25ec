//! The board file: what one board wants of plimsoll, every value checked and
//! typed with its unit.
//!
//! Keys and nesting are those of an automotive-image-builder manifest where it
//! has them. boards/README.md has the table of keys.

mod check;
mod faults;
mod guests;
pub(crate) mod json;
pub mod keys;
mod kind;
mod payloads;
mod raw;
pub(crate) mod scan;
pub(crate) mod text;

use core::cmp::Ordering;

use heapless::Vec;

pub use self::faults::{FAULT_VALUE_MAX, FAULTS_MAX, Fault, Faults, KEY_PATH_MAX};
pub use self::raw::Raw;
use crate::agent::settings::Settings;
use crate::guests::{GUESTS_MAX, Model, Values};
use crate::limit::{Limit, Memory};

/// Longest board file, in bytes: a board with everything as often as it may
/// be is about 11 KiB; what is larger is a mistake or an attack.
pub const BOARD_BYTES_MAX: usize = 16 * 1024;
/// Modules a board may name: QEMU's boards need 8, a SoC's storage path about 20.
pub const MODULES_MAX: usize = 48;
/// Host cgroups under reclaim protection: system.slice, user.slice, a few more.
pub const HOST_CGROUPS_MAX: usize = 8;
/// Payloads, host's and QM's together.
pub const PAYLOADS_MAX: usize = 8;
/// Words of a payload's command.
pub const COMMAND_WORDS_MAX: usize = 16;

/// A checked board file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Board<'a> {
    /// The QM partition: its cgroup and limits.
    pub qm: Qm<'a>,
    /// Protection of the host side.
    pub host: Host<'a>,
    /// The separate /var/qm partition; `None`: QM has none.
    pub var_qm: Option<VarQm<'a>>,
    /// Kernel modules in the order to load, dependencies first: names, looked
    /// for under /lib/modules/RELEASE, or absolute paths.
    pub modules: Vec<&'a str, MODULES_MAX>,
    /// The next init as an absolute path; `None`: plimsoll stays PID 1.
    pub next_init: Option<&'a str>,
    /// OOM score of PID 1 after the handoff, -1000..=1000.
    pub init_oom_score_adj: i16,
    /// What plimsoll runs itself where it stays PID 1.
    pub payloads: Vec<Payload<'a>, PAYLOADS_MAX>,
    /// Whether drift of a limit is mended (written again) or only reported.
    pub mend_drift: bool,
    /// Size of the disk image, in bytes.
    pub image_bytes: u64,
    /// Memory that the host adds and takes back; `None`: not minded.
    pub virtio_mem: Option<VirtioMem>,
    /// The memory agent's settings.
    pub agent: Settings,
    /// The virtual machines it hosts.
    pub guests: Guests<'a>,
}

/// The virtual machines that the board hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guests<'a> {
    /// How overhead is worked out for a guest that doesn't say.
    pub model: Model,
    /// Overhead, percent, margin and reserve, for a guest that doesn't say.
    pub values: Values,
    /// Directory in which peaks are kept; empty: none.
    pub peaks: &'a str,
    /// The guests, names and cgroups all different.
    pub list: Vec<Guest<'a>, GUESTS_MAX>,
}

/// A virtual machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guest<'a> {
    /// Letters, digits, '-', '_'.
    pub name: &'a str,
    /// Of its VMM; a path like `Qm::cgroup`.
    pub cgroup: &'a str,
    /// How its overhead is worked out.
    pub model: Model,
    /// Out of what.
    pub values: Values,
    /// What its memory may grow to, in bytes; not below what it is.
    pub memory_max: u64,
    /// Path of its VMM's QMP socket; empty: none.
    pub qmp: &'a str,
}

/// How memory is given back to the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VirtioMem {
    /// What stays available, of the memory that stays.
    pub min_available: Limit,
    /// How long one block may take, in seconds, 1..=600.
    pub block_timeout_secs: u32,
}

/// What QM's cgroup gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Qm<'a> {
    /// Path below the cgroup2 mount, beginning with '/', without a '/' at its end.
    pub cgroup: &'a str,
    /// systemd's unit whose cgroup that is; `None`: plimsoll writes the limits
    /// itself.
    pub unit: Option<&'a str>,
    /// memory.max
    pub memory_max: Limit,
    /// memory.high
    pub memory_high: Limit,
    /// memory.min
    pub memory_min: Limit,
    /// memory.low
    pub memory_low: Limit,
    /// memory.swap.max
    pub swap_max: Limit,
    /// Whether the file names it; if not, swap that plimsoll makes is QM's too.
    pub swap_named: bool,
    /// memory.oom.group
    pub oom_group: bool,
    /// pids.max; `None` is "max".
    pub pids_max: Option<u32>,
    /// cpu.idle or cpu.weight
    pub cpu_weight: CpuWeight,
    /// oom_score_adj of QM's processes, 0..=1000: at -1000 its own limit could
    /// not end it.
    pub oom_score_adj: i16,
    /// memory.max where the wanted limits cannot be had.
    pub fallback_max: Limit,
    /// What happens where the kernel refuses a wanted limit.
    pub on_limit_failure: OnLimitFailure,
}

/// CPU share against the siblings of QM's cgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CpuWeight {
    /// cpu.idle = 1
    Idle,
    /// cpu.idle = 0 and this cpu.weight, 1..=10000
    Weight(u16),
}

/// What happens where the kernel refuses one of QM's limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnLimitFailure {
    /// QM starts under `fallback_max`; without even that it is held.
    Fallback,
    /// QM is not started.
    Hold,
}

/// Protection of the host side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host<'a> {
    /// oom_score_adj of host processes; `None` where OOM protection is off.
    pub oom_score_adj: Option<i16>,
    /// memory.min of each host cgroup, in bytes; `None` where reclaim
    /// protection is off.
    pub memory_min_bytes: Option<u64>,
    /// The host's cgroups, paths like `Qm::cgroup`.
    pub cgroups: Vec<&'a str, HOST_CGROUPS_MAX>,
}

/// The separate partition for QM's data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VarQm<'a> {
    /// How large the image builder makes it.
    pub size: PartitionSize,
    /// Everything given must match; nothing given means the GPT type qm_var.
    pub identity: Identity<'a>,
    /// File system type.
    pub fstype: &'a str,
    /// Mount options besides nodev and nosuid, comma-separated.
    pub options: &'a str,
    /// How long to wait for the device, in seconds, 0..=30.
    pub wait_secs: u32,
    /// Whether QM starts, on the root file system, where the partition fails.
    pub start_qm_without: bool,
}

/// What tells the partition from others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Identity<'a> {
    /// UUID of the GPT entry.
    pub partition_uuid: Option<Uuid>,
    /// UUID in the file system's superblock.
    pub fs_uuid: Option<Uuid>,
    /// Label of the file system or of the GPT entry.
    pub label: Option<&'a str>,
}

/// Size of the partition in the image that xtask builds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartitionSize {
    /// On a device of its own; nothing is made in the image.
    External,
    /// Bytes.
    Bytes(u64),
    /// Fraction of the image in billionths: 0.1 is 100_000_000.
    RelativeBillionths(u32),
}

/// A UUID, bytes in the order in which it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uuid(pub [u8; 16]);

/// A program that plimsoll runs where it stays PID 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payload<'a> {
    /// Name of its cgroup below the side's: letters, digits, '-', '_'.
    pub name: &'a str,
    /// Whose it is.
    pub side: Side,
    /// Absolute path and arguments.
    pub command: Vec<&'a str, COMMAND_WORDS_MAX>,
    /// oom_score_adj; default is the side's.
    pub oom_score_adj: i16,
    /// When it is started again.
    pub restart: Restart,
    /// Restarts allowed in any 60 seconds, 0..=60.
    pub restart_max: u8,
}

/// Which side of the machine a payload belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The safety side.
    Host,
    /// The quality-managed side.
    Qm,
}

/// When a payload that ended is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    /// Not.
    No,
    /// After an exit status other than 0, or a signal.
    OnFailure,
    /// Whatever its end was.
    Always,
}

/// Share of memory that QM gets where nothing else is known, in permyriad: a
/// quarter starts any QM side that fits its machine, and leaves the host more
/// than it needs.
const FALLBACK_PERMYRIAD: u32 = 2_500;
/// pids.max of QM where the file says nothing: a container of services has
/// hundreds of tasks, the kernel's default pid_max is 32768.
const PIDS_MAX: u32 = 4096;
/// memory.min of a host cgroup, as automotive-image-builder has it.
const HOST_MIN_BYTES: u64 = 64 << 20;
/// Size of a disk image, as automotive-image-builder has it.
const IMAGE_BYTES: u64 = 8 << 30;
/// Fault text of `memory_high`, at check time and on the machine alike.
const NOT_ABOVE_MAX: &str = "not above qm.memory_limit.max";
const HIGH: &str = "qm.memory_limit.high";

impl Default for Board<'_> {
    /// What a board file without any key means.
    fn default() -> Self {
        Self {
            qm: Qm::default(),
            host: Host::default(),
            var_qm: None,
            modules: Vec::new(),
            next_init: Some("/sbin/init"),
            init_oom_score_adj: 0,
            payloads: Vec::new(),
            mend_drift: true,
            image_bytes: IMAGE_BYTES,
            virtio_mem: None,
            agent: Settings::default(),
            guests: Guests::default(),
        }
    }
}

impl Default for Guests<'_> {
    fn default() -> Self {
        Self { model: Model::default(), values: Values::default(), peaks: "", list: Vec::new() }
    }
}

impl Default for Qm<'_> {
    fn default() -> Self {
        Self {
            cgroup: "/qm.service",
            unit: None,
            memory_max: Limit::Permyriad(FALLBACK_PERMYRIAD),
            memory_high: Limit::Infinity,
            memory_min: Limit::Bytes(0),
            memory_low: Limit::Bytes(0),
            swap_max: Limit::Bytes(0),
            swap_named: false,
            oom_group: true,
            pids_max: Some(PIDS_MAX),
            cpu_weight: CpuWeight::Idle,
            oom_score_adj: 500,
            fallback_max: Limit::Permyriad(FALLBACK_PERMYRIAD),
            on_limit_failure: OnLimitFailure::Fallback,
        }
    }
}

impl Default for VirtioMem {
    fn default() -> Self {
        // A tenth keeps the kernel clear of its watermarks while pages move. A block
        // of 2 GiB, the largest there is, takes seconds; one that is pinned, for ever.
        Self { min_available: Limit::Permyriad(1_000), block_timeout_secs: 30 }
    }
}

impl Default for Host<'_> {
    fn default() -> Self {
        let mut cgroups = Vec::new();
        let _ = cgroups.extend_from_slice(&["/system.slice", "/user.slice"]);
        Self { oom_score_adj: Some(-1000), memory_min_bytes: Some(HOST_MIN_BYTES), cgroups }
    }
}

impl Board<'_> {
    /// Whether the limits make sense on a machine with this memory: what the
    /// file alone doesn't tell, a percentage against bytes and what is less
    /// than a page.
    ///
    /// # Errors
    /// The first limit that doesn't, without line and column.
    #[expect(clippy::result_large_err, reason = "once a boot, and then said as it is")]
    pub fn against(&self, memory: Memory) -> Result<(), Fault> {
        let qm = &self.qm;
        for (path, limit) in [
            ("qm.memory_limit.max", qm.memory_max),
            (HIGH, qm.memory_high),
            ("qm.fallback_max", qm.fallback_max),
        ] {
            if limit.kernel_bytes(memory) == Some(0) {
                return Err(Fault::of_limit(path, limit, "at least one page"));
            }
        }
        let above = qm.memory_high.bytes(memory) > qm.memory_max.bytes(memory);
        if qm.memory_high != Limit::Infinity && above {
            return Err(Fault::of_limit(HIGH, qm.memory_high, NOT_ABOVE_MAX));
        }
        Ok(())
    }
}

impl Qm<'_> {
    /// Takes the limits that are safe whatever the others were meant to be:
    /// memory.max is the fallback (or the wanted one, where that is surely
    /// less), no memory is kept for QM, no swap, an OOM kill ends it as a whole,
    /// tasks are bounded, its CPU share is what others leave. memory.high is
    /// off: it would throttle without end what should be ended.
    pub fn fence(&mut self) {
        if compare(self.memory_max, self.fallback_max) != Some(Ordering::Less) {
            self.memory_max = self.fallback_max;
        }
        let safe = Self::default();
        self.memory_high = safe.memory_high;
        self.memory_min = safe.memory_min;
        self.memory_low = safe.memory_low;
        (self.swap_max, self.swap_named) = (safe.swap_max, true);
        self.oom_group = safe.oom_group;
        self.pids_max = Some(self.pids_max.unwrap_or(PIDS_MAX).min(PIDS_MAX));
        self.cpu_weight = safe.cpu_weight;
    }
}

impl VarQm<'_> {
    /// Seconds to wait where the file says nothing: a disk answers within one,
    /// an SD card behind a slow bus within three.
    const WAIT_SECS: u32 = 5;

    /// A partition that none is: what QM gets where the file gives it one but
    /// not which. QM is then held rather than given the wrong one.
    fn unknown() -> Self {
        Self {
            size: PartitionSize::External,
            identity: Identity {
                partition_uuid: Some(Uuid::NIL),
                fs_uuid: Some(Uuid::NIL),
                label: None,
            },
            fstype: "ext4",
            options: "",
            wait_secs: 0,
            start_qm_without: false,
        }
    }
}

impl PartitionSize {
    /// Bytes in an image of `image_bytes`, rounded down to a sector as
    /// automotive-image-builder does; `None` is none in the image.
    #[must_use]
    pub fn bytes(self, image_bytes: u64) -> Option<u64> {
        const SECTOR: u64 = 512;
        let bytes = match self {
            Self::External => return None,
            Self::Bytes(bytes) => bytes,
            Self::RelativeBillionths(part) => {
                u64::try_from(u128::from(image_bytes) * u128::from(part) / 1_000_000_000).ok()?
            }
        };
        Some(bytes / SECTOR * SECTOR)
    }
}

/// Which of two limits is greater, on any machine; `None` where that depends on
/// its memory.
fn compare(a: Limit, b: Limit) -> Option<Ordering> {
    match (a, b) {
        (Limit::Permyriad(a), Limit::Permyriad(b)) => Some(a.cmp(&b)),
        (Limit::Bytes(a), Limit::Bytes(b)) => Some(a.cmp(&b)),
        (Limit::Infinity, Limit::Infinity) => Some(Ordering::Equal),
        (Limit::Infinity, _) => Some(Ordering::Greater),
        (_, Limit::Infinity) => Some(Ordering::Less),
        _ => None,
    }
}

/// Reads a board file. Whatever is wrong with it is among `faults`, and what is
/// refused takes its default; where there is any fault, QM is fenced
/// ([`Qm::fence`]). So there is always a board, and QM is limited by it; the
/// file is accepted where `faults` stays empty.
///
/// What is refused is overwritten in `text` before `decode` sees it, so that
/// the rest of the file counts.
pub fn read<'a>(
    text: &'a mut [u8],
    decode: impl FnOnce(&'a [u8]) -> Option<Raw<'a>>,
    faults: &mut Faults,
) -> Board<'a> {
    let sound = scan::board(text, faults);
    let text: &'a [u8] = text;
    let mut board = Board::default();
    if sound {
        match decode(text) {
            Some(raw) => check::board(&mut board, &raw, text, faults),
            None => faults.refuse_key(text, "", "a file that can be decoded"),
        }
    }
    if !faults.is_empty() {
        board.qm.fence();
    }
    board
}

/// The board's own decoder for [`read`]. Through serde it would cost 5 KB more.
#[must_use]
pub fn decode_core(text: &[u8]) -> Option<Raw<'_>> {
    Raw::walked(text)
}

/// serde-json-core's, with which the tests and the fuzzer compare it.
#[must_use]
pub fn decode_serde(text: &[u8]) -> Option<Raw<'_>> {
    serde_json_core::from_slice(text).ok().map(|(raw, _)| raw)
}
