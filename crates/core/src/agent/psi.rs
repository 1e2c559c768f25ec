//! Pressure stall information: exact shares of time.
//!
//! The kernel counts microseconds in which some task stood still for want of
//! memory or io (Documentation/accounting/psi.rst). Two readings and the time
//! between them give a share; the kernel's own averages react too late.

use crate::number::decimal;
use crate::split::lines;

/// Shortest time that a share is of, in microseconds: at a limit of 1 % it
/// takes 10 ms of stall to exceed it, while one disk access, 100 us in 2 ms,
/// would be 5 % of the time that really passed.
pub const WINDOW_MIN_US: u64 = 1_000_000;

/// The stall time, in microseconds, that a pressure file counts as `some`.
#[must_use]
pub fn some_total_us(text: &str) -> Option<u64> {
    let some = lines(text).find_map(|line| line.strip_prefix("some "))?;
    some.split_ascii_whitespace().find_map(|field| decimal(field.strip_prefix("total=")?))
}

/// A reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stall {
    /// When, on a clock that nobody sets, in microseconds.
    pub at_us: u64,
    /// Stall time until then, of memory and io added, in microseconds.
    pub total_us: u64,
}

impl Stall {
    /// Whether more than `percent` of the time since an earlier reading was
    /// stall time. The time counts as [`WINDOW_MIN_US`] at least. A total that
    /// shrank is that of a cgroup made anew, and all of it is new.
    ///
    /// Memory and io may both stand still for the whole time: the share is cut
    /// at 100 %, so a limit of 100 is never exceeded.
    #[must_use]
    pub fn exceeds(self, since: Self, percent: u64) -> bool {
        let elapsed_us = self.at_us.saturating_sub(since.at_us).max(WINDOW_MIN_US);
        let stall_us = self.total_us.checked_sub(since.total_us).unwrap_or(self.total_us);
        u128::from(stall_us.min(elapsed_us)) * 100 > u128::from(percent) * u128::from(elapsed_us)
    }
}

/// A judge of something under way: the limit holds over the last one or two
/// seconds, however long it was calm before.
#[derive(Debug)]
pub struct Gate {
    percent: u64,
    /// Read at least [`WINDOW_MIN_US`] before `newer`, except at the start.
    older: Stall,
    newer: Stall,
}

impl Gate {
    /// A judge with its limit and the first reading.
    #[must_use]
    pub fn new(percent: u64, first: Stall) -> Self {
        Self { percent, older: first, newer: first }
    }

