//! Errors as they go to containerd: a gRPC code, by which it tells them apart, and a sentence.

use containerd_shim_protos::ttrpc::{self, Code};
use std::fmt;

/// Result of the shim's operations.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error with the code that containerd sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    code: Code,
    message: String,
}

impl Error {
    /// An error that none of the other codes describes.
    pub fn new(message: impl Into<String>) -> Self {
        Self { code: Code::UNKNOWN, message: message.into() }
    }

    /// There is no such container or process, or it has ended. containerd looks for the code, Docker for the words.
    pub fn not_found(what: impl fmt::Display) -> Self {
        Self { code: Code::NOT_FOUND, message: format!("{what}: not found") }
    }

    /// The id is taken.
    pub fn already_exists(what: impl fmt::Display) -> Self {
        Self { code: Code::ALREADY_EXISTS, message: format!("{what}: already exists") }
    }

    /// The operation does not fit the state of the process.
    pub fn wrong_state(message: impl Into<String>) -> Self {
        Self { code: Code::FAILED_PRECONDITION, message: message.into() }
    }

    /// The request is wrong.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self { code: Code::INVALID_ARGUMENT, message: message.into() }
    }

    /// There is no such call.
    pub fn unimplemented(what: impl fmt::Display) -> Self {
        Self { code: Code::UNIMPLEMENTED, message: format!("{what} is not supported") }
    }

    /// The same error with a sentence in front: `message: cause`.
    #[must_use]
    pub fn wrap(mut self, message: impl fmt::Display) -> Self {
        self.message = format!("{message}: {}", self.message);
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<std::io::Error> for Error {
    fn from(e: std::io::Error) -> Self {
        // In the words of Go, which callers compare: "no such file or directory", without the number.
        let text = e.to_string();
        let text = text.split(" (os error").next().unwrap_or_default();
        let mut rest = text.chars();
        let first = rest.next().map(|first| first.to_ascii_lowercase());
        Self::new(first.into_iter().chain(rest).collect::<String>())
    }
}

impl From<rustix::io::Errno> for Error {
    fn from(e: rustix::io::Errno) -> Self {
        std::io::Error::from(e).into()
    }
}

impl From<serde_json::Error> for Error {
    fn from(e: serde_json::Error) -> Self {
        Self::invalid(e.to_string())
    }
}

impl From<containerd_shim_protos::protobuf::Error> for Error {
    fn from(e: containerd_shim_protos::protobuf::Error) -> Self {
        Self::invalid(e.to_string())
    }
}

impl From<Error> for ttrpc::Status {
    fn from(e: Error) -> Self {
        ttrpc::get_status(e.code, e.message)
    }
}

/// Adds a sentence to the error of a `Result`.
pub trait Context<T> {
    /// Puts `message` in front of the cause.
    fn context<M: fmt::Display>(self, message: impl FnOnce() -> M) -> Result<T>;
}

impl<T, E: Into<Error>> Context<T> for std::result::Result<T, E> {
    fn context<M: fmt::Display>(self, message: impl FnOnce() -> M) -> Result<T> {
        self.map_err(|e| e.into().wrap(message()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_in_the_words_of_go() {
        let result: Result<()> = Err(rustix::io::Errno::NOENT).context(|| "cannot open 'x'");
        assert_eq!(result.unwrap_err().to_string(), "cannot open 'x': no such file or directory");
    }
}
