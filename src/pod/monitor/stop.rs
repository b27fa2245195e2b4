//! Stopping a pod: the containers in the opposite order of their start, with time to end by themselves.

use super::Monitor;
use super::jobs::Purpose;
use super::members::Member;
use crate::infra::InfraEvent;
use crate::infra::message::ToInfra;
use crate::pod::plan::Role;
use std::time::{Duration, Instant};

/// How long killed processes may take to be gone, and extensions to stop.
const PATIENCE: Duration = Duration::from_secs(10);
/// Least time that a sidecar gets, when the others have used all of it.
const SIDECAR_GRACE: Duration = Duration::from_secs(2);

impl Monitor<'_> {
    /// Ends everything: hooks, SIGTERM, time, SIGKILL; the sidecars last.
    pub(super) fn stop(&mut self) {
        if self.stop_at.is_none() {
            self.ask_to_stop(self.plan().grace_seconds);
        }
        self.event(InfraEvent::PodStopping);
        for member in &mut self.members {
            member.stopping = true;
            member.restart_at = None;
            member.probes.clear();
        }
        let of_role = |monitor: &Self, role| -> Vec<usize> {
            monitor.members.iter().enumerate().filter(|(_, m)| m.plan.role == role).map(|(n, _)| n).collect()
        };
        let apps = [of_role(self, Role::Init), of_role(self, Role::App)].concat();
        self.end_members(&apps, Duration::ZERO);
        for sidecar in of_role(self, Role::Sidecar).into_iter().rev() {
            self.end_members(&[sidecar], SIDECAR_GRACE);
        }
        self.stop_around(false);
        self.stop_infra();
    }

    /// What a rollback needs to do in good order before everything is killed: hooks do not run.
    pub(super) fn give_up(&mut self) {
        for member in &mut self.members {
            member.stopping = true;
            member.signal(libc::SIGKILL);
        }
        self.stop_around(true);
        self.wait_for_end(|monitor| monitor.members.iter().any(Member::is_running));
        self.stop_infra();
        self.sandbox = None;
        self.opened.clear();
        self.leave_mounts();
    }

    fn end_members(&mut self, numbers: &[usize], least: Duration) {
        let running: Vec<usize> = numbers.iter().copied().filter(|n| self.members[*n].is_running()).collect();
        if running.is_empty() {
            return;
        }
        let earliest = Instant::now() + least;
        let mut hooks = Vec::new();
        for number in &running {
            if let Some(hook) =
                self.members[*number].plan.pre_stop.clone().filter(|_| self.members[*number].started)
            {
                let left = self
                    .stop_at
                    .map_or(Duration::ZERO, |at| at.max(earliest).saturating_duration_since(Instant::now()));
                hooks.push(self.start_job(*number, Purpose::Hook, &hook, left));
            }
        }
        self.turn_until(earliest, |monitor| {
            hooks.retain(|hook| monitor.jobs.take(*hook).is_none());
            hooks.is_empty()
        });
        for number in &running {
            let signal = self.members[*number].plan.stop_signal;
            self.signal_member(*number, signal);
        }
        let ended = |monitor: &mut Self| running.iter().all(|n| !monitor.members[*n].is_running());
        if self.turn_until(earliest, ended) {
            return;
        }
        for number in &running {
            self.signal_member(*number, libc::SIGKILL);
        }
        self.wait_for_end(|monitor| !ended(monitor));
    }

    /// Takes turns while `running`, but not for ever: whoever comes next kills what is left.
    pub(super) fn wait_for_end(&mut self, mut running: impl FnMut(&mut Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while running(self) && Instant::now() < deadline {
            if self.turn(Some(deadline)).is_err() {
                return;
            }
        }
    }

    /// Takes turns until `done`, or until the containers' time is over, which may become earlier meanwhile.
    fn turn_until(&mut self, earliest: Instant, mut done: impl FnMut(&mut Self) -> bool) -> bool {
        loop {
            if done(self) {
                return true;
            }
            let over = self.stop_at.map_or(earliest, |at| at.max(earliest));
            if Instant::now() >= over || self.turn(Some(over)).is_err() {
                return done(self);
            }
        }
    }

    /// Lets the extensions stop. What does not answer is killed with the rest of the pod.
    fn stop_infra(&mut self) {
        self.disconnect();
        let Some(sandbox) = &mut self.sandbox else { return };
        sandbox.begin_stop();
        if sandbox.send(&ToInfra::Stop).is_err() {
            return;
        }
        self.wait_for_end(|monitor| monitor.sandbox.as_ref().is_some_and(|sandbox| sandbox.ready));
    }
}
