//! What became of one test.

use std::fmt;

/// What became of one test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It passed.
    Passed,
    /// It failed, with what it said.
    Failed(String),
    /// It did not apply, with the reason that it gave.
    Skipped(String),
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Passed => f.write_str("passed"),
            Self::Failed(why) => write!(f, "failed ({why})"),
            Self::Skipped(why) => write!(f, "skipped ({why})"),
        }
    }
}

/// One test and what became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// The test's name, unique in its suite.
    pub(crate) test: String,
    /// What became of it.
    pub(crate) verdict: Verdict,
    /// Features that it found missing and left out.
    pub(crate) unsupported: Vec<String>,
}

impl Outcome {
    /// An outcome without missing features.
    pub(crate) fn new(test: &str, verdict: Verdict) -> Self {
        Self { test: test.to_owned(), verdict, unsupported: Vec::new() }
    }
}
