//! The table of keys: what a board file may hold, and what boards/README.md
//! says of it.

use super::json::Shape;
use super::text;
use super::{COMMAND_WORDS_MAX, HOST_CGROUPS_MAX, MODULES_MAX, PAYLOADS_MAX};
use crate::agent::settings::{CGROUPS_MAX, Knob, Word};
use crate::guests::model::MODELS;
use crate::guests::{Field, GUESTS_MAX, Model};
use crate::number::decimal;

/// What the value of a key must be.
#[derive(Clone, Copy)]
pub enum Kind {
    /// An object with keys of its own.
    Object,
    /// An array of at most so many.
    Array(usize),
    /// true or false.
    Boolean,
    /// A whole number between two, both included.
    Integer(i32, i32),
    /// A word, or a whole number between two, both included.
    WordOrInteger(&'static WordOrInteger),
    /// A number from 0 to below 1.
    Fraction,
    /// A string that the function accepts.
    Text(fn(&str) -> bool),
    /// true or false, the value of a knob.
    Switch(Knob),
    /// A whole number in the range of a knob, its value.
    Count(Knob),
    /// A string, the value of a setting.
    Word(Word),
    /// A size, percentage or count that a guest's overhead is worked out from.
    Guest(Field),
}

/// See [`Kind::WordOrInteger`]; on its own, since it is rare and larger than
/// the other kinds.
pub struct WordOrInteger {
    word: &'static str,
    min: i32,
    max: i32,
}

/// A key of the board file.
pub struct Key {
    /// Names from the top, joined by dots; `[]` stands for any element.
    pub path: &'static str,
    /// What its value must be.
    pub kind: Kind,
    /// The same in words.
    pub range: &'static str,
}

/// What the table in boards/README.md says besides. Apart from [`Key`], so that
/// the target's binary goes without it.
pub struct Doc {
    /// Unit of the value.
    pub unit: &'static str,
    /// Value where the key is left out, as JSON; or words in parentheses.
    pub default: &'static str,
    /// What it does.
    pub meaning: &'static str,
}

impl Kind {
    /// The JSON type in words.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Object => "object",
            Self::Array(_) => "array",
            Self::Boolean | Self::Switch(_) => "boolean",
            Self::Integer(..) | Self::Count(_) => "integer",
            Self::Guest(field) if field.is_count() => "integer",
            Self::WordOrInteger(..) => "string or integer",
            Self::Fraction => "number",
            Self::Text(_) | Self::Word(_) | Self::Guest(_) => "string",
        }
    }

    /// Whether a value of this shape can be decoded at all.
    pub(super) fn fits(self, shape: Shape) -> bool {
        match self {
            Self::Object => shape == Shape::Object,
            Self::Array(_) => shape == Shape::Array,
            Self::Boolean | Self::Switch(_) => shape == Shape::Boolean,
            Self::Integer(..) | Self::Fraction | Self::Count(_) => shape == Shape::Number,
            Self::WordOrInteger(..) => matches!(shape, Shape::Number | Shape::String),
            Self::Guest(field) if field.is_count() => shape == Shape::Number,
            Self::Text(_) | Self::Word(_) | Self::Guest(_) => shape == Shape::String,
        }
    }

    /// Whether a value that fits may be `raw`, a string with its quotes.
    pub(super) fn accepts(self, raw: &str) -> bool {
        match self {
            Self::Object | Self::Array(_) | Self::Boolean | Self::Switch(_) => true,
            Self::Integer(min, max) => text::integer(raw, min, max).is_some(),
            Self::WordOrInteger(&WordOrInteger { word, min, max }) => {
                unquoted(raw) == Some(word) || text::integer(raw, min, max).is_some()
            }
            Self::Fraction => text::billionths(raw).is_some(),
            Self::Text(accepts) => unquoted(raw).is_some_and(accepts),
            Self::Word(word) => unquoted(raw).is_some_and(|text| word.accepts(text)),
            Self::Guest(field) => field.parse(unquoted(raw).unwrap_or(raw)).is_some(),
            Self::Count(knob) => decimal(raw).is_some_and(|count| knob.range().contains(&count)),
        }
    }
}

