//! A container: its processes, and what can be done with them.

mod checkpoint;
mod end;
mod exec;
mod init;

use crate::bundle::{self, Additions, Config, SharedFile};
use crate::cgroup::{self, MemoryWatch};
use crate::error::{Context as _, Error, Result};
use crate::options::Options;
use crate::process::{Process, Waiter};
use crate::reaper::Exit;
use crate::rootfs::{self, Mounted};
use crate::runtime::{Runtime, Streams, arguments};
use crate::serve::Shim;
use crate::stdio::{Prepared, Wanted};
use checkpoint::Restore;
use containerd_shim_protos::api::{CreateTaskRequest, Status};
use containerd_shim_protos::events::task::{TaskPaused, TaskResumed};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// File of the bundle with the pid of the first process.
pub const PID_FILE: &str = "init.pid";

/// File in the state directory of a container in the microVM of its pod, in which the runtime writes how often a process was killed
/// there for want of memory.
const TOLD_MEMORY: &str = "memory.events";

/// A container that was created and not deleted.
pub struct Container {
    shim: Arc<Shim>,
    runtime: Runtime,
    options: Options,
    id: String,
    bundle: PathBuf,
    /// Whether others live on when the first process ends.
    shares_pids: bool,
    /// Who tells when a process is killed for want of memory.
    memory: OnceLock<MemoryWatch>,
    state: Mutex<State>,
}

struct State {
    init: Process,
    execs: HashMap<String, Process>,
    /// The most execs at a time since memory was given back.
    most_execs: usize,
    paused: bool,
    deleting: bool,
    /// A checkpoint that `start` will bring back, and the streams for it.
    restore: Option<Restore>,
    rootfs: Option<Mounted>,
}

/// What is known of a process.
pub struct Report {
    /// Its pid; 0 if it has none yet.
    pub pid: i32,
    /// Its status.
    pub status: Status,
    /// Where its streams were wanted.
    pub wanted: Wanted,
    /// How it ended.
    pub exit: Option<Exit>,
}

