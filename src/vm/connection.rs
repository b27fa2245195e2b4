//! One connection to a guest: frames, with deadlines.

use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::platform::socket;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Instant;
use vm_protocol::frame::{Decoder, Frame, Kind, Malformed, encode, encode_json};
use vm_protocol::message::{Failure, FailureKind, Hello, Reply, Request};

/// Longest message of a guest that is shown, in characters.
const MAX_SHOWN: usize = 1024;

/// A connection.
#[derive(Debug)]
pub struct Connection {
    fd: OwnedFd,
    decoder: Decoder,
    greeted: bool,
}

/// What came in.
#[derive(Debug, PartialEq, Eq)]
pub enum Received {
    /// A frame.
    Frame(Frame),
    /// Nothing, or a part of a frame.
    Nothing,
    /// The guest, or the machine between, has closed the connection.
    Closed,
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl From<OwnedFd> for Connection {
    fn from(fd: OwnedFd) -> Self {
        Self { fd, decoder: Decoder::default(), greeted: false }
    }
}

/// A guest that sends what makes no sense. The cause may quote it.
pub fn malformed(e: &Malformed) -> Error {
    Error::new(ErrorKind::System, shown(&format!("the guest sent what it must not: {e}")))
}

/// A failure that the guest tells, as an error. Its words are foreign: control characters would reach the user's terminal.
pub fn failure(failure: &Failure) -> Error {
    let kind = match failure.kind {
        FailureKind::NotFound => ErrorKind::ContainerNotFound,
        FailureKind::InvalidState => ErrorKind::InvalidState,
        FailureKind::ExecFailed => ErrorKind::ExecFailed,
        FailureKind::InvalidRequest | FailureKind::TooMany | FailureKind::System => ErrorKind::System,
    };
    Error::new(kind, shown(&failure.message))
}

/// Text of a guest with control characters escaped, cut off after `MAX_SHOWN` characters.
pub fn shown(text: &str) -> String {
    let escape = |c: char| if c.is_control() { c.escape_default().collect() } else { vec![c] };
    text.chars().take(MAX_SHOWN).flat_map(escape).collect()
}

/// Whether an error of a new connection says that nobody takes it up now: there is no machine, it does not listen, or has too much to do.
pub fn is_unheard(e: &Error) -> bool {
    use libc::{EAGAIN, ECONNREFUSED, ECONNRESET, ENOENT, EPIPE};
    matches!(e.errno(), Some(EAGAIN | ECONNREFUSED | ECONNRESET | ENOENT | EPIPE))
}

/// Waits until something can be done with a descriptor; an error after the deadline.
pub fn wait(fd: BorrowedFd<'_>, what: PollFlags, deadline: Instant) -> Result<()> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
        match poll(&mut [PollFd::from_borrowed_fd(fd, what)], Some(&timeout)) {
            Ok(0) => crate::bail!(Timeout, "the guest does not answer"),
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(e) => return Err(e).context(|| "cannot wait for the guest"),
        }
    }
}

impl Connection {
    /// Connects, and asks at once: the guest answers when it listens.
    pub fn open(path: &Path, request: &Request, deadline: Instant) -> Result<Self> {
        let connection = Self::from(socket::connect(path)?);
        connection.send_all(&first_words(request)?, deadline)?;
        Ok(connection)
    }

    /// Does the same without ever waiting, for a short request: fails, as [`is_unheard`] tells, where that takes time.
    pub fn open_at_once(path: &Path, request: &Request) -> Result<Self> {
        let connection = Self::from(socket::connect_at_once(path)?);
        let bytes = first_words(request)?;
        match connection.try_send(&bytes)? {
            sent if sent == bytes.len() => Ok(connection),
            _ => Err(Errno::AGAIN).context(|| "cannot send to the guest"),
        }
    }

    /// Whether the guest has said hello: it has taken the connection up.
    pub fn is_greeted(&self) -> bool {
        self.greeted
    }

    /// Sends a message.
    pub fn send_message(&self, request: &Request, deadline: Instant) -> Result<()> {
        self.send_all(&encode_message(request)?, deadline)
    }

    /// Sends data.
    pub fn send_data(&self, kind: Kind, data: &[u8], deadline: Instant) -> Result<()> {
        self.send_all(&encode(kind, data).map_err(|e| malformed(&e))?, deadline)
    }

