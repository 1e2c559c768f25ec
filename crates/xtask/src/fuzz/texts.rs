//! The kernel's shorter texts, and what is kept with a cgroup.

use plimsoll_core::agent::compact::{Blocks, all_types, movable};
use plimsoll_core::agent::memcg::State;
use plimsoll_core::agent::psi::some_total_us;
use plimsoll_core::agent::swap;
use plimsoll_core::agent::virtio_mem::{Meminfo, Size, heard, highest_block};
use plimsoll_core::facts::mem_total_kib;
use plimsoll_core::status::keyed_value;

/// PSI: what is given is in the text.
pub(super) fn psi(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Some(total_us) = some_total_us(&text) {
        assert!(text.contains("some ") && text.contains("total="));
        assert!(text.contains(&total_us.to_string()));
    }
}

/// /proc/buddyinfo, and after a zero byte /proc/pagetypeinfo.
pub(super) fn blocks(data: &[u8]) {
    let at = data.iter().position(|byte| *byte == 0).unwrap_or(data.len());
    let (buddyinfo, pagetypeinfo) = data.split_at(at);
    let Ok(all) = all_types(buddyinfo);
    grows(&all);
    let Ok(movable) = movable(pagetypeinfo, &all);
    movable.iter().for_each(grows);
}

/// With the order, the pages below it grow.
fn grows(blocks: &Blocks) {
    let pages: Vec<_> = (0..=20).map(|order| blocks.pages_below(order)).collect();
    assert!(pages.is_sorted(), "{pages:?}");
}

/// memory.stat, meminfo, /proc/swaps: line by line, whatever stands there.
pub(super) fn lines(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    for key in ["pgsteal", "workingset_refault_file", "oom_kill", ""] {
        if let Some(value) = keyed_value(&text, key) {
            assert!(text.contains(key) && text.contains(&value.to_string()));
        }
    }
    let _ = mem_total_kib(&text);
    let Meminfo { total, free, available } = Meminfo::parse(&text);
    for bytes in [total, free, available] {
        assert!(bytes % 1024 == 0 || bytes == u64::MAX);
    }
    for line in text.lines() {
        if let Some(area) = swap::area(line) {
            assert!(area.bytes % 1024 == 0 || area.bytes == u64::MAX);
        }
    }
}

/// A record of /dev/kmsg: what a device is taken to say is in its first line.
pub(super) fn kmsg(data: &[u8]) {
    if let Some((device, size)) = heard(data) {
        let first = data.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let line = String::from_utf8_lossy(first).to_lowercase();
        let (Size::Plugged(bytes) | Size::Requested(bytes)) = size;
        assert!(line.contains(&device.to_string()) && line.contains(&format!("{bytes:x}")));
    }
}

/// /proc/iomem: whatever it says, a block is one that is online and not above
/// those that are looked at.
pub(super) fn iomem(data: &[u8]) {
    let is_online = |block| block % 2 == 1;
    for (block_bytes, below) in [(0, u64::MAX), (1, u64::MAX), (128 << 20, 40)] {
        let Ok(highest) = highest_block(data, 3, block_bytes, below, is_online);
        assert!(highest.is_none_or(|block| is_online(block) && block < below));
    }
}

/// An extended attribute of a cgroup: what is read is written back the same.
pub(super) fn state(data: &[u8]) {
    if let Some(state) = State::from_bytes(data) {
        assert_eq!(state.to_bytes(), data);
    }
}