/// The text between the quotes.
pub(crate) fn unquoted(raw: &str) -> Option<&str> {
    raw.strip_prefix('"')?.strip_suffix('"')
}

/// A path without its last name, and that name.
pub(crate) fn split_last(path: &str) -> (&str, &str) {
    let dot = path.bytes().rposition(|byte| byte == b'.');
    match dot.and_then(|dot| Some((path.get(..dot)?, path.get(dot + 1..)?))) {
        Some(split) => split,
        None => ("", path),
    }
}

/// Place in [`KEYS`] of the key at a path whose elements are numbered.
pub(super) fn find(path: &str) -> Option<usize> {
    let path = path.as_bytes();
    // Most keys end in another letter: a look saves a comparison.
    let may = |key: &Key| key.path.as_bytes().last() == path.last();
    KEYS.iter().position(|key| may(key) && matches(key.path, path))
}

/// The same, and the key.
pub(crate) fn lookup(path: &str) -> Option<(usize, &'static Key)> {
    let at = find(path)?;
    Some((at, KEYS.get(at)?))
}

fn matches(pattern: &str, path: &[u8]) -> bool {
    let mut at = 0;
    for byte in pattern.bytes() {
        while byte == b']' && path.get(at).is_some_and(u8::is_ascii_digit) {
            at += 1;
        }
        if path.get(at) != Some(&byte) {
            return false;
        }
        at += 1;
    }
    at == path.len()
}

const SCORE: Kind = Kind::Integer(-1000, 1000);
const SCORE_RANGE: &str = "-1000 to 1000";
/// PID_MAX_LIMIT of a 64-bit kernel.
const PIDS_MAX: i32 = 4 << 20;

/// sun_path of a Unix address, without its NUL, in bytes.
const SOCKET_PATH_MAX: usize = 107;

const LIMIT: Kind = Kind::Text(|text| text::limit(text).is_some());
const CEILING: Kind = Kind::Text(|text| text::ceiling(text).is_some());
const FALLBACK: Kind = Kind::Text(|text| text::fallback(text).is_some());
const SIZE: Kind = Kind::Text(|text| text::size(text).is_some());
const SOME_SIZE: Kind = Kind::Text(|text| text::some_size(text).is_some());
const UUID: Kind = Kind::Text(|text| text::uuid(text).is_some());
const MODEL: Kind = Kind::Text(|text| Model::named(text).is_some());
const INIT: Kind = Kind::Text(|text| text == "none" || text::is_path(text));

const LIMIT_RANGE: &str = "`N%` (up to 2 decimals), `N‰`, `N‱` up to 100 %, a size such as `1.5G` (B K M G T P E), or `infinity`";
const CEILING_RANGE: &str = "above 0: `N%` (up to 2 decimals), `N‰`, `N‱` up to 100 %, a size such as `1.5G` (B K M G T P E), or `infinity`";
const FALLBACK_RANGE: &str = "above 0: `N%` (up to 2 decimals), `N‰`, `N‱` up to 100 %, or a size such as `1.5G` (B K M G T P E)";
const SIZE_RANGE: &str = "a whole number and kB, KiB, MB, MiB, GB, GiB, TB or TiB";
const SOME_SIZE_RANGE: &str = "above 0: a whole number and kB, KiB, MB, MiB, GB, GiB, TB or TiB";
const FRACTION_RANGE: &str = "0 to below 1, up to nine decimals";
const UUID_RANGE: &str = "a UUID such as `c36a70ca-8827-4e0e-977e-7179ccfe0e65`, not all zeros";
const CGROUP_RANGE: &str =
    "a path such as `/system.slice` of at most 128 bytes; not `/`, not `/plimsoll` or below";
pub(super) const UNIT_RANGE: &str =
    "a service or slice such as `qm.service`, the last name in `qm.cgroup`, below its slices alone";

