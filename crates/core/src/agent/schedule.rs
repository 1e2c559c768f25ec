//! When the loops run.

use super::settings::{Knob, RULES_MAX, Settings};

/// What is to be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Job {
    /// A pass over the cgroups of these rules, a bit each.
    Memcg {
        /// Bit i is rule i.
        rules: u32,
        /// Somebody wants it now.
        forced: bool,
    },
    /// A look at fragmentation, and compaction if it is worth it.
    Compact {
        /// Somebody wants compaction now, worth it or not.
        forced: bool,
    },
}

/// When each loop ran last. A period that is changed counts at once, since only
/// the last time is kept.
#[derive(Clone, Debug)]
pub struct Schedule {
    memcg_us: [u64; RULES_MAX],
    compact_us: u64,
    memcg_now: bool,
    compact_now: bool,
    /// Reclaim has freed something.
    compact_soon: bool,
}

impl Schedule {
    /// All loops run first after one period.
    #[must_use]
    pub fn new(now_us: u64) -> Self {
        Self {
            memcg_us: [now_us; RULES_MAX],
            compact_us: now_us,
            memcg_now: false,
            compact_now: false,
            compact_soon: false,
        }
    }

    /// The job that is due, which then counts as done.
    pub fn next(&mut self, settings: &Settings, now_us: u64) -> Option<Job> {
        let forced = core::mem::take(&mut self.memcg_now);
        let mut rules = 0;
        for (rule, period_us) in memcg_periods(settings) {
            if let Some(last) = self.memcg_us.get_mut(rule)
                && (forced || now_us.saturating_sub(*last) >= period_us)
            {
                *last = now_us;
                rules |= 1 << rule;
            }
        }
        if rules != 0 {
            return Some(Job::Memcg { rules, forced });
        }
        if core::mem::take(&mut self.compact_now) {
            self.compact_us = now_us;
            return Some(Job::Compact { forced: true });
        }
        let soon = core::mem::take(&mut self.compact_soon);
        let period_us = compact_period(settings)?;
        if soon || now_us.saturating_sub(self.compact_us) >= period_us {
            self.compact_us = now_us;
            return Some(Job::Compact { forced: false });
        }
        None
    }

    /// When [`Self::next`] has something to say; `u64::MAX` is never.
    #[must_use]
    pub fn deadline_us(&self, settings: &Settings) -> u64 {
        if self.memcg_now || self.compact_now || self.compact_soon {
            return 0;
        }
        let memcg = memcg_periods(settings).filter_map(|(rule, period_us)| {
            self.memcg_us.get(rule).map(|last| last.saturating_add(period_us))
        });
        let compact = compact_period(settings).map(|us| self.compact_us.saturating_add(us));
        memcg.chain(compact).min().unwrap_or(u64::MAX)
    }

    /// Runs a pass over all cgroups as soon as may be.
    pub fn run_memcg_now(&mut self) {
        self.memcg_now = true;
    }

    /// Compacts as soon as may be.
    pub fn run_compact_now(&mut self) {
        self.compact_now = true;
    }

    /// Memory was freed: a look at fragmentation is worth it.
    pub fn freed(&mut self) {
        self.compact_soon = true;
    }
}

/// The rules that are on, and their periods in microseconds.
fn memcg_periods(settings: &Settings) -> impl Iterator<Item = (usize, u64)> {
    let on = settings.rules().filter(|rule| !rule.disable);
    on.map(|rule| (rule.rule, rule.period_secs.saturating_mul(1_000_000)))
}

fn compact_period(settings: &Settings) -> Option<u64> {
    let secs = settings.get(Knob::CompactPeriodSecs);
    (!settings.is_on(Knob::CompactDisable)).then_some(secs.saturating_mul(1_000_000))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::settings::set;
    use crate::board::Faults;

    fn changed(settings: &Settings, change: &str) -> Settings {
        let mut request = format!(r#"{{"command":"set","agent":{change}}}"#).into_bytes();
        let mut settings = settings.clone();
        assert!(set(&mut settings, &mut request, &mut Faults::default()), "{change}");
        settings
    }

    #[test]
    fn each_loop_has_its_period() {
        let settings = changed(
            &Settings::default(),
            r#"{"memcg":{"period_secs":10,"cgroups":[{"path":"/a","period_secs":4}]},
                "compact":{"period_secs":7}}"#,
        );
        let mut schedule = Schedule::new(1_000_000);
        assert_eq!(schedule.deadline_us(&settings), 5_000_000);
        assert_eq!(schedule.next(&settings, 4_999_999), None);
        let job = schedule.next(&settings, 5_000_000);
        assert_eq!(job, Some(Job::Memcg { rules: 2, forced: false }));
        assert_eq!(schedule.next(&settings, 8_000_000), Some(Job::Compact { forced: false }));
        let job = schedule.next(&settings, 11_000_000);
        assert_eq!(job, Some(Job::Memcg { rules: 3, forced: false }));
        assert_eq!(schedule.deadline_us(&settings), 15_000_000);
    }

    #[test]
    fn a_changed_period_counts_at_once() {
        let mut schedule = Schedule::new(0);
        let settings = changed(&Settings::default(), r#"{"memcg":{"period_secs":30}}"#);
        assert_eq!(schedule.deadline_us(&settings), 30_000_000);
        let shorter = changed(&settings, r#"{"memcg":{"period_secs":20}}"#);
        let job = schedule.next(&shorter, 25_000_000);
        assert_eq!(job, Some(Job::Memcg { rules: 1, forced: false }));
    }

    #[test]
    fn what_is_off_never_runs_but_can_be_asked_for() {
        let off = r#"{"memcg":{"disable":true},"compact":{"disable":true}}"#;
        let settings = changed(&Settings::default(), off);
        let mut schedule = Schedule::new(0);
        assert_eq!(schedule.deadline_us(&settings), u64::MAX);
        assert_eq!(schedule.next(&settings, u64::MAX), None);
        schedule.run_compact_now();
        assert_eq!(schedule.deadline_us(&settings), 0);
        assert_eq!(schedule.next(&settings, 5), Some(Job::Compact { forced: true }));
        schedule.run_memcg_now();
        assert_eq!(schedule.next(&settings, 6), None);
    }

    #[test]
    fn what_reclaim_freed_is_looked_at() {
        let settings = Settings::default();
        let mut schedule = Schedule::new(0);
        schedule.freed();
        assert_eq!(schedule.next(&settings, 1), Some(Job::Compact { forced: false }));
        assert_eq!(schedule.next(&settings, 2), None);
    }
}
