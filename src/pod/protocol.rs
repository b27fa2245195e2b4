//! What is said over the socket of a pod's monitor: one request a connection, and its replies.
//!
//! The socket has mode 0600, so that only the user who made the pod, and root, can speak to it.

use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::infra::wire::Wire;
use crate::pod::record::PodStatus;
use crate::pod::store::SOCKET;
use crate::storage::state_root::StateDir;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use serde::{Deserialize, Serialize};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::Duration;

/// Version of what is said. A monitor refuses a request of another one.
pub const VERSION: u32 = 1;

/// A request with its version.
#[derive(Debug, Serialize, Deserialize)]
pub struct Request {
    /// [`VERSION`] when sent by this program.
    pub version: u32,
    /// What is asked for.
    pub ask: Ask,
}

/// What can be asked for.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Ask {
    /// The status; answered by [`Reply::Status`].
    Status,
    /// Stop the pod; answered by [`Reply::Done`] when nothing runs any more.
    Stop {
        /// Seconds between SIGTERM and SIGKILL; those of the manifest if there are none.
        grace_seconds: Option<u32>,
    },
    /// Execute a command in a container; answered by [`Reply::Executed`].
    Exec {
        /// Name of the container.
        container: String,
        /// Command and arguments.
        command: Vec<String>,
    },
    /// The last lines of a container's log; answered by [`Reply::Text`].
    Logs {
        /// Name of the container.
        container: String,
    },
    /// All events so far; answered by [`Reply::Text`], one JSON object a line.
    Events,
}

/// An answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Reply {
    /// The status.
    Status(Box<PodStatus>),
    /// It is done.
    Done,
    /// A command has ended.
    Executed {
        /// Its exit code; 128 and the number of the signal that ended it.
        exit_code: u8,
        /// The beginning of what it has written to standard output.
        stdout: String,
        /// The beginning of what it has written to standard error.
        stderr: String,
    },
    /// Text.
    Text(String),
    /// It could not be done.
    Failed {
        /// Category.
        kind: ErrorKind,
        /// Message with causes.
        message: String,
    },
}

fn address(dir: &StateDir) -> Result<SocketAddrUnix> {
    // The path of a unix socket has at most 107 bytes; that of a state root may be longer.
    let path = format!("/proc/self/fd/{}/{SOCKET}", rustix::fd::AsFd::as_fd(&dir.fd()).as_raw_fd());
    SocketAddrUnix::new(path).context(|| "cannot address the monitor's socket")
}

fn socket() -> Result<OwnedFd> {
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
        .context(|| "cannot make a socket")
}

/// Listens in a pod's directory.
pub fn listen(dir: &StateDir) -> Result<OwnedFd> {
    let socket = socket()?;
    let before = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
    let bound = rustix::net::bind(&socket, &address(dir)?);
    rustix::process::umask(before);
    bound.context(|| "cannot bind the monitor's socket")?;
    rustix::net::listen(&socket, 16).context(|| "cannot listen on the monitor's socket")?;
    Ok(socket)
}

/// Asks the monitor of a pod. `None` when the pod has none any more.
pub fn ask(dir: &StateDir, ask: Ask, timeout: Option<Duration>) -> Result<Option<Reply>> {
    let socket = socket()?;
    match rustix::net::connect(&socket, &address(dir)?) {
        Ok(()) => {}
        Err(rustix::io::Errno::CONNREFUSED | rustix::io::Errno::NOENT) => return Ok(None),
        Err(e) => return Err(e).context(|| "cannot reach the monitor of the pod"),
    }
    let mut wire = Wire::from(socket);
    match wire.send(&Request { version: VERSION, ask }) {
        Err(e) if e.errno() == Some(libc::EPIPE) => return Ok(None),
        sent => sent?,
    }
    match wire.receive(timeout)? {
        Some(Reply::Failed { kind, message }) => Err(Error::new(kind, message)),
        reply => Ok(reply),
    }
}
