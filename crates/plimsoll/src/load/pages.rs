//! Anonymous memory: taken, kept hot in part, fragmented.

use core::hint::black_box;

use crate::memory::{anonymous, give_back, mib, page, without_huge_pages};
use crate::{Done, Failed, Random, each_second, failed, say, sys};

fn take(amount_mib: u64) -> Result<&'static mut [u8], Failed> {
    mib(amount_mib).and_then(anonymous).map_err(failed("no such amount of memory"))
}

/// Writes to each page. Another process looks at the effect, so it is not to be
/// optimised away.
fn touch(memory: &mut [u8]) {
    for byte in memory.iter_mut().step_by(page()) {
        *byte = black_box(byte.wrapping_add(1));
    }
}

pub(crate) fn eat(amount_mib: u64, secs: Option<u64>) -> Done {
    let memory = take(amount_mib)?;
    touch(memory);
    say(format_args!("resident"));
    each_second(secs.unwrap_or(u64::MAX), || {
        touch(memory);
        Ok(())
    })
    .map(|_| ())
}

pub(crate) fn anon(amount_mib: u64, hot_mib: u64, secs: u64, random: bool) -> Done {
    let memory = take(amount_mib)?;
    let hot = mib(hot_mib).map_err(failed("no such amount of memory"))?.min(memory.len());
    let mut numbers = Random(1);
    // A number makes a page unlike the others, so that the kernel stores each.
    let stride = if random { size_of::<u64>() } else { page() };
    for word in memory.chunks_mut(stride).filter_map(|chunk| chunk.first_chunk_mut()) {
        *word = numbers.next().to_ne_bytes();
    }
    say(format_args!("resident"));
    let rounds = each_second(secs, || {
        if let Some(hot) = memory.get_mut(..hot) {
            touch(hot);
        }
        Ok(())
    })?;
    say(format_args!("rounds {rounds}"));
    Ok(())
}

/// Two halves are touched in turn, so that their pages lie side by side; then
/// one half is given back. What is free is single pages, and what is taken can
/// be moved.
///
/// Which of two comes first is random: the kernel's search for free pages looks
/// at each second, fourth or so where it has found none, and in a regular
/// pattern it would miss all.
pub(crate) fn fragment(amount_mib: u64, secs: u64) -> Done {
    let memory = take(amount_mib)?;
    without_huge_pages(memory).map_err(failed("madvise"))?;
    let mut numbers = Random(1);
    let (kept, freed) = memory.split_at_mut(memory.len() / 2);
    for (kept, freed) in kept.chunks_exact_mut(page()).zip(freed.chunks_exact_mut(page())) {
        let (first, second) =
            if numbers.next().is_multiple_of(2) { (kept, freed) } else { (freed, kept) };
        touch(first);
        touch(second);
    }
    give_back(freed).map_err(failed("madvise"))?;
    say(format_args!("fragmented"));
    sys::sleep_us(secs.saturating_mul(1_000_000));
    Ok(())
}
