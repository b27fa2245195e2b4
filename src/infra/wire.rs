//! Messages over a stream: four bytes of length, most significant first, and JSON.

use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::platform::socket::{receive_descriptor, send_descriptor};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// Longest message, in bytes: 1 MiB. A peer that announces more is cut off.
pub const MAX_MESSAGE: usize = 1 << 20;

/// How long a peer may take to read a message before it counts as gone.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);

/// One end of a stream of messages.
#[derive(Debug)]
pub struct Wire {
    fd: OwnedFd,
    pending: Vec<u8>,
}

/// What came in.
#[derive(Debug)]
pub enum Received<T> {
    /// A message.
    Message(T),
    /// Nothing, or a part of a message.
    Nothing,
    /// The other end is gone.
    Closed,
}

impl From<OwnedFd> for Wire {
    fn from(fd: OwnedFd) -> Self {
        Self { fd, pending: Vec::new() }
    }
}

impl AsFd for Wire {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Wire {
    /// The two ends of a new stream.
    pub fn pair() -> Result<(Self, Self)> {
        let (a, b) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
                .context(|| "cannot make a socket pair")?;
        Ok((a.into(), b.into()))
    }

    /// A second handle of the same end, for sending.
    pub fn sender(&self) -> Result<Self> {
        Ok(self.fd.try_clone().map_err(Error::from)?.into())
    }

    /// Sends a message. A peer that is gone is an error and no signal; so is one that does not read.
    pub fn send(&self, message: &impl Serialize) -> Result<()> {
        send_message(self.as_fd(), message)
    }

    /// Sends a message and a descriptor with it, to a peer that takes both by [`Wire::receive_with`].
    pub fn send_with(&self, message: &impl Serialize, descriptor: BorrowedFd<'_>) -> Result<()> {
        let data = encode(message)?;
        send_descriptor(self, descriptor, &data[..1])?;
        send_all(self.as_fd(), &data[1..])
    }

    /// The next message, if it is there; never waits.
    pub fn try_receive<T: DeserializeOwned>(&mut self) -> Result<Received<T>> {
        loop {
            if let Some(message) = self.take()? {
                return Ok(Received::Message(message));
            }
            let mut buffer = [0u8; 8192];
            match rustix::net::recv(&self.fd, &mut buffer[..], RecvFlags::DONTWAIT) {
                Ok((0, _)) | Err(Errno::CONNRESET) => return Ok(Received::Closed),
                Ok((read, _)) => self.pending.extend_from_slice(&buffer[..read]),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(Received::Nothing),
                Err(e) => return Err(e).context(|| "cannot receive a message"),
            }
        }
    }

    /// Waits for the next message; `None` when the other end is gone. Fails after `timeout`.
    pub fn receive<T: DeserializeOwned>(&mut self, timeout: Option<Duration>) -> Result<Option<T>> {
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        loop {
            match self.try_receive()? {
                Received::Message(message) => return Ok(Some(message)),
                Received::Closed => return Ok(None),
                Received::Nothing => {
                    let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
                    if !ready(self.as_fd(), PollFlags::IN, left)? {
                        crate::bail!(Timeout, "no answer came in time");
                    }
                }
            }
        }
    }

    /// Waits for the first message as [`Wire::receive`] does, and takes a descriptor that comes with it.
    pub fn receive_with<T: DeserializeOwned>(
        &mut self,
        timeout: Option<Duration>,
    ) -> Result<(Option<T>, Option<OwnedFd>)> {
        if !ready(self.as_fd(), PollFlags::IN, timeout)? {
            crate::bail!(Timeout, "no answer came in time");
        }
        let mut first = [0u8; 1];
        let (read, descriptor) = match receive_descriptor(&*self, &mut first) {
            Err(e) if e.is_hangup() => return Ok((None, None)),
            received => received?,
        };
        self.pending.extend_from_slice(&first[..read]);
        Ok((self.receive(timeout)?, descriptor))
    }

    /// The stream, for something else than messages, and what has arrived already after the last one.
    pub fn into_parts(self) -> (OwnedFd, Vec<u8>) {
        (self.fd, self.pending)
    }

