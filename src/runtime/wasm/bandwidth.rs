//! How much processor time a program may use, where no cgroup can say so: the decision alone, which is pure.
//!
//! It means what `cpu.max` of cgroups does: in each period so much. What a period leaves is not kept for the next; what was used too
//! much, which shows only afterwards, is taken off the following ones.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Most processor time in each period.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bandwidth {
    /// Processor time.
    pub quota: Duration,
    /// Time of the clock.
    pub period: Duration,
}

/// What a program may use yet. All times are since it began.
#[derive(Debug)]
pub struct Account {
    bandwidth: Bandwidth,
    /// When the current period began.
    began: Duration,
    /// Processor time that it may have used when the period ends.
    allowed: Duration,
}

impl Account {
    /// That of a program which begins.
    pub fn new(bandwidth: Bandwidth) -> Self {
        Self { bandwidth, began: Duration::ZERO, allowed: bandwidth.quota }
    }

    /// When a program that has used `used` by `now` may go on: none for at once.
    pub fn settle(&mut self, used: Duration, now: Duration) -> Option<Duration> {
        let Bandwidth { quota, period } = self.bandwidth;
        let passed = times(period, now.saturating_sub(self.began));
        if passed > 0 {
            self.began += period.saturating_mul(passed);
            let owed = self.allowed.saturating_add(quota.saturating_mul(passed));
            self.allowed = owed.min(used.saturating_add(quota));
        }
        let debt = used.checked_sub(self.allowed)?;
        let periods = times(quota, debt).saturating_add(1);
        Some(self.began.saturating_add(period.saturating_mul(periods)))
    }
}

/// How often a time is in another.
fn times(part: Duration, whole: Duration) -> u32 {
    let times = whole.as_nanos().checked_div(part.as_nanos()).unwrap_or(0);
    u32::try_from(times).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIFTH: Bandwidth =
        Bandwidth { quota: Duration::from_millis(20), period: Duration::from_millis(100) };

    #[test]
    fn what_a_program_has_used_decides_when_it_goes_on() {
        // Pairs of what is used and the time, in milliseconds, in order; and when it goes on after the last.
        for (history, expected) in [
            (vec![(0, 0)], None),
            (vec![(19, 50)], None),
            // The quota is used up: the next period is waited for, whenever that was.
            (vec![(20, 20)], Some(100)),
            (vec![(20, 99)], Some(100)),
            (vec![(20, 20), (20, 100)], None),
            (vec![(20, 20), (39, 130)], None),
            (vec![(20, 20), (40, 130)], Some(200)),
            // More than the quota: that is taken off the next ones.
            (vec![(25, 25), (25, 100)], None),
            (vec![(25, 25), (40, 115)], Some(200)),
            (vec![(40, 40)], Some(200)),
            (vec![(45, 45)], Some(200)),
            (vec![(59, 59)], Some(200)),
            (vec![(60, 60)], Some(300)),
            (vec![(60, 60), (60, 300)], None),
            (vec![(60, 60), (60, 250)], Some(300)),
            // What was left is not kept.
            (vec![(0, 0), (5, 1005)], None),
            (vec![(0, 0), (5, 1005), (24, 1024)], None),
            (vec![(0, 0), (5, 1005), (25, 1025)], Some(1100)),
            (vec![(5, 50), (5, 950), (25, 970)], Some(1000)),
        ] {
            let mut account = Account::new(FIFTH);
            let ms = Duration::from_millis;
            let last = history.iter().map(|(used, now)| account.settle(ms(*used), ms(*now))).last();
            assert_eq!(last.flatten(), expected.map(ms), "{history:?}");
        }
    }

    #[test]
    fn over_many_periods_it_uses_its_part_however_coarsely_it_is_looked_at() {
        for (look, quota) in [(5, 20), (30, 20), (70, 1), (3, 150)] {
            let bandwidth = Bandwidth { quota: Duration::from_millis(quota), ..FIFTH };
            let (mut account, mut used, mut now) = (Account::new(bandwidth), 0, 0);
            while now < 100_000 {
                (used, now) = (used + look, now + look);
                let until = account.settle(Duration::from_millis(used), Duration::from_millis(now));
                now = until.map_or(now, |until| until.as_millis() as u64);
            }
            let expected = (now * quota / 100).min(now);
            let off = used.abs_diff(expected);
            assert!(off * 20 < expected, "every {look} ms of {quota}: {used} of {expected}");
        }
    }
}
