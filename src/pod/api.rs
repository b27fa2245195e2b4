//! The library's interface to pods: one trait, and a runtime for each kind of isolation.

use crate::error::{Error, ErrorKind, Result};
use crate::image::ImageService;
use crate::pod::host::PodHost;
use crate::pod::logs::LogReader;
use crate::pod::manifest::{MICROVM, PodSpec};
use crate::pod::operations;
use crate::pod::protocol::{Ask, Reply, ask};
use crate::pod::record::PodStatus;
use crate::pod::run::{PodHandle, PodOptions, run};
use crate::runtime::cgroups::Driver;
use crate::runtime::options::Host;
use std::path::Path;
use std::time::Duration;

/// Where state lives unless told otherwise.
const STATE_ROOT: &str = "/run/magikrun";

/// What a command in a container has done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecOutput {
    /// Its exit code; 128 and the number of the signal that ended it.
    pub exit_code: u8,
    /// The beginning of what it has written to standard output.
    pub stdout: String,
    /// The beginning of what it has written to standard error.
    pub stderr: String,
}

/// The life of a pod, whatever isolates it. Pods are named by their id or their name.
pub trait PodRuntime {
    /// Runs a pod: all of it, or nothing.
    fn run_pod(&self, spec: &PodSpec) -> Result<PodHandle>;
    /// Stops a pod: SIGTERM, and SIGKILL for what is left after `grace`.
    fn stop_pod(&self, id: &str, grace: Duration) -> Result<()>;
    /// Removes a pod. What still runs is stopped first, with `force` at once.
    fn delete_pod(&self, id: &str, force: bool) -> Result<()>;
    /// The state of a pod.
    fn pod_status(&self, id: &str) -> Result<PodStatus>;
    /// Executes a command in a container, within [`EXEC_TIMEOUT`](crate::limits::EXEC_TIMEOUT), unless the operator says otherwise.
    fn exec(&self, id: &str, container: &str, command: &[String]) -> Result<ExecOutput>;
    /// What a container has written.
    fn logs(&self, id: &str, container: &str) -> Result<Vec<u8>>;
    /// All pods, oldest first.
    fn list(&self) -> Result<Vec<PodHandle>>;
}

/// Pods of Linux containers.
///
/// [`PodRuntime::run_pod`] copies the calling process, which must have no other thread then. A program with threads executes
/// the `magikrun` binary instead.
#[derive(Debug)]
pub struct NativePodRuntime {
    host: PodHost,
    options: PodOptions,
}

impl NativePodRuntime {
    /// The runtime with the usual state root and images.
    pub fn new() -> Result<Self> {
        Ok(Self::with_root(Path::new(STATE_ROOT), ImageService::new()?))
    }

    /// The runtime with another state root and images.
    pub fn with_root(root: &Path, images: ImageService) -> Self {
        let rootless = !rustix::process::geteuid().is_root();
        let host = Host::new(root, Driver::Cgroupfs, rootless);
        Self { host: PodHost::new(host, images), options: PodOptions::default() }
    }

    /// The same runtime with options for the pods that it will run.
    #[must_use]
    pub fn with_options(self, options: PodOptions) -> Self {
        Self { options, ..self }
    }
}