    fn take<T: DeserializeOwned>(&mut self) -> Result<Option<T>> {
        let Some(head) = self.pending.first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_be_bytes(*head) as usize;
        if length > MAX_MESSAGE {
            return Err(Error::new(ErrorKind::System, format!("a message of {length} bytes is too long")));
        }
        let Some(body) = self.pending.get(4..4 + length) else { return Ok(None) };
        let message = serde_json::from_slice(body)
            .map_err(|e| Error::new(ErrorKind::System, format!("cannot parse a message: {e}")))?;
        self.pending.drain(..4 + length);
        Ok(Some(message))
    }
}

/// Sends a message over a stream of them, as [`Wire::send`] does.
pub fn send_message(stream: BorrowedFd<'_>, message: &impl Serialize) -> Result<()> {
    send_all(stream, &encode(message)?)
}

fn send_all(stream: BorrowedFd<'_>, mut rest: &[u8]) -> Result<()> {
    while !rest.is_empty() {
        match rustix::net::send(stream, rest, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
            Ok(sent) => rest = &rest[sent..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) if ready(stream, PollFlags::OUT, Some(SEND_TIMEOUT))? => {}
            Err(Errno::AGAIN) => crate::bail!(Timeout, "cannot send a message: the peer does not read"),
            Err(e) => return Err(e).context(|| "cannot send a message"),
        }
    }
    Ok(())
}

/// A message as bytes.
fn encode(message: &impl Serialize) -> Result<Vec<u8>> {
    let body = serde_json::to_vec(message)?;
    if body.len() > MAX_MESSAGE {
        crate::bail!(System, "a message of {} bytes is longer than {MAX_MESSAGE}", body.len());
    }
    let mut data = (body.len() as u32).to_be_bytes().to_vec();
    data.extend(body);
    Ok(data)
}

/// Waits until something can be done with `fd`; false after `timeout`.
pub fn ready(fd: BorrowedFd<'_>, what: PollFlags, timeout: Option<Duration>) -> Result<bool> {
    let deadline = timeout.map(|timeout| Instant::now() + timeout);
    loop {
        let left = deadline.map(|deadline| timespec(deadline.saturating_duration_since(Instant::now())));
        match poll(&mut [PollFd::from_borrowed_fd(fd, what)], left.as_ref()) {
            Ok(count) => return Ok(count > 0),
            Err(Errno::INTR) => {}
            Err(e) => return Err(e).context(|| "cannot wait"),
        }
    }
}

/// A duration as system calls have it.
pub fn timespec(duration: Duration) -> Timespec {
    Timespec { tv_sec: duration.as_secs() as i64, tv_nsec: i64::from(duration.subsec_nanos()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_arrive_whole_and_in_order_and_an_end_is_told() {
        let (a, mut b) = Wire::pair().unwrap();
        assert!(matches!(b.try_receive::<String>().unwrap(), Received::Nothing));
        let long = "x".repeat(100_000);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                a.send(&long).unwrap();
                a.send(&"short").unwrap();
            });
            assert_eq!(b.receive::<String>(None).unwrap().as_deref(), Some(long.as_str()));
            assert_eq!(b.receive::<String>(None).unwrap().as_deref(), Some("short"));
        });
        drop(a);
        assert!(b.receive::<String>(None).unwrap().is_none());
        assert!(b.send(&1).unwrap_err().is_hangup());
    }

    #[test]
    fn an_end_that_has_not_read_everything_is_an_end() {
        let end_unread = || {
            let (a, b) = Wire::pair().unwrap();
            b.send(&"never read").unwrap();
            drop(a);
            b
        };
        assert!(end_unread().receive::<String>(None).unwrap().is_none());
        assert!(end_unread().receive_with::<String>(None).unwrap().0.is_none());
    }

    #[test]
    fn a_descriptor_comes_with_its_message_and_what_follows_is_kept() {
        let (a, mut b) = Wire::pair().unwrap();
        let (read, write) = rustix::pipe::pipe().unwrap();
        a.send_with(&"here", write.as_fd()).unwrap();
        rustix::io::write(&a, b"rest").unwrap();
        let (message, descriptor) = b.receive_with::<String>(None).unwrap();
        assert_eq!(message.as_deref(), Some("here"));
        rustix::io::write(descriptor.unwrap(), b"x").unwrap();
        assert_eq!(rustix::io::read(&read, &mut [0u8; 8]).unwrap(), 1);
        let (fd, mut rest) = b.into_parts();
        if rest.is_empty() {
            rest.resize(4, 0);
            rustix::io::read(&fd, rest.as_mut_slice()).unwrap();
        }
        assert_eq!(rest, b"rest");
        let (a, mut b) = Wire::pair().unwrap();
        a.send(&"alone").unwrap();
        let (message, descriptor) = b.receive_with::<String>(None).unwrap();
        assert!(message.is_some() && descriptor.is_none());
    }

    #[test]
    fn what_is_too_long_or_no_message_is_refused_and_waiting_ends() {
        let (a, mut b) = Wire::pair().unwrap();
        let e = b.receive::<String>(Some(Duration::from_millis(1))).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Timeout);
        rustix::io::write(&a, &u32::MAX.to_be_bytes()).unwrap();
        assert!(b.receive::<String>(None).is_err());
        let (a, mut b) = Wire::pair().unwrap();
        rustix::io::write(&a, &[0, 0, 0, 1, b'x']).unwrap();
        assert!(b.receive::<String>(None).is_err());
        assert!(a.send(&"x".repeat(MAX_MESSAGE + 1)).is_err());
    }
}