impl Container {
    /// Makes a container, with files of its pod. When that fails, nothing of it is left.
    pub fn create(
        shim: &Arc<Shim>,
        request: &CreateTaskRequest,
        mut options: Options,
        files: &[SharedFile],
    ) -> Result<Arc<Self>> {
        let bundle = PathBuf::from(&request.bundle);
        let config = Config::read(&bundle)?;
        options.systemd_cgroup |= config.names_unit();
        options.save(&bundle)?;
        bundle::complete(&bundle, &config, Additions { backend: &options.backend, files })?;
        let rootfs = rootfs::mount(&shim.reaper, &request.rootfs, &bundle.join("rootfs"))?;
        let wanted = Wanted {
            stdin: request.stdin.clone(),
            stdout: request.stdout.clone(),
            stderr: request.stderr.clone(),
            terminal: request.terminal,
        };
        let (prepared, streams) = Prepared::open(shim, &request.id, &wanted, &options)?;
        let state = State {
            init: Process::new(wanted),
            execs: HashMap::new(),
            most_execs: 0,
            paused: false,
            deleting: false,
            restore: None,
            rootfs: Some(rootfs),
        };
        let container = Arc::new(Self {
            shim: Arc::clone(shim),
            runtime: Runtime::new(&options, &shim.namespace, &shim.reaper),
            options,
            id: request.id.clone(),
            bundle,
            shares_pids: config.shares_pids(),
            memory: OnceLock::new(),
            state: Mutex::new(state),
        });
        container.create_init(request, prepared, streams)?;
        Ok(container)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The directory of the bundle.
    pub fn bundle(&self) -> &Path {
        &self.bundle
    }

    /// Starts the first process, or that of an exec; answers its pid.
    pub fn start(self: &Arc<Self>, exec: &str) -> Result<i32> {
        if exec.is_empty() { self.start_init() } else { self.start_exec(exec) }
    }

    /// Removes the container, or an exec; answers the pid and how it ended.
    pub fn delete(&self, exec: &str) -> Result<(i32, Exit)> {
        if exec.is_empty() { self.delete_init() } else { self.delete_exec(exec) }
    }

    /// Sends a signal to the first process, to all, or to that of an exec.
    pub fn kill(&self, exec: &str, signal: u32, all: bool) -> Result<()> {
        if exec.is_empty() { self.kill_init(signal, all) } else { self.kill_exec(exec, signal) }
    }

    /// What is known of a process.
    pub fn report(&self, exec: &str) -> Result<Report> {
        let state = &mut *self.lock();
        let paused = state.paused;
        let process = state.process(exec)?;
        let status = match process.status() {
            Status::RUNNING if paused && exec.is_empty() => Status::PAUSED,
            status => status,
        };
        Ok(Report { pid: process.pid, status, wanted: process.wanted.clone(), exit: process.exit() })
    }

    /// Calls `waiter` when a process has ended.
    pub fn wait(&self, exec: &str, waiter: Waiter) -> Result<()> {
        self.lock().process(exec)?.wait(waiter);
        Ok(())
    }

    /// Lets a process see the end of its input.
    pub fn close_stdin(&self, exec: &str) -> Result<()> {
        if let Some(io) = &mut self.lock().process(exec)?.io {
            io.close_stdin();
        }
        Ok(())
    }

    /// Changes the size of a terminal.
    pub fn resize(&self, exec: &str, width: u32, height: u32) -> Result<()> {
        self.lock().process(exec)?.io.as_ref().map_or(Ok(()), |io| io.resize(width, height))
    }

    /// Freezes all processes.
    pub fn pause(&self) -> Result<()> {
        self.call("pause")?;
        self.lock().paused = true;
        self.shim
            .publisher
            .publish("paused", &TaskPaused { container_id: self.id.clone(), ..Default::default() });
        Ok(())
    }

    /// Lets the processes go on.
    pub fn resume(&self) -> Result<()> {
        self.call("resume")?;
        self.lock().paused = false;
        let event = TaskResumed { container_id: self.id.clone(), ..Default::default() };
        self.shim.publisher.publish("resumed", &event);
        Ok(())
    }

    /// Changes the limits, given as JSON.
    pub fn update(&self, resources: &[u8]) -> Result<()> {
        let args = arguments([&"update", &"--resources", &"-", &self.id]);
        self.runtime.run_with_input("OCI runtime update failed", &args, resources)
    }

    /// Usage of resources, in the JSON of `events --stats`.
    pub fn stats(&self) -> Result<String> {
        if !self.lock().init.is_alive() {
            return Err(Error::not_found(format!("the cgroup of '{}'", self.id)));
        }
        let args = arguments([&"events", &"--stats", &self.id]);
        self.runtime.output("OCI runtime events failed", &args)
    }

    /// The pids of all processes, and the execs that are among them.
    ///
    /// Of a container that has ended it is that of its first process: containerd 2 asks after a restart, takes a server without processes
    /// for one that it has forgotten, and ends it, and with it how the container ended.
    pub fn pids(&self) -> Result<Vec<(u32, Option<String>)>> {
        let ended = {
            let state = self.lock();
            state.init.exit().map(|_| state.init.pid.cast_unsigned())
        };
        if let Some(pid) = ended {
            return Ok(vec![(pid, None)]);
        }
        let args = arguments([&"ps", &"--format", &"json", &self.id]);
        let text = self.runtime.output("OCI runtime ps failed", &args)?;
        let pids: Option<Vec<u32>> =
            serde_json::from_str(&text).context(|| "cannot read the list of pids")?;
        let state = self.lock();
        let exec = |pid: u32| state.execs.iter().find(|(_, process)| process.pid.cast_unsigned() == pid);
        Ok(pids
            .unwrap_or_default()
            .into_iter()
            .map(|pid| (pid, exec(pid).map(|(id, _)| id.clone())))
            .collect())
    }

    /// A command of the runtime that has no arguments but the id.
    fn call(&self, command: &str) -> Result<()> {
        let what = format!("OCI runtime {command} failed");
        self.runtime.run(&what, &arguments([&command, &self.id]), Streams::null())
    }

    /// Tells when a process is killed for want of memory.
    fn watch_memory(&self, pid: i32, owner: u64) {
        let (publisher, id) = (Arc::clone(&self.shim.publisher), self.id.clone());
        let tell = move || {
            let event = containerd_shim_protos::events::task::TaskOOM {
                container_id: id.clone(),
                ..Default::default()
            };
            publisher.publish("oom", &event);
        };
        let told = self.runtime.state(&self.id).join(TOLD_MEMORY);
        let watched = if told.exists() {
            cgroup::watch_told(&self.shim.relay, owner, &told, tell)
        } else {
            cgroup::watch_memory(&self.shim.relay, owner, pid, tell)
        };
        match watched {
            // There is none yet: a container is made once.
            Ok(watch) => drop(self.memory.set(watch)),
            Err(e) => log::debug!("no out-of-memory events for '{}': {e}", self.id),
        }
    }
}

impl State {
    /// The first process, or that of an exec.
    fn process(&mut self, exec: &str) -> Result<&mut Process> {
        if exec.is_empty() {
            return Ok(&mut self.init);
        }
        self.execs.get_mut(exec).ok_or_else(|| Error::not_found(format!("process {exec}")))
    }
}

/// Reads the pid that the runtime has written.
fn read_pid(path: &Path) -> Result<i32> {
    let text = std::fs::read_to_string(path).context(|| format!("cannot read '{}'", path.display()))?;
    let pid = text.trim().parse().ok().filter(|pid| *pid > 0);
    pid.ok_or_else(|| Error::new(format!("cannot read '{}': there is no pid in it", path.display())))
}
