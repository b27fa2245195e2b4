//! Waiting in the foreground: signals, window size and terminal are passed on, children are reaped, and the exit code is that
//! of the program.

use crate::error::{Context as _, Error, Result};
use crate::platform::raw::RawMode;
use crate::platform::sys::clone::Child;
use crate::platform::sys::signal::pidfd_send_signal;
use crate::runtime::notify::Notify;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, pthread_sigmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, wait};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Signals that the kernel raises for a fault of our own; they must not be blocked.
pub(crate) const FAULTS: [Signal; 7] = [
    Signal::SIGSEGV,
    Signal::SIGBUS,
    Signal::SIGFPE,
    Signal::SIGILL,
    Signal::SIGTRAP,
    Signal::SIGSYS,
    Signal::SIGABRT,
];

/// Bytes copied at once between a terminal and us.
const BUFFER: usize = 8 << 10;

/// Offset of the exit code of a program that a signal ended, as shells have it.
const SIGNAL_BASE: i32 = 128;

/// Signal handling of a process that waits for a child. From the moment it exists signals are kept for the child, so
/// none is lost between the child's birth and [`Foreground::wait`].
#[derive(Debug)]
pub struct Foreground {
    signals: SignalFd,
    before: SigSet,
}

impl Drop for Foreground {
    fn drop(&mut self) {
        let _ = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&self.before), None);
    }
}

impl Foreground {
    /// Starts keeping signals. As a `subreaper`, this process inherits and reaps the orphans of its child.
    pub fn new(subreaper: bool) -> Result<Self> {
        if subreaper {
            rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
                .context(|| "cannot become a child subreaper")?;
        }
        let mut set = SigSet::all();
        FAULTS.iter().for_each(|signal| set.remove(*signal));
        let mut before = SigSet::empty();
        pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&set), Some(&mut before))
            .context(|| "cannot block signals")?;
        let signals = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
            .context(|| "cannot make a signal descriptor")?;
        Ok(Self { signals, before })
    }

    /// The descriptor from which the kept signals are read.
    pub fn signals(&self) -> &SignalFd {
        &self.signals
    }

    /// In a child: takes the blocking of signals back, for blocked signals stay blocked across execve(2).
    pub fn restore_in_child(&self) -> Result<()> {
        pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&self.before), None)
            .context(|| "cannot unblock signals")
    }

    /// Waits for the child and returns its exit code, or 128 and the number of the signal that ended it.
    ///
    /// With `master`, the master of its terminal, our standard input and output are connected to it meanwhile; with
    /// `notify`, its readiness is passed on.
    pub fn wait(self, child: &Child, master: Option<OwnedFd>, mut notify: Option<Notify>) -> Result<u8> {
        let mut relay = master.map(Relay::new).transpose()?;
        let mut status = None;
        while status.is_none() {
            self.poll(relay.as_ref(), notify.as_ref())?;
            while let Some(signal) = self.signals.read_signal().context(|| "cannot read signals")? {
                match i32::try_from(signal.ssi_signo).unwrap_or(0) {
                    libc::SIGCHLD => status = reap(child).or(status),
                    libc::SIGWINCH => relay.iter().for_each(Relay::resize),
                    // A full pipe of ours is no business of the program's.
                    libc::SIGPIPE => {}
                    number => forward(child, number),
                }
            }
            if let Some(relay) = &mut relay {
                relay.pump()?;
            }
            if notify.as_ref().map(|notify| notify.pump(child.pid)).transpose()? == Some(true) {
                notify = None;
            }
        }
        if let Some(mut relay) = relay {
            relay.drain();
        }
        Ok(status.unwrap_or_default())
    }

    fn poll(&self, relay: Option<&Relay>, notify: Option<&Notify>) -> Result<()> {
        let signals = self.signals.as_fd();
        let mut fds = vec![PollFd::from_borrowed_fd(signals, PollFlags::IN)];
        if let Some(relay) = relay {
            relay.add_to(&mut fds);
        }
        if let Some(notify) = notify {
            fds.push(PollFd::from_borrowed_fd(notify.as_fd(), PollFlags::IN));
        }
        match poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(e) => Err(e).context(|| "cannot wait for signals"),
        }
    }
}

