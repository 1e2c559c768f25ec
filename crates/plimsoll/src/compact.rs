//! One look at fragmentation, in a child of the supervisor, and compaction.

use plimsoll_core::agent::compact::{Conditions, History, Look, Why, all_types, movable};
use plimsoll_core::agent::counters::Counter;
use plimsoll_core::facts::{meminfo_kib, read_text};
use plimsoll_core::kernel::{Errno, Kernel as _, Result};
use rustix::fs::OFlags;

use crate::agent::Report;
use crate::file::File;
use crate::linux::{Linux, open};
use crate::start;

/// Compacts all zones (Documentation/admin-guide/sysctl/vm.rst). The write
/// returns when that is done, or with a signal that ends the process.
const COMPACT: &str = "/proc/sys/vm/compact_memory";

/// Looks, and compacts if that is worth it or wanted.
pub(crate) fn run(conditions: &Conditions, history: &History, forced: bool, report: &mut Report) {
    report.counters.add(Counter::CompactLooks, 1);
    let (mut before, why) = match look(conditions, history, forced) {
        Ok((before, Some(why))) => (before, why),
        Ok((_, None)) => return,
        Err(errno) => return failed(report, "free memory", errno),
    };
    let reason = if why == Why::Forced { Counter::CompactForced } else { Counter::CompactNeeded };
    report.counters.add(reason, 1);
    loop {
        report.send();
        if let Err(errno) = Linux.write(COMPACT, b"1") {
            return failed(report, COMPACT, errno);
        }
        let after = match look(conditions, history, true) {
            Ok((after, _)) => after,
            Err(errno) => return failed(report, "free memory", errno),
        };
        // Not by the large blocks: those being reported to the machine below are
        // missing from them for a while.
        let gained = before.small_pages.saturating_sub(after.small_pages);
        report.counters.add(Counter::CompactGainedPages, gained);
        report.after = Some(after.after(&before));
        // The kernel ends where its two scanners meet, with what it moved in
        // the holes behind: it may find more from the beginning.
        if gained <= conditions.threshold_pages {
            return;
        }
        before = after;
    }
}

fn failed(report: &mut Report, what: &str, errno: Errno) {
    report.counters.add(Counter::ErrorRefused, 1);
    error!("compact: {what}: {errno}");
}

/// A look, as close as needed, and what follows from it.
fn look(conditions: &Conditions, history: &History, forced: bool) -> Result<(Look, Option<Why>)> {
    let stream = |path| open(path, OFlags::RDONLY).map(File);
    let all = all_types(stream(c"/proc/buddyinfo")?).map_err(|_| Errno::IO)?;
    let mut look = Look::cheap(free_pages()?, conditions.order, &all);
    if forced || history.needs_types(conditions, &look) {
        // Root's alone, and not in every kernel.
        if let Ok(Ok(Some(movable))) = stream(c"/proc/pagetypeinfo").map(|file| movable(file, &all))
        {
            look = look.closer(&movable);
        }
    }
    let why = if forced { Some(Why::Forced) } else { history.decide(conditions, &look) };
    Ok((look, why))
}

fn free_pages() -> Result<u64> {
    let mut buf = [0; 512];
    let text = read_text(&mut Linux, "/proc/meminfo", &mut buf);
    let kib = meminfo_kib(text, "MemFree:").ok_or(Errno::INVAL)?;
    Ok(kib.saturating_mul(1024) / start::page_bytes())
}
