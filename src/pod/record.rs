//! What is on disk of a pod: the record, written before anything of the pod exists, and the status, written by its monitor.

use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::pod::around;
use crate::pod::microvm::VM;
use crate::pod::plan::users::IdRange;
use crate::pod::plan::{PodPlan, PortPlan, Role};
use crate::pod::wasm::WASM;
use crate::runtime::cgroups::Cgroup;
use crate::runtime::options::Member;
use crate::runtime::process_id::ProcessId;
use crate::storage::state_root::StateDir;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Name of the record's file.
const RECORD: &str = "pod.json";
/// Name of the status's file.
const STATUS: &str = "status.json";
/// Version of both formats that this program writes. Older versions stay readable.
pub const VERSION: u32 = 1;

/// What is known of a pod before it exists, and enough to remove everything of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodRecord {
    /// Format, [`VERSION`] when written.
    pub version: u32,
    /// Id, a UUID of version 7.
    pub id: String,
    /// Name.
    pub name: String,
    /// Namespace.
    pub namespace: String,
    /// Creation time, RFC 3339 in UTC.
    pub created: String,
    /// Its cgroup, with those of its containers below.
    pub cgroup: Cgroup,
    /// Directory of what lives as long as the pod and belongs on a disk.
    pub data: PathBuf,
    /// Directory of what lives as long as its containers, in memory.
    pub running: PathBuf,
    /// Containers in the order in which they start.
    pub containers: Vec<ContainerInfo>,
    /// Ports of the host that lead to it.
    pub ports: Vec<PortPlan>,
    /// Seconds between SIGTERM and SIGKILL.
    pub grace_seconds: u32,
    /// The CNI network on which other pods find it by its name.
    #[serde(default)]
    pub network: Option<String>,
    /// What it is found below, as `NAME.SUBDOMAIN`.
    #[serde(default)]
    pub subdomain: Option<String>,
    /// The ids of the host that it has for its own.
    #[serde(default)]
    pub ids: Option<IdRange>,
    /// All its containers are in one microVM.
    #[serde(default)]
    pub vm: bool,
    /// All its containers are modules in one process.
    #[serde(default)]
    pub wasm: bool,
    /// The group of pods that it is there with or not at all, until that is decided.
    #[serde(default)]
    pub group: Option<String>,
}

/// A container of a pod, as its record has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerInfo {
    /// Name.
    pub name: String,
    /// What it is for.
    pub role: Role,
    /// Reference of its image.
    pub image: String,
    /// Digest of its image.
    pub image_id: String,
}

impl ContainerInfo {
    /// All containers of a plan.
    pub fn of_plan(plan: &PodPlan) -> Vec<Self> {
        let of = |c: &crate::pod::plan::ContainerPlan| Self {
            name: c.name.clone(),
            role: c.role,
            image: c.image.clone(),
            image_id: c.image_id.clone(),
        };
        plan.containers.iter().map(of).collect()
    }
}

/// What state a pod is in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PodPhase {
    /// It is being made; nobody sees it.
    #[default]
    Pending,
    /// Its containers run.
    Running,
    /// All its containers have ended well.
    Succeeded,
    /// A container, a probe or something that the pod needs has failed.
    Failed,
    /// It was stopped.
    Stopped,
}

impl PodPhase {
    /// Nothing of it runs any more.
    pub fn is_final(self) -> bool {
        !matches!(self, Self::Pending | Self::Running)
    }
}

/// The state of a pod.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodStatus {
    /// State.
    pub phase: PodPhase,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Containers in the order in which they start.
    pub containers: Vec<ContainerStatus>,
    /// The pod's address.
    #[serde(rename = "podIP")]
    pub pod_ip: String,
    /// All its addresses that others could reach it by.
    #[serde(rename = "podIPs", default)]
    pub pod_ips: Vec<String>,
    /// The host's address.
    #[serde(rename = "hostIP")]
    pub host_ip: String,
    /// Since when all containers run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<String>,
    /// Since when nothing runs any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished: Option<String>,
    /// Its infra container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub infra: Option<ProcessId>,
}

/// The state of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerStatus {
    /// Name.
    pub name: String,
    /// What it is for.
    pub role: Role,
    /// State.
    pub state: ContainerState,
    /// Exit code; 128 and the number of the signal that ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<u8>,
    /// Why it ended so, where that is known: `OOMKilled` when the kernel has ended a process of it for want of memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// It can work now: by its readiness probe, or since it runs where there is none.
    pub ready: bool,
    /// How often it was started again; only sidecars are.
    pub restarts: u32,
}

/// What state a container is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ContainerState {
    /// It has not been started.
    Waiting,
    /// It runs.
    Running,
    /// It has ended.
    Exited,
}

impl PodRecord {
    /// Reads the record; `None` when there is none yet.
    pub fn load(dir: &StateDir) -> Result<Option<Self>> {
        let record: Option<Self> = load(dir, RECORD)?;
        if let Some(record) = &record
            && record.version > VERSION
        {
            crate::bail!(
                Storage,
                "pod record has version {}, this program reads up to {VERSION}",
                record.version
            );
        }
        Ok(record)
    }

    /// Directory of the bundle of a container.
    pub fn bundle(&self, container: &str) -> PathBuf {
        self.data.join("bundles").join(container)
    }

    /// Where a container runs: a container of the pod's own state root, and where in that if it is one around all.
    pub fn place(&self, container: &str) -> (String, Option<Member>) {
        let around = match (self.vm, self.wasm) {
            (true, _) => VM,
            (_, true) => WASM,
            _ => return (container.to_owned(), None),
        };
        let config = self.bundle(container).join("config.json");
        let root = around::root(container);
        (around.to_owned(), Some(Member { name: container.to_owned(), root, config }))
    }

    /// Writes the record.
    pub fn save(&self, dir: &StateDir) -> Result<()> {
        dir.write(RECORD, &serde_json::to_vec(self)?)
    }
}

impl PodStatus {
    /// Reads the status; the default where there is none yet.
    pub fn load(dir: &StateDir) -> Result<Self> {
        Ok(load(dir, STATUS)?.unwrap_or_default())
    }

    /// Writes the status.
    pub fn save(&self, dir: &StateDir) -> Result<()> {
        dir.write(STATUS, &serde_json::to_vec(self)?)
    }
}

fn load<T: serde::de::DeserializeOwned>(dir: &StateDir, name: &str) -> Result<Option<T>> {
    let Some(data) = dir.read(name)? else { return Ok(None) };
    serde_json::from_slice(&data)
        .map(Some)
        .map_err(|e| Error::new(ErrorKind::Storage, e.to_string()))
        .context(|| format!("cannot read '{}'", dir.path().join(name).display()))
}
