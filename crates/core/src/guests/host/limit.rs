//! A guest's memory.max.

use super::Hosted;
use crate::apply::{knob_path, shows};
use crate::board::Guest;
use crate::guests::pool::Refusal;
use crate::kernel::{Kernel, Level};
use crate::number::decimal;
use crate::record::cut;

/// The kernel rounds down to a page, in bytes: 64 KiB at most.
const PAGE_BYTES_MAX: u64 = 64 << 10;

/// Whether the limit is there; one that could not be lowered stays what it was.
pub(super) fn grant<K: Kernel>(kernel: &mut K, hosted: &mut Hosted<'_>, bytes: u64) -> bool {
    let had = core::mem::replace(&mut hosted.limit_bytes, bytes);
    hosted.refusal = None;
    let done = !hosted.runs || write_limit(kernel, hosted, true);
    if !done && bytes < had {
        hosted.limit_bytes = had;
    }
    if hosted.limit_bytes != had {
        let (name, limit) = (hosted.guest.name, hosted.limit_bytes);
        kernel.log(Level::Info, format_args!("guest {name}: limit {limit}"));
    }
    done
}

pub(super) fn refuse<K: Kernel>(kernel: &mut K, hosted: &mut Hosted<'_>, why: &Refusal) -> bool {
    kernel.log(Level::Warning, format_args!("guest {}: refused, {why}", hosted.guest.name));
    hosted.refusal = Some(why.clone());
    true
}

/// Writes memory.max, unless it is there or would kill; whether it is there.
pub(super) fn write_limit<K: Kernel>(kernel: &mut K, hosted: &mut Hosted<'_>, says: bool) -> bool {
    let Hosted { guest: Guest { name, cgroup, .. }, limit_bytes, .. } = *hosted;
    let Ok(file) = knob_path(cgroup, "memory.max") else { return false };
    let shown = decimal(&shows(kernel, &file));
    if shown.is_some_and(|it| it <= limit_bytes && limit_bytes - it < PAGE_BYTES_MAX) {
        hosted.shown_bytes = limit_bytes;
        return true;
    }
    let kills = current(kernel, cgroup).is_none_or(|used| used > limit_bytes);
    let text = cut::<32>(format_args!("{limit_bytes}"));
    if !kills && kernel.write(&file, text.as_bytes()).is_ok() {
        hosted.shown_bytes = limit_bytes;
        return true;
    }
    hosted.shown_bytes = 0;
    if says {
        let why = if kills { "is used above it" } else { "refused" };
        kernel.log(Level::Error, format_args!("guest {name}: {file}: wanted {text}, {why}"));
    }
    false
}

pub(super) fn current<K: Kernel>(kernel: &mut K, cgroup: &str) -> Option<u64> {
    decimal(&shows(kernel, &knob_path(cgroup, "memory.current").ok()?))
}
