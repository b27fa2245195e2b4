//! A container of the guest.

use crate::cgroup::{self, Cgroup};
use crate::child;
use crate::console::Console;
use crate::failure::{Result, failure};
use crate::log::Log;
use crate::processes;
use crate::running::{Output, Running};
use crate::stdio::{self, ChildStdio, OurStdio};
use std::os::fd::AsFd as _;
use vm_protocol::frame::Kind;
use vm_protocol::message::{ContainerState, ContainerStatus, FailureKind, Stats};
use vm_protocol::spec::{Container as Spec, Stdio};

/// A container.
#[derive(Debug)]
pub struct Container {
    /// What it is made of.
    pub spec: Spec,
    /// Its first process, once it was made.
    pub first: Option<Running>,
    /// Its last output.
    pub log: Log,
    /// Somebody has followed its output.
    pub followed: bool,
    cgroup: Option<Cgroup>,
    namespace: Option<u64>,
    out_of_memory: bool,
}

impl Container {
    /// One that is to be started.
    pub fn new(spec: Spec) -> Self {
        Self {
            spec,
            first: None,
            log: Log::default(),
            followed: false,
            cgroup: None,
            namespace: None,
            out_of_memory: false,
        }
    }

    /// Makes its first process. What is known of an earlier one is forgotten.
    pub fn start(&mut self) -> Result<()> {
        if self.is_alive() {
            let message = format!("container '{}' runs already", self.spec.name);
            return Err(failure(FailureKind::InvalidState, message));
        }
        *self = Self::new(self.spec.clone());
        let (ours, theirs) = match (self.spec.stdio, self.spec.process.terminal) {
            (_, true) => (OurStdio::default(), ChildStdio::NewTerminal),
            (stdio, false) => stdio::pipes(stdio == Stdio::Console || self.spec.stdin)?,
        };
        self.cgroup = cgroup::make(&self.spec.name, &self.spec.cgroup)?;
        let directory = self.cgroup.as_ref().map(|cgroup| cgroup.directory.as_fd());
        let (child, channel) = child::make_first(&self.spec, directory, theirs)?;
        self.namespace = processes::pid_namespace(child.pid);
        self.first = Some(Running::new(child, channel, ours));
        Ok(())
    }

    /// Its first process while it runs its program.
    pub fn live(&self) -> Result<&Running> {
        self.first.as_ref().filter(|first| first.is_started() && first.code.is_none()).ok_or_else(|| {
            failure(FailureKind::InvalidState, format!("container '{}' is not running", self.spec.name))
        })
    }

    /// Whether its program was executed.
    pub fn is_started(&self) -> bool {
        self.first.as_ref().is_some_and(Running::is_started)
    }

    /// Whether a process of it exists.
    pub fn is_alive(&self) -> bool {
        self.first.as_ref().is_some_and(|first| first.code.is_none())
    }

    /// Whether nothing more will come of it.
    pub fn is_over(&self) -> bool {
        self.first.as_ref().is_some_and(|first| first.code.is_some() && first.is_silent())
    }

    /// Its exit code, when it has ended.
    pub fn code(&self) -> Option<u8> {
        self.first.as_ref().and_then(|first| first.code)
    }

    /// Its cgroup.
    pub fn cgroup(&self) -> Option<&Cgroup> {
        self.cgroup.as_ref()
    }

    /// How it is.
    pub fn status(&self) -> ContainerStatus {
        let state = match &self.first {
            Some(first) if first.code.is_some() => ContainerState::Stopped,
            Some(first) if first.is_started() => ContainerState::Running,
            _ => ContainerState::Waiting,
        };
        let pid = self.first.as_ref().filter(|_| state == ContainerState::Running);
        ContainerStatus {
            name: self.spec.name.clone(),
            state,
            pid: pid.map_or(0, |first| first.child.pid),
            exit_code: self.code(),
            out_of_memory: self.out_of_memory,
        }
    }

    /// What it uses.
    pub fn stats(&self) -> Result<Stats> {
        self.live()?;
        match (&self.cgroup, self.namespace) {
            (Some(cgroup), _) => Ok(cgroup.stats()),
            (None, Some(namespace)) => processes::stats(namespace),
            (None, None) => Ok(Stats::default()),
        }
    }

    /// The number of its pid namespace.
    pub fn namespace(&self) -> Result<u64> {
        self.live()?;
        self.namespace.ok_or_else(|| failure(FailureKind::System, "the pid namespace is not known"))
    }

    /// Takes note of the end of its first process.
    pub fn ended(&mut self, code: u8) {
        self.out_of_memory = self.cgroup.as_ref().is_some_and(|cgroup| cgroup.oom_kills() > 0);
        if let Some(first) = &mut self.first {
            first.code = Some(code);
        }
        if let Some(cgroup) = &self.cgroup {
            cgroup.remove();
        }
    }

    /// Whether its output waits for somebody to follow it.
    pub fn waits_for_reader(&self) -> bool {
        self.spec.stdio == Stdio::Followed && !self.followed
    }

    /// Whether more of its output can be taken; `slowest` is the piece that the slowest reader of its log waits for.
    pub fn has_room(&self, console: &Console, slowest: Option<u64>) -> bool {
        !self.log.is_full_for(slowest) && (self.spec.stdio != Stdio::Console || console.has_room())
    }

    /// Takes the output that is there: to the log, and to the console. True when there was some.
    pub fn take_output(&mut self, console: &mut Console) -> bool {
        let Some(first) = &mut self.first else { return false };
        let mut taken = false;
        for kind in [Kind::Stdout, Kind::Stderr] {
            if let Output::Data(data) = first.read(kind) {
                if self.spec.stdio == Stdio::Console {
                    console.push(kind, &data);
                }
                self.log.push(kind, data);
                taken = true;
            }
        }
        taken
    }
}
