//! The socket on which a created container waits for `start`.
//!
//! It is bound in the state directory before the clone; the container's first process listens, whatever it
//! sees of the file system by then. `start` connects, says go, and hears whether the program could be executed.

use crate::error::{Context as _, ErrorKind, Result};
use crate::runtime::container::START_SOCKET;
use crate::runtime::native::channel::{Channel, Message};
use crate::storage::state_root::StateDir;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// The listening end, held by the container's first process.
#[derive(Debug)]
pub struct StartSocket(OwnedFd);

impl AsFd for StartSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// What became of a request to start.
#[derive(Debug, PartialEq, Eq)]
pub enum Started {
    /// The program was executed.
    Executed,
    /// Nobody waits: it was started before, or has died.
    NobodyWaits,
}

fn address(dir: &StateDir) -> Result<SocketAddrUnix> {
    // The path of a unix socket has at most 107 bytes; that of a state root may be longer.
    let path = format!("/proc/self/fd/{}/{START_SOCKET}", dir.fd().as_raw_fd());
    SocketAddrUnix::new(path).context(|| "cannot address the start socket")
}

fn socket() -> Result<OwnedFd> {
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .context(|| "cannot make the start socket")
}

impl StartSocket {
    /// Binds the socket in the container's state directory.
    pub fn bind(dir: &StateDir) -> Result<Self> {
        let socket = socket()?;
        rustix::net::bind(&socket, &address(dir)?).context(|| "cannot bind the start socket")?;
        rustix::net::listen(&socket, 1).context(|| "cannot listen on the start socket")?;
        Ok(Self(socket))
    }

    /// Waits until somebody says go, and returns the channel on which to tell what became of it.
    pub fn wait(&self) -> Result<Channel> {
        loop {
            let peer = rustix::io::retry_on_intr(|| rustix::net::accept_with(&self.0, SocketFlags::CLOEXEC))
                .context(|| "cannot wait for the start")?;
            let channel = Channel::from(peer);
            // A starter that dies before it has said anything leaves the container waiting for the next one.
            if channel.wait_for_go().is_ok() {
                return Ok(channel);
            }
        }
    }
}

/// Starts the container whose state directory this is, and waits until its program is executed.
///
/// `hand_over` is called with the number of a seccomp listener that is open in the container's first process. An error is
/// what that process said when it could not execute the program.
pub fn start(dir: &StateDir, hand_over: impl Fn(i32) -> Result<()>) -> Result<Started> {
    let Some(channel) = begin(dir)? else { return Ok(Started::NobodyWaits) };
    wait_for_execution(&channel, hand_over)?;
    Ok(Started::Executed)
}

/// Lets the container whose state directory this is start, without waiting for it: what becomes of it is told over the channel.
/// `None` when nobody waits for that.
pub fn begin(dir: &StateDir) -> Result<Option<Channel>> {
    let socket = socket()?;
    match rustix::net::connect(&socket, &address(dir)?) {
        Ok(()) => {}
        Err(rustix::io::Errno::CONNREFUSED | rustix::io::Errno::NOENT) => return Ok(None),
        Err(e) => return Err(e).or_kind(ErrorKind::StartFailed, || "cannot reach the created container"),
    }
    let channel = Channel::from(socket);
    if channel.send(&Message::Go).is_err() {
        return Ok(None);
    }
    dir.remove_file(START_SOCKET)?;
    Ok(Some(channel))
}

/// Waits until execve(2) closes the other end of the channel. Shared with `exec`.
pub fn wait_for_execution(channel: &Channel, hand_over: impl Fn(i32) -> Result<()>) -> Result<()> {
    let mut ready = false;
    loop {
        match channel.receive()? {
            // Sent shortly before execve(2); an error may still follow.
            Some(Message::Ready) => ready = true,
            Some(Message::Listener(number)) => {
                hand_over(number)?;
                channel.send(&Message::Go)?;
            }
            None if ready => return Ok(()),
            None => crate::bail!(StartFailed, "the process died before its program was executed"),
            Some(other) => crate::bail!(StartFailed, "unexpected message {other:?}"),
        }
    }
}
