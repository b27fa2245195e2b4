//! What the process of several programs is told, and what it tells: one message a packet.
//!
//! Both ends are the same program, so the messages need no version.

use crate::error::{Context as _, Result};
use crate::platform::socket::{receive_descriptors, send_descriptors};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Longest message, in bytes.
const MAX_MESSAGE: usize = 16 << 10;

/// An order. Programs have numbers, from 0, in the order of the plan.
#[derive(Debug, Serialize, Deserialize)]
pub enum Order {
    /// Make an instance of a program, with three descriptors as its standard streams.
    Prepare(usize),
    /// Run it, as soon as it is ready.
    Start(usize),
    /// End it, as a signal with this number would end a program that does not handle it.
    End(usize, i32),
    /// Tell what it uses.
    Measure(usize),
}

/// What has happened.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// A program is ready to run.
    Ready(usize),
    /// A program cannot run, and this is its exit code and why.
    Refused(usize, u8, String),
    /// A program has ended, with this exit code.
    Ended(usize, u8),
    /// What a program uses: nanoseconds of processor time, and bytes of memory.
    Uses(usize, u64, u64),
}

/// One end.
#[derive(Debug)]
pub struct Control(OwnedFd);

/// What came in.
#[derive(Debug)]
pub enum Received<T> {
    /// A message, and the descriptors that came with it.
    Message(T, Vec<OwnedFd>),
    /// Nothing yet.
    Nothing,
    /// The other end is gone.
    Closed,
}

impl From<OwnedFd> for Control {
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

impl AsFd for Control {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Control {
    /// Our end of a new socket, and that of the process.
    pub fn pair() -> Result<(Self, OwnedFd)> {
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .context(|| "cannot make a socket pair")?;
        Ok((Self(ours), theirs))
    }

    /// Sends a message with descriptors. When the other end is gone that is an error, not a signal.
    pub fn send(&self, message: &impl Serialize, descriptors: &[BorrowedFd<'_>]) -> Result<()> {
        let data = serde_json::to_vec(message)?;
        if descriptors.is_empty() {
            rustix::io::retry_on_intr(|| send(&self.0, &data, SendFlags::NOSIGNAL))
                .context(|| "cannot send a message")?;
            return Ok(());
        }
        send_descriptors(&self.0, descriptors, &data)
    }

    /// Waits for a message with descriptors.
    pub fn receive<T: DeserializeOwned>(&self) -> Result<Received<T>> {
        let mut buffer = [0u8; MAX_MESSAGE];
        match receive_descriptors(&self.0, &mut buffer)? {
            (0, _) => Ok(Received::Closed),
            (length, fds) => Ok(Received::Message(serde_json::from_slice(&buffer[..length])?, fds)),
        }
    }

    /// The next message, if it is there.
    pub fn try_receive<T: DeserializeOwned>(&self) -> Result<Received<T>> {
        let mut buffer = [0u8; MAX_MESSAGE];
        match rustix::io::retry_on_intr(|| recv(&self.0, &mut buffer[..], RecvFlags::DONTWAIT)) {
            Ok((0, _)) | Err(Errno::CONNRESET) => Ok(Received::Closed),
            Ok((length, _)) => Ok(Received::Message(serde_json::from_slice(&buffer[..length])?, Vec::new())),
            Err(Errno::AGAIN) => Ok(Received::Nothing),
            Err(e) => Err(e).context(|| "cannot receive a message"),
        }
    }
}

impl Event {
    /// That a program cannot run; a long reason is cut.
    pub fn refused(part: usize, code: u8, mut why: String) -> Self {
        let mut end = why.len().min(MAX_MESSAGE / 8);
        while !why.is_char_boundary(end) {
            end -= 1;
        }
        why.truncate(end);
        Self::Refused(part, code, why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_arrive_with_their_descriptors_and_events_are_cut_to_fit() {
        let (ours, theirs) = Control::pair().unwrap();
        let theirs = Control::from(theirs);
        let (read, write) = rustix::pipe::pipe().unwrap();
        ours.send(&Order::Prepare(2), &[read.as_fd(), write.as_fd(), write.as_fd()]).unwrap();
        let Received::Message(Order::Prepare(2), fds) = theirs.receive().unwrap() else { panic!("no order") };
        assert_eq!(fds.len(), 3);
        rustix::io::write(&fds[1], b"x").unwrap();
        assert_eq!(rustix::io::read(&read, &mut [0u8; 8]).unwrap(), 1);
        assert!(matches!(ours.try_receive::<Event>().unwrap(), Received::Nothing));
        theirs.send(&Event::refused(2, 115, "\u{1}".repeat(1 << 20)), &[]).unwrap();
        let Received::Message(Event::Refused(2, 115, why), _) = ours.try_receive().unwrap() else {
            panic!("no event")
        };
        assert!(why.starts_with('\u{1}'));
        drop(theirs);
        assert!(matches!(ours.try_receive::<Event>().unwrap(), Received::Closed));
        assert!(ours.send(&Order::Start(0), &[]).is_err());
    }
}
