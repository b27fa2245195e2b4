//! One turn of the monitor's loop: wait for what happens next, and deal with it.

use super::{Commit, Monitor};
use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::infra::message::FromInfra;
use crate::infra::wire::{Received, Wire, timespec};
use crate::pod::monitor::around::AroundSource;
use crate::pod::monitor::guest::{Guest, GuestSource};
use crate::pod::monitor::streams::Stream;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{WaitOptions, wait};
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

/// Longest wait, so that nothing is ever waited for in vain.
const LONGEST: Duration = Duration::from_secs(60);

/// Offset of the exit code of a program that a signal ended, as shells have it.
const SIGNAL_BASE: i32 = 128;

/// What a descriptor belongs to.
#[derive(Clone, Copy)]
enum Source {
    Signals,
    Maker,
    Infra,
    Pasta,
    Listener,
    Client(usize),
    Log(usize, Stream),
    Around(AroundSource),
}

/// The pod depends on who makes it until it is committed.
pub(super) fn gone() -> Error {
    Error::new(ErrorKind::StartFailed, "the command that makes the pod is gone")
}

impl Monitor<'_> {
    /// Takes turns until `done`, which is asked after each. Fails when the pod must not go on, or after `timeout`.
    pub(super) fn wait_until(
        &mut self,
        what: &str,
        timeout: Option<Duration>,
        mut done: impl FnMut(&mut Self) -> bool,
    ) -> Result<()> {
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        loop {
            self.check()?;
            if done(self) {
                return Ok(());
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                crate::bail!(Timeout, "{what} takes longer than {} s", timeout.unwrap_or_default().as_secs());
            }
            self.turn(deadline)?;
        }
    }

    /// Fails when the pod must not go on.
    pub(super) fn check(&mut self) -> Result<()> {
        match self.fault.take() {
            Some(e) => Err(e),
            None if self.stop_at.is_some() => crate::bail!(StartFailed, "it was asked to stop"),
            None => Ok(()),
        }
    }

    /// Waits for one thing to happen, at most until `deadline`, and deals with it.
    pub(super) fn turn(&mut self, deadline: Option<Instant>) -> Result<()> {
        let now = Instant::now();
        // A stop whose time is over is being dealt with already.
        let stop_at = self.stop_at.filter(|at| *at > now);
        let suspected = self.around.guest().and_then(Guest::suspected_until);
        let wakeups =
            [deadline, stop_at, self.deadline, suspected, self.next_wakeup(), self.clients.next_cut()];
        let until = wakeups.into_iter().flatten().min();
        let behind = self.around.guest().map_or_else(Vec::new, Guest::behind).into_iter();
        let behind: Vec<usize> = behind.filter(|number| !self.clients.hold(*number)).collect();
        let until = if behind.is_empty() { until } else { Some(now) };
        let left = until.map_or(LONGEST, |until| until.saturating_duration_since(now).min(LONGEST));
        for source in self.poll(left)? {
            self.serve(source)?;
        }
        behind.into_iter().for_each(|number| self.serve_guest(GuestSource::Log(number)));
        let now = Instant::now();
        if self.deadline.is_some_and(|deadline| now >= deadline) {
            self.deadline = None;
            let seconds = self.plan().deadline_seconds.unwrap_or_default();
            self.fail(Error::new(ErrorKind::Timeout, format!("activeDeadlineSeconds: {seconds} s are over")));
        }
        self.judge_guest(now);
        self.run_jobs(now);
        self.answer_jobs();
        self.clients.cut(now);
        Ok(())
    }

    fn poll(&self, left: Duration) -> Result<Vec<Source>> {
        let mut sources = vec![Source::Signals, Source::Listener];
        let mut fds = vec![
            PollFd::from_borrowed_fd(self.foreground.signals().as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.clients.listener(), PollFlags::IN),
        ];
        let mut add_for = |source, fd, flags| {
            sources.push(source);
            fds.push(PollFd::from_borrowed_fd(fd, flags));
        };
        for (number, wire, flags) in self.clients.wires() {
            add_for(Source::Client(number), wire.as_fd(), flags);
        }
        let mut add = |source, fd| add_for(source, fd, PollFlags::IN);
        if let Some(maker) = &self.maker {
            add(Source::Maker, maker.as_fd());
        }
        if let Some(sandbox) = &self.sandbox {
            add(Source::Infra, sandbox.wire.as_fd());
            if let Some(output) = sandbox.pasta.as_ref().and_then(|pasta| pasta.output.as_ref()) {
                add(Source::Pasta, output.as_fd());
            }
        }
        // What a client is behind with waits in the kernel.
        for (number, member) in self.members.iter().enumerate().filter(|(n, _)| !self.clients.hold(*n)) {
            for (stream, fd) in member.streams.outputs() {
                add(Source::Log(number, stream), fd);
            }
        }
        for (source, fd, flags) in self.around.sources() {
            if !matches!(source, AroundSource::Guest(GuestSource::Log(number)) if self.clients.hold(number)) {
                add_for(Source::Around(source), fd, flags);
            }
        }
        match poll(&mut fds, Some(&timespec(left))) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(Vec::new()),
            Err(e) => return Err(e).context(|| "cannot wait for events"),
        }
        let ready = fds.iter().zip(sources).filter(|(fd, _)| !fd.revents().is_empty());
        Ok(ready.map(|(_, source)| source).collect())
    }

    fn serve(&mut self, source: Source) -> Result<()> {
        match source {
            Source::Signals => self.signals()?,
            Source::Pasta => self.hear_pasta(),
            Source::Listener => self.clients.accept(),
            Source::Client(number) => self.serve_client(number),
            Source::Log(member, stream) => {
                let clients = &mut self.clients;
                self.members[member].read_log(stream, |data| clients.show(member, stream, data));
            }
            Source::Around(source) => self.serve_around(source),
            // What has arrived with one message is not told again.
            Source::Infra => while self.hear_infra() {},
            Source::Maker => {
                let heard = self.maker.as_mut().map_or(Ok(Received::Nothing), Wire::try_receive::<Commit>);
                match heard {
                    Ok(Received::Nothing) => {}
                    Ok(Received::Message(Commit)) => self.commit = true,
                    Ok(Received::Closed) | Err(_) => {
                        self.maker = None;
                        if !self.promised {
                            self.fail(gone());
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// The first fault counts.
    pub(super) fn fail(&mut self, e: Error) {
        if self.fault.is_none() {
            self.fault = Some(e);
        }
    }

    fn signals(&mut self) -> Result<()> {
        while let Some(signal) = self.foreground.signals().read_signal().context(|| "cannot read signals")? {
            match i32::try_from(signal.ssi_signo).unwrap_or(0) {
                libc::SIGCHLD => self.reap(),
                libc::SIGTERM | libc::SIGINT => self.ask_to_stop(self.plan().grace_seconds),
                _ => {}
            }
        }
        Ok(())
    }

    /// Notes that the pod is to stop, with so many seconds for its containers; an earlier end counts.
    pub(super) fn ask_to_stop(&mut self, grace: u32) {
        let at = Instant::now() + Duration::from_secs(grace.into());
        self.stop_at = Some(self.stop_at.map_or(at, |known| known.min(at)));
    }

    fn reap(&mut self) {
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => {
                    let code = status
                        .exit_status()
                        .or_else(|| status.terminating_signal().map(|signal| SIGNAL_BASE + signal));
                    self.ended(pid.as_raw_pid(), code.unwrap_or_default() as u8);
                }
                Err(Errno::INTR) => {}
                _ => return,
            }
        }
    }

    fn ended(&mut self, pid: i32, code: u8) {
        if let Some(number) = self.members.iter().position(|member| member.pid == Some(pid)) {
            self.member_ended(number, code);
        } else if self.around_ended(pid) || self.jobs.ended(pid, code) {
            // Dealt with by the next look at the jobs.
        } else if let Some(what) = self.sandbox.as_mut().and_then(|sandbox| sandbox.ended(pid)) {
            // What it has said last tells more.
            while self.hear_infra() {}
            self.fail(Error::new(ErrorKind::System, format!("{what} has ended")));
        }
    }

    /// Takes a message of the infra container, if there is one.
    fn hear_infra(&mut self) -> bool {
        let Some(sandbox) = &mut self.sandbox else { return false };
        match sandbox.wire.try_receive() {
            Ok(Received::Nothing) => return false,
            Ok(Received::Message(message)) => {
                self.heard(message);
                return true;
            }
            Ok(Received::Closed) => {}
            Err(e) => self.fail(e.wrap("cannot hear the infra container")),
        }
        // A closed stream stays readable; that the process has ended is told by its signal.
        self.retire_wire();
        false
    }

    fn heard(&mut self, message: FromInfra) {
        match message {
            FromInfra::Ready => self.set_ready(true),
            FromInfra::Stopped => self.set_ready(false),
            FromInfra::Failed(message) => self.fail(Error::new(ErrorKind::StartFailed, message)),
            FromInfra::Resolve(name) => self.resolve(name),
            FromInfra::Probed { number, failure } => self.jobs.probed(number, failure),
            FromInfra::Log { extension, message } => {
                self.note(&serde_json::json!({"type": "extension", "name": extension, "message": message}));
            }
            FromInfra::RequestPort { extension, udp, host_port, container_port } => {
                self.grant_port(&extension, udp, host_port, container_port);
            }
        }
    }
}
