//! The first process of a microVM's container: it makes the monitor, waits until the guest's program runs, passes signals on to it,
//! and ends with its exit code.
//!
//! It is one thread around one poll(2). The monitor is its child: libkrun ends the process that it runs in.

use super::console::Console;
use super::passing::Passing;
use super::resizing::Resizing;
use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::platform::stdio;
use crate::platform::sys::clone::{self, Child};
use crate::runtime::foreground::FAULTS;
use crate::runtime::native::channel::{Channel, Message};
use crate::vm::connection::{Connection, Received, reply_of};
use crate::vm::session::terminal_size;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::Mode;
use rustix::process::{WaitOptions, WaitStatus, wait};
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use vm_protocol::message::{Reply, Request};
use vm_protocol::{UNTOLD, exit_status};

/// Exit code when the virtual machine itself has failed.
const FAILURE: i32 = UNTOLD as i32;
/// Status of a monitor that could not become the machine: what a guest that says nothing leaves it.
const NO_MACHINE: i32 = 0;
/// Offset of the exit code of a process that a signal ended.
const SIGNAL_BASE: i32 = 128;

/// Signals that are not the guest's business: the guest's terminal sends the first by itself when it is given the size of ours.
const OWN: [Signal; 4] = [Signal::SIGWINCH, Signal::SIGCHLD, Signal::SIGPIPE, Signal::SIGURG];

/// What is supervised.
#[derive(Debug)]
pub struct Supervisor {
    /// The guest's console.
    pub console: Console,
    /// The control socket.
    pub control: PathBuf,
    /// When the guest's program must run.
    pub deadline: Instant,
    /// How long a guest may take to answer that it has passed a signal on; then it is ended.
    pub patience: Duration,
    /// The guest's program has a terminal, which is to have the size of ours.
    pub terminal: bool,
    /// passt, if the guest's network goes through it.
    pub passt: Option<Child>,
}

/// The state of the loop.
struct Running {
    supervisor: Supervisor,
    signals: SignalFd,
    monitor: Child,
    /// Who waits for the guest's program; none once it runs.
    starter: Option<Channel>,
    ready: Option<Connection>,
    /// How much the console had said when the guest was asked last whether its program runs.
    asked_at: u64,
    /// Signals that the guest has not acknowledged.
    passing: Passing,
    /// The size of our terminal, if the guest does not know it.
    resizing: Resizing,
    early: Vec<i32>,
    /// The machine is ended for a reason that was told.
    failed: bool,
    /// The signal that has ended the machine, for no reason that is known.
    killed: Option<i32>,
}

impl Supervisor {
    /// Makes the monitor, which is `become_monitor`, and supervises it until it ends; returns its exit code. `starter` hears when the
    /// guest's program runs, or why it does not.
    pub fn run(self, starter: Channel, become_monitor: impl FnOnce() -> Error) -> i32 {
        let failed = |e: &Error| {
            starter.send_error(e);
            FAILURE
        };
        let (signals, before) = match block_signals() {
            Ok(pair) => pair,
            Err(e) => return failed(&e),
        };
        let monitor = clone::fork(|| {
            let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
            let _ = before.thread_set_mask();
            let e = become_monitor();
            stdio::tell(format_args!("magikrun: {e}"));
            NO_MACHINE
        });
        let monitor = match monitor {
            Ok(monitor) => monitor,
            Err(e) => return failed(&e),
        };
        let passing = Passing::new(self.control.clone(), self.patience);
        let running = Running {
            supervisor: self,
            signals,
            monitor,
            starter: Some(starter),
            ready: None,
            asked_at: 0,
            passing,
            resizing: Resizing::default(),
            early: Vec::new(),
            failed: false,
            killed: None,
        };
        running.supervise()
    }
}

fn block_signals() -> Result<(SignalFd, SigSet)> {
    let cannot = || "cannot set up signals";
    let mut set = SigSet::empty();
    Signal::iterator().filter(|signal| !FAULTS.contains(signal)).for_each(|signal| set.add(signal));
    let before = set.thread_swap_mask(nix::sys::signal::SigmaskHow::SIG_BLOCK).context(cannot)?;
    let signals =
        SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).context(cannot)?;
    Ok((signals, before))
}

impl Running {
    fn supervise(mut self) -> i32 {
        loop {
            if let Some(code) = self.turn() {
                return code;
            }
        }
    }

    /// Waits until something happens and handles it; the exit code when the monitor has ended.
    fn turn(&mut self) -> Option<i32> {
        self.wait();
        self.supervisor.console.read();
        while let Ok(Some(info)) = self.signals.read_signal() {
            let number = i32::try_from(info.ssi_signo).unwrap_or(0);
            if number == libc::SIGCHLD {
                if let Some(code) = self.reap() {
                    return Some(self.ended(code));
                }
            } else if number == libc::SIGWINCH {
                self.resizing.changed();
            } else if !OWN.iter().any(|own| *own as i32 == number) {
                self.pass_on(number);
            }
        }
        self.look_at_start();
        self.look_at_signals();
        self.look_at_size();
        None
    }