/// Place in [`KEYS`] of the agent's section, after which its own keys come.
pub(crate) const AGENT: usize = {
    let mut at = 0;
    while !matches!(KEYS[at].path.as_bytes(), b"agent") {
        at += 1;
    }
    at
};
/// Place in [`KEYS`] of the first section that is read from the text alone: the
/// guests', and after it the agent's.
pub(crate) const GUESTS: usize = {
    let mut at = 0;
    while !matches!(KEYS[at].path.as_bytes(), b"guests") {
        at += 1;
    }
    at
};

/// Two tables from one list, so that they can't differ in length.
macro_rules! keys {
    ($($path:literal, $kind:expr, $range:expr, $unit:literal, $default:literal, $meaning:literal;)*) => {
        /// The keys that are known.
        pub static KEYS: &[Key] = &[$(Key { path: $path, kind: $kind, range: $range }),*];
        /// What is to be said of each of [`KEYS`], in the same order.
        pub static DOCS: &[Doc] = &[$(Doc { unit: $unit, default: $default, meaning: $meaning }),*];
    };
}

keys! {
    "name", Kind::Text(text::is_name), "1 to 55 bytes", "", "(none)",
        "Name of the board.";
    "qm", Kind::Object, "an object", "", "(all defaults)",
        "The QM partition.";
    "qm.memory_limit", Kind::Object, "an object", "", "(all defaults)",
        "Limits on QM's memory, in the syntax of systemd's MemoryMax=.";
    "qm.memory_limit.max", CEILING, CEILING_RANGE, "% of MemTotal, or bytes", "(qm.fallback_max)",
        "memory.max: QM is OOM-killed at it. No limit only where `infinity` is written; automotive-image-builder's default is `infinity`.";
    "qm.memory_limit.high", CEILING, CEILING_RANGE, "% of MemTotal, or bytes", "\"infinity\"",
        "memory.high: above it QM is throttled and reclaimed. Not above `max`.";
    "qm.memory_limit.min", LIMIT, LIMIT_RANGE, "% of MemTotal, or bytes", "\"0\"",
        "memory.min of QM.";
    "qm.memory_limit.low", LIMIT, LIMIT_RANGE, "% of MemTotal, or bytes", "\"0\"",
        "memory.low of QM.";
    "qm.memory_limit.swap_max", LIMIT, LIMIT_RANGE, "% of MemTotal, or bytes", "\"0\"",
        "memory.swap.max. The default is qm.container's MemorySwapMax=0; where the key is left out, swap that `agent.guest_swap` makes is QM's too.";
    "qm.cpu_weight", Kind::WordOrInteger(&WordOrInteger { word: "idle", min: 1, max: 10_000 }), "`idle`, or 1 to 10000", "share among siblings", "\"idle\"",
        "cpu.idle or cpu.weight.";
    "qm.cgroup", Kind::Text(text::is_cgroup), CGROUP_RANGE, "", "\"/qm.service\"",
        "QM's cgroup, below the cgroup2 mount. Neither in nor above a host cgroup.";
    "qm.unit", Kind::Text(text::is_unit), UNIT_RANGE, "", "(none)",
        "systemd's unit whose cgroup `qm.cgroup` is. Where it is named, QM's limits are systemd's to write: it gets them as drop-ins under /run before it starts, and is asked to mend what drifts.";
    "qm.oom_group", Kind::Boolean, "true or false", "", "true",
        "memory.oom.group: an OOM kill ends all of QM, not a part of it.";
    "qm.pids_max", Kind::WordOrInteger(&WordOrInteger { word: "max", min: 1, max: PIDS_MAX }), "`max`, or 1 to 4194304", "tasks", "4096",
        "pids.max. The default stops a fork bomb long before the kernel's 32768 PIDs are gone, and is many times what a container of services needs.";
    "qm.oom_score_adj", Kind::Integer(0, 1000), "0 to 1000", "OOM score", "500",
        "oom_score_adj of QM's processes. Below 0 the OOM killer would spare QM before others; at -1000 not even QM's own limit could end it.";
    "qm.fallback_max", FALLBACK, FALLBACK_RANGE, "% of MemTotal, or bytes", "\"25%\"",
        "memory.max of QM where the wanted limits can't be had or the board file is refused.";
    "qm.on_limit_failure", Kind::Text(|text| matches!(text, "fallback" | "hold")), "`fallback` or `hold`", "", "\"fallback\"",
        "Where the kernel refuses one of QM's limits: start QM under `fallback_max`, or not at all.";
    "image", Kind::Object, "an object", "", "(all defaults)",
        "What concerns the whole image.";
    "image.enable_oom_protection", Kind::Boolean, "true or false", "", "true",
        "Whether host processes get `host.oom_score_adj`.";
    "image.enable_reclaim_protection", Kind::Boolean, "true or false", "", "true",
        "Whether the host's cgroups get `cg_memory_min`.";
    "image.cg_memory_min", SOME_SIZE, SOME_SIZE_RANGE, "bytes", "\"64 MiB\"",
        "memory.min of each of the host's cgroups.";
    "image.image_size", SOME_SIZE, SOME_SIZE_RANGE, "bytes", "\"8 GiB\"",
        "Size of the disk image.";
    "image.partitions", Kind::Object, "an object", "", "(none)",
        "Partitions besides the root's.";
    "image.partitions.var", Kind::Object, "an object", "", "(none)",
        "The partition for /var. Only its size counts here: with that of `var_qm` it must leave room for the root.";
    "image.partitions.var.relative_size", Kind::Fraction, FRACTION_RANGE, "fraction of image_size", "0",
        "Its size; 0 is no partition. Not together with `size`.";
    "image.partitions.var.size", SIZE, SIZE_RANGE, "bytes", "(none)",
        "Its size; 0 is no partition.";
    "image.partitions.var_qm", Kind::Object, "an object", "", "(none)",
        "The partition for /var/qm. Left out, QM has none; given, it needs one of `relative_size`, `size` and `external`. What is given of `uuid`, `fs_uuid` and `label` must match all together; without any it is found by the GPT type qm_var.";
    "image.partitions.var_qm.relative_size", Kind::Fraction, FRACTION_RANGE, "fraction of image_size", "(none)",
        "Its size; 0 is no partition. Not together with `size` or `external`.";
    "image.partitions.var_qm.size", SIZE, SIZE_RANGE, "bytes", "(none)",
        "Its size; 0 is no partition. Not together with `external`.";
    "image.partitions.var_qm.external", Kind::Boolean, "true or false", "", "false",
        "It is on a device of its own: found and mounted, but not made in the image.";
    "image.partitions.var_qm.uuid", UUID, UUID_RANGE, "", "(any)",
        "UUID of the GPT entry.";
    "image.partitions.var_qm.fs_uuid", UUID, UUID_RANGE, "", "(any)",
        "UUID in the file system's superblock.";
    "image.partitions.var_qm.label", Kind::Text(text::is_label), "1 to 36 UTF-16 units; more than 16 bytes only the name of a GPT entry can have", "", "(any)",
        "Label of the file system or name of the GPT entry.";
    "image.partitions.var_qm.fstype", Kind::Text(|text| text == "ext4"), "`ext4`", "", "\"ext4\"",
        "File system.";
    "image.partitions.var_qm.options", Kind::Text(text::is_options), "mount options of at most 128 bytes without blanks; not dev, suid, remount, bind, rbind, move", "", "\"\"",
        "Mount options besides nodev and nosuid, which are always set.";
    "image.partitions.var_qm.wait_secs", Kind::Integer(0, 30), "0 to 30", "seconds", "5",
        "How long to wait for the device.";
    "image.partitions.var_qm.on_failure", Kind::Text(|text| matches!(text, "hold" | "start")), "`hold` or `start`", "", "\"hold\"",
        "Where the partition can't be mounted: don't start QM, or start it on the root file system.";
    "host", Kind::Object, "an object", "", "(all defaults)",
        "The host side.";
    "host.cgroups", Kind::Array(HOST_CGROUPS_MAX), "at most 8 paths", "", "[\"/system.slice\", \"/user.slice\"]",
        "The host's cgroups.";
    "host.cgroups[]", Kind::Text(text::is_cgroup), CGROUP_RANGE, "", "(an element)",
        "A cgroup, below the cgroup2 mount.";
    "host.oom_score_adj", SCORE, SCORE_RANGE, "OOM score", "-1000",
        "oom_score_adj of host processes.";
    "mend_drift", Kind::Boolean, "true or false", "", "true",
        "Whether a limit that was changed by others is written again, or only reported.";
    "modules", Kind::Array(MODULES_MAX), "at most 48 strings", "", "[]",
        "Kernel modules in the order to load, dependencies first.";
    "modules[]", Kind::Text(text::is_module), "a name such as `virtio_blk`, with underscores, or an absolute path", "", "(an element)",
        "A module, looked for under /lib/modules. Only one that modules.builtin names may be missing in the image.";
    "handoff", Kind::Object, "an object", "", "(all defaults)",
        "What PID 1 becomes.";
    "handoff.init", INIT, "an absolute path, or `none`", "", "\"/sbin/init\"",
        "The next init. With `none`, or where it can't be run, plimsoll stays PID 1.";
    "handoff.oom_score_adj", SCORE, SCORE_RANGE, "OOM score", "0",
        "oom_score_adj of PID 1 after the handoff.";
    "payloads", Kind::Array(PAYLOADS_MAX), "at most 8 objects", "", "[]",
        "What plimsoll runs itself where it stays PID 1.";
    "payloads[]", Kind::Object, "an object", "", "(an element)",
        "One program.";
    "payloads[].name", Kind::Text(text::is_payload), "1 to 55 of letters, digits, '-' and '_'; once in the file", "", "(required)",
        "Name of its cgroup, below its side's.";
    "payloads[].side", Kind::Text(|text| matches!(text, "host" | "qm")), "`host` or `qm`", "", "(required)",
        "Whose it is.";
    "payloads[].command", Kind::Array(COMMAND_WORDS_MAX), "1 to 16 strings, the first an absolute path", "", "(required)",
        "Program and arguments.";
    "payloads[].command[]", Kind::Text(text::is_word), "at most 255 bytes", "", "(an element)",
        "A word of it.";
    "payloads[].oom_score_adj", SCORE, "-1000 to 1000, on the QM side 0 to 1000", "OOM score", "(the side's)",
        "oom_score_adj of its processes.";
    "payloads[].restart", Kind::Text(|text| matches!(text, "no" | "on-failure" | "always")), "`no`, `on-failure` or `always`", "", "\"no\"",
        "When it is started again: never, after a status other than 0 or a signal, whatever its end was.";
    "payloads[].restart_max", Kind::Integer(0, 60), "0 to 60", "restarts in any 60 seconds", "10",
        "Restarts allowed.";
    "guests", Kind::Object, "an object", "", "(all defaults)",
        "Virtual machines that the board hosts, and what their VMMs may use. docs/guests.md says what the models are; sizes are written as in `qm.memory_limit`.";
    "guests.model", MODEL, MODELS, "", "\"eve\"",
        "How a guest's overhead is worked out: memory.max of its VMM is its memory and that.";
    "guests.overhead", Kind::Guest(Field::Overhead), Field::Overhead.allowed(), "bytes", "\"600M\"",
        "Overhead of model `fixed`.";
    "guests.percent", Kind::Guest(Field::Percent), Field::Percent.allowed(), "% of the guest's memory", "\"30%\"",
        "Overhead of model `proportional`.";
    "guests.margin", Kind::Guest(Field::Margin), Field::Margin.allowed(), "bytes", "\"32M\"",
        "What models `measured` and `pool` leave free above the use that was seen.";
    "guests.reserve", Kind::Guest(Field::Reserve), Field::Reserve.allowed(), "% of MemTotal", "\"25%\"",
        "What all guests of model `pool` share as their overhead.";
    "guests.peaks", Kind::Text(text::is_path), "an absolute path of at most 255 bytes", "", "(none)",
        "Directory in which the peaks of guests of model `measured` are kept, a file each. Without it the model stays with its first guess.";
    "guests.list", Kind::Array(GUESTS_MAX), "at most 16 objects", "", "[]",
        "The guests.";
    "guests.list[]", Kind::Object, "an object", "", "(an element)",
        "One guest.";
    "guests.list[].name", Kind::Text(text::is_payload), "1 to 55 of letters, digits, '-' and '_'; once in the file", "", "(required)",
        "Its name.";
    "guests.list[].cgroup", Kind::Text(text::is_cgroup), CGROUP_RANGE, "", "(required)",
        "Cgroup of its VMM, below the cgroup2 mount. Neither in nor above another guest's or QM's, nor a host cgroup or above one.";
    "guests.list[].memory", Kind::Guest(Field::Memory), Field::Memory.allowed(), "bytes", "(required)",
        "Its memory.";
    "guests.list[].memory_max", Kind::Text(|text| Field::Memory.parse(text).is_some()), Field::Memory.allowed(), "bytes", "(its memory)",
        "What its memory may grow to with virtio-mem; not below `memory`. Its limit follows no further.";
    "guests.list[].qmp", Kind::Text(|text| text::is_path(text) && text.len() <= SOCKET_PATH_MAX), "an absolute path of at most 107 bytes", "", "(none)",
        "Unix socket on which its VMM speaks QMP with plimsoll alone. Its limit then follows what the VMM has, and `plimsoll guest resize` works.";
    "guests.list[].vcpus", Kind::Guest(Field::Vcpus), Field::Vcpus.allowed(), "vCPUs", "1",
        "Its virtual CPUs.";
    "guests.list[].video", Kind::Guest(Field::Video), Field::Video.allowed(), "bytes", "\"0\"",
        "Memory of its video devices, all together.";
    "guests.list[].disks", Kind::Guest(Field::Disks), Field::Disks.allowed(), "disks", "0",
        "Its disks.";
    "guests.list[].mmio", Kind::Guest(Field::Mmio), Field::Mmio.allowed(), "bytes", "\"0\"",
        "Memory BARs of the devices that are passed through to it, all together.";
    "guests.list[].model", MODEL, MODELS, "", "(that of `guests`)",
        "As `guests.model`, for this guest.";
    "guests.list[].overhead", Kind::Guest(Field::Overhead), Field::Overhead.allowed(), "bytes", "(that of `guests`)",
        "As `guests.overhead`, for this guest.";
    "guests.list[].percent", Kind::Guest(Field::Percent), Field::Percent.allowed(), "% of its memory", "(that of `guests`)",
        "As `guests.percent`, for this guest.";
    "guests.list[].margin", Kind::Guest(Field::Margin), Field::Margin.allowed(), "bytes", "(that of `guests`)",
        "As `guests.margin`, for this guest with model `measured`; `pool` has one for all.";
    "virtio_mem", Kind::Object, "an object", "", "(all defaults)",
        "Memory of a virtual machine that its host adds and takes back (virtio-mem).";
    "virtio_mem.enable", Kind::Boolean, "true or false", "", "false",
        "Whether plimsoll minds it: what is added is online at once and movable, and what is taken back goes block by block, as far as the processes leave room. Else the kernel's defaults hold.";
    "virtio_mem.min_available", FALLBACK, FALLBACK_RANGE, "% of the MemTotal that stays, or bytes", "\"10%\"",
        "A block is given back only where so much stays available (MemAvailable) without it.";
    "virtio_mem.block_timeout_secs", Kind::Integer(1, 600), "1 to 600", "seconds", "30",
        "A block that is not offline after this time stays; the next one is tried.";
    "agent", Kind::Object, "an object", "", "(all defaults)",
        "The memory agent, with the names, units and defaults that Kata documents for its mem-agent. Every value can be changed on the running board (`plimsoll set`) and then counts at once.";
    "agent.memcg", Kind::Object, "an object", "", "(all defaults)",
        "Aging and eviction: pages that no one touched for three periods are taken from their cgroup.";
    "agent.memcg.disable", Kind::Switch(Knob::MemcgDisable), "true or false", "", "false",
        "Neither of the two.";
    "agent.memcg.swap", Kind::Switch(Knob::MemcgSwap), "true or false", "", "false",
        "Whether anonymous pages are aged and evicted too, not file pages alone.";
    "agent.memcg.swappiness_max", Kind::Count(Knob::MemcgSwappinessMax), "0 to 200", "swappiness", "50",
        "Cap of an eviction's swappiness, which is the share of anonymous pages in the coldest ones.";
    "agent.memcg.period_secs", Kind::Count(Knob::MemcgPeriodSecs), "1 to 604800", "seconds", "600",
        "From one pass to the next; at most a week.";
    "agent.memcg.period_psi_percent_limit", Kind::Count(Knob::MemcgPeriodPsiPercentLimit), "0 to 100", "% of the time", "1",
        "A cgroup under more pressure than this since its last pass is left out of the next.";
    "agent.memcg.eviction_psi_percent_limit", Kind::Count(Knob::MemcgEvictionPsiPercentLimit), "0 to 100", "% of the time", "1",
        "The eviction of a cgroup under more pressure than this ends.";
    "agent.memcg.eviction_run_aging_count_min", Kind::Count(Knob::MemcgEvictionRunAgingCountMin), "0 to 1000000", "agings", "3",
        "Agings of a cgroup before it is evicted.";
    "agent.memcg.cgroups", Kind::Array(CGROUPS_MAX), "at most 16 objects", "", "[]",
        "Cgroups to manage besides QM's and all below it, or with values of their own (mem-agent's `memcg-cgroups`). Changed as a whole.";
    "agent.memcg.cgroups[]", Kind::Object, "an object", "", "(an element)",
        "One such cgroup and all below it. Where several cover a cgroup, the nearest counts alone; at one path an exact one before another.";
    "agent.memcg.cgroups[].path", Kind::Text(text::is_scope), "`/`, or a path such as `/system.slice` of at most 128 bytes; not `/plimsoll` or below", "", "(required)",
        "Its path below the cgroup2 mount. `/` is every cgroup but the root's own.";
    "agent.memcg.cgroups[].exact", Kind::Boolean, "true or false", "", "false",
        "This cgroup alone, nothing below it; `/` is then the root's own.";
    "agent.memcg.cgroups[].disable", Kind::Switch(Knob::MemcgDisable), "true or false", "", "(that of `agent.memcg`)",
        "As `agent.memcg.disable`, here.";
    "agent.memcg.cgroups[].swap", Kind::Switch(Knob::MemcgSwap), "true or false", "", "(that of `agent.memcg`)",
        "As `agent.memcg.swap`, here.";
    "agent.memcg.cgroups[].swappiness_max", Kind::Count(Knob::MemcgSwappinessMax), "0 to 200", "swappiness", "(that of `agent.memcg`)",
        "As `agent.memcg.swappiness_max`, here.";
    "agent.memcg.cgroups[].period_secs", Kind::Count(Knob::MemcgPeriodSecs), "1 to 604800", "seconds", "(that of `agent.memcg`)",
        "As `agent.memcg.period_secs`, here.";
    "agent.memcg.cgroups[].period_psi_percent_limit", Kind::Count(Knob::MemcgPeriodPsiPercentLimit), "0 to 100", "% of the time", "(that of `agent.memcg`)",
        "As `agent.memcg.period_psi_percent_limit`, here.";
    "agent.memcg.cgroups[].eviction_psi_percent_limit", Kind::Count(Knob::MemcgEvictionPsiPercentLimit), "0 to 100", "% of the time", "(that of `agent.memcg`)",
        "As `agent.memcg.eviction_psi_percent_limit`, here.";
    "agent.memcg.cgroups[].eviction_run_aging_count_min", Kind::Count(Knob::MemcgEvictionRunAgingCountMin), "0 to 1000000", "agings", "(that of `agent.memcg`)",
        "As `agent.memcg.eviction_run_aging_count_min`, here.";
    "agent.compact", Kind::Object, "an object", "", "(all defaults)",
        "Compaction: scattered free pages become blocks again.";
    "agent.compact.disable", Kind::Switch(Knob::CompactDisable), "true or false", "", "false",
        "No compaction.";
    "agent.compact.period_secs", Kind::Count(Knob::CompactPeriodSecs), "1 to 604800", "seconds", "600",
        "From one look to the next; at most a week.";
    "agent.compact.period_psi_percent_limit", Kind::Count(Knob::CompactPeriodPsiPercentLimit), "0 to 100", "% of the time", "1",
        "With more pressure on the machine than this since the last look, there is no compaction.";
    "agent.compact.psi_percent_limit", Kind::Count(Knob::CompactPsiPercentLimit), "0 to 100", "% of the time", "5",
        "A compaction is killed when the machine's pressure is above this.";
    "agent.compact.sec_max", Kind::Count(Knob::CompactSecMax), "1 to 3600", "seconds", "180",
        "A compaction is killed after this time.";
    "agent.compact.order", Kind::Count(Knob::CompactOrder), "1 to 15", "power of two", "9",
        "Free blocks of fewer than 2^order pages count as scattered.";
    "agent.compact.threshold", Kind::Count(Knob::CompactThreshold), "0 to 1099511627776", "pages", "1024",
        "Compaction runs when, since the last one, free memory fell or scattered free memory grew by more than this.";
    "agent.compact.force_times", Kind::Count(Knob::CompactForceTimes), "0 to 18446744073709551615", "periods", "18446744073709551615",
        "After so many periods without compaction it runs anyway; the greatest is never.";
    "agent.guest_swap", Kind::Object, "an object", "", "(all defaults)",
        "Swap that plimsoll makes.";
    "agent.guest_swap.enable", Kind::Switch(Knob::GuestSwapEnable), "true or false", "", "false",
        "Whether it makes any. What is in use stays when this is turned off.";
    "agent.guest_swap.path", Kind::Word(Word::SwapPath), "an absolute path of at most 128 bytes", "", "\"/var/qm/swap\"",
        "Directory of swap files, for those made from then on (Kata: `/run/kata-containers/swap`).";
    "agent.guest_swap.size_percent", Kind::Count(Knob::GuestSwapSizePercent), "1 to 400", "% of MemTotal", "100",
        "Size of all swap together. More than 100 is for zram, whose pages are compressed.";
    "agent.guest_swap.create_threshold_secs", Kind::Count(Knob::GuestSwapCreateThresholdSecs), "0 to 86400", "seconds", "60",
        "How long memory must have had its size before swap is made for it; at most a day.";
    "agent.guest_swap.kind", Kind::Word(Word::SwapKind), "`file` or `zram`", "", "\"file\"",
        "Files in `path`, or compressed memory (Kata has files alone).";
    "agent.guest_swap.algorithm", Kind::Word(Word::SwapAlgorithm), "at most 32 of letters, digits and '-'", "", "\"\"",
        "comp_algorithm of zram; empty is the kernel's choice (not Kata's).";
}

#[cfg(test)]
mod tests {
    use super::{KEYS, find};

    #[test]
    fn every_key_is_found_and_nothing_else() {
        for (at, key) in KEYS.iter().enumerate() {
            assert_eq!(find(&key.path.replace("[]", "[7]")), Some(at), "{}", key.path);
        }
        for path in ["", "modules[1][2]", "payloads.name", "qm.max", "qm[0]", "names"] {
            assert_eq!(find(path), None, "{path}");
        }
    }
}
