//! Probes and hooks, and what clients execute: started by the monitor, which never waits for one alone.

use super::Monitor;
use super::streams::with_streams;
use super::tracker::Tracker;
use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::infra::InfraEvent;
use crate::infra::message::ToInfra;
use crate::infra::probe::NetAction;
use crate::platform::sys::signal::pidfd_send_signal;
use crate::pod::plan::{Action, Role};
use crate::runtime::lifecycle;
use crate::runtime::options::{ExecArgs, ExecOptions, ExecProcess};
use rustix::fs::MemfdFlags;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::time::{Duration, Instant};

/// Most output of a command that is kept for its client, in bytes for each stream.
const MAX_OUTPUT: usize = 128 << 10;

/// Kinds of probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ProbeKind {
    Startup,
    Readiness,
    Liveness,
}

/// A probe of a container.
#[derive(Debug)]
pub(super) struct Tracked {
    kind: ProbeKind,
    tracker: Tracker,
}

/// Why something is executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Probe(ProbeKind),
    Hook,
    Client,
}

/// What became of a job.
#[derive(Debug, Clone)]
pub(super) struct Outcome {
    /// Why it is bad, if it is.
    pub(super) failure: Option<String>,
    /// Exit code of a command.
    pub(super) exit_code: u8,
}

#[derive(Debug)]
struct Job {
    number: u64,
    member: usize,
    purpose: Purpose,
    pid: Option<i32>,
    pidfd: Option<OwnedFd>,
    /// When it has taken too long; a pause is over then.
    deadline: Instant,
    is_pause: bool,
    output: Option<(File, File)>,
    outcome: Option<Outcome>,
}

/// All jobs.
#[derive(Debug, Default)]
pub(super) struct Jobs {
    last: u64,
    all: Vec<Job>,
}

fn bad(why: impl Into<String>) -> Outcome {
    Outcome { failure: Some(why.into()), exit_code: 255 }
}

impl Jobs {
    fn next(&self) -> Option<Instant> {
        self.all.iter().filter(|job| job.outcome.is_none()).map(|job| job.deadline).min()
    }

    fn job(&mut self, number: u64) -> Option<&mut Job> {
        self.all.iter_mut().find(|job| job.number == number)
    }

    /// A process has ended; true if it was one of a job.
    pub(super) fn ended(&mut self, pid: i32, code: u8) -> bool {
        let Some(job) = self.all.iter_mut().find(|job| job.pid == Some(pid)) else { return false };
        (job.pid, job.pidfd) = (None, None);
        let failure = (code != 0).then(|| format!("exit code {code}"));
        job.outcome.get_or_insert(Outcome { failure, exit_code: code });
        true
    }

    /// The infra container answers.
    pub(super) fn probed(&mut self, number: u64, failure: Option<String>) {
        if let Some(job) = self.job(number) {
            job.outcome.get_or_insert(Outcome { failure, exit_code: 0 });
        }
    }

    /// A container is gone, and with it what ran in it: nobody wants the results of probes.
    pub(super) fn forget(&mut self, member: usize) {
        self.all.retain(|job| job.member != member || !matches!(job.purpose, Purpose::Probe(_)));
        for job in self.all.iter_mut().filter(|job| job.member == member) {
            job.outcome.get_or_insert(bad("the container has ended"));
        }
    }

    /// The result of a job that is done, once, and what it has written.
    pub(super) fn take(&mut self, number: u64) -> Option<(Outcome, String, String)> {
        let at = self.all.iter().position(|job| job.number == number && job.outcome.is_some())?;
        let job = self.all.remove(at);
        let text = |file: &File| {
            let mut buffer = vec![0u8; MAX_OUTPUT];
            let read = file.read_at(&mut buffer, 0).unwrap_or(0);
            String::from_utf8_lossy(&buffer[..read]).into_owned()
        };
        let (out, err) = job.output.as_ref().map(|(out, err)| (text(out), text(err))).unwrap_or_default();
        Some((job.outcome?, out, err))
    }

