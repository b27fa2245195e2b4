//! One error type for the whole program.
//!
//! An [`Error`] has a [`ErrorKind`] (what category of thing went wrong, from which exit status, log record and
//! advice follow) and a one-line message of the form `cannot <verb> '<object>': <cause>`. Causes are
//! never dropped: wrapping an error puts the new sentence in front of the old one.

use std::fmt;

/// Result of every fallible operation of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What category an [`Error`] belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[non_exhaustive]
pub enum ErrorKind {
    /// No container has this id.
    ContainerNotFound,
    /// A container with this id exists already.
    ContainerExists,
    /// The id is empty, too long, or has characters that are not allowed.
    InvalidContainerId,
    /// The container could not be created.
    CreateFailed,
    /// The container could not be started.
    StartFailed,
    /// A process could not be executed inside the container.
    ExecFailed,
    /// The operation does not fit the state that the container is in.
    InvalidState,
    /// A hook failed.
    HookFailed,
    /// More containers than the limit allows.
    TooManyContainers,
    /// No image has this name.
    ImageNotFound,
    /// No pod has this name or id.
    PodNotFound,
    /// A pod with this name exists already.
    PodExists,
    /// A pod's manifest is wrong.
    InvalidManifest,
    /// An image could not be pulled.
    ImagePullFailed,
    /// An image or archive entry tried to leave its root.
    PathTraversal,
    /// An image exceeds a size limit.
    ImageTooLarge,
    /// A bundle could not be built from an image.
    BundleBuildFailed,
    /// The bundle or its configuration is wrong.
    InvalidBundle,
    /// A WebAssembly module imports what nobody provides.
    MissingImport,
    /// The backend that the bundle asks for is not there.
    RuntimeUnavailable,
    /// This host, or this version, cannot do what was asked.
    NotSupported,
    /// A blob is not in the store.
    BlobNotFound,
    /// Content does not have the digest that it should have.
    DigestMismatch,
    /// The on-disk state is damaged or cannot be read or written.
    Storage,
    /// A deadline passed.
    Timeout,
    /// The command line, or a file that it names, is wrong.
    Usage,
    /// A system call failed in a way that no other kind describes.
    System,
}

impl ErrorKind {
    /// What the caller can do about it, in one phrase.
    ///
    /// ```
    /// use magikrun::image::ImageService;
    /// use magikrun::ErrorKind;
    ///
    /// # let directory = tempfile::tempdir()?;
    /// let e = ImageService::with_root(directory.path()).inspect("localhost/none").unwrap_err();
    /// assert_eq!(e.kind(), ErrorKind::ImageNotFound);
    /// println!("{e}: {}", e.recovery());
    /// # Ok::<(), magikrun::Error>(())
    /// ```
    pub fn recovery(self) -> &'static str {
        match self {
            Self::ContainerNotFound => "check the id and --root; 'magikrun list' shows what exists",
            Self::ContainerExists => "choose another id, or delete the existing container first",
            Self::InvalidContainerId => "use letters, digits and the characters _ + - . in the id",
            Self::CreateFailed => "mend the cause and create the container again; nothing is left behind",
            Self::StartFailed => "delete the container and create it again",
            Self::ExecFailed => "check the command and the state of the container, then retry",
            Self::InvalidState => "bring the container into the state that the operation needs",
            Self::HookFailed => "mend the hook, or remove it from the bundle's config.json",
            Self::TooManyContainers => {
                "delete containers, or raise limits.max_containers in the configuration"
            }
            Self::ImageNotFound => "pull the image first; 'magikrun image list' shows what is there",
            Self::PodNotFound => "check the name or id and --root; 'magikrun pod list' shows what exists",
            Self::PodExists => "choose another name, or delete the existing pod first",
            Self::InvalidManifest => "correct the manifest; 'magikrun pod validate' lists all its faults",
            Self::ImagePullFailed => "check the image reference, the credentials and the network",
            Self::PathTraversal => "do not use this image: it tries to write outside its root",
            Self::ImageTooLarge => "use a smaller image, or raise the limit in the configuration",
            Self::BundleBuildFailed => "build the bundle again from the image",
            Self::InvalidBundle => "correct the bundle's config.json or root file system",
            Self::MissingImport => "build the module for WASI preview 1 or 0.2, without other imports",
            Self::RuntimeUnavailable => "install what the backend needs, or select another backend",
            Self::NotSupported => "use a host or a backend that supports it, or leave the setting out",
            Self::BlobNotFound => "pull the image again",
            Self::DigestMismatch => "remove the damaged content and pull the image again",
            Self::Storage => "check the disk's free space and the permissions of the state directory",
            Self::Timeout => "retry, with a longer timeout where there is one",
            Self::Usage => "see the command's --help",
            Self::System => "look at the cause; the host refused a system call",
        }
    }
}

