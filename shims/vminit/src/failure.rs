//! Errors: those of the protocol, made with the words `cannot <verb> '<object>': <cause>`.

use std::fmt::Display;
use vm_protocol::message::{Failure, FailureKind};

/// Result of what can fail.
pub type Result<T> = std::result::Result<T, Failure>;

/// A failure of the guest's kernel, or of something that it was told.
pub fn failure(kind: FailureKind, message: impl Into<String>) -> Failure {
    Failure { kind, message: message.into() }
}

/// A failure of the guest's kernel.
pub fn system(message: impl Into<String>) -> Failure {
    failure(FailureKind::System, message)
}

/// The text of an error of the kernel, in lower case and without its number, as runc has it.
pub fn text(error: &std::io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    let mut chars = text.chars();
    chars.next().map(|first| first.to_lowercase().chain(chars).collect()).unwrap_or_default()
}

/// Puts what could not be done in front of an error.
pub trait Context<T> {
    /// With the words of `message`.
    fn context<M: Display>(self, message: impl FnOnce() -> M) -> Result<T>;
}

impl<T, E: Into<std::io::Error>> Context<T> for std::result::Result<T, E> {
    fn context<M: Display>(self, message: impl FnOnce() -> M) -> Result<T> {
        self.map_err(|e| system(format!("{}: {}", message(), text(&e.into()))))
    }
}
