//! When a probe is due and what its results mean: no clock and no system call of its own.

use crate::pod::plan::ProbePlan;
use std::time::{Duration, Instant};

/// The state of a probe.
#[derive(Debug)]
pub(super) struct Tracker {
    period: Duration,
    success: u32,
    failure: u32,
    next: Instant,
    running: bool,
    good: u32,
    bad: u32,
    state: Option<bool>,
}

impl Tracker {
    /// A probe of a container that was started at `start`.
    pub(super) fn new(plan: &ProbePlan, start: Instant) -> Self {
        Self {
            period: Duration::from_secs(plan.period.into()),
            success: plan.success,
            failure: plan.failure,
            next: start + Duration::from_secs(plan.initial_delay.into()),
            running: false,
            good: 0,
            bad: 0,
            state: None,
        }
    }

    /// When it is to run next; none while it runs.
    pub(super) fn next(&self) -> Option<Instant> {
        (!self.running).then_some(self.next)
    }

    /// It runs now.
    pub(super) fn begin(&mut self, now: Instant) {
        self.running = true;
        self.next = now + self.period;
    }

    /// It has ended. Returns the new state when that has changed.
    pub(super) fn end(&mut self, good: bool, now: Instant) -> Option<bool> {
        self.running = false;
        self.next = self.next.max(now);
        (self.good, self.bad) = if good { (self.good + 1, 0) } else { (0, self.bad + 1) };
        let state = match (self.good >= self.success, self.bad >= self.failure) {
            (true, _) => true,
            (_, true) => false,
            _ => return None,
        };
        (self.state.replace(state) != Some(state)).then_some(state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::plan::Action;

    #[test]
    fn so_many_results_in_a_row_change_the_state_and_no_others() {
        let plan = ProbePlan {
            action: Action::Sleep(0),
            initial_delay: 5,
            period: 10,
            timeout: 1,
            success: 2,
            failure: 3,
            grace: None,
        };
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut tracker = Tracker::new(&plan, start);
        assert_eq!(tracker.next(), Some(at(5)));
        tracker.begin(at(5));
        assert_eq!(tracker.next(), None);
        assert_eq!(tracker.end(true, at(6)), None);
        assert_eq!(tracker.next(), Some(at(15)));
        for (good, changed) in [
            (false, None),
            (true, None),
            (true, Some(true)),
            (true, None),
            (false, None),
            (false, None),
            (false, Some(false)),
            (false, None),
            (true, None),
            (true, Some(true)),
        ] {
            tracker.begin(at(20));
            assert_eq!(tracker.end(good, at(21)), changed);
        }
        tracker.begin(at(30));
        tracker.end(true, at(99));
        assert_eq!(tracker.next(), Some(at(99)), "a probe that takes long does not run twice at once");
    }
}
