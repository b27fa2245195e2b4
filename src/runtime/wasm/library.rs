//! WebAssembly for users of the library: programs that run in threads of the calling process, on every platform.
//!
//! There are no namespaces and no cgroups here: the sandbox of wasmtime is all there is. So fuel limits the processor, and a
//! program sees no more than the bundle's root file system and bind mounts.

use super::engine;
use super::execute::{self, Job};
use super::instance::Call;
use super::outcome::Outcome;
use super::preopen::{self, Preopen};
use super::program::Program;
use super::settings::Settings;
use super::source::{self, Tree};
use super::stop::Stop;
use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::limits::MAX_CONTAINERS;
use crate::runtime::api::{OciRuntime, Signal};
use crate::runtime::container::{State, Status};
use crate::runtime::{spec, state};
use crate::storage::config::{Config, WasmLimits};
use crate::storage::state_root::validate_id;
use oci_spec::runtime::{Process, Spec};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use wasmtime::Engine;

/// Programs that run in threads of this process. They end with it.
#[derive(Debug)]
pub struct WasmtimeRuntime {
    limits: WasmLimits,
    max_containers: usize,
    containers: Mutex<BTreeMap<String, Arc<Container>>>,
}

struct Container {
    bundle: PathBuf,
    rootfs: PathBuf,
    created: String,
    spec: Spec,
    engine: Engine,
    stop: Arc<Stop>,
    phase: Mutex<Phase>,
    ended: Condvar,
}

impl std::fmt::Debug for Container {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Container").field("bundle", &self.bundle).finish_non_exhaustive()
    }
}

/// Where a program is in its life.
enum Phase {
    Created(Box<Job>),
    Running,
    Stopped(Outcome),
}

impl Default for WasmtimeRuntime {
    fn default() -> Self {
        Self::new()
    }
}

