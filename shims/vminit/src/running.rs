//! A process that this program has made, with our ends of its standard streams.

use crate::channel::{Channel, Told};
use crate::failure::{Context as _, Result, failure, text};
use crate::ffi::{self, Child};
use crate::stdio::{self, OurStdio};
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use std::os::fd::OwnedFd;
use vm_protocol::frame::{Kind, MAX_DATA};
use vm_protocol::message::{Failure, FailureKind};
use vm_protocol::spec::Size;

/// End of file, as terminals have it.
const EOT: u8 = 4;

/// A process.
#[derive(Debug)]
pub struct Running {
    /// The process.
    pub child: Child,
    /// Until its program is executed.
    channel: Option<Channel>,
    io: OurStdio,
    terminal: bool,
    input: Vec<u8>,
    input_ends: bool,
    /// Its exit code, when it has ended.
    pub code: Option<u8>,
}

/// What a process has become.
#[derive(Debug)]
pub enum Became {
    /// Nothing new.
    Nothing,
    /// Its program is executed.
    Started,
    /// It could not become its program.
    Failed(Failure),
}

/// What there is to read of a stream.
#[derive(Debug)]
pub enum Output {
    /// Nothing now.
    Nothing,
    /// Data.
    Data(Vec<u8>),
    /// Nothing any more.
    End,
}

impl Running {
    /// A process that was just made.
    pub fn new(child: Child, channel: Channel, io: OurStdio) -> Self {
        let channel = Some(channel);
        Self { child, channel, io, terminal: false, input: Vec::new(), input_ends: false, code: None }
    }

    /// Whether its program is executed.
    pub fn is_started(&self) -> bool {
        self.channel.is_none()
    }

    /// Hears what the process tells before it executes its program.
    pub fn hear(&mut self) -> Result<Became> {
        loop {
            let Some(channel) = &self.channel else { return Ok(Became::Nothing) };
            match channel.hear(false)? {
                Told::Terminal(master) => {
                    self.io = stdio::of_terminal(master)?;
                    self.terminal = true;
                }
                Told::Failed(failure) => {
                    self.channel = None;
                    return Ok(Became::Failed(failure));
                }
                Told::Closed => {
                    self.channel = None;
                    return Ok(Became::Started);
                }
                Told::Pid(_) | Told::Go => {}
                Told::Nothing => return Ok(Became::Nothing),
            }
        }
    }

    /// What to wait for: each with the stream that it is about. Output only if there is `room` for it.
    pub fn wait_for<'a>(&'a self, room: bool, mut add: impl FnMut(PollFd<'a>)) {
        if let Some(channel) = &self.channel {
            add(PollFd::new(channel, PollFlags::IN));
        }
        // Its end has to be passed on too, when everything before was.
        let ending = self.input_ends && !self.terminal && self.is_started();
        if let Some(stdin) = self.io.stdin.as_ref().filter(|_| ending || !self.input.is_empty()) {
            add(PollFd::new(stdin, PollFlags::OUT));
        }
        if room {
            for output in self.io.stdout.iter().chain(&self.io.stderr) {
                add(PollFd::new(output, PollFlags::IN));
            }
        }
    }

    /// Bytes of input that wait.
    pub fn pending_input(&self) -> usize {
        self.input.len()
    }

    /// Adds to its input; nothing is its end.
    pub fn add_input(&mut self, data: &[u8]) {
        if data.is_empty() && !self.input_ends {
            self.input_ends = true;
            if self.terminal {
                self.input.push(EOT);
            }
        } else if !self.input_ends {
            self.input.extend_from_slice(data);
        }
    }

    /// Writes what its input takes without waiting. Returns how many bytes are not kept any more: written, or thrown away
    /// since nobody can read them.
    pub fn write_input(&mut self) -> usize {
        let mut gone = 0;
        while let Some(stdin) = &self.io.stdin {
            if self.input.is_empty() {
                if self.input_ends && !self.terminal && self.is_started() {
                    self.io.stdin = None;
                }
                break;
            }
            match rustix::io::write(stdin, &self.input) {
                Ok(written) => {
                    self.input.drain(..written);
                    gone += written;
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(_) => self.io.stdin = None,
            }
        }
        // A terminal may still be on its way.
        if self.io.stdin.is_none() && self.is_started() {
            gone += self.input.len();
            self.input.clear();
        }
        gone
    }

    /// Reads what is there of a stream, without waiting.
    pub fn read(&mut self, kind: Kind) -> Output {
        let stream = if kind == Kind::Stderr { &mut self.io.stderr } else { &mut self.io.stdout };
        let Some(fd) = stream else { return Output::End };
        match read_some(fd) {
            Ok(Some(data)) if data.is_empty() => {
                *stream = None;
                Output::End
            }
            Ok(Some(data)) => Output::Data(data),
            Ok(None) => Output::Nothing,
            // A terminal that nobody has open any more says EIO.
            Err(_) => {
                *stream = None;
                Output::End
            }
        }
    }

    /// Whether all its output was read.
    pub fn is_silent(&self) -> bool {
        self.io.stdout.is_none() && self.io.stderr.is_none()
    }

    /// Gives its terminal another size.
    pub fn resize(&self, size: Size) -> Result<()> {
        match self.io.stdout.as_ref().filter(|_| self.terminal) {
            Some(master) => rustix::termios::tcsetwinsize(master, stdio::winsize(size))
                .context(|| "cannot set the size of the terminal"),
            None => Err(failure(FailureKind::InvalidState, "the process has no terminal of its own")),
        }
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: i32) -> Result<()> {
        if !(1..=64).contains(&signal) {
            return Err(failure(FailureKind::InvalidRequest, format!("{signal} is no signal")));
        }
        let not_running = || failure(FailureKind::InvalidState, "the process is not running");
        if self.code.is_some() {
            return Err(not_running());
        }
        ffi::pidfd_send_signal(&self.child.pidfd, signal).map_err(|e| match e.raw_os_error() {
            Some(libc::ESRCH) => not_running(),
            _ => failure(FailureKind::System, format!("cannot send signal {signal}: {}", text(&e))),
        })
    }
}

/// Reads once; `None` when there is nothing now, no bytes at the end.
pub fn read_some(fd: &OwnedFd) -> rustix::io::Result<Option<Vec<u8>>> {
    let mut data = vec![0u8; MAX_DATA];
    match rustix::io::read(fd, &mut data) {
        Ok(length) => {
            data.truncate(length);
            Ok(Some(data))
        }
        Err(Errno::AGAIN | Errno::INTR) => Ok(None),
        Err(e) => Err(e),
    }
}
