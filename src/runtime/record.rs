//! The state record of a container, in its state directory.

use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::runtime::cgroups::Cgroup;
use crate::runtime::krun::member::Membership;
use crate::runtime::process_id::ProcessId;
use crate::storage::state_root::StateDir;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Name of the file.
pub const RECORD: &str = "state.json";

/// Version of the record's format that this program writes. Older versions stay readable.
pub const RECORD_VERSION: u32 = 1;

/// The isolation backend that runs a container; chosen once, at `create`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// Linux namespaces and cgroups.
    Native,
    /// A WebAssembly module run by wasmtime.
    Wasm,
    /// A microVM run by libkrun.
    Krun,
}

/// What is known of a container. Kept small: `state`, `kill` and `list` read nothing else. The full
/// configuration stands beside it in `config.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// Format of this record, [`RECORD_VERSION`] when written.
    pub version: u32,
    /// Container id.
    pub id: String,
    /// `ociVersion` of the configuration.
    pub oci_version: String,
    /// Absolute path of the bundle.
    pub bundle: PathBuf,
    /// Absolute path of the root file system.
    pub rootfs: PathBuf,
    /// Creation time, RFC 3339 in UTC.
    pub created: String,
    /// User id of the user who created it.
    pub owner: u32,
    /// The backend that runs it.
    pub backend: Backend,
    /// The container's first process; none while it is being created.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init: Option<ProcessId>,
    /// Where its cgroups are.
    pub cgroup: Cgroup,
    /// True when it has a pid namespace of its own, so that the death of its first process ends all others.
    pub own_pid_namespace: bool,
    /// True when it was created without privileges over the host.
    #[serde(default)]
    pub rootless: bool,
    /// Directories of the resctrl file system to remove with the container.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub intel_rdt: Vec<PathBuf>,
    /// True when the configuration has poststop hooks, so that `delete` must read it.
    #[serde(default)]
    pub poststop: bool,
    /// True when `start` must read the configuration: it has poststart hooks, or a seccomp agent.
    #[serde(default)]
    pub start_needs_config: bool,
    /// True when the bundle was made for this container alone, and is removed with it.
    #[serde(default)]
    pub owned_bundle: bool,
    /// The microVM of a pod that it is in, where that is not its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub membership: Option<Membership>,
    /// Annotations of the configuration.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl Record {
    /// Reads the record; `None` when there is none yet.
    pub fn load(dir: &StateDir) -> Result<Option<Self>> {
        let Some(data) = dir.read(RECORD)? else { return Ok(None) };
        let record =
            Self::parse(&data).context(|| format!("cannot read '{}'", dir.path().join(RECORD).display()))?;
        Ok(Some(record))
    }

    /// Writes the record.
    pub fn save(&self, dir: &StateDir) -> Result<()> {
        let data =
            serde_json::to_vec(self).or_kind(ErrorKind::Storage, || "cannot write the state record")?;
        dir.write(RECORD, &data)
    }

    /// Parses a record; refuses one that a newer version wrote.
    pub fn parse(data: &[u8]) -> Result<Self> {
        let record: Self = serde_json::from_slice(data)
            .map_err(|e| Error::new(ErrorKind::Storage, format!("damaged state record: {e}")))?;
        if record.version > RECORD_VERSION {
            crate::bail!(
                NotSupported,
                "state record has version {}, this program reads up to {RECORD_VERSION}",
                record.version
            );
        }
        Ok(record)
    }
}
