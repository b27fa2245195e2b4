//! The life of a process in a guest, seen from the host: standard streams, window size and signals of this process are passed on, until
//! it ends.

use super::client::Started;
use super::connection::{Connection, Received, malformed, reply_of};
use super::memory::MemoryEvents;
use crate::error::{Context as _, Error, ErrorKind, Result};
use nix::sys::signalfd::SignalFd;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::time::{Duration, Instant};
use vm_protocol::STDIN_WINDOW;
use vm_protocol::frame::{Frame, Kind};
use vm_protocol::message::{Reply, Request, Target};
use vm_protocol::spec::Size;

/// How long the guest may take to read what is sent to it. It always reads.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);

/// Bytes written at once: a pipe that says it can be written takes this much without waiting.
const PIECE: usize = 4096;

/// Bytes of input read at once; less than a frame takes.
const INPUT: usize = 16 << 10;

/// A session.
#[derive(Debug)]
pub struct Session {
    connection: Connection,
    input_open: bool,
    /// Bytes of input that the guest still takes.
    window: usize,
    pending: [Vec<u8>; 2],
    code: Option<u8>,
    /// Where it is written that processes are killed for want of memory, if that is told of this one.
    memory: Option<MemoryEvents>,
}

fn output(index: usize) -> BorrowedFd<'static> {
    if index == 0 { rustix::stdio::stdout() } else { rustix::stdio::stderr() }
}

/// The size of the terminal that standard input is.
pub fn terminal_size() -> Option<Size> {
    let size = rustix::termios::tcgetwinsize(rustix::stdio::stdin()).ok()?;
    Some(Size { columns: size.ws_col, rows: size.ws_row })
}

impl Session {
    /// The session of a process that runs, and that has standard input if `input` is set.
    pub fn new(started: Started, input: bool) -> Self {
        let pending = Default::default();
        let (window, code, memory) = (STDIN_WINDOW, None, None);
        Self { connection: started.connection, input_open: input, window, pending, code, memory }
    }

    /// Makes it one of a container, of which the guest tells when its kernel has ended a process for want of memory.
    pub fn set_memory(&mut self, memory: Option<MemoryEvents>) {
        self.memory = memory;
    }

    /// Passes everything on until the process has ended and all its output is written; returns its exit code. The signals of
    /// `signals` must be blocked.
    pub fn run(mut self, signals: &SignalFd) -> Result<u8> {
        loop {
            // Frames may have come with the answer that the process runs: those are here already, and nothing would wake us up.
            self.write();
            self.read_input()?;
            self.receive()?;
            if let Some(code) = self.code.filter(|_| self.is_flushed()) {
                return Ok(code);
            }
            self.wait(signals)?;
            while let Some(signal) = signals.read_signal().context(|| "cannot read signals")? {
                self.pass_on(i32::try_from(signal.ssi_signo).unwrap_or(0))?;
            }
        }
    }

    fn is_flushed(&self) -> bool {
        self.pending.iter().all(Vec::is_empty)
    }

    fn takes_input(&self) -> bool {
        self.input_open && self.window > 0 && self.code.is_none()
    }

