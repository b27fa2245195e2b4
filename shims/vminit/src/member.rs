//! Containers that the host makes while the guest runs, each of which lives with the connection that asked for it; and how requests
//! find those and the others by name.

use crate::cgroup::Cgroup;
use crate::connection::Role;
use crate::container::{self, Made};
use crate::failure::{Result, failure};
use crate::guest::{Exec, Guest, MAX_EXECS, find};
use crate::held::{Held, Left};
use crate::processes::{self, Namespace};
use crate::requests::{invalid, signal_pid};
use crate::running::Running;
use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use vm_protocol::message::{FailureKind, Stats};
use vm_protocol::spec::{self, Container as Spec};

/// What such a container has beside its first process.
#[derive(Debug)]
pub struct Member {
    name: String,
    cgroup: Option<Cgroup>,
    mounts: Held,
    namespace: Option<Namespace>,
    shares_pids: bool,
    /// How often a process of it was killed for want of memory, as far as is known, and as far as it was told.
    kills: u64,
    told: u64,
}

impl Member {
    /// What to poll for [`rustix::event::PollFlags::PRI`].
    pub fn events(&self) -> Option<BorrowedFd<'_>> {
        self.cgroup.as_ref().and_then(Cgroup::events)
    }

    /// Looks whether a process of it was killed for want of memory; when it has `ended`, whether or not there is word of it.
    pub fn look(&mut self, ended: bool) {
        if let Some(cgroup) = self.cgroup.as_ref().filter(|cgroup| ended || cgroup.has_event()) {
            self.kills = cgroup.oom_kills();
        }
    }

    /// Its first process has ended: the kernel ends the others only with the first one of a pid namespace.
    pub fn end(&self) {
        if !self.shares_pids {
            return;
        }
        let killed = self.cgroup.as_ref().is_some_and(|cgroup| cgroup.kill().is_ok());
        let left = self.namespace.filter(|_| !killed).map(processes::pids);
        for pid in left.into_iter().flatten().flatten() {
            let _ = signal_pid(pid, libc::SIGKILL);
        }
    }

    /// What is to be ended when the last of its processes is gone.
    pub fn leave(self) -> Left {
        Left { cgroup: self.cgroup, mounts: self.mounts }
    }

    /// How often that has happened, if it is to be told.
    pub fn untold(&mut self) -> Option<u64> {
        let untold = self.kills > self.told;
        self.told = self.kills;
        untold.then_some(self.kills)
    }
}

/// A container whose program runs, as requests see it.
pub struct Named<'a> {
    /// Its first process.
    pub first: &'a Running,
    /// Its cgroup.
    pub cgroup: Option<&'a Cgroup>,
    /// The namespace that its processes are known by.
    pub namespace: Option<Namespace>,
}

impl Named<'_> {
    /// The namespace that its processes are known by.
    pub fn namespace(&self) -> Result<Namespace> {
        self.namespace.ok_or_else(|| failure(FailureKind::System, "the namespaces are not known"))
    }

    /// What it uses.
    pub fn stats(&self) -> Result<Stats> {
        match (self.cgroup, self.namespace) {
            (Some(cgroup), _) => Ok(cgroup.stats()),
            (None, Some(namespace)) => processes::stats(namespace),
            (None, None) => Ok(Stats::default()),
        }
    }

    /// Changes its limits.
    pub fn limit(&self, files: &BTreeMap<String, String>) -> Result<()> {
        spec::check_cgroup(files).map_err(invalid)?;
        match self.cgroup {
            Some(cgroup) => cgroup.write(files),
            None => Err(failure(FailureKind::System, "the guest's kernel has no cgroup v2")),
        }
    }
}

impl Guest {
    /// The running container with this name.
    pub(crate) fn named(&self, name: &str) -> Result<Named<'_>> {
        let of = |exec: &Exec| exec.member.as_ref().is_some_and(|member| member.name == name);
        if let Some(exec) = self.execs.values().find(|exec| of(exec)) {
            let member = exec.member.as_ref();
            if !exec.running.is_started() || exec.running.code.is_some() {
                return Err(container::not_running(name));
            }
            return Ok(Named {
                first: &exec.running,
                cgroup: member.and_then(|member| member.cgroup.as_ref()),
                namespace: member.and_then(|member| member.namespace),
            });
        }
        self.containers[find(&self.containers, name)?].named()
    }

    /// Makes a container that lives with a connection.
    pub(crate) fn run_member(&mut self, connection: u64, spec: &Spec) -> Result<()> {
        spec.check().map_err(invalid)?;
        let taken = |exec: &Exec| exec.member.as_ref().is_some_and(|member| member.name == spec.name);
        if self.containers.iter().any(|it| it.spec.name == spec.name) || self.execs.values().any(taken) {
            let message = format!("container '{}' is there already", spec.name);
            return Err(failure(FailureKind::InvalidState, message));
        }
        if self.stopping.is_some() {
            return Err(failure(FailureKind::InvalidState, "the virtual machine is about to end"));
        }
        if self.execs.len() >= MAX_EXECS {
            return Err(failure(FailureKind::TooMany, format!("more than {MAX_EXECS} processes")));
        }
        let joined = spec.pid_namespace.as_deref().map(|name| self.named(name)).transpose()?;
        let Made { first, cgroup, mounts, namespace } =
            container::make(spec, joined.as_ref().map(|other| &other.first.child))?;
        let (name, shares_pids) = (spec.name.clone(), joined.is_some());
        let member = Member { name, cgroup, mounts, namespace, shares_pids, kills: 0, told: 0 };
        let number = self.number();
        let exec = Exec { running: first, connection: Some(connection), detach: false, member: Some(member) };
        self.execs.insert(number, exec);
        self.connection(Some(connection)).into_iter().for_each(|it| it.role = Role::Exec(number));
        Ok(())
    }

    /// The first processes of such containers that have not ended.
    pub(crate) fn members(&self) -> impl Iterator<Item = &Running> {
        let execs = self.execs.values().filter(|exec| exec.member.is_some());
        execs.map(|exec| &exec.running).filter(|running| running.code.is_none())
    }
}