/// A thread that panicked while it held a lock has changed nothing half-way.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl WasmtimeRuntime {
    /// A runtime with the default limits.
    pub fn new() -> Self {
        Self { limits: WasmLimits::default(), max_containers: MAX_CONTAINERS, containers: Mutex::default() }
    }

    /// A runtime with the limits of the operator's configuration.
    pub fn with_config(config: &Config) -> Self {
        Self { limits: config.wasm.clone(), max_containers: config.limits.max_containers, ..Self::new() }
    }

    fn container(&self, id: &str) -> Result<Arc<Container>> {
        lock(&self.containers)
            .get(id)
            .cloned()
            .ok_or_else(|| Error::new(ErrorKind::ContainerNotFound, "container does not exist"))
    }

    /// Waits until the program of a started container has ended, and tells how.
    pub fn wait(&self, id: &str) -> Result<Outcome> {
        let container = self.container(id)?;
        let mut phase = lock(&container.phase);
        loop {
            match &*phase {
                Phase::Stopped(outcome) => return Ok(outcome.clone()),
                Phase::Created(_) => crate::bail!(InvalidState, "container '{id}' is not started"),
                Phase::Running => phase = container.ended.wait(phase).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    /// Reads, compiles and checks a bundle's module; nothing of it runs.
    fn prepare(&self, bundle: &Path) -> Result<Container> {
        let path = std::fs::canonicalize(bundle)
            .or_kind(ErrorKind::InvalidBundle, || format!("cannot open bundle '{}'", bundle.display()))?;
        let (spec, _) = spec::load(&path.join(spec::CONFIG_NAME))?;
        let root = spec.root().as_ref().map(|root| root.path().clone()).unwrap_or_default();
        let rootfs = path.join(root);
        let process = spec
            .process()
            .as_ref()
            .ok_or_else(|| Error::new(ErrorKind::InvalidBundle, "process must be specified"))?;
        let mut settings = Settings::from_spec(&spec, &self.limits)?.without_cgroup();
        // A thread cannot be ended from outside.
        settings.code.epochs = true;
        let source = source::find(&Tree::of_bundle(&path, &rootfs, &spec)?, process)?;
        let program = Program::prepare_here(&self.limits, settings, &source)?;
        let engine = engine::running(program.settings.code)?;
        let call = call(process, preopen::of_bundle(&spec, &path, &rootfs)?, &program.settings);
        let job = Job::new(program, call)?;
        Ok(Container {
            bundle: path,
            rootfs,
            created: state::now(),
            spec,
            engine,
            stop: Arc::clone(job.budget.stop()),
            phase: Mutex::new(Phase::Created(Box::new(job))),
            ended: Condvar::new(),
        })
    }
}

/// What a process object says, without a container around it.
fn call(process: &Process, preopens: Vec<Preopen>, settings: &Settings) -> Call {
    let pairs = process.env().iter().flatten().filter_map(|pair| pair.split_once('='));
    Call {
        args: process.args().clone().unwrap_or_default(),
        env: pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
        cwd: process.cwd().display().to_string(),
        preopens,
        sockets: settings.sockets,
        passed: Vec::new(),
        stdin: false,
        streams: None,
        alone: false,
    }
}

impl OciRuntime for WasmtimeRuntime {
    fn create(&self, id: &str, bundle: &Path) -> Result<()> {
        validate_id(id)?;
        let exists = || {
            Error::new(ErrorKind::ContainerExists, format!("container with given ID '{id}' already exists"))
        };
        if lock(&self.containers).contains_key(id) {
            return Err(exists());
        }
        let container = self.prepare(bundle).map_err(|e| e.wrap(format!("cannot create '{id}'")))?;
        let mut containers = lock(&self.containers);
        if containers.len() >= self.max_containers {
            crate::bail!(
                TooManyContainers,
                "cannot create '{id}': there are {} containers",
                containers.len()
            );
        }
        if containers.contains_key(id) {
            return Err(exists());
        }
        containers.insert(id.to_owned(), Arc::new(container));
        Ok(())
    }

    fn start(&self, id: &str) -> Result<()> {
        let container = self.container(id)?;
        let mut phase = lock(&container.phase);
        let job = match std::mem::replace(&mut *phase, Phase::Running) {
            Phase::Created(job) => job,
            other => {
                *phase = other;
                crate::bail!(InvalidState, "cannot start '{id}': it was started before");
            }
        };
        let same = Arc::clone(&container);
        let run = move || {
            let ran = execute::run(&same.engine, *job);
            let outcome = ran.unwrap_or_else(|e| Outcome::failed(e.message()));
            *lock(&same.phase) = Phase::Stopped(outcome);
            same.ended.notify_all();
        };
        let started = std::thread::Builder::new().name(format!("wasm {id}")).spawn(run).map(drop);
        let started = started.or_kind(ErrorKind::StartFailed, || format!("cannot start '{id}'"));
        started.inspect_err(|e| *phase = Phase::Stopped(Outcome::failed(e.message())))
    }

    fn kill(&self, id: &str, signal: Signal) -> Result<()> {
        let container = self.container(id)?;
        let mut phase = lock(&container.phase);
        match *phase {
            Phase::Created(_) => {
                *phase = Phase::Stopped(Outcome::signalled(signal.number()));
                container.ended.notify_all();
            }
            Phase::Running => {
                container.stop.stop(signal.number());
                container.engine.increment_epoch();
            }
            Phase::Stopped(_) => crate::bail!(InvalidState, "container not running"),
        }
        Ok(())
    }

    fn delete(&self, id: &str) -> Result<()> {
        let container = self.container(id)?;
        if !matches!(*lock(&container.phase), Phase::Stopped(_)) {
            crate::bail!(InvalidState, "cannot delete container '{id}' that is not stopped");
        }
        lock(&self.containers).remove(id);
        Ok(())
    }

    fn state(&self, id: &str) -> Result<State> {
        let container = self.container(id)?;
        let status = match *lock(&container.phase) {
            Phase::Created(_) => Status::Created,
            Phase::Running => Status::Running,
            Phase::Stopped(_) => Status::Stopped,
        };
        let annotations = container.spec.annotations().iter().flatten();
        Ok(State {
            oci_version: container.spec.version().clone(),
            id: id.to_owned(),
            pid: if status == Status::Stopped { 0 } else { std::process::id() as i32 },
            status,
            bundle: container.bundle.display().to_string(),
            rootfs: container.rootfs.display().to_string(),
            created: container.created.clone(),
            annotations: annotations.map(|(name, value)| (name.clone(), value.clone())).collect(),
            owner: String::new(),
        })
    }
}
