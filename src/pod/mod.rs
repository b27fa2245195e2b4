//! Pods: a Kubernetes manifest becomes a running pod in one call, or nothing at all.
//!
//! ```no_run
//! use magikrun::pod::{NativePodRuntime, PodRuntime, PodSpec};
//! use std::time::Duration;
//!
//! # fn main() -> magikrun::Result<()> {
//! let runtime = NativePodRuntime::new()?;
//! let spec = PodSpec::from_yaml(std::fs::read("pod.yaml")?)?;
//! let handle = runtime.run_pod(&spec)?;
//! println!("{} is {:?}", handle.id, runtime.pod_status(&handle.id)?.phase);
//! runtime.stop_pod(&handle.id, Duration::from_secs(30))?;
//! runtime.delete_pod(&handle.id, false)?;
//! # Ok(()) }
//! ```

mod api;
pub mod around;
mod attachment;
mod clean;
mod group;
pub mod host;
mod images;
pub mod logs;
pub mod manifest;
pub mod microvm;
mod monitor;
pub mod operations;
pub mod plan;
mod process;
pub mod protocol;
mod ranges;
pub mod record;
mod run;
pub mod store;
pub mod wasm;

pub use api::{ExecOutput, MicroVmPodRuntime, NativePodRuntime, PodRuntime, WasmPodRuntime};
pub use clean::leftovers;
pub use host::PodHost;
pub use manifest::PodSpec;
pub use process::role;
pub(crate) use process::role_with;
pub use record::{PodPhase, PodStatus};
pub use run::{CGROUP_PARENT, PodHandle, PodOptions, SLICE_PARENT, run};