fn forward(child: &Child, signal: i32) {
    if let Err(e) = pidfd_send_signal(&child.pidfd, signal)
        && e.errno() != Some(libc::ESRCH)
    {
        tracing::warn!("cannot forward signal {signal}: {e}");
    }
}

/// Reaps every dead child; returns the exit code of `child` if it is among them.
fn reap(child: &Child) -> Option<u8> {
    let mut code = None;
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) => {
                if Some(pid) == Pid::from_raw(child.pid) {
                    let number = status
                        .exit_status()
                        .or_else(|| status.terminating_signal().map(|signal| SIGNAL_BASE + signal));
                    code = number.map(|number| number as u8);
                }
            }
            Err(Errno::INTR) => {}
            _ => return code,
        }
    }
}

/// Copies between our standard descriptors and the master of a terminal.
struct Relay {
    master: OwnedFd,
    /// Until the end of the program.
    _raw: Option<RawMode>,
    to_master: Vec<u8>,
    input_open: bool,
    master_open: bool,
}

impl Relay {
    fn new(master: OwnedFd) -> Result<Self> {
        let raw = RawMode::set()?;
        rustix::io::ioctl_fionbio(&master, true).context(|| "cannot set up the terminal")?;
        let relay = Self { master, _raw: raw, to_master: Vec::new(), input_open: true, master_open: true };
        relay.resize();
        Ok(relay)
    }

    /// Gives the container's terminal the size of ours.
    fn resize(&self) {
        if let Ok(size) = rustix::termios::tcgetwinsize(rustix::stdio::stdin()) {
            let _ = rustix::termios::tcsetwinsize(&self.master, size);
        }
    }

    fn add_to<'a>(&'a self, fds: &mut Vec<PollFd<'a>>) {
        if self.master_open {
            let out = if self.to_master.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
            fds.push(PollFd::new(&self.master, PollFlags::IN | out));
        }
        if self.input_open && self.to_master.is_empty() {
            fds.push(PollFd::from_borrowed_fd(rustix::stdio::stdin(), PollFlags::IN));
        }
    }

    /// Moves what there is, without waiting.
    fn pump(&mut self) -> Result<()> {
        let mut buffer = [0u8; BUFFER];
        match rustix::io::read(&self.master, &mut buffer) {
            Ok(0) | Err(Errno::IO) => self.master_open = false,
            Ok(n) => write_all(rustix::stdio::stdout(), &buffer[..n])?,
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(e) => return Err(e).context(|| "cannot read from the terminal of the container"),
        }
        if self.input_open && self.to_master.is_empty() && readable(rustix::stdio::stdin()) {
            match rustix::io::read(rustix::stdio::stdin(), &mut buffer) {
                Ok(0) => {
                    // End of file is a character to a terminal: EOT.
                    self.input_open = false;
                    self.to_master.push(4);
                }
                Ok(n) => self.to_master.extend_from_slice(&buffer[..n]),
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(_) => self.input_open = false,
            }
        }
        if !self.to_master.is_empty() {
            match rustix::io::write(&self.master, &self.to_master) {
                Ok(n) => drop(self.to_master.drain(..n)),
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(_) => self.to_master.clear(),
            }
        }
        Ok(())
    }

    /// Copies what the program wrote last.
    fn drain(&mut self) {
        let mut buffer = [0u8; BUFFER];
        while let Ok(n @ 1..) = rustix::io::read(&self.master, &mut buffer) {
            if write_all(rustix::stdio::stdout(), &buffer[..n]).is_err() {
                break;
            }
        }
    }
}

fn readable(fd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&now)).is_ok_and(|n| n > 0)
}

pub(crate) fn write_all(fd: BorrowedFd<'_>, mut data: &[u8]) -> Result<()> {
    while !data.is_empty() {
        match rustix::io::write(fd, data) {
            Ok(n) => data = &data[n..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::OUT)];
                let _ = poll(&mut fds, None);
            }
            Err(e) => return Err(Error::from(e).wrap("cannot write to standard output")),
        }
    }
    Ok(())
}