impl PodRuntime for NativePodRuntime {
    fn run_pod(&self, spec: &PodSpec) -> Result<PodHandle> {
        let threads = std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count);
        if threads > 1 {
            crate::bail!(
                CreateFailed,
                "cannot run pod '{}': this process has {threads} threads; execute the magikrun program instead",
                spec.name()
            );
        }
        let mut handles = run(&self.host, std::slice::from_ref(spec), &self.options)?;
        handles.pop().ok_or_else(|| Error::new(ErrorKind::StartFailed, "no pod was made"))
    }

    fn stop_pod(&self, id: &str, grace: Duration) -> Result<()> {
        operations::stop(&self.host, id, Some(u32::try_from(grace.as_secs()).unwrap_or(u32::MAX)))
    }

    fn delete_pod(&self, id: &str, force: bool) -> Result<()> {
        operations::delete(&self.host, id, force)
    }

    fn pod_status(&self, id: &str) -> Result<PodStatus> {
        self.host.store.open(id)?.status(&self.host.host)
    }

    fn exec(&self, id: &str, container: &str, command: &[String]) -> Result<ExecOutput> {
        let pod = self.host.store.open(id)?;
        let container = operations::container(&pod, Some(container))?;
        match ask(
            &pod.dir,
            Ask::Exec { container, command: command.to_vec() },
            Some(self.host.host.timeouts.exec() * 2),
        )? {
            Some(Reply::Executed { exit_code, stdout, stderr }) => {
                Ok(ExecOutput { exit_code, stdout, stderr })
            }
            _ => crate::bail!(InvalidState, "pod '{}' does not run", pod.record.name),
        }
    }

    fn logs(&self, id: &str, container: &str) -> Result<Vec<u8>> {
        let pod = self.host.store.open(id)?;
        let mut reader = LogReader::open(&pod, &operations::container(&pod, Some(container))?);
        let mut all = Vec::new();
        while let Some(entry) = reader.next_entry()? {
            all.extend(entry.text);
            if !entry.partial {
                all.push(b'\n');
            }
        }
        Ok(all)
    }

    fn list(&self) -> Result<Vec<PodHandle>> {
        let pods = self.host.store.all()?;
        Ok(pods.into_iter().map(|pod| PodHandle { id: pod.record.id, name: pod.record.name }).collect())
    }
}

/// Pods of WebAssembly modules: every image must be one.
///
/// All modules are compiled and their containers created before the first of them runs; otherwise it is as
/// [`NativePodRuntime`], in whose pods modules can stand beside Linux containers.
#[derive(Debug)]
pub struct WasmPodRuntime(NativePodRuntime);

impl WasmPodRuntime {
    /// The runtime with the usual state root and images.
    pub fn new() -> Result<Self> {
        NativePodRuntime::new().map(Self)
    }

    /// The runtime with another state root and images.
    pub fn with_root(root: &Path, images: ImageService) -> Self {
        Self(NativePodRuntime::with_root(root, images))
    }
}

/// Pods in a microVM each: all containers of a pod run on one kernel that is not the host's.
///
/// The monitor of such a pod is the program `magikrun-krun`, which must be beside the calling program or in libexec.
#[derive(Debug)]
pub struct MicroVmPodRuntime(NativePodRuntime);

impl MicroVmPodRuntime {
    /// The runtime with the usual state root and images.
    pub fn new() -> Result<Self> {
        NativePodRuntime::new().map(Self)
    }

    /// The runtime with another state root and images.
    pub fn with_root(root: &Path, images: ImageService) -> Self {
        Self(NativePodRuntime::with_root(root, images))
    }
}

/// A runtime that does what the native one does, with pods of another class.
trait OfClass {
    const CLASS: &str;
    fn native(&self) -> &NativePodRuntime;
}

impl OfClass for WasmPodRuntime {
    const CLASS: &str = "wasm";
    fn native(&self) -> &NativePodRuntime {
        &self.0
    }
}

impl OfClass for MicroVmPodRuntime {
    const CLASS: &str = MICROVM;
    fn native(&self) -> &NativePodRuntime {
        &self.0
    }
}

impl<T: OfClass> PodRuntime for T {
    fn run_pod(&self, spec: &PodSpec) -> Result<PodHandle> {
        let mut spec = spec.clone();
        spec.spec.runtime_class_name = Some(T::CLASS.to_owned());
        self.native().run_pod(&spec)
    }

    fn stop_pod(&self, id: &str, grace: Duration) -> Result<()> {
        self.native().stop_pod(id, grace)
    }

    fn delete_pod(&self, id: &str, force: bool) -> Result<()> {
        self.native().delete_pod(id, force)
    }

    fn pod_status(&self, id: &str) -> Result<PodStatus> {
        self.native().pod_status(id)
    }

    fn exec(&self, id: &str, container: &str, command: &[String]) -> Result<ExecOutput> {
        self.native().exec(id, container, command)
    }

    fn logs(&self, id: &str, container: &str) -> Result<Vec<u8>> {
        self.native().logs(id, container)
    }

    fn list(&self) -> Result<Vec<PodHandle>> {
        self.native().list()
    }
}