    fn wait(&self, signals: &SignalFd) -> Result<()> {
        let mut fds = vec![PollFd::from_borrowed_fd(signals.as_fd(), PollFlags::IN)];
        if self.is_flushed() {
            fds.push(PollFd::new(&self.connection, PollFlags::IN));
        }
        if self.takes_input() {
            fds.push(PollFd::from_borrowed_fd(rustix::stdio::stdin(), PollFlags::IN));
        }
        for (index, pending) in self.pending.iter().enumerate() {
            if !pending.is_empty() {
                fds.push(PollFd::from_borrowed_fd(output(index), PollFlags::OUT));
            }
        }
        match poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(e) => Err(e).context(|| "cannot wait for the guest"),
        }
    }

    fn send(&self, request: &Request) -> Result<()> {
        if self.code.is_some() {
            return Ok(());
        }
        ended(self.connection.send_message(request, Instant::now() + SEND_TIMEOUT))
    }

    fn pass_on(&self, signal: i32) -> Result<()> {
        match signal {
            libc::SIGWINCH => match terminal_size() {
                Some(size) => self.send(&Request::Resize { target: Target::This, size }),
                None => Ok(()),
            },
            libc::SIGCHLD | libc::SIGPIPE => Ok(()),
            signal => self.send(&Request::Signal { target: Target::This, signal, all: false }),
        }
    }

    fn read_input(&mut self) -> Result<()> {
        if !self.takes_input() || !ready(rustix::stdio::stdin(), PollFlags::IN) {
            return Ok(());
        }
        let mut buffer = [0u8; INPUT];
        let most = self.window.min(INPUT);
        // An input that fails has ended: its end is passed on as no bytes.
        let length = match rustix::io::read(rustix::stdio::stdin(), &mut buffer[..most]) {
            Err(Errno::AGAIN | Errno::INTR) => return Ok(()),
            read => read.unwrap_or(0),
        };
        self.input_open = length > 0;
        self.window -= length;
        ended(self.connection.send_data(Kind::Stdin, &buffer[..length], Instant::now() + SEND_TIMEOUT))
    }

    fn receive(&mut self) -> Result<()> {
        while self.is_flushed() && self.code.is_none() {
            match self.connection.try_receive()? {
                Received::Frame(frame) => self.take(frame)?,
                Received::Nothing => break,
                Received::Closed => return Err(gone()),
            }
            self.write();
        }
        Ok(())
    }

    fn take(&mut self, frame: Frame) -> Result<()> {
        match frame.kind {
            Kind::Stdout => self.pending[0] = frame.body,
            Kind::Stderr => self.pending[1] = frame.body,
            _ => match reply_of(&frame)? {
                Reply::Exited { code } => self.code = Some(code),
                Reply::OutOfMemory { kills } if self.memory.is_some() => {
                    self.memory.iter_mut().for_each(|memory| memory.tell(kills));
                }
                Reply::Taken { bytes } => {
                    let window = self.window.saturating_add(bytes as usize);
                    if window > STDIN_WINDOW {
                        let e = "more input was taken than was sent".to_owned();
                        return Err(malformed(&vm_protocol::frame::Malformed::Body(e)));
                    }
                    self.window = window;
                }
                _ => crate::bail!(System, "the guest sent an answer to another question"),
            },
        }
        Ok(())
    }

    fn write(&mut self) {
        for index in 0..2 {
            while !self.pending[index].is_empty() && ready(output(index), PollFlags::OUT) {
                let piece = self.pending[index].len().min(PIECE);
                match rustix::io::write(output(index), &self.pending[index][..piece]) {
                    Ok(written) => drop(self.pending[index].drain(..written)),
                    Err(Errno::INTR) => {}
                    Err(Errno::AGAIN) => break,
                    Err(e) => {
                        self.pending[index].clear();
                        if e == Errno::PIPE {
                            // What the kernel would do to a process that writes there itself.
                            let _ = self.pass_on_sigpipe();
                        }
                    }
                }
            }
        }
    }

    fn pass_on_sigpipe(&self) -> Result<()> {
        self.send(&Request::Signal { target: Target::This, signal: libc::SIGPIPE, all: false })
    }
}

/// A process whose connection is gone is gone with its virtual machine.
fn gone() -> Error {
    Error::new(ErrorKind::InvalidState, "the virtual machine has ended")
}

fn ended(sent: Result<()>) -> Result<()> {
    match sent {
        // What it has said before is still there to read.
        Err(e) if e.is_hangup() => Ok(()),
        sent => sent,
    }
}

fn ready(fd: BorrowedFd<'_>, what: PollFlags) -> bool {
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut [PollFd::from_borrowed_fd(fd, what)], Some(&now)).is_ok_and(|count| count > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::state_root::StateRoot;
    use crate::vm::memory;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    use vm_protocol::frame::{Decoder, encode_json};

    fn session() -> Session {
        let (ours, _) =
            socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
        Session::new(Started { connection: ours.into(), exec: 1, pid: 1 }, false)
    }

    fn frame(kills: u64) -> Frame {
        let mut decoder = Decoder::default();
        decoder.push(&encode_json(Kind::Message, &Reply::OutOfMemory { kills }).unwrap());
        decoder.next_frame().unwrap().unwrap()
    }

    #[test]
    fn what_a_guest_tells_of_memory_is_written_where_somebody_waits_for_it() {
        let tmp = tempfile::tempdir().unwrap();
        let root = StateRoot::new(tmp.path().join("root"));
        let (dir, _lock) = root.reserve("one", 10, |_| Ok(())).unwrap();
        let mut session = session();
        session.set_memory(Some(MemoryEvents::create(&dir).unwrap()));
        // What it takes back is not believed.
        for (kills, expected) in [(1, "oom_kill 1\n"), (12, "oom_kill 12\n"), (3, "oom_kill 12\n")] {
            session.take(frame(kills)).unwrap();
            assert_eq!(std::fs::read_to_string(dir.path().join(memory::FILE)).unwrap(), expected);
        }
        self::session().take(frame(1)).unwrap_err();
    }
}
