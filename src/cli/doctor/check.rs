//! A check: what is looked at, what was found, and what mends it.

use super::host::Host;
use serde::Serialize;

/// What a check found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It is there.
    Works,
    /// It is not there, or not as it must be.
    Missing,
    /// It could not be told, or does not matter on this machine.
    Unknown,
}

impl State {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Works => "works",
            Self::Missing => "missing",
            Self::Unknown => "unknown",
        }
    }
}

/// What a check found, in words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Whether it is there.
    pub state: State,
    /// What there is, or what is wrong.
    pub detail: String,
    /// The command that mends it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mend: Option<String>,
}

impl Finding {
    /// It is there.
    pub fn works(detail: impl Into<String>) -> Self {
        Self { state: State::Works, detail: detail.into(), mend: None }
    }

    /// It is not there, and no command mends that.
    pub fn missing(detail: impl Into<String>) -> Self {
        Self { state: State::Missing, detail: detail.into(), mend: None }
    }

    /// It could not be told.
    pub fn unknown(detail: impl Into<String>) -> Self {
        Self { state: State::Unknown, detail: detail.into(), mend: None }
    }

    /// The same with a command that mends it.
    #[must_use]
    pub fn mend(self, command: impl Into<String>) -> Self {
        Self { mend: Some(command.into()), ..self }
    }
}

/// A check by its name.
pub type Check = (&'static str, fn(&Host) -> Finding);
