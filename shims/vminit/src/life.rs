//! What the guest does by itself: starting containers in order, and ending.

use crate::connection::Connection;
use crate::container::Container;
use crate::failure::{Result, failure};
use crate::guest::{Ending, Guest};
use std::time::{Duration, Instant};
use vm_protocol::message::{Failure, FailureKind};
use vm_protocol::spec::{End, PodSpec, Stdio};

/// How long those who wait for output or answers may hold up the end of the virtual machine.
pub const FLUSH: Duration = Duration::from_secs(30);

/// How long the guest waits for somebody to ask whether its containers run, or why not: the host must not hear of the end of what
/// it does not know the start of.
const TELL: Duration = Duration::from_secs(10);

/// Time between SIGTERM and SIGKILL for the other containers when one has ended.
const GRACE: Duration = Duration::from_secs(10);

/// Exit code when the guest itself has failed, as of chroot(1) and podman.
const OWN_FAILURE: u8 = 125;
/// Exit code when a program cannot be executed.
const NOT_EXECUTABLE: u8 = 126;
/// Exit code when there is no such program.
const NO_PROGRAM: u8 = 127;

impl Guest {
    /// Takes over the containers of a specification.
    pub fn fill(&mut self, spec: PodSpec) {
        self.containers = spec.containers.iter().cloned().map(Container::new).collect();
        self.spec = spec;
        if !self.containers.iter().any(|container| container.spec.stdio == Stdio::Console) {
            self.console.close_input();
        }
    }

    /// The guest cannot go on: everything ends, after those who ask were told why.
    pub fn fail(&mut self, failure: Failure) {
        if self.failed.is_some() {
            return;
        }
        eprintln!("vminit: {}", failure.message);
        let missing = |text: &str| text.contains("not found in $PATH") || text.contains("no such file");
        let code = match failure.kind {
            FailureKind::ExecFailed if missing(&failure.message) => NO_PROGRAM,
            FailureKind::ExecFailed => NOT_EXECUTABLE,
            _ => OWN_FAILURE,
        };
        self.failed = Some(failure);
        self.stop(Duration::ZERO);
        self.prepare_end(code);
    }

    fn prepare_end(&mut self, code: u8) {
        let patience = if self.told { FLUSH } else { TELL };
        self.ending = Some(Ending { code, until: Instant::now() + patience });
    }

    /// Somebody was told how it went.
    pub(crate) fn tell(&mut self) {
        if let Some(ending) = self.ending.as_mut().filter(|_| !self.told) {
            ending.until = Instant::now() + FLUSH;
        }
        self.told = true;
    }

    /// Asks all containers to end, and kills them after a time.
    pub fn stop(&mut self, grace: Duration) {
        let until = Instant::now() + grace.min(Duration::from_secs(1 << 20));
        if self.stopping.is_some_and(|before| before <= until) {
            return;
        }
        self.stopping = Some(until);
        self.signal_all(libc::SIGTERM);
    }

    fn signal_all(&mut self, signal: i32) {
        let alive = self.containers.iter().filter(|container| container.is_alive());
        let first = alive.filter_map(|container| container.first.as_ref());
        first.chain(self.members()).for_each(|first| drop(first.signal(signal)));
    }

    /// Starts what can be started, and decides whether it is time to end.
    pub(crate) fn advance(&mut self) {
        if self.stopping.is_some_and(|until| until <= Instant::now()) && !self.killed {
            self.killed = true;
            self.signal_all(libc::SIGKILL);
        }
        if self.stopping.is_none() {
            self.start_next();
            self.look_for_ends();
        }
        let alive = self.containers.iter().any(Container::is_alive) || self.members().next().is_some();
        if self.stopping.is_some() && !alive && self.ending.is_none() {
            self.prepare_end(self.code());
        }
    }

    /// Starts a container that was asked for.
    pub(crate) fn start_requested(&mut self, index: usize) -> Result<()> {
        let container = &mut self.containers[index];
        let name = &container.spec.name;
        if !container.spec.on_request || self.stopping.is_some() {
            let message = format!("container '{name}' cannot be started now");
            return Err(failure(FailureKind::InvalidState, message));
        }
        container.start()
    }

    fn start_next(&mut self) {
        for index in 0..self.containers.len() {
            let container = &mut self.containers[index];
            let init = container.spec.init;
            if container.spec.on_request {
                continue;
            }
            if container.first.is_none()
                && let Err(e) = container.start()
            {
                let message = format!("cannot start container '{}': {}", container.spec.name, e.message);
                return self.fail(Failure { message, ..e });
            }
            match container.code() {
                None if init => return,
                Some(code) if init && code != 0 => {
                    let message = format!("init container '{}' exited {code}", container.spec.name);
                    self.fail(failure(FailureKind::InvalidState, message));
                    self.ending.iter_mut().for_each(|ending| ending.code = code);
                    return;
                }
                _ => {}
            }
        }
    }

    fn look_for_ends(&mut self) {
        let mut ends = self.containers.iter().filter(|container| !container.spec.init).map(Container::code);
        let over = match self.spec.end {
            End::Any => ends.any(|code| code.is_some()),
            End::All => !self.containers.is_empty() && ends.all(|code| code.is_some()),
            End::Asked => false,
        };
        // One that has not become its program is told as a failure, once that was heard.
        let unheard =
            self.containers.iter().any(|it| it.first.as_ref().is_some_and(|first| !first.is_started()));
        if over && !unheard && self.failed.is_none() {
            self.stop(GRACE);
        }
    }

    /// The exit code of the virtual machine by those of its containers.
    fn code(&self) -> u8 {
        if let (End::Any, Some(code)) = (self.spec.end, self.first_end) {
            return code;
        }
        let mut codes = self.containers.iter().filter(|it| !it.spec.init).filter_map(Container::code);
        codes.find(|code| *code != 0).unwrap_or(0)
    }

    /// The exit code, when everything that has to be said was said.
    pub(crate) fn end(&mut self) -> Option<u8> {
        let ending = self.ending.as_ref()?;
        let silent = self.containers.iter().all(|it| it.first.is_none() || it.is_over());
        let said = self.console.is_flushed() && self.connections.values().all(Connection::is_flushed);
        let done = silent && said && self.execs.is_empty() && self.told;
        (done || ending.until <= Instant::now()).then_some(ending.code)
    }
}
