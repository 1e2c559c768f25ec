//! The table of keys: what a board file may hold, and what boards/README.md
//! says of it.

pub use super::kind::Kind;
pub(crate) use super::kind::unquoted;
use super::kind::{Array, Integer, Text};
use crate::agent::settings::{Knob, Word};
use crate::guests::Field;

/// A key of the board file.
#[derive(Clone, Copy)]
pub struct Key {
    /// Names from the top, joined by dots; `[]` stands for any element.
    pub path: &'static str,
    /// What its value must be.
    pub kind: Kind,
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

/// A path without its last name, and that name.
pub(crate) fn split_last(path: &str) -> (&str, &str) {
    let dot = path.bytes().rposition(|byte| byte == b'.');
    match dot.and_then(|dot| Some((path.get(..dot)?, path.get(dot + 1..)?))) {
        Some(split) => split,
        None => ("", path),
    }
}

/// The keys that are known, in order.
#[must_use]
pub fn all() -> All {
    All { at: 0, rest: PATHS }
}

/// See [`all`].
pub struct All {
    at: usize,
    /// The paths from there on.
    rest: &'static str,
}

impl Iterator for All {
    type Item = Key;

    fn next(&mut self) -> Option<Key> {
        let (len, kind) = *KINDS.get(self.at)?;
        let (path, rest) = self.rest.split_at_checked(usize::from(len))?;
        (self.at, self.rest) = (self.at + 1, rest);
        Some(Key { path, kind })
    }
}

/// The key at a place in [`all`].
pub(crate) fn key(at: usize) -> Option<Key> {
    all().nth(at)
}

/// Place in [`all`] of the key at a path whose elements are numbered.
pub(super) fn find(path: &str) -> Option<usize> {
    lookup(path).map(|(at, _)| at)
}

/// The same, and the key. Most are told apart by their length: the table is gone
/// through for each member of a file, several times.
pub(crate) fn lookup(path: &str) -> Option<(usize, Key)> {
    let path = path.as_bytes();
    let (mut len, mut in_number) = (0, false);
    for byte in path {
        in_number = *byte == b'[' || (in_number && byte.is_ascii_digit());
        len += usize::from(!in_number || *byte == b'[');
    }
    let mut begin = 0;
    for (at, (of, kind)) in KINDS.iter().enumerate() {
        let end = begin + usize::from(*of);
        if usize::from(*of) == len {
            let key = PATHS.get(begin..end)?;
            if matches(key, path) {
                return Some((at, Key { path: key, kind: *kind }));
            }
        }
        begin = end;
    }
    None
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

/// How many keys there are.
pub const COUNT: usize = EACH.len();
/// Place in [`all`] of the agent's section, after which its own keys come.
pub(crate) const AGENT: usize = {
    let mut at = 0;
    while !matches!(EACH[at].as_bytes(), b"agent") {
        at += 1;
    }
    at
};
/// Place in [`all`] of the first section that is read from the text alone: the
/// guests', and after it the agent's.
pub(crate) const GUESTS: usize = {
    let mut at = 0;
    while !matches!(EACH[at].as_bytes(), b"guests") {
        at += 1;
    }
    at
};

/// Length of a path in [`PATHS`], in bytes.
#[expect(clippy::cast_possible_truncation, reason = "it is looked at before")]
const fn short(path: &str) -> u8 {
    assert!(path.len() <= u8::MAX as usize);
    path.len() as u8
}

/// Tables from one list, so that they can't differ in length.
macro_rules! keys {
    ($($path:literal, $kind:expr, $unit:literal, $default:literal, $meaning:literal;)*) => {
        /// The path of each key, for what is worked out at compile time.
        const EACH: &[&str] = &[$($path),*];
        /// The paths of all keys, one behind the other.
        static PATHS: &str = concat!($($path),*);
        /// Of each the length of its path, and what its value must be. With an
        /// address and a length in eight bytes each, it would be six times as large.
        static KINDS: [(u8, Kind); COUNT] = [$((const { short($path) }, $kind)),*];
        /// What is to be said of each, in the same order.
        pub static DOCS: &[Doc] = &[$(Doc { unit: $unit, default: $default, meaning: $meaning }),*];
    };
}

keys! {
    "name", Kind::Text(Text::Name), "", "(none)",
        "Name of the board.";
    "qm", Kind::Object, "", "(all defaults)",
        "The QM partition.";
    "qm.memory_limit", Kind::Object, "", "(all defaults)",
        "Limits on QM's memory, in the syntax of systemd's MemoryMax=.";
    "qm.memory_limit.max", Kind::Text(Text::Ceiling), "% of MemTotal, or bytes", "(qm.fallback_max)",
        "memory.max: QM is OOM-killed at it. No limit only where `infinity` is written; automotive-image-builder's default is `infinity`.";
    "qm.memory_limit.high", Kind::Text(Text::Ceiling), "% of MemTotal, or bytes", "\"infinity\"",
        "memory.high: above it QM is throttled and reclaimed. Not above `max`.";
    "qm.memory_limit.min", Kind::Text(Text::Limit), "% of MemTotal, or bytes", "\"0\"",
        "memory.min of QM.";
    "qm.memory_limit.low", Kind::Text(Text::Limit), "% of MemTotal, or bytes", "\"0\"",
        "memory.low of QM.";
    "qm.memory_limit.swap_max", Kind::Text(Text::Limit), "% of MemTotal, or bytes", "\"0\"",
        "memory.swap.max. The default is qm.container's MemorySwapMax=0; where the key is left out, swap that `agent.guest_swap` makes is QM's too.";
    "qm.cpu_weight", Kind::WordOrInteger(Integer::CpuWeight), "share among siblings", "\"idle\"",
        "cpu.idle or cpu.weight.";
    "qm.cgroup", Kind::Text(Text::Cgroup), "", "\"/qm.service\"",
        "QM's cgroup, below the cgroup2 mount. Neither in nor above a host cgroup.";
    "qm.unit", Kind::Text(Text::Unit), "", "(none)",
        "systemd's unit whose cgroup `qm.cgroup` is. Where it is named, QM's limits are systemd's to write: it gets them as drop-ins under /run before it starts, and is asked to mend what drifts.";
    "qm.oom_group", Kind::Boolean, "", "true",
        "memory.oom.group: an OOM kill ends all of QM, not a part of it.";
    "qm.pids_max", Kind::WordOrInteger(Integer::PidsMax), "tasks", "4096",
        "pids.max. The default stops a fork bomb long before the kernel's 32768 PIDs are gone, and is many times what a container of services needs.";
    "qm.oom_score_adj", Kind::Integer(Integer::QmScore), "OOM score", "500",
        "oom_score_adj of QM's processes. Below 0 the OOM killer would spare QM before others; at -1000 not even QM's own limit could end it.";
    "qm.fallback_max", Kind::Text(Text::Fallback), "% of MemTotal, or bytes", "\"25%\"",
        "memory.max of QM where the wanted limits can't be had or the board file is refused.";
    "qm.on_limit_failure", Kind::Text(Text::OnLimitFailure), "", "\"fallback\"",
        "Where the kernel refuses one of QM's limits: start QM under `fallback_max`, or not at all.";
    "image", Kind::Object, "", "(all defaults)",
        "What concerns the whole image.";
    "image.enable_oom_protection", Kind::Boolean, "", "true",
        "Whether host processes get `host.oom_score_adj`.";
    "image.enable_reclaim_protection", Kind::Boolean, "", "true",
        "Whether the host's cgroups get `cg_memory_min`.";
    "image.cg_memory_min", Kind::Text(Text::SomeSize), "bytes", "\"64 MiB\"",
        "memory.min of each of the host's cgroups.";
    "image.image_size", Kind::Text(Text::SomeSize), "bytes", "\"8 GiB\"",
        "Size of the disk image.";
    "image.partitions", Kind::Object, "", "(none)",
        "Partitions besides the root's.";
    "image.partitions.var", Kind::Object, "", "(none)",
        "The partition for /var. Only its size counts here: with that of `var_qm` it must leave room for the root.";
    "image.partitions.var.relative_size", Kind::Fraction, "fraction of image_size", "0",
        "Its size; 0 is no partition. Not together with `size`.";
    "image.partitions.var.size", Kind::Text(Text::Size), "bytes", "(none)",
        "Its size; 0 is no partition.";
    "image.partitions.var_qm", Kind::Object, "", "(none)",
        "The partition for /var/qm. Left out, QM has none; given, it needs one of `relative_size`, `size` and `external`. What is given of `uuid`, `fs_uuid` and `label` must match all together; without any it is found by the GPT type qm_var.";
    "image.partitions.var_qm.relative_size", Kind::Fraction, "fraction of image_size", "(none)",
        "Its size; 0 is no partition. Not together with `size` or `external`.";
    "image.partitions.var_qm.size", Kind::Text(Text::Size), "bytes", "(none)",
        "Its size; 0 is no partition. Not together with `external`.";
    "image.partitions.var_qm.external", Kind::Boolean, "", "false",
        "It is on a device of its own: found and mounted, but not made in the image.";
    "image.partitions.var_qm.uuid", Kind::Text(Text::Uuid), "", "(any)",
        "UUID of the GPT entry.";
    "image.partitions.var_qm.fs_uuid", Kind::Text(Text::Uuid), "", "(any)",
        "UUID in the file system's superblock.";
    "image.partitions.var_qm.label", Kind::Text(Text::Label), "", "(any)",
        "Label of the file system or name of the GPT entry.";
    "image.partitions.var_qm.fstype", Kind::Text(Text::Fstype), "", "\"ext4\"",
        "File system.";
    "image.partitions.var_qm.options", Kind::Text(Text::Options), "", "\"\"",
        "Mount options besides nodev and nosuid, which are always set.";
    "image.partitions.var_qm.wait_secs", Kind::Integer(Integer::WaitSecs), "seconds", "5",
        "How long to wait for the device.";
    "image.partitions.var_qm.on_failure", Kind::Text(Text::OnFailure), "", "\"hold\"",
        "Where the partition can't be mounted: don't start QM, or start it on the root file system.";
    "host", Kind::Object, "", "(all defaults)",
        "The host side.";
    "host.cgroups", Kind::Array(Array::HostCgroups), "", "[\"/system.slice\", \"/user.slice\"]",
        "The host's cgroups.";
    "host.cgroups[]", Kind::Text(Text::Cgroup), "", "(an element)",
        "A cgroup, below the cgroup2 mount.";
    "host.oom_score_adj", Kind::Integer(Integer::Score), "OOM score", "-1000",
        "oom_score_adj of host processes.";
    "mend_drift", Kind::Boolean, "", "true",
        "Whether a limit that was changed by others is written again, or only reported.";
    "modules", Kind::Array(Array::Modules), "", "[]",
        "Kernel modules in the order to load, dependencies first.";
    "modules[]", Kind::Text(Text::Module), "", "(an element)",
        "A module, looked for under /lib/modules. Only one that modules.builtin names may be missing in the image.";
    "handoff", Kind::Object, "", "(all defaults)",
        "What PID 1 becomes.";
    "handoff.init", Kind::Text(Text::Init), "", "\"/sbin/init\"",
        "The next init. With `none`, or where it can't be run, plimsoll stays PID 1.";
    "handoff.oom_score_adj", Kind::Integer(Integer::Score), "OOM score", "0",
        "oom_score_adj of PID 1 after the handoff.";
    "payloads", Kind::Array(Array::Payloads), "", "[]",
        "What plimsoll runs itself where it stays PID 1.";
    "payloads[]", Kind::Object, "", "(an element)",
        "One program.";
    "payloads[].name", Kind::Text(Text::Payload), "", "(required)",
        "Name of its cgroup, below its side's.";
    "payloads[].side", Kind::Text(Text::Side), "", "(required)",
        "Whose it is.";
    "payloads[].command", Kind::Array(Array::Command), "", "(required)",
        "Program and arguments.";
    "payloads[].command[]", Kind::Text(Text::CommandWord), "", "(an element)",
        "A word of it.";
    "payloads[].oom_score_adj", Kind::Integer(Integer::PayloadScore), "OOM score", "(the side's)",
        "oom_score_adj of its processes.";
    "payloads[].restart", Kind::Text(Text::Restart), "", "\"no\"",
        "When it is started again: never, after a status other than 0 or a signal, whatever its end was.";
    "payloads[].restart_max", Kind::Integer(Integer::RestartMax), "restarts in any 60 seconds", "10",
        "Restarts allowed.";
    "guests", Kind::Object, "", "(all defaults)",
        "Virtual machines that the board hosts, and what their VMMs may use. docs/guests.md says what the models are; sizes are written as in `qm.memory_limit`.";
    "guests.model", Kind::Text(Text::Model), "", "\"eve\"",
        "How a guest's overhead is worked out: memory.max of its VMM is its memory and that.";
    "guests.overhead", Kind::Guest(Field::Overhead), "bytes", "\"600M\"",
        "Overhead of model `fixed`.";
    "guests.percent", Kind::Guest(Field::Percent), "% of the guest's memory", "\"30%\"",
        "Overhead of model `proportional`.";
    "guests.margin", Kind::Guest(Field::Margin), "bytes", "\"32M\"",
        "What models `measured` and `pool` leave free above the use that was seen.";
    "guests.reserve", Kind::Guest(Field::Reserve), "% of MemTotal", "\"25%\"",
        "What all guests of model `pool` share as their overhead.";
    "guests.peaks", Kind::Text(Text::Path), "", "(none)",
        "Directory in which the peaks of guests of model `measured` are kept, a file each. Without it the model stays with its first guess.";
    "guests.list", Kind::Array(Array::Guests), "", "[]",
        "The guests.";
    "guests.list[]", Kind::Object, "", "(an element)",
        "One guest.";
    "guests.list[].name", Kind::Text(Text::Payload), "", "(required)",
        "Its name.";
    "guests.list[].cgroup", Kind::Text(Text::Cgroup), "", "(required)",
        "Cgroup of its VMM, below the cgroup2 mount. Neither in nor above another guest's or QM's, nor a host cgroup or above one.";
    "guests.list[].memory", Kind::Guest(Field::Memory), "bytes", "(required)",
        "Its memory.";
    "guests.list[].memory_max", Kind::Text(Text::MemoryMax), "bytes", "(its memory)",
        "What its memory may grow to with virtio-mem; not below `memory`. Its limit follows no further.";
    "guests.list[].qmp", Kind::Text(Text::Socket), "", "(none)",
        "Unix socket on which its VMM speaks QMP with plimsoll alone. Its limit then follows what the VMM has, and `plimsoll guest resize` works.";
    "guests.list[].vcpus", Kind::Guest(Field::Vcpus), "vCPUs", "1",
        "Its virtual CPUs.";
    "guests.list[].video", Kind::Guest(Field::Video), "bytes", "\"0\"",
        "Memory of its video devices, all together.";
    "guests.list[].disks", Kind::Guest(Field::Disks), "disks", "0",
        "Its disks.";
    "guests.list[].mmio", Kind::Guest(Field::Mmio), "bytes", "\"0\"",
        "Memory BARs of the devices that are passed through to it, all together.";
    "guests.list[].model", Kind::Text(Text::Model), "", "(that of `guests`)",
        "As `guests.model`, for this guest.";
    "guests.list[].overhead", Kind::Guest(Field::Overhead), "bytes", "(that of `guests`)",
        "As `guests.overhead`, for this guest.";
    "guests.list[].percent", Kind::Guest(Field::Percent), "% of its memory", "(that of `guests`)",
        "As `guests.percent`, for this guest.";
    "guests.list[].margin", Kind::Guest(Field::Margin), "bytes", "(that of `guests`)",
        "As `guests.margin`, for this guest with model `measured`; `pool` has one for all.";
    "virtio_mem", Kind::Object, "", "(all defaults)",
        "Memory of a virtual machine that its host adds and takes back (virtio-mem).";
    "virtio_mem.enable", Kind::Boolean, "", "false",
        "Whether plimsoll minds it: what is added is online at once and movable, and what is taken back goes block by block, as far as the processes leave room. Else the kernel's defaults hold.";
    "virtio_mem.min_available", Kind::Text(Text::Fallback), "% of the MemTotal that stays, or bytes", "\"10%\"",
        "A block is given back only where so much stays available (MemAvailable) without it.";
    "virtio_mem.block_timeout_secs", Kind::Integer(Integer::BlockTimeoutSecs), "seconds", "30",
        "A block that is not offline after this time stays; the next one is tried.";
    "agent", Kind::Object, "", "(all defaults)",
        "The memory agent, with the names, units and defaults that Kata documents for its mem-agent. Every value can be changed on the running board (`plimsoll set`) and then counts at once.";
    "agent.memcg", Kind::Object, "", "(all defaults)",
        "Aging and eviction: pages that no one touched for three periods are taken from their cgroup.";
    "agent.memcg.disable", Kind::Switch(Knob::MemcgDisable), "", "false",
        "Neither of the two.";
    "agent.memcg.swap", Kind::Switch(Knob::MemcgSwap), "", "false",
        "Whether anonymous pages are aged and evicted too, not file pages alone.";
    "agent.memcg.swappiness_max", Kind::Count(Knob::MemcgSwappinessMax), "swappiness", "50",
        "Cap of an eviction's swappiness, which is the share of anonymous pages in the coldest ones.";
    "agent.memcg.period_secs", Kind::Count(Knob::MemcgPeriodSecs), "seconds", "600",
        "From one pass to the next; at most a week.";
    "agent.memcg.period_psi_percent_limit", Kind::Count(Knob::MemcgPeriodPsiPercentLimit), "% of the time", "1",
        "A cgroup under more pressure than this since its last pass is left out of the next.";
    "agent.memcg.eviction_psi_percent_limit", Kind::Count(Knob::MemcgEvictionPsiPercentLimit), "% of the time", "1",
        "The eviction of a cgroup under more pressure than this ends.";
    "agent.memcg.eviction_run_aging_count_min", Kind::Count(Knob::MemcgEvictionRunAgingCountMin), "agings", "3",
        "Agings of a cgroup before it is evicted.";
    "agent.memcg.cgroups", Kind::Array(Array::MemcgCgroups), "", "[]",
        "Cgroups to manage besides QM's and all below it, or with values of their own (mem-agent's `memcg-cgroups`). Changed as a whole.";
    "agent.memcg.cgroups[]", Kind::Object, "", "(an element)",
        "One such cgroup and all below it. Where several cover a cgroup, the nearest counts alone; at one path an exact one before another.";
    "agent.memcg.cgroups[].path", Kind::Text(Text::Scope), "", "(required)",
        "Its path below the cgroup2 mount. `/` is every cgroup but the root's own.";
    "agent.memcg.cgroups[].exact", Kind::Boolean, "", "false",
        "This cgroup alone, nothing below it; `/` is then the root's own.";
    "agent.memcg.cgroups[].disable", Kind::Switch(Knob::MemcgDisable), "", "(that of `agent.memcg`)",
        "As `agent.memcg.disable`, here.";
    "agent.memcg.cgroups[].swap", Kind::Switch(Knob::MemcgSwap), "", "(that of `agent.memcg`)",
        "As `agent.memcg.swap`, here.";
    "agent.memcg.cgroups[].swappiness_max", Kind::Count(Knob::MemcgSwappinessMax), "swappiness", "(that of `agent.memcg`)",
        "As `agent.memcg.swappiness_max`, here.";
    "agent.memcg.cgroups[].period_secs", Kind::Count(Knob::MemcgPeriodSecs), "seconds", "(that of `agent.memcg`)",
        "As `agent.memcg.period_secs`, here.";
    "agent.memcg.cgroups[].period_psi_percent_limit", Kind::Count(Knob::MemcgPeriodPsiPercentLimit), "% of the time", "(that of `agent.memcg`)",
        "As `agent.memcg.period_psi_percent_limit`, here.";
    "agent.memcg.cgroups[].eviction_psi_percent_limit", Kind::Count(Knob::MemcgEvictionPsiPercentLimit), "% of the time", "(that of `agent.memcg`)",
        "As `agent.memcg.eviction_psi_percent_limit`, here.";
    "agent.memcg.cgroups[].eviction_run_aging_count_min", Kind::Count(Knob::MemcgEvictionRunAgingCountMin), "agings", "(that of `agent.memcg`)",
        "As `agent.memcg.eviction_run_aging_count_min`, here.";
    "agent.compact", Kind::Object, "", "(all defaults)",
        "Compaction: scattered free pages become blocks again.";
    "agent.compact.disable", Kind::Switch(Knob::CompactDisable), "", "false",
        "No compaction.";
    "agent.compact.period_secs", Kind::Count(Knob::CompactPeriodSecs), "seconds", "600",
        "From one look to the next; at most a week.";
    "agent.compact.period_psi_percent_limit", Kind::Count(Knob::CompactPeriodPsiPercentLimit), "% of the time", "1",
        "With more pressure on the machine than this since the last look, there is no compaction.";
    "agent.compact.psi_percent_limit", Kind::Count(Knob::CompactPsiPercentLimit), "% of the time", "5",
        "A compaction is killed when the machine's pressure is above this.";
    "agent.compact.sec_max", Kind::Count(Knob::CompactSecMax), "seconds", "180",
        "A compaction is killed after this time.";
    "agent.compact.order", Kind::Count(Knob::CompactOrder), "power of two", "9",
        "Free blocks of fewer than 2^order pages count as scattered.";
    "agent.compact.threshold", Kind::Count(Knob::CompactThreshold), "pages", "1024",
        "Compaction runs when, since the last one, free memory fell or scattered free memory grew by more than this.";
    "agent.compact.force_times", Kind::Count(Knob::CompactForceTimes), "periods", "18446744073709551615",
        "After so many periods without compaction it runs anyway; the greatest is never.";
    "agent.guest_swap", Kind::Object, "", "(all defaults)",
        "Swap that plimsoll makes.";
    "agent.guest_swap.enable", Kind::Switch(Knob::GuestSwapEnable), "", "false",
        "Whether it makes any. What is in use stays when this is turned off.";
    "agent.guest_swap.path", Kind::Word(Word::SwapPath), "", "\"/var/qm/swap\"",
        "Directory of swap files, for those made from then on (Kata: `/run/kata-containers/swap`).";
    "agent.guest_swap.size_percent", Kind::Count(Knob::GuestSwapSizePercent), "% of MemTotal", "100",
        "Size of all swap together. More than 100 is for zram, whose pages are compressed.";
    "agent.guest_swap.create_threshold_secs", Kind::Count(Knob::GuestSwapCreateThresholdSecs), "seconds", "60",
        "How long memory must have had its size before swap is made for it; at most a day.";
    "agent.guest_swap.kind", Kind::Word(Word::SwapKind), "", "\"file\"",
        "Files in `path`, or compressed memory (Kata has files alone).";
    "agent.guest_swap.algorithm", Kind::Word(Word::SwapAlgorithm), "", "\"\"",
        "comp_algorithm of zram; empty is the kernel's choice (not Kata's).";
}

#[cfg(test)]
mod tests {
    use super::{all, find};

    #[test]
    fn every_key_is_found_and_nothing_else() {
        for (at, key) in all().enumerate() {
            assert_eq!(find(&key.path.replace("[]", "[7]")), Some(at), "{}", key.path);
        }
        for path in ["", "modules[1][2]", "payloads.name", "qm.max", "qm[0]", "names"] {
            assert_eq!(find(path), None, "{path}");
        }
    }
}
