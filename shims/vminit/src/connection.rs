//! A connection of the host: frames in and out, without waiting.

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};
use vm_protocol::frame::{Decoder, Frame, Kind, Malformed, encode, encode_json};
use vm_protocol::message::{Failure, Hello, Reply};

/// How long a connection may take to say what it wants.
const PATIENCE: Duration = Duration::from_secs(30);

/// Bytes that may wait to be sent before what fills them is stopped.
const HIGH_WATER: usize = 256 << 10;

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It has not said so yet.
    New,
    /// It waits until the guest is ready.
    Ready,
    /// It is told of changes; whether there is one to tell.
    Watch(bool),
    /// It waits until the container with this index has executed its program.
    Start(usize),
    /// It belongs to the exec with this number.
    Exec(u64),
    /// It is the standard input of the container with this index.
    Input(usize),
    /// It gets the output of a container.
    Logs {
        /// Which container.
        container: usize,
        /// The piece that comes next.
        next: u64,
        /// The piece at which it ends; none: when the container has ended.
        end: Option<u64>,
    },
    /// All is said.
    Done,
}

/// A connection.
#[derive(Debug)]
pub struct Connection {
    fd: OwnedFd,
    decoder: Decoder,
    out: Vec<u8>,
    /// What it is for.
    pub role: Role,
    /// Version that both sides speak; none before the host's hello.
    version: Option<u32>,
    answered: bool,
    until: Instant,
    broken: bool,
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Connection {
    /// A connection that was just accepted; it must not block.
    pub fn new(fd: OwnedFd) -> Self {
        let mut new = Self {
            fd,
            decoder: Decoder::default(),
            out: Vec::new(),
            role: Role::New,
            version: None,
            answered: false,
            until: Instant::now() + PATIENCE,
            broken: false,
        };
        let hello = Hello::new(concat!("vminit ", env!("CARGO_PKG_VERSION")));
        new.push(encode_json(Kind::Hello, &hello));
        new
    }

    fn push(&mut self, bytes: Result<Vec<u8>, Malformed>) {
        match bytes {
            Ok(bytes) => self.out.extend(bytes),
            Err(_) => self.broken = true,
        }
    }

    /// Answers.
    pub fn reply(&mut self, reply: &Reply) {
        self.answered = true;
        self.push(encode_json(Kind::Message, reply));
    }

    /// Answers for the last time.
    pub fn finish(&mut self, reply: &Reply) {
        self.reply(reply);
        self.role = Role::Done;
        self.until = Instant::now() + PATIENCE;
    }

    /// Answers with a failure for the last time.
    pub fn fail(&mut self, failure: Failure) {
        self.finish(&Reply::Failed(failure));
    }

    /// Sends data of a stream.
    pub fn data(&mut self, kind: Kind, data: &[u8]) {
        self.push(encode(kind, data));
    }

    /// Version of the protocol that both sides speak; 0 before the host has said so.
    pub fn version(&self) -> u32 {
        self.version.unwrap_or(0)
    }

    /// Whether there is room for more data.
    pub fn has_room(&self) -> bool {
        self.out.len() < HIGH_WATER
    }

    /// Whether everything was sent.
    pub fn is_flushed(&self) -> bool {
        self.out.is_empty() || self.broken || self.is_held()
    }

    /// The hello goes with the first answer, where that is soon: each packet costs the host an exit of the virtual machine.
    fn is_held(&self) -> bool {
        !self.answered && matches!(self.role, Role::New | Role::Exec(_))
    }

    /// When it has to have said what it wants.
    pub fn deadline(&self) -> Option<Instant> {
        (self.role == Role::New || self.role == Role::Done).then_some(self.until)
    }

    /// Whether there is no use in it any more.
    pub fn is_over(&self) -> bool {
        let late = self.deadline().is_some_and(|until| until <= Instant::now());
        self.broken || late || (self.role == Role::Done && self.out.is_empty())
    }

    /// Whether something waits to be sent.
    pub fn wants_to_send(&self) -> bool {
        !self.out.is_empty() && !self.is_held()
    }

    /// Sends what the other side takes.
    pub fn send(&mut self) {
        if self.is_held() {
            return;
        }
        while !self.out.is_empty() && !self.broken {
            match rustix::net::send(&self.fd, &self.out, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
                Ok(sent) => drop(self.out.drain(..sent)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(_) => self.broken = true,
            }
        }
    }

    /// Reads what has come, once.
    pub fn receive(&mut self) {
        let mut buffer = [0u8; 16 << 10];
        match rustix::net::recv(&self.fd, &mut buffer[..], RecvFlags::DONTWAIT) {
            Ok((0, _)) => self.broken = true,
            Ok((length, _)) => self.decoder.push(&buffer[..length]),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => self.broken = true,
        }
    }

    /// The next frame after the hello.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, Malformed> {
        loop {
            let Some(frame) = self.decoder.next_frame()? else { return Ok(None) };
            if self.version.is_some() {
                return Ok(Some(frame));
            }
            if frame.kind != Kind::Hello {
                return Err(Malformed::Body("the first frame is no hello".to_owned()));
            }
            let hello: Hello = frame.parse()?;
            self.version = vm_protocol::agree(&hello);
            if self.version.is_none() {
                let (oldest, newest) = (hello.oldest, hello.newest);
                return Err(Malformed::Body(format!(
                    "the host speaks versions {oldest} to {newest}, this guest {}",
                    vm_protocol::VERSION
                )));
            }
        }
    }
}