/// An error: kind, one-line message with all its causes, and the `errno` at its root if there is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    kind: ErrorKind,
    message: String,
    errno: Option<i32>,
}

impl Error {
    /// An error without a cause.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), errno: None }
    }

    /// An error that comes from another process with its `errno`.
    pub fn from_parts(kind: ErrorKind, message: String, errno: Option<i32>) -> Self {
        Self { kind, message, errno }
    }

    /// The category.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The message with all causes, one line.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The `errno` of the system call at the root, if one is.
    pub fn errno(&self) -> Option<i32> {
        self.errno
    }

    /// True if the other end of a connection is gone, perhaps with what it had not read, or before it had accepted the connection.
    pub fn is_hangup(&self) -> bool {
        matches!(self.errno, Some(libc::EPIPE | libc::ECONNRESET))
    }

    /// What the caller can do about it.
    pub fn recovery(&self) -> &'static str {
        self.kind.recovery()
    }

    /// The same error with a sentence in front: `message: cause`.
    #[must_use]
    pub fn wrap(mut self, message: impl fmt::Display) -> Self {
        self.message = format!("{message}: {}", self.message);
        self
    }

    /// The same error with another kind.
    #[must_use]
    pub fn with_kind(mut self, kind: ErrorKind) -> Self {
        self.kind = kind;
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

/// The text of an `errno` in the wording of runc and Go: lower case, no number.
///
/// Docker and podman classify "no such file or directory" and "permission denied" by these words.
pub fn errno_text(errno: i32) -> String {
    let text = std::io::Error::from_raw_os_error(errno).to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    let mut chars = text.chars();
    match chars.next() {
        // Keep words like "RFS specific error" as they are.
        Some(first) if !chars.as_str().starts_with(|c: char| c.is_uppercase()) => {
            first.to_lowercase().chain(chars).collect()
        }
        _ => text.to_owned(),
    }
}

impl From<std::io::Error> for Error {
    fn from(e: std::io::Error) -> Self {
        match e.raw_os_error() {
            Some(errno) => Self::from_errno(errno),
            None => Self::new(ErrorKind::System, e.to_string()),
        }
    }
}

impl Error {
    /// An error that is nothing but a failed system call.
    pub fn from_errno(errno: i32) -> Self {
        Self { kind: ErrorKind::System, message: errno_text(errno), errno: Some(errno) }
    }
}

impl From<nix::errno::Errno> for Error {
    fn from(e: nix::errno::Errno) -> Self {
        Self::from_errno(e as i32)
    }
}

impl From<rustix::io::Errno> for Error {
    fn from(e: rustix::io::Errno) -> Self {
        Self::from_errno(e.raw_os_error())
    }
}

impl From<serde_json::Error> for Error {
    fn from(e: serde_json::Error) -> Self {
        Self::new(ErrorKind::InvalidBundle, e.to_string())
    }
}

/// Adds a sentence, or a kind and a sentence, to the error of a `Result`.
pub trait Context<T> {
    /// Puts `message` in front of the cause; the kind stays that of the cause.
    fn context<M: fmt::Display>(self, message: impl FnOnce() -> M) -> Result<T>;
    /// Puts `message` in front of the cause and sets the kind.
    fn or_kind<M: fmt::Display>(self, kind: ErrorKind, message: impl FnOnce() -> M) -> Result<T>;
}

impl<T, E: Into<Error>> Context<T> for std::result::Result<T, E> {
    fn context<M: fmt::Display>(self, message: impl FnOnce() -> M) -> Result<T> {
        self.map_err(|e| e.into().wrap(message()))
    }

    fn or_kind<M: fmt::Display>(self, kind: ErrorKind, message: impl FnOnce() -> M) -> Result<T> {
        self.map_err(|e| e.into().wrap(message()).with_kind(kind))
    }
}

/// Returns early with an [`Error`] of the given kind and format string.
#[macro_export]
macro_rules! bail {
    ($kind:ident, $($arg:tt)*) => {
        return Err($crate::error::Error::new($crate::error::ErrorKind::$kind, format!($($arg)*)))
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errno_texts_are_in_lower_case_like_go() {
        assert_eq!(errno_text(libc::ENOENT), "no such file or directory");
        assert_eq!(errno_text(libc::EACCES), "permission denied");
    }

    #[test]
    fn wrapping_keeps_cause_and_errno() {
        let r: Result<()> =
            Err(rustix::io::Errno::NOENT).or_kind(ErrorKind::InvalidBundle, || "cannot open 'config.json'");
        let e = r.unwrap_err();
        assert_eq!(e.message(), "cannot open 'config.json': no such file or directory");
        assert_eq!(e.errno(), Some(libc::ENOENT));
        assert_eq!(e.kind(), ErrorKind::InvalidBundle);
    }
}