    /// Whether the limit is exceeded. Judged since both baselines: the older
    /// one knows the stall of more than a second, and the newer one does not
    /// thin out what began after it, should the older one be very old because
    /// nobody asked in between.
    pub fn trips(&mut self, now: Stall) -> bool {
        if now.at_us.saturating_sub(self.newer.at_us) >= WINDOW_MIN_US {
            self.older = core::mem::replace(&mut self.newer, now);
        }
        now.exceeds(self.older, self.percent) || now.exceeds(self.newer, self.percent)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BOOKWORM: &str = include_str!("../../../../tests/recorded/psi-x86_64-6.1.txt");

    #[test]
    fn the_kernels_text() {
        assert_eq!(some_total_us(BOOKWORM), Some(391));
    }

    #[test]
    fn any_order_and_hostile_texts() {
        assert_eq!(some_total_us("full avg10=0.00 total=5\nsome total=7 avg10=1.00\n"), Some(7));
        assert_eq!(some_total_us("some x=1 total=18446744073709551615"), Some(u64::MAX));
        for text in [
            "",
            "some",
            "some \n",
            "full avg10=0.00 total=5\n",
            "some avg10=0.00 total=\n",
            "some avg10=0.00\ntotal=3\n",
            "some total=18446744073709551616\n",
            "some total=-1\n",
            "something total=1\n",
        ] {
            assert_eq!(some_total_us(text), None, "{text:?}");
        }
    }

    fn stall(at_us: u64, total_us: u64) -> Stall {
        Stall { at_us, total_us }
    }

    const START: Stall = Stall { at_us: 5_000_000, total_us: 700 };

    /// Whether `stall_us` in `elapsed_us` after a start exceeds.
    fn exceeds(stall_us: u64, elapsed_us: u64, percent: u64) -> bool {
        stall(START.at_us + elapsed_us, START.total_us + stall_us).exceeds(START, percent)
    }

    #[test]
    fn exactly_the_limit_is_not_more_than_the_limit() {
        for (percent, elapsed_us, most_us) in [
            (0, 1_000_000, 0),
            (1, 1_000_000, 10_000),
            (1, 1_000_050, 10_000),
            (1, 1_000_100, 10_001),
            (5, 2_500_000, 125_000),
            (1, 600_000_000, 6_000_000),
            (99, 1_000_000, 990_000),
        ] {
            assert!(!exceeds(most_us, elapsed_us, percent), "{percent} {elapsed_us}");
            assert!(exceeds(most_us + 1, elapsed_us, percent), "{percent} {elapsed_us}");
        }
    }

    #[test]
    fn short_times_are_neither_blind_nor_hair_triggers() {
        assert!(!exceeds(100, 2_000, 1));
        assert!(!exceeds(10_000, 0, 1));
        assert!(exceeds(10_001, 0, 1));
        assert!(exceeds(90_000, 0, 1));
        assert!(!exceeds(10_000, 999_999, 1));
        assert!(exceeds(10_001, 999_999, 1));
    }

    #[test]
    fn no_more_than_all_of_the_time() {
        assert!(!exceeds(2_000_000, 1_000_000, 100));
        assert!(!exceeds(u64::MAX - START.total_us, 1_000_000, u64::MAX));
        assert!(exceeds(2_000_000, 1_000_000, 99));
    }

    #[test]
    fn a_total_or_a_clock_that_went_back() {
        // A cgroup made anew: its own 11 ms count, the old one's 700 us don't.
        assert!(stall(6_000_000, 11_000).exceeds(stall(5_000_000, 50_000), 1));
        assert!(!stall(6_000_000, 10_000).exceeds(stall(5_000_000, 50_000), 1));
        assert!(stall(0, 60_001).exceeds(stall(5_000_000, 50_000), 1));
        assert!(!stall(0, 60_000).exceeds(stall(5_000_000, 50_000), 1));
    }

    #[test]
    fn old_calm_hides_no_new_storm() {
        let hour = 3_600_000_000;
        let mut gate = Gate::new(5, stall(0, 0));
        // Nobody asked for an hour.
        assert!(!gate.trips(stall(hour, 0)));
        assert!(!gate.trips(stall(hour + 100_000, 50_000)));
        assert!(gate.trips(stall(hour + 100_000, 50_001)));
        // Asked every 100 ms, calm for an hour, then all of the time is stall.
        let mut gate = Gate::new(5, stall(0, 0));
        let mut at = 0;
        while at < hour {
            at += 100_000;
            assert!(!gate.trips(stall(at, 0)));
        }
        assert!(gate.trips(stall(at + 100_000, 100_000)));
    }

    #[test]
    fn an_old_storm_is_over_after_two_seconds() {
        let mut gate = Gate::new(5, stall(0, 0));
        assert!(gate.trips(stall(500_000, 400_000)));
        let trips = |at| gate.trips(stall(at, 400_000));
        let trips: Vec<bool> = [1_000_000, 2_000_000, 2_500_000].into_iter().map(trips).collect();
        assert_eq!(trips, [true, false, false]);
    }

    proptest! {
        #[test]
        fn any_text_is_read(text in ".{0,80}", total in any::<u64>()) {
            let _ = some_total_us(&text);
            let lines = format!("full {text}\nsome avg10=0.00 total={total}\n");
            prop_assume!(!text.contains(['\n', '\r']));
            prop_assert_eq!(some_total_us(&lines), Some(total));
        }

        #[test]
        fn any_readings_are_judged(
            now in any::<(u64, u64)>(),
            since in any::<(u64, u64)>(),
            percent in any::<u64>(),
        ) {
            let (now, since) = (stall(now.0, now.1), stall(since.0, since.1));
            let exceeds = now.exceeds(since, percent);
            prop_assert!(!(exceeds && percent >= 100));
            prop_assert!(!exceeds || now.exceeds(since, percent / 2), "a lower limit trips too");
        }

        /// A gate trips only where some stretch that ends now is over the
        /// limit, and always where the last second was at twice the limit.
        #[test]
        fn a_gate_is_neither_wrong_nor_blind(
            percent in 0_u64..100,
            steps in proptest::collection::vec((0_u64..50_000, 0_u64..=100), 1..120),
        ) {
            let mut readings = vec![stall(0, 0)];
            let mut gate = Gate::new(percent, readings[0]);
            for (us, share) in steps {
                let last = readings[readings.len() - 1];
                let now = stall(last.at_us + us, last.total_us + us * share / 100);
                let over = readings.iter().any(|since| now.exceeds(*since, percent));
                let in_second = readings.iter().filter(|since| now.at_us - since.at_us <= 1_000_000);
                let storm = in_second.map(|since| now.total_us - since.total_us).max();
                let trips = gate.trips(now);
                prop_assert!(!trips || over);
                // A step is under 50 ms, so the older baseline is under 2.1 s old.
                prop_assert!(trips || storm.unwrap_or(0) <= percent * 21_000);
                readings.push(now);
            }
        }
    }
}