    fn wait(&mut self) {
        let mut fds = vec![PollFd::from_borrowed_fd(self.signals.as_fd(), PollFlags::IN)];
        fds.extend(self.supervisor.console.wait_for());
        fds.extend(self.ready.iter().map(|connection| PollFd::new(connection, PollFlags::IN)));
        fds.extend(self.passing.wait_for());
        fds.extend(self.resizing.wait_for());
        let start = self.starter.as_ref().map(|_| self.supervisor.deadline);
        let timeout = start.into_iter().chain(self.passing.wakeup()).chain(self.resizing.wakeup()).min();
        let timeout = timeout.map(|deadline| {
            let left = deadline.saturating_duration_since(Instant::now());
            Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) }
        });
        let _ = poll(&mut fds, timeout.as_ref());
    }

    /// Reaps whatever has ended; the exit code of the monitor if it has.
    fn reap(&mut self) -> Option<i32> {
        let mut code = None;
        while let Ok(Some((pid, status))) = rustix::io::retry_on_intr(|| wait(WaitOptions::NOHANG)) {
            let pid = pid.as_raw_pid();
            if pid == self.monitor.pid {
                self.killed = status.terminating_signal();
                code = Some(code_of(status));
            } else if self.supervisor.passt.as_ref().is_some_and(|passt| passt.pid == pid) {
                self.supervisor.passt = None;
                self.fail(Error::new(ErrorKind::System, "the microVM's network is gone: passt has ended"));
            }
        }
        code
    }

    /// The exit code to end with, after whoever waits has heard why nothing runs.
    fn ended(&mut self, code: i32) -> i32 {
        self.supervisor.console.read();
        if self.failed {
            return FAILURE;
        }
        if self.starter.is_some() {
            let e =
                self.explain(format!("the virtual machine ended with code {code} before its program ran"));
            self.tell_starter(&e);
        } else if let Some(signal) = self.killed {
            let e = self.explain(format!("the virtual machine was killed by signal {signal}"));
            stdio::tell(format_args!("magikrun: {e}"));
        }
        code
    }

    fn explain(&self, what: String) -> Error {
        let said = self.supervisor.console.last_words();
        Error::new(ErrorKind::StartFailed, format!("{what}; the last that its console said: {said}"))
    }

    fn tell_starter(&mut self, e: &Error) {
        if let Some(starter) = self.starter.take() {
            starter.send_error(e);
        }
    }

    /// Ends the machine for a reason.
    fn fail(&mut self, e: Error) {
        self.failed = true;
        match self.starter {
            Some(_) => self.tell_starter(&e),
            None => stdio::tell(format_args!("magikrun: {e}")),
        }
        let _ = rustix::process::pidfd_send_signal(&self.monitor.pidfd, rustix::process::Signal::KILL);
    }

    fn look_at_start(&mut self) {
        if self.starter.is_none() {
            return;
        }
        let deadline = self.supervisor.deadline;
        if Instant::now() >= deadline {
            let e = self.explain(
                "the microVM's program does not run in time (see vm.start_timeout in the configuration)"
                    .to_owned(),
            );
            return self.fail(e.with_kind(ErrorKind::Timeout));
        }
        self.ask();
        let Some(connection) = &mut self.ready else { return };
        match connection.try_receive() {
            Ok(Received::Nothing) => {}
            Ok(Received::Closed) => {
                self.ready = None;
                self.ask();
            }
            Ok(Received::Frame(frame)) => match reply_of(&frame) {
                Ok(Reply::Status(_)) => self.started(),
                Ok(_) => self.fail(Error::new(ErrorKind::System, "the guest gave a wrong answer")),
                Err(e) => self.fail(e),
            },
            Err(e) => self.fail(e),
        }
    }

    /// Asks a guest that has said something since it was asked last, as it does when it listens: until then the machine closes every
    /// connection, or has no socket yet.
    fn ask(&mut self) {
        let said = self.supervisor.console.amount();
        if self.ready.is_none() && self.asked_at < said {
            self.asked_at = said;
            self.ready = Connection::open_at_once(&self.supervisor.control, &Request::Ready).ok();
        }
    }

    fn started(&mut self) {
        self.ready = None;
        // libkrun makes it with the mode that the mask leaves; the directory was closed to others all the time.
        if let Err(e) = rustix::fs::chmod(&self.supervisor.control, Mode::from_raw_mode(0o600)) {
            return self.fail(Error::from(e).wrap("cannot close the control socket to others"));
        }
        if let Some(starter) = self.starter.take() {
            let _ = starter.send(&Message::Ready);
        }
        // It may have changed since the guest was given one.
        self.resizing.changed();
        for signal in std::mem::take(&mut self.early) {
            self.pass_on(signal);
        }
    }

    /// Gives the guest's terminal the size of ours, once there is one.
    fn look_at_size(&mut self) {
        if self.supervisor.terminal && self.starter.is_none() {
            self.resizing.look(&self.supervisor.control, terminal_size);
        }
    }

    fn pass_on(&mut self, signal: i32) {
        if self.starter.is_some() {
            return self.early.push(signal);
        }
        self.passing.add(signal);
    }

    fn look_at_signals(&mut self) {
        if let Err(e) = self.passing.look() {
            self.fail(e);
        }
    }
}

fn code_of(status: WaitStatus) -> i32 {
    let told = status.exit_status().map(|status| i32::from(exit_status(status as u8)));
    let signal = || status.terminating_signal().map(|signal| SIGNAL_BASE + signal);
    told.or_else(signal).unwrap_or(FAILURE)
}
