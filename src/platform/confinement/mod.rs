//! Seccomp profiles for containers: our own, or a file in the format of Docker, podman and the kubelet, which name the
//! architectures and capabilities that each rule is for, or in that of the runtime specification.

mod built_in;
mod foreign;

use crate::error::{Context as _, ErrorKind, Result};
use serde_json::Value;
use std::path::Path;

/// Where the operator's own default is, as podman and CRI-O look for it.
pub const OPERATORS: &str = "/etc/containers/seccomp.json";

/// A profile.
#[derive(Debug, Clone, PartialEq)]
pub enum Profile {
    /// Ours.
    BuiltIn,
    /// The content of a file.
    Foreign(Value),
}

impl Profile {
    /// The profile of containers for which none is named: the operator's if there is one, else ours.
    pub fn of_host() -> Result<Self> {
        let path = Path::new(OPERATORS);
        if path.exists() { Self::read(path) } else { Ok(Self::BuiltIn) }
    }

    /// The profile in a file.
    pub fn read(path: &Path) -> Result<Self> {
        let cannot = || format!("cannot read seccomp profile '{}'", path.display());
        let data = std::fs::read(path).or_kind(ErrorKind::InvalidManifest, cannot)?;
        serde_json::from_slice(&data).or_kind(ErrorKind::InvalidManifest, cannot).map(Self::Foreign)
    }

    /// What of it holds for a container with these capabilities: `linux.seccomp` of the runtime specification.
    pub fn resolve<S: AsRef<str>>(&self, capabilities: &[S]) -> Value {
        let has = |name: &str| capabilities.iter().any(|own| own.as_ref() == name);
        match self {
            Self::BuiltIn => built_in::resolve(has, std::env::consts::ARCH),
            Self::Foreign(profile) => foreign::resolve(profile, has, std::env::consts::ARCH),
        }
    }
}
