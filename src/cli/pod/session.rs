//! A session with a container: what it writes is shown, and what the user types goes to it.

use crate::error::{Context as _, Result};
use crate::platform::raw::RawMode;
use crate::pod::protocol::{self, Attached, Left};
use crate::runtime::foreground::write_all;
use crate::vm::protocol::frame::{Decoder, Kind};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::RecvFlags;
use std::os::fd::{AsFd as _, OwnedFd};

/// Bytes moved at once.
const BUFFER: usize = 16 << 10;

/// Offset of the exit code of a program that a signal ended, as shells have it.
const SIGNAL_BASE: u32 = 128;

/// Signals that end a session; the container does not notice.
const ENDING: [Signal; 4] = [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM];

/// The keys that end a session, as everywhere: ctrl-p, ctrl-q.
const DETACH: [u8; 2] = [0x10, 0x11];

/// A session.
pub struct Session {
    socket: OwnedFd,
    decoder: Decoder,
    signals: SignalFd,
    /// The container's standard input, until it or ours is at its end.
    input: Option<OwnedFd>,
    /// Its end is that of the container's; otherwise it is that of the session.
    once: bool,
    /// What is to be written to it.
    typed: Vec<u8>,
    at_end: bool,
    keys: DetachKeys,
    raw: Option<RawMode>,
}

/// What becomes of a session.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    GoOn,
    /// It is over, with this exit code.
    End(u8),
}

impl Session {
    /// A session with the container that this process is attached to.
    pub fn new(attached: Attached) -> Result<Self> {
        let Attached { socket, begun, input, tty, once } = attached;
        let mut set = SigSet::empty();
        ENDING.into_iter().chain([Signal::SIGWINCH]).for_each(|signal| set.add(signal));
        set.thread_block().context(|| "cannot block signals")?;
        let signals = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
            .context(|| "cannot make a signal descriptor")?;
        let raw = if tty && input.is_some() { RawMode::set()? } else { None };
        if let Some(input) = &input {
            rustix::io::ioctl_fionbio(input, true).context(|| "cannot set up the standard input")?;
        }
        let mut decoder = Decoder::default();
        decoder.push(&begun);
        let (typed, at_end, keys) = (Vec::new(), false, DetachKeys::default());
        let session = Self { socket, decoder, signals, input, once, typed, at_end, keys, raw };
        session.resize();
        Ok(session)
    }

    /// True if every key goes to the container.
    pub fn is_raw(&self) -> bool {
        self.raw.is_some()
    }

    /// Goes on until the container or the user ends it. Answers the exit code of the container, or 0.
    pub fn run(mut self) -> Result<u8> {
        loop {
            if let Next::End(code) = self.show()? {
                return Ok(code);
            }
            if self.typed.is_empty() && self.at_end {
                if !self.once {
                    return Ok(0);
                }
                self.input = None;
            }
            self.wait()?;
            for step in [Self::hear_signals, Self::receive, Self::read_keys] {
                if let Next::End(code) = step(&mut self)? {
                    return Ok(code);
                }
            }
            self.write_keys();
        }
    }

