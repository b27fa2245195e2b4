//! Making a pod: one transaction. Whatever fails, the caller removes everything.

use super::jobs::Purpose;
use super::turn::gone;
use super::{Monitor, Report};
use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::infra::InfraEvent;
use crate::pod::plan::{Action, ProbePlan, Role};
use crate::pod::record::{PodPhase, PodRecord};
use crate::runtime::state::now;
use crate::undo::Undo;
use oci_spec::runtime::LinuxResources;
use std::time::{Duration, Instant};

impl Monitor<'_> {
    /// Makes the pod, and commits it when the process that makes it says so.
    pub(super) fn make(&mut self) -> Result<()> {
        self.make_cgroup()?;
        self.make_volumes()?;
        self.make_sandbox()?;
        self.write_names()?;
        self.resolve_sources()?;
        self.create_all()?;
        self.await_infra()?;
        self.start_all()?;
        self.commit()
    }

    fn make_cgroup(&mut self) -> Result<()> {
        let mut cgroup = self.orders.record.cgroup.clone();
        let mut undo = Undo::new();
        cgroup.create(&mut undo)?;
        // The pod is removed as a whole.
        undo.commit();
        if self.plan().resources.as_object().is_some_and(|settings| !settings.is_empty()) {
            let resources: LinuxResources = serde_json::from_value(self.plan().resources.clone())?;
            cgroup.update(&resources).context(|| "cannot limit the pod")?;
        }
        Ok(())
    }

    fn create_all(&mut self) -> Result<()> {
        if let Some(vm) = &self.plan().vm {
            return self.make_guest(vm);
        }
        if let Some(wasm) = &self.plan().wasm {
            return self.make_modules(wasm);
        }
        for number in 0..self.members.len() {
            self.create_member(number)?;
            self.look()?;
        }
        Ok(())
    }

    /// Deals with what has happened meanwhile, without waiting.
    fn look(&mut self) -> Result<()> {
        self.turn(Some(Instant::now()))?;
        self.check()
    }

    /// Starts the containers: each init container runs to its end, each sidecar until it is up, the others at once.
    fn start_all(&mut self) -> Result<()> {
        let first = |number: usize, monitor: &Self| monitor.members[number].plan.role != Role::App;
        for number in 0..self.members.len() {
            self.start_with_hook(number)?;
            if !first(number, self) {
                continue;
            }
            let name = self.members[number].plan.name.clone();
            if self.members[number].plan.role == Role::Init {
                self.wait_until(&format!("init container '{name}'"), None, |m| {
                    m.members[number].exit.is_some()
                })?;
            } else {
                self.wait_started(number)?;
            }
        }
        (0..self.members.len()).try_for_each(|number| self.wait_started(number))
    }

    fn start_with_hook(&mut self, number: usize) -> Result<()> {
        self.look()?;
        self.start_member(number)?;
        let Some(hook) = self.members[number].plan.post_start.clone() else { return Ok(()) };
        let name = self.members[number].plan.name.clone();
        let timeout = match hook {
            Action::Sleep(seconds) => Duration::from_secs(u64::from(seconds) + 1),
            _ => self.orders.timeouts.start(),
        };
        let job = self.start_job(number, Purpose::Hook, &hook, timeout);
        let mut outcome = None;
        self.wait_until("the postStart hook", None, |monitor| {
            outcome = monitor.jobs.take(job);
            outcome.is_some()
        })?;
        match outcome.and_then(|(outcome, ..)| outcome.failure) {
            Some(why) => Err(Error::new(
                ErrorKind::HookFailed,
                format!("the postStart hook of container '{name}' has failed: {why}"),
            )),
            None => Ok(()),
        }
    }

    /// Waits until a container's startup probe, if it has one, has succeeded. How long that may take, the probe itself says.
    fn wait_started(&mut self, number: usize) -> Result<()> {
        let Some(probe) = self.members[number].plan.startup.clone() else { return Ok(()) };
        let name = self.members[number].plan.name.clone();
        let limit = budget(&probe).max(self.orders.timeouts.start());
        self.wait_until(&format!("the start of container '{name}'"), Some(limit), |m| !m.is_starting(number))
    }

    fn commit(&mut self) -> Result<()> {
        self.look()?;
        let maker =
            self.maker.as_ref().ok_or_else(|| Error::new(ErrorKind::StartFailed, "nobody wants the pod"))?;
        maker.send(&Report::Ready)?;
        self.wait_until("the commit", None, |monitor| monitor.commit)?;
        self.status.phase = PodPhase::Running;
        self.status.started = Some(now());
        self.save_status();
        self.dir.publish(self.store.pods(), &self.orders.record.id)?;
        if let Some(group) = &self.orders.record.group {
            self.join(group)?;
        }
        // From here on the pod is there, whatever happens to the process that wanted it.
        if let Some(maker) = self.maker.take() {
            let _ = maker.send(&Report::Committed);
        }
        let limit = self.plan().deadline_seconds.map(|seconds| Duration::from_secs(seconds.into()));
        self.deadline = limit.map(|limit| Instant::now() + limit);
        self.event(InfraEvent::PodStarted);
        Ok(())
    }

    /// Waits until all pods of the group are in their places. This one must not give up any more by itself: the others
    /// rely on it. What happens to it meanwhile is dealt with when it is known whether it is there.
    fn join(&mut self, group: &str) -> Result<()> {
        self.promised = true;
        self.commit = false;
        // Without this word the maker commits nothing.
        if self.maker.as_ref().is_some_and(|maker| maker.send(&Report::Placed).is_err()) {
            self.maker = None;
        }
        while !self.commit && self.maker.is_some() {
            if let Err(e) = self.turn(None) {
                self.fail(e);
            }
        }
        // A maker that is gone has either committed the group before, or never will.
        if !self.commit && !self.store.is_committed(group) {
            self.dir.retract(self.store.pods(), &self.orders.record.id)?;
            return Err(gone());
        }
        PodRecord { group: None, ..self.orders.record.clone() }.save(&self.dir)
    }
}

/// How long a probe may take to fail for good.
fn budget(probe: &ProbePlan) -> Duration {
    let seconds = u64::from(probe.initial_delay)
        + u64::from(probe.failure) * u64::from(probe.period.max(probe.timeout))
        + u64::from(probe.timeout);
    Duration::from_secs(seconds + 1)
}
