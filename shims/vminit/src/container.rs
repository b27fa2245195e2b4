//! A container of the guest.

use crate::cgroup::{self, Cgroup};
use crate::child;
use crate::console::Console;
use crate::failure::{Result, failure};
use crate::ffi::Child;
use crate::held::{Held, Left};
use crate::log::Log;
use crate::member::Named;
use crate::mounts;
use crate::processes::Namespace;
use crate::running::{Output, Running};
use crate::stdio::{self, ChildStdio, OurStdio};
use std::os::fd::AsFd as _;
use vm_protocol::frame::Kind;
use vm_protocol::message::{ContainerState, ContainerStatus, Failure, FailureKind};
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
    mounts: Option<Held>,
    namespace: Option<Namespace>,
    out_of_memory: bool,
}

/// What is made when a container is started.
pub struct Made {
    /// Its first process.
    pub first: Running,
    /// Its cgroup, where the guest's kernel has them.
    pub cgroup: Option<Cgroup>,
    /// Its mounts.
    pub mounts: Held,
    /// The namespace that its processes are known by.
    pub namespace: Option<Namespace>,
}

/// Makes the first process of a container in its cgroup, in the pid namespace of another process where there is one to join.
pub fn make(spec: &Spec, joined: Option<&Child>) -> Result<Made> {
    let (ours, theirs) = match (spec.stdio, spec.process.terminal) {
        (_, true) => (OurStdio::default(), ChildStdio::NewTerminal),
        (stdio, false) => stdio::pipes(stdio == Stdio::Console || spec.stdin)?,
    };
    mounts::walk_into(&spec.mounts);
    let cgroup = cgroup::make(&spec.name, &spec.cgroup)?;
    let directory = cgroup.as_ref().map(|cgroup| cgroup.directory.as_fd());
    let (child, channel, mounts) = child::make_first(spec, joined, directory, theirs)?;
    let namespace = Namespace::of(child.pid, joined.is_some());
    Ok(Made { first: Running::new(child, channel, ours), cgroup, mounts, namespace })
}

/// The failure of a request that names a container which does not run.
pub fn not_running(name: &str) -> Failure {
    failure(FailureKind::InvalidState, format!("container '{}' is not running", name.escape_debug()))
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
            mounts: None,
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
        let Made { first, cgroup, mounts, namespace } = make(&self.spec, None)?;
        (self.first, self.cgroup, self.mounts, self.namespace) =
            (Some(first), cgroup, Some(mounts), namespace);
        Ok(())
    }

    /// Its first process while it runs its program.
    pub fn live(&self) -> Result<&Running> {
        let live = self.first.as_ref().filter(|first| first.is_started() && first.code.is_none());
        live.ok_or_else(|| not_running(&self.spec.name))
    }

    /// What requests see of it while it runs its program.
    pub fn named(&self) -> Result<Named<'_>> {
        Ok(Named { first: self.live()?, cgroup: self.cgroup.as_ref(), namespace: self.namespace })
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

    /// Takes note of the end of its first process, and answers what is left to be ended.
    pub fn ended(&mut self, code: u8) -> Option<Left> {
        self.out_of_memory = self.cgroup.as_ref().is_some_and(|cgroup| cgroup.oom_kills() > 0);
        if let Some(first) = &mut self.first {
            first.code = Some(code);
        }
        if let Some(cgroup) = &self.cgroup {
            cgroup.remove();
        }
        // The others were gone before the first one of their pid namespace.
        self.mounts.take().map(|mounts| Left { cgroup: None, mounts })
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
