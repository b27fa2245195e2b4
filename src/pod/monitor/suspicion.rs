//! A fault of a process that its end would explain: whether it counts is known a little later, and nobody waits for that.

use crate::error::Error;
use std::time::{Duration, Instant};

/// How much later than its connections the supervisor of a machine may end.
const PATIENCE: Duration = Duration::from_secs(1);

/// The first such fault, and when it counts.
#[derive(Debug, Default)]
pub(super) struct Suspicion(Option<(Error, Instant)>);

impl Suspicion {
    /// Takes note of a fault.
    pub(super) fn add(&mut self, fault: Error, now: Instant) {
        self.0.get_or_insert((fault, now + PATIENCE));
    }

    /// When it counts.
    pub(super) fn due(&self) -> Option<Instant> {
        self.0.as_ref().map(|(_, due)| *due)
    }

    /// The fault, once it counts.
    pub(super) fn take(&mut self, now: Instant) -> Option<Error> {
        self.0.take_if(|(_, due)| *due <= now).map(|(fault, _)| fault)
    }

    /// The process has ended: it is no fault any more.
    pub(super) fn forget(&mut self) {
        self.0 = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn the_first_fault_counts_when_the_end_of_the_process_does_not_come() {
        let now = Instant::now();
        let mut suspicion = Suspicion::default();
        assert_eq!(suspicion.due(), None);
        for (text, at) in [("first", now), ("second", now + PATIENCE / 2)] {
            suspicion.add(Error::new(ErrorKind::System, text), at);
        }
        assert_eq!(suspicion.due(), Some(now + PATIENCE));
        assert!(suspicion.take(now + PATIENCE / 2).is_none());
        assert_eq!(suspicion.take(now + PATIENCE).unwrap().message(), "first");
        assert!(suspicion.take(now + PATIENCE).is_none());
        suspicion.add(Error::new(ErrorKind::System, "third"), now);
        suspicion.forget();
        assert!(suspicion.due().is_none() && suspicion.take(now + PATIENCE).is_none());
    }
}
