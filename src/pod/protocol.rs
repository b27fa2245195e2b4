//! What is said over the socket of a pod's monitor: one request a connection, and its replies.
//!
//! The socket has mode 0600, so that only the user who made the pod, and root, can speak to it.

use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::infra::wire::{Wire, send_message};
use crate::pod::record::PodStatus;
use crate::pod::store::SOCKET;
use crate::storage::state_root::StateDir;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use serde::{Deserialize, Serialize};
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};
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
    /// What a container uses that shares a process with the others of its pod; answered by [`Reply::Uses`].
    Measure {
        /// Name of the container.
        container: String,
    },
    /// The last lines of a container's log; answered by [`Reply::Text`].
    Logs {
        /// Name of the container.
        container: String,
    },
    /// All events so far; answered by [`Reply::Text`], one JSON object a line.
    Events,
    /// What a container writes from now on; see [`attach`].
    Attach {
        /// Name of the container.
        container: String,
        /// Its standard input is asked for too.
        input: bool,
    },
    /// Give the terminal of the container that this connection is attached to another size; not answered. Only that of a
    /// microVM needs it: any other the client has the master of.
    Resize {
        /// Columns, in characters.
        columns: u16,
        /// Rows.
        rows: u16,
    },
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
    /// What a container uses.
    Uses {
        /// Processor time in nanoseconds.
        cpu_nanoseconds: u64,
        /// Memory in bytes.
        memory: u64,
        /// Most bytes of memory that it may have.
        memory_limit: Option<u64>,
    },
    /// Text.
    Text(String),
    /// What the container writes follows. Its standard input comes with this, if that was asked for.
    Attached {
        /// It has a terminal, which its standard input is the master of, unless it is in a microVM.
        tty: bool,
        /// The end of this client's input is the end of the container's.
        once: bool,
    },
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

/// The last that a client hears who is attached to a container: a message after what the container has written.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Left {
    /// Exit code of the container.
    pub exit_code: u8,
}

/// A connection with a container.
#[derive(Debug)]
pub struct Attached {
    /// Where frames come: standard output and error of the container, and [`Left`] as the last.
    pub socket: OwnedFd,
    /// What has come already.
    pub begun: Vec<u8>,
    /// Its standard input, if that was asked for: the end of a pipe, or the master of a terminal that is on this host. Others may
    /// have it too.
    pub input: Option<OwnedFd>,
    /// It has a terminal.
    pub tty: bool,
    /// When `input` is closed its standard input is at its end.
    pub once: bool,
}

/// Attaches to a container of a pod. `None` when the pod has no monitor any more.
///
/// The descriptor of its standard input is handed over, not what is written to it: what is slow to be read waits in the kernel
/// and at nobody else, and the death of a client closes what it had.
pub fn attach(
    dir: &StateDir,
    container: &str,
    input: bool,
    timeout: Option<Duration>,
) -> Result<Option<Attached>> {
    let request = Ask::Attach { container: container.to_owned(), input };
    let Some(mut wire) = send(dir, request)? else { return Ok(None) };
    let (reply, input) = wire.receive_with(timeout)?;
    match reply {
        Some(Reply::Attached { tty, once }) => {
            let (socket, begun) = wire.into_parts();
            Ok(Some(Attached { socket, begun, input, tty, once }))
        }
        Some(Reply::Failed { kind, message }) => Err(Error::new(kind, message)),
        Some(_) => crate::bail!(System, "the monitor of the pod sent an answer to another question"),
        None => Ok(None),
    }
}

/// Tells the monitor of the pod, over the connection with a container, the size of the terminal that takes the place of that one's.
pub fn resize(socket: BorrowedFd<'_>, columns: u16, rows: u16) -> Result<()> {
    send_message(socket, &Request { version: VERSION, ask: Ask::Resize { columns, rows } })
}

/// Asks the monitor of a pod. `None` when the pod has none any more.
pub fn ask(dir: &StateDir, ask: Ask, timeout: Option<Duration>) -> Result<Option<Reply>> {
    let Some(mut wire) = send(dir, ask)? else { return Ok(None) };
    match wire.receive(timeout)? {
        Some(Reply::Failed { kind, message }) => Err(Error::new(kind, message)),
        reply => Ok(reply),
    }
}

/// Sends a request to the monitor of a pod, if there is one.
fn send(dir: &StateDir, ask: Ask) -> Result<Option<Wire>> {
    let socket = socket()?;
    match rustix::net::connect(&socket, &address(dir)?) {
        Ok(()) => {}
        Err(rustix::io::Errno::CONNREFUSED | rustix::io::Errno::NOENT) => return Ok(None),
        Err(e) => return Err(e).context(|| "cannot reach the monitor of the pod"),
    }
    let wire = Wire::from(socket);
    match wire.send(&Request { version: VERSION, ask }) {
        Err(e) if e.is_hangup() => Ok(None),
        sent => sent.map(|()| Some(wire)),
    }
}