    fn expire(&mut self, now: Instant) {
        for job in self.all.iter_mut().filter(|job| job.outcome.is_none() && now >= job.deadline) {
            job.outcome = Some(if job.is_pause {
                Outcome { failure: None, exit_code: 0 }
            } else {
                bad("it takes too long")
            });
            if let Some(pidfd) = &job.pidfd {
                let _ = pidfd_send_signal(pidfd, libc::SIGKILL);
            }
        }
    }

    /// Probes that are done, with what they are of.
    fn done_probes(&mut self) -> Vec<(usize, ProbeKind, Outcome)> {
        let mut done = Vec::new();
        self.all.retain(|job| match (job.purpose, &job.outcome) {
            (Purpose::Probe(kind), Some(outcome)) => {
                done.push((job.member, kind, outcome.clone()));
                false
            }
            _ => true,
        });
        done
    }
}

impl Monitor<'_> {
    /// When something is due next.
    pub(super) fn next_wakeup(&self) -> Option<Instant> {
        let probes = self.members.iter().flat_map(|member| {
            let gate = member.probes.iter().any(|p| p.kind == ProbeKind::Startup);
            let due = member.probes.iter().filter(move |p| !gate || p.kind == ProbeKind::Startup);
            due.filter_map(|p| p.tracker.next()).chain(member.restart_at)
        });
        probes.chain(self.jobs.next()).min()
    }

    /// Starts the probes of a container that has been started.
    pub(super) fn track(&mut self, number: usize) {
        let member = &mut self.members[number];
        let now = Instant::now();
        let plan = &member.plan;
        let probes = [
            (ProbeKind::Startup, &plan.startup),
            (ProbeKind::Readiness, &plan.readiness),
            (ProbeKind::Liveness, &plan.liveness),
        ];
        member.probes = probes
            .into_iter()
            .filter_map(|(kind, probe)| Some(Tracked { kind, tracker: Tracker::new(probe.as_ref()?, now) }))
            .collect();
    }

    /// True while a container's startup probe has not succeeded.
    pub(super) fn is_starting(&self, number: usize) -> bool {
        self.members[number].probes.iter().any(|probe| probe.kind == ProbeKind::Startup)
    }

    /// Runs what is due and deals with what is done.
    pub(super) fn run_jobs(&mut self, now: Instant) {
        self.jobs.expire(now);
        for (member, kind, outcome) in self.jobs.done_probes() {
            self.probe_ended(member, kind, outcome, now);
        }
        if self.stop_at.is_some() {
            return;
        }
        for number in 0..self.members.len() {
            if self.members[number].restart_at.is_some_and(|at| now >= at) {
                self.restart_member(number);
            }
            self.run_probes(number, now);
        }
    }

    fn run_probes(&mut self, number: usize, now: Instant) {
        let starting = self.is_starting(number);
        let member = &mut self.members[number];
        let mut due = Vec::new();
        for probe in &mut member.probes {
            if (!starting || probe.kind == ProbeKind::Startup)
                && probe.tracker.next().is_some_and(|at| now >= at)
            {
                probe.tracker.begin(now);
                due.push(probe.kind);
            }
        }
        for kind in due {
            let plan = &self.members[number].plan;
            let probe = match kind {
                ProbeKind::Startup => &plan.startup,
                ProbeKind::Readiness => &plan.readiness,
                ProbeKind::Liveness => &plan.liveness,
            };
            let Some(probe) = probe.clone() else { continue };
            let timeout = Duration::from_secs(probe.timeout.into());
            self.start_job(number, Purpose::Probe(kind), &probe.action, timeout);
        }
    }

    fn probe_ended(&mut self, number: usize, kind: ProbeKind, outcome: Outcome, now: Instant) {
        let member = &mut self.members[number];
        let Some(probe) = member.probes.iter_mut().find(|probe| probe.kind == kind) else { return };
        let good = outcome.failure.is_none();
        let Some(state) = probe.tracker.end(good, now) else { return };
        let name = member.plan.name.clone();
        let why = outcome.failure.unwrap_or_default();
        match (kind, state) {
            (ProbeKind::Startup, true) => {
                member.probes.retain(|probe| probe.kind != ProbeKind::Startup);
                member.ready = member.plan.readiness.is_none();
            }
            (ProbeKind::Readiness, ready) => {
                member.ready = ready;
                self.event(InfraEvent::ContainerReady { name, ready });
            }
            (ProbeKind::Liveness, true) => {}
            (ProbeKind::Liveness, false) if member.plan.role == Role::Sidecar => {
                self.signal_member(number, libc::SIGKILL);
            }
            (kind, false) => {
                let (what, probe) = if kind == ProbeKind::Startup {
                    ("startup", &member.plan.startup)
                } else {
                    ("liveness", &member.plan.liveness)
                };
                let grace = probe.as_ref().and_then(|probe| probe.grace);
                if let Some(grace) = grace {
                    self.ask_to_stop(grace);
                }
                let message = format!("the {what} probe of container '{name}' has failed: {why}");
                self.fail(Error::new(ErrorKind::StartFailed, message));
            }
        }
        self.save_status();
    }

    /// Starts a job; the result can be had by [`Jobs::take`], or for a probe goes where it belongs.
    pub(super) fn start_job(
        &mut self,
        member: usize,
        purpose: Purpose,
        action: &Action,
        timeout: Duration,
    ) -> u64 {
        self.jobs.last += 1;
        let number = self.jobs.last;
        let pause = if let Action::Sleep(seconds) = action {
            Some(Duration::from_secs((*seconds).into()))
        } else {
            None
        };
        let mut job = Job {
            number,
            member,
            purpose,
            pid: None,
            pidfd: None,
            deadline: Instant::now() + pause.map_or(timeout, |pause| pause.min(timeout)),
            is_pause: pause.is_some(),
            output: None,
            outcome: None,
        };
        if let Err(e) = self.begin(&mut job, action, timeout) {
            job.outcome = Some(bad(e.message()));
        }
        self.jobs.all.push(job);
        number
    }

    fn begin(&self, job: &mut Job, action: &Action, timeout: Duration) -> Result<()> {
        let net = match action {
            Action::Sleep(_) => return Ok(()),
            Action::Exec(command) => return self.execute(job, command),
            Action::Tcp { host, port } => NetAction::Tcp { host: host.clone(), port: *port },
            Action::Grpc { host, port, service } => {
                NetAction::Grpc { host: host.clone(), port: *port, service: service.clone() }
            }
            Action::Http { tls, host, port, path, headers } => NetAction::Http {
                tls: *tls,
                host: host.clone(),
                port: *port,
                path: path.clone(),
                headers: headers.clone(),
            },
        };
        let timeout = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        match &self.sandbox {
            Some(sandbox) => sandbox.send(&ToInfra::Probe { number: job.number, action: net, timeout }),
            None => crate::bail!(System, "the pod has no sandbox"),
        }
    }

    fn execute(&self, job: &mut Job, command: &[String]) -> Result<()> {
        let file = || {
            rustix::fs::memfd_create("output", MemfdFlags::CLOEXEC).context(|| "cannot make a file in memory")
        };
        let (out, err) = if job.purpose == Purpose::Client {
            (file()?, file()?)
        } else {
            let null = || File::options().write(true).open("/dev/null").map(OwnedFd::from);
            (null()?, null()?)
        };
        if self.around.modules().is_some() && !self.members[job.member].is_running() {
            crate::bail!(InvalidState, "cannot exec in a stopped container");
        }
        let (id, member) = self.orders.record.place(&self.members[job.member].plan.name);
        let options = ExecOptions {
            id,
            member,
            process: ExecProcess::Args(ExecArgs { args: command.to_vec(), ..ExecArgs::default() }),
            detach: true,
            ..ExecOptions::default()
        };
        let (child, _) = with_streams(None, &out, &err, || {
            lifecycle::exec_child(&self.host, &options, Some(self.foreground))
        })?;
        (job.pid, job.pidfd) = (Some(child.pid), Some(child.pidfd));
        if job.purpose == Purpose::Client {
            job.output = Some((out.into(), err.into()));
        }
        Ok(())
    }
}
