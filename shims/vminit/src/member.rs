//! Containers that the host makes while the guest runs, each of which lives with the connection that asked for it; and how requests
//! find those and the others by name.

use crate::cgroup::Cgroup;
use crate::connection::Role;
use crate::container::{self, Made};
use crate::failure::{Result, failure};
use crate::guest::{Exec, Guest, MAX_EXECS, find};
use crate::processes;
use crate::requests::invalid;
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
    namespace: Option<u64>,
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

    /// How often that has happened, if it is to be told.
    pub fn untold(&mut self) -> Option<u64> {
        let untold = self.kills > self.told;
        self.told = self.kills;
        untold.then_some(self.kills)
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.cgroup.iter().for_each(Cgroup::remove);
    }
}

/// A container whose program runs, as requests see it.
pub struct Named<'a> {
    /// Its first process.
    pub first: &'a Running,
    /// Its cgroup.
    pub cgroup: Option<&'a Cgroup>,
    /// The number of its pid namespace.
    pub namespace: Option<u64>,
}

impl Named<'_> {
    /// The number of its pid namespace.
    pub fn namespace(&self) -> Result<u64> {
        self.namespace.ok_or_else(|| failure(FailureKind::System, "the pid namespace is not known"))
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
        let Made { first, cgroup, namespace } = container::make(spec)?;
        let member = Member { name: spec.name.clone(), cgroup, namespace, kills: 0, told: 0 };
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