    fn wait(&self) -> Result<()> {
        let mut fds = vec![
            PollFd::from_borrowed_fd(self.signals.as_fd(), PollFlags::IN),
            PollFd::new(&self.socket, PollFlags::IN),
        ];
        if let Some(input) = &self.input {
            // Its other end may be closed at any time, which is always told.
            let flags = if self.typed.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
            fds.push(PollFd::new(input, flags));
            if self.typed.len() < BUFFER && !self.at_end {
                fds.push(PollFd::from_borrowed_fd(rustix::stdio::stdin(), PollFlags::IN));
            }
        }
        match poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(e) => Err(e).context(|| "cannot wait for the container"),
        }
    }

    /// Writes what has come of the container's output.
    fn show(&mut self) -> Result<Next> {
        let malformed = |e| {
            let message = format!("the monitor of the pod sent what it must not: {e}");
            crate::error::Error::new(crate::error::ErrorKind::System, message)
        };
        while let Some(frame) = self.decoder.next_frame().map_err(malformed)? {
            match frame.kind {
                Kind::Stdout => write_all(rustix::stdio::stdout(), &frame.body)?,
                Kind::Stderr => write_all(rustix::stdio::stderr(), &frame.body)?,
                _ => return frame.parse::<Left>().map(|left| Next::End(left.exit_code)).map_err(malformed),
            }
        }
        Ok(Next::GoOn)
    }

    fn receive(&mut self) -> Result<Next> {
        let mut buffer = [0u8; BUFFER];
        match rustix::net::recv(&self.socket, &mut buffer[..], RecvFlags::DONTWAIT) {
            Ok((0, _)) | Err(Errno::CONNRESET) => {
                crate::bail!(
                    System,
                    "the monitor of the pod has closed the connection: it was killed, or output was not taken for too long"
                )
            }
            Ok((read, _)) => self.decoder.push(&buffer[..read]),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(e) => return Err(e).context(|| "cannot hear the monitor of the pod"),
        }
        Ok(Next::GoOn)
    }

    fn hear_signals(&mut self) -> Result<Next> {
        while let Some(signal) = self.signals.read_signal().context(|| "cannot read signals")? {
            if signal.ssi_signo == Signal::SIGWINCH as u32 {
                self.resize();
            } else {
                return Ok(Next::End((SIGNAL_BASE + signal.ssi_signo) as u8));
            }
        }
        Ok(Next::GoOn)
    }

    /// Gives the container's terminal the size of ours.
    fn resize(&self) {
        if let (Some(_), Some(input)) = (&self.raw, &self.input)
            && let Ok(size) = rustix::termios::tcgetwinsize(rustix::stdio::stdin())
        {
            // That of a microVM is not here: the monitor passes its size on.
            if rustix::termios::tcsetwinsize(input, size).is_err() {
                let _ = protocol::resize(self.socket.as_fd(), size.ws_col, size.ws_row);
            }
        }
    }

    fn read_keys(&mut self) -> Result<Next> {
        use crate::infra::wire::ready;
        let stdin = rustix::stdio::stdin();
        let wanted = self.input.is_some() && self.typed.len() < BUFFER && !self.at_end;
        if !wanted || !ready(stdin, PollFlags::IN, Some(std::time::Duration::ZERO))? {
            return Ok(Next::GoOn);
        }
        let mut buffer = [0u8; BUFFER];
        match rustix::io::read(stdin, &mut buffer) {
            Ok(read @ 1..) if self.is_raw() => {
                let (typed, detach) = self.keys.pass(&buffer[..read]);
                self.typed.extend(typed);
                if detach {
                    return Ok(Next::End(0));
                }
            }
            Ok(read @ 1..) => self.typed.extend_from_slice(&buffer[..read]),
            Err(Errno::AGAIN | Errno::INTR) => {}
            _ => self.at_end = true,
        }
        Ok(Next::GoOn)
    }

    fn write_keys(&mut self) {
        let Some(input) = &self.input else { return };
        let written = if self.typed.is_empty() {
            let gone = PollFlags::ERR | PollFlags::HUP;
            let mut fds = [PollFd::new(input, PollFlags::empty())];
            poll(&mut fds, Some(&rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 }))
                .and_then(|_| if fds[0].revents().intersects(gone) { Err(Errno::PIPE) } else { Ok(0) })
        } else {
            rustix::io::write(input, &self.typed)
        };
        match written {
            Ok(count) => drop(self.typed.drain(..count)),
            Err(Errno::AGAIN | Errno::INTR) => {}
            // Nobody reads it any more. Without our keys in raw mode there would be no way out.
            Err(_) => (self.input, self.raw, self.typed) = (None, None, Vec::new()),
        }
    }
}

/// Finds the keys that end a session among those that are typed.
#[derive(Debug, Default)]
struct DetachKeys {
    /// The first of them was typed.
    begun: bool,
}

impl DetachKeys {
    /// What goes to the container, and whether the session is to end.
    fn pass(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        let mut passed = Vec::new();
        for key in typed {
            match (self.begun, *key) {
                (true, key) if key == DETACH[1] => return (passed, true),
                (false, key) if key == DETACH[0] => self.begun = true,
                (begun, key) => {
                    passed.extend(begun.then_some(DETACH[0]));
                    self.begun = begun && key == DETACH[0];
                    passed.extend((!self.begun).then_some(key));
                }
            }
        }
        (passed, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_keys_in_a_row_end_a_session_and_all_others_are_passed_on() {
        let mut keys = DetachKeys::default();
        assert_eq!(keys.pass(b"ab"), (b"ab".to_vec(), false));
        assert_eq!(keys.pass(b"a\x10"), (b"a".to_vec(), false), "the first is kept back");
        assert_eq!(keys.pass(b"b\x11"), (b"\x10b\x11".to_vec(), false));
        assert_eq!(keys.pass(b"\x10\x10\x10x"), (b"\x10\x10\x10x".to_vec(), false));
        assert_eq!(keys.pass(b"c\x10\x10"), (b"c\x10".to_vec(), false));
        assert_eq!(keys.pass(b"\x11d"), (Vec::new(), true));
    }
}
