//! The containers of a pod, as the monitor sees them.

use super::Monitor;
use super::jobs::Tracked;
use super::logs::LogWriter;
use super::streams::{Stream, Streams};
use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::infra::InfraEvent;
use crate::pod::plan::config;
use crate::pod::plan::{ContainerPlan, Role};
use crate::pod::record::{ContainerState, ContainerStatus};
use crate::runtime::lifecycle;
use crate::runtime::options::CreateOptions;
use serde_json::Value;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Longest wait before a sidecar is started again.
const MAX_BACKOFF: Duration = Duration::from_secs(300);

/// Exit code of what is killed.
pub(super) const KILLED: u8 = 137;

/// Why a container has ended that the kernel has ended for want of memory, as Kubernetes says it.
const OUT_OF_MEMORY: &str = "OOMKilled";

/// A container.
pub(super) struct Member {
    pub(super) plan: ContainerPlan,
    /// Its first process while that lives.
    pub(super) pid: Option<i32>,
    pub(super) pidfd: Option<OwnedFd>,
    /// It is in what is around all containers: the pod's microVM, or the process of modules.
    pub(super) inside: bool,
    /// Its program was executed.
    pub(super) started: bool,
    pub(super) exit: Option<u8>,
    /// The kernel has ended a process of it for want of memory.
    pub(super) out_of_memory: bool,
    pub(super) ready: bool,
    /// It is being stopped: its end is no fault.
    pub(super) stopping: bool,
    pub(super) restarts: u32,
    /// When a sidecar is to be started again.
    pub(super) restart_at: Option<Instant>,
    pub(super) probes: Vec<Tracked>,
    pub(super) streams: Streams,
    pub(super) log: Option<LogWriter>,
}

impl Member {
    pub(super) fn new(plan: &ContainerPlan) -> Self {
        Self {
            plan: plan.clone(),
            pid: None,
            pidfd: None,
            inside: false,
            started: false,
            exit: None,
            out_of_memory: false,
            ready: false,
            stopping: false,
            restarts: 0,
            restart_at: None,
            probes: Vec::new(),
            streams: Streams::default(),
            log: None,
        }
    }

    pub(super) fn status(&self) -> ContainerStatus {
        let state = match (self.started, self.exit) {
            (_, Some(_)) => ContainerState::Exited,
            (true, None) => ContainerState::Running,
            (false, None) => ContainerState::Waiting,
        };
        ContainerStatus {
            name: self.plan.name.clone(),
            role: self.plan.role,
            state,
            exit_code: self.exit,
            reason: self.was_killed_for_memory().then(|| OUT_OF_MEMORY.to_owned()),
            ready: self.ready,
            restarts: self.restarts,
        }
    }

    /// Whether it has failed, and the kernel has ended a process of it for want of memory.
    fn was_killed_for_memory(&self) -> bool {
        self.out_of_memory && self.exit.is_some_and(|code| code != 0)
    }

    /// Moves what a container has written to its log, without waiting, and shows it.
    pub(super) fn read_log(&mut self, stream: Stream, mut show: impl FnMut(&[u8])) {
        if let Some(data) = self.streams.read(stream) {
            self.keep(stream, &data);
            show(&data);
        }
    }

    /// Writes to the log what a container has written.
    pub(super) fn keep(&mut self, stream: Stream, data: &[u8]) {
        if let Some(log) = &mut self.log {
            log.write(stream, data);
        }
    }

    /// Moves everything that is left to the log: the container has ended. What holds the output open beyond that, as a process
    /// in a shared pid namespace can, is not waited for.
    fn drain(&mut self, mut show: impl FnMut(Stream, &[u8])) {
        for (stream, data) in std::mem::take(&mut self.streams).rest() {
            self.keep(stream, &data);
            show(stream, &data);
        }
        if let Some(log) = &mut self.log {
            log.end();
        }
    }

    /// Sends a signal to its first process, if that lives.
    pub(super) fn signal(&self, number: i32) {
        if let Some(pidfd) = &self.pidfd {
            let _ = crate::platform::sys::signal::pidfd_send_signal(pidfd, number);
        }
    }

    pub(super) fn is_running(&self) -> bool {
        self.pid.is_some() || self.inside
    }
}