    fn send_all(&self, mut bytes: &[u8], deadline: Instant) -> Result<()> {
        while !bytes.is_empty() {
            match self.try_send(bytes)? {
                0 => wait(self.as_fd(), PollFlags::OUT, deadline)?,
                sent => bytes = &bytes[sent..],
            }
        }
        Ok(())
    }

    /// Sends what the guest takes of these bytes without waiting; answers how many that are.
    pub fn try_send(&self, bytes: &[u8]) -> Result<usize> {
        match rustix::net::send(&self.fd, bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
            Ok(sent) => Ok(sent),
            Err(Errno::AGAIN | Errno::INTR) => Ok(0),
            Err(e) => Err(e).context(|| "cannot send to the guest"),
        }
    }

    /// The next frame after the guest's hello, if it is there; never waits.
    pub fn try_receive(&mut self) -> Result<Received> {
        match self.try_greet()? {
            Received::Frame(_) => self.next(),
            other => Ok(other),
        }
    }

    /// The guest's hello, if it is there; never waits. It listens then.
    pub fn try_greet(&mut self) -> Result<Received> {
        if self.greeted {
            return Ok(Received::Frame(Frame { kind: Kind::Hello, body: Vec::new() }));
        }
        let received = self.next()?;
        if let Received::Frame(frame) = &received {
            self.greet(frame)?;
        }
        Ok(received)
    }

    fn next(&mut self) -> Result<Received> {
        loop {
            if let Some(frame) = self.decoder.next_frame().map_err(|e| malformed(&e))? {
                return Ok(Received::Frame(frame));
            }
            let mut buffer = [0u8; 16 << 10];
            match rustix::net::recv(&self.fd, &mut buffer[..], RecvFlags::DONTWAIT) {
                Ok((0, _)) | Err(Errno::CONNRESET) => return Ok(Received::Closed),
                Ok((length, _)) => self.decoder.push(&buffer[..length]),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(Received::Nothing),
                Err(e) => return Err(e).context(|| "cannot receive from the guest"),
            }
        }
    }

    fn greet(&mut self, frame: &Frame) -> Result<()> {
        if frame.kind != Kind::Hello {
            crate::bail!(System, "the guest did not say which version it speaks");
        }
        let hello: Hello = frame.parse().map_err(|e| malformed(&e))?;
        if vm_protocol::agree(&hello).is_none() {
            crate::bail!(
                NotSupported,
                "the guest ({}) speaks versions {} to {} of the protocol, this program {} to {}",
                shown(&hello.program),
                hello.oldest,
                hello.newest,
                vm_protocol::OLDEST_VERSION,
                vm_protocol::VERSION
            );
        }
        self.greeted = true;
        Ok(())
    }

    /// Waits for the next frame; `None` when the connection was closed.
    pub fn receive(&mut self, deadline: Instant) -> Result<Option<Frame>> {
        loop {
            match self.try_receive()? {
                Received::Frame(frame) => return Ok(Some(frame)),
                Received::Closed => return Ok(None),
                Received::Nothing => wait(self.as_fd(), PollFlags::IN, deadline)?,
            }
        }
    }

    /// Waits for the next reply; a failure that the guest tells is an error.
    pub fn reply(&mut self, deadline: Instant) -> Result<Option<Reply>> {
        self.receive(deadline)?.map(|frame| reply_of(&frame)).transpose()
    }
}

/// The reply that a frame carries; a failure that the guest tells is an error.
pub fn reply_of(frame: &Frame) -> Result<Reply> {
    match told_by(frame)? {
        Reply::Failed(told) => Err(failure(&told)),
        reply => Ok(reply),
    }
}

/// The reply that a frame carries, which may be a failure.
pub fn told_by(frame: &Frame) -> Result<Reply> {
    if frame.kind != Kind::Message {
        crate::bail!(System, "the guest sent data where an answer was expected");
    }
    frame.parse().map_err(|e| malformed(&e))
}

/// A hello, and the request.
fn first_words(request: &Request) -> Result<Vec<u8>> {
    let hello = Hello::new(concat!("magikrun ", env!("CARGO_PKG_VERSION")));
    let mut bytes = encode_json(Kind::Hello, &hello).map_err(|e| malformed(&e))?;
    bytes.extend(encode_message(request)?);
    Ok(bytes)
}

fn encode_message(request: &Request) -> Result<Vec<u8>> {
    encode_json(Kind::Message, request).map_err(|e| match e {
        Malformed::TooLong(length) => {
            Error::new(ErrorKind::Usage, format!("arguments and environment are too long: {length} bytes"))
        }
        other => Error::new(ErrorKind::System, other.to_string()),
    })
}
