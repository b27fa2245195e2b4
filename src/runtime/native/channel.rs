//! What the two halves of a launch say to each other, one message a packet.
//!
//! Both halves are the same program, a fork apart, so the messages need no version.

use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::runtime::wasm::program::Kind;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType};
use serde::{Deserialize, Serialize};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

/// Longest message, in bytes: errors are cut to fit.
const MAX_MESSAGE: usize = 16 << 10;

/// A message.
#[derive(Debug, Serialize, Deserialize)]
pub enum Message {
    /// Either way: go on to the next step.
    Go,
    /// From an intermediate process: the pid of the process that it made.
    Made(i32),
    /// From a process that compiles: it is done, and this is what it has compiled.
    Compiled(Kind),
    /// From the child: the mounts are made; run the hooks of the runtime namespace.
    Mounted,
    /// From the child: a seccomp listener is open there under this number.
    Listener(RawFd),
    /// From the child: set up, and now waiting.
    Ready,
    /// From the child: it failed.
    Failed {
        /// Category.
        kind: ErrorKind,
        /// Message with causes.
        message: String,
        /// `errno` at the root.
        errno: Option<i32>,
    },
}

/// One end of a channel.
#[derive(Debug)]
pub struct Channel(OwnedFd);

/// Makes the two ends of a channel.
pub fn pair() -> Result<(Channel, Channel)> {
    let (a, b) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .context(|| "cannot make a socket pair")?;
    Ok((Channel(a), Channel(b)))
}

impl From<OwnedFd> for Channel {
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Channel {
    /// The number of the descriptor.
    pub fn raw(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// Sends a message. When the other end is gone that is an error, not a signal.
    pub fn send(&self, message: &Message) -> Result<()> {
        let data = serde_json::to_vec(message).context(|| "cannot encode a message")?;
        // A seccomp profile may refuse sendto(2) after the filter is loaded; write(2) is what every profile allows.
        rustix::io::retry_on_intr(|| match message {
            Message::Listener(_) => rustix::io::write(&self.0, &data),
            _ => rustix::net::send(&self.0, &data, SendFlags::NOSIGNAL),
        })
        .context(|| "cannot send to the other half of the launch")?;
        Ok(())
    }

    /// Sends an error as [`Message::Failed`]; there is nobody to tell if that fails too.
    pub fn send_error(&self, error: &Error) {
        let mut message = error.message().to_owned();
        let mut end = message.len().min(MAX_MESSAGE / 8);
        while !message.is_char_boundary(end) {
            end -= 1;
        }
        message.truncate(end);
        let _ = self.send(&Message::Failed { kind: error.kind(), message, errno: error.errno() });
    }

    /// Receives a message: `None` when the other end is closed. A [`Message::Failed`] becomes the error that it carries.
    pub fn receive(&self) -> Result<Option<Message>> {
        let mut buffer = [0u8; MAX_MESSAGE];
        // read(2) and not recv(2), since a filter may be loaded already.
        let mut read = || rustix::io::retry_on_intr(|| rustix::io::read(&self.0, &mut buffer[..]));
        let length = match read() {
            // It has gone without reading all that was sent to it. That is told once, before what it said itself.
            Err(Errno::CONNRESET) => read(),
            other => other,
        }
        .context(|| "cannot receive from the other half of the launch")?;
        if length == 0 {
            return Ok(None);
        }
        match serde_json::from_slice(&buffer[..length])? {
            Message::Failed { kind, message, errno } => Err(Error::from_parts(kind, message, errno)),
            message => Ok(Some(message)),
        }
    }

    /// Receives [`Message::Go`]; anything else, or a closed channel, is an error.
    pub fn wait_for_go(&self) -> Result<()> {
        match self.receive()? {
            Some(Message::Go) => Ok(()),
            Some(other) => Err(Error::new(ErrorKind::System, format!("unexpected message {other:?}"))),
            None => Err(Error::new(ErrorKind::System, "the runtime that created the container is gone")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_arrives_with_kind_and_errno_and_is_cut_when_too_long() {
        let (a, b) = pair().unwrap();
        let error = Error::from_parts(ErrorKind::HookFailed, "ä".repeat(MAX_MESSAGE), Some(libc::ENOENT));
        a.send_error(&error);
        let arrived = b.receive().unwrap_err();
        assert_eq!((arrived.kind(), arrived.errno()), (ErrorKind::HookFailed, Some(libc::ENOENT)));
        assert!(arrived.message().starts_with("ää"));
    }

    #[test]
    fn what_was_said_arrives_from_an_end_that_has_not_read_all() {
        let (a, b) = pair().unwrap();
        a.send_error(&Error::new(ErrorKind::HookFailed, "why"));
        b.send(&Message::Go).unwrap();
        drop(a);
        assert_eq!(b.receive().unwrap_err().message(), "why");
        assert!(b.receive().unwrap().is_none());
    }

    #[test]
    fn a_closed_end_reads_as_none() {
        let (a, b) = pair().unwrap();
        drop(a);
        assert!(b.receive().unwrap().is_none());
        assert!(b.send(&Message::Go).is_err());
    }
}