impl Monitor<'_> {
    pub(super) fn bundle(&self, name: &str) -> PathBuf {
        self.orders.record.bundle(name)
    }

    /// Directory of the containers' logs.
    pub(super) fn log_directory(&self) -> PathBuf {
        self.orders.record.data.join("logs")
    }

    /// Creates a container; its program waits for [`Monitor::start_member`].
    pub(super) fn create_member(&mut self, number: usize) -> Result<()> {
        let name = self.members[number].plan.name.clone();
        let cannot = || format!("cannot create container '{name}'");
        let bundle = self.bundle(&name);
        self.write_config(number, &bundle).context(cannot)?;
        let (mut streams, theirs) = Streams::new(&self.members[number].plan)?;
        let options = CreateOptions { id: name.clone(), bundle, ..CreateOptions::default() };
        let (host, foreground) = (&self.host, self.foreground);
        let (child, terminal) =
            theirs.given_to(|| lifecycle::create_child(host, &options, foreground)).context(cannot)?;
        if let Some(master) = terminal {
            streams.set_terminal(master, self.members[number].plan.input)?;
        }
        let log = LogWriter::open(&self.log_directory(), &name).context(cannot)?;
        let member = &mut self.members[number];
        (member.pid, member.pidfd) = (Some(child.pid), Some(child.pidfd));
        (member.streams, member.log) = (streams, Some(log));
        (member.exit, member.started) = (None, false);
        Ok(())
    }

    /// Completes the configurations of all.
    pub(super) fn write_configs(&self) -> Result<Vec<Value>> {
        let write = |(number, member): (usize, &Member)| {
            let name = &member.plan.name;
            self.write_config(number, &self.bundle(name)).context(|| format!("container '{name}'"))
        };
        self.members.iter().enumerate().map(write).collect()
    }

    /// Completes the bundle's configuration by what is known only now. The root file system's mount is there already.
    pub(super) fn write_config(&self, number: usize, bundle: &Path) -> Result<Value> {
        use crate::storage::config_file::{read_json, write_json};
        let base = read_json(&bundle.join("base.json"))?;
        let mut root = base["root"]["path"].as_str().unwrap_or("rootfs");
        if self.facts.ids.is_some() {
            if base["mounts"][0]["destination"] != "/" {
                crate::bail!(
                    NotSupported,
                    "spec.hostUsers: an image without layers has no files that could be mapped to other ids"
                );
            }
            // The overlay needs a place that root of the pod can reach, in a mount namespace that has nothing else to do.
            root = super::sandbox::REACHABLE;
        }
        let mut spec = config::spec(self.plan(), &self.members[number].plan, &self.facts, root);
        if let (Some(mounts), Some(made)) = (spec["mounts"].as_array_mut(), base["mounts"].as_array()) {
            // The root, and volumes that are images.
            let overlays = made.iter().filter(|mount| mount["type"] == "overlay").cloned();
            let overlays = overlays.map(|mut mount| {
                config::map_ids(&mut mount, self.facts.ids);
                mount
            });
            let (root, volumes): (Vec<_>, Vec<_>) = overlays.partition(|mount| mount["destination"] == "/");
            mounts.splice(0..0, root);
            mounts.extend(volumes);
        }
        // A module takes the place of the program that the command names.
        if self.members[number].plan.backend.is_some() && base["process"]["args"][0].is_string() {
            spec["process"]["args"][0] = base["process"]["args"][0].clone();
        }
        if let (Some(all), Some(more)) =
            (spec["annotations"].as_object_mut(), base["annotations"].as_object())
        {
            // What the pod says of a module comes before what its image says.
            for (name, value) in more.iter().filter(|(name, _)| name.contains("wasm")) {
                all.entry(name.clone()).or_insert_with(|| value.clone());
            }
        }
        write_json(&bundle.join("config.json"), &spec)?;
        Ok(spec)
    }

    /// Starts a created container, and returns when its program is executed and its hook has run.
    pub(super) fn start_member(&mut self, number: usize) -> Result<()> {
        let name = self.members[number].plan.name.clone();
        self.start_made(number).context(|| format!("cannot start container '{name}'"))?;
        let member = &mut self.members[number];
        (member.started, member.out_of_memory) = (true, false);
        member.ready = member.plan.readiness.is_none() && member.plan.startup.is_none();
        self.track(number);
        self.event(InfraEvent::ContainerStarted { name });
        Ok(())
    }

    /// A container's first process has ended.
    pub(super) fn member_ended(&mut self, number: usize, code: u8) {
        let member = &mut self.members[number];
        member.drain(|stream, data| self.clients.show(number, stream, data));
        self.clients.left(number, code);
        (member.pid, member.pidfd, member.exit, member.ready) = (None, None, Some(code), false);
        member.inside = false;
        member.probes.clear();
        let (name, role, stopping) = (member.plan.name.clone(), member.plan.role, member.stopping);
        self.jobs.forget(number);
        if let Err(e) = self.unmake(number) {
            self.fail(e.wrap(format!("cannot delete container '{name}'")));
        }
        self.event(InfraEvent::ContainerExited { name: name.clone(), exit_code: code });
        if !stopping {
            self.judge_exit(number, &name, role, code);
        }
        self.save_status();
    }

    /// What the end of a container means for the pod.
    fn judge_exit(&mut self, number: usize, name: &str, role: Role, code: u8) {
        use crate::pod::manifest::types::RestartPolicy;
        let why =
            if self.members[number].was_killed_for_memory() { ": it has run out of memory" } else { "" };
        let message = format!("container '{name}' has exited with code {code}{why}");
        let failed = || Error::new(ErrorKind::StartFailed, message.clone());
        match role {
            Role::Init if code == 0 => {}
            Role::Sidecar if self.maker.is_none() => {
                let member = &mut self.members[number];
                let backoff = Duration::from_millis(100 << member.restarts.min(12)).min(MAX_BACKOFF);
                member.restarts += 1;
                member.restart_at = Some(Instant::now() + backoff);
            }
            // A program that is done before the pod is there has done what it was for.
            Role::App if code == 0 && self.plan().restart_policy != RestartPolicy::Always => {}
            Role::App if code == 0 => self.over = true,
            _ => self.fail(failed()),
        }
    }

    /// Starts a sidecar again.
    pub(super) fn restart_member(&mut self, number: usize) {
        self.members[number].restart_at = None;
        if let Err(e) = self.make_again(number).and_then(|()| self.start_member(number)) {
            self.fail(e);
        }
        self.save_status();
    }
}
