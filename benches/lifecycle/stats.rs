//! Samples of one operation of one runtime, and what is said about them.

/// Stands in the message about a call that had to be killed.
pub(crate) const HANGS: &str = "hangs: ";

/// The values measured for one operation of one runtime, and its failures.
#[derive(Debug, Clone, Default)]
pub(crate) struct Samples {
    values: Vec<f64>,
    failures: usize,
    first_failure: Option<String>,
}

impl Samples {
    /// Adds a measurement or a failure.
    pub(crate) fn add(&mut self, outcome: Result<f64, String>) {
        match outcome {
            Ok(value) => self.values.push(value),
            Err(message) => {
                self.failures += 1;
                self.first_failure.get_or_insert(message);
            }
        }
    }

    /// True after several failures, or one that took long, and no success: not worth waiting for any more.
    pub(crate) fn hopeless(&self) -> bool {
        let hangs = self.failure().is_some_and(|message| message.contains(HANGS));
        self.values.is_empty() && (hangs || self.failures >= 2)
    }

    /// The message of the first failure.
    pub(crate) fn failure(&self) -> Option<&str> {
        self.first_failure.as_deref()
    }

    /// How often the operation was tried.
    pub(crate) fn tries(&self) -> usize {
        self.values.len() + self.failures
    }

    /// How often the operation failed.
    pub(crate) fn failures(&self) -> usize {
        self.failures
    }

    /// The median of the values.
    pub(crate) fn median(&self) -> Option<f64> {
        let sorted = self.sorted();
        let upper = *sorted.get(sorted.len() / 2)?;
        if sorted.len() % 2 == 1 {
            return Some(upper);
        }
        Some(f64::midpoint(sorted[sorted.len() / 2 - 1], upper))
    }

    /// The value that a tenth of all values do not exceed.
    pub(crate) fn p10(&self) -> Option<f64> {
        let sorted = self.sorted();
        sorted.get(sorted.len().div_ceil(10).saturating_sub(1)).copied()
    }

    /// The sum of the values.
    pub(crate) fn sum(&self) -> Option<f64> {
        if self.values.is_empty() { None } else { Some(self.values.iter().sum()) }
    }

    fn sorted(&self) -> Vec<f64> {
        let mut sorted = self.values.clone();
        sorted.sort_by(f64::total_cmp);
        sorted
    }
}
