//! What is found to be wrong, or without effect, in a manifest.

use crate::error::{Error, ErrorKind, Result};
use serde::Serialize;
use std::fmt;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// The manifest is refused.
    Error,
    /// A part of the manifest has no effect.
    Warning,
}

/// A fault of a manifest, or a part of it that has no effect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub level: Level,
    /// Name of the object; empty when it has none.
    pub object: String,
    /// Where in the object, as in `spec.containers[0].image`; empty for the whole.
    pub path: String,
    /// What it is.
    pub message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in [&self.object, &self.path].into_iter().filter(|part| !part.is_empty()) {
            write!(f, "{part}: ")?;
        }
        f.write_str(&self.message)
    }
}

/// Collects findings, so that one look at a manifest tells everything.
#[derive(Debug, Default)]
pub struct Findings {
    /// Name of the object that is looked at.
    pub object: String,
    /// What was found.
    pub all: Vec<Finding>,
}

impl Findings {
    /// Adds an error at `path`.
    pub fn error(&mut self, path: &str, message: impl Into<String>) {
        self.add(Level::Error, path, message.into());
    }

    /// Adds a warning at `path`.
    pub fn warn(&mut self, path: &str, message: impl Into<String>) {
        self.add(Level::Warning, path, message.into());
    }

    fn add(&mut self, level: Level, path: &str, message: String) {
        self.all.push(Finding { level, object: self.object.clone(), path: path.to_owned(), message });
    }

    /// True if there is an error among them.
    pub fn has_errors(&self) -> bool {
        self.all.iter().any(|finding| finding.level == Level::Error)
    }

    /// All errors as one, if there are any.
    pub fn to_result(&self) -> Result<()> {
        let errors: Vec<String> =
            self.all.iter().filter(|f| f.level == Level::Error).map(ToString::to_string).collect();
        if errors.is_empty() {
            return Ok(());
        }
        Err(Error::new(ErrorKind::InvalidManifest, errors.join("; ")))
    }
}
