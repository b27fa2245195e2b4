//! What extends the infra container: code that runs in a pod's namespaces and hears what happens to its containers.

use crate::error::Result;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Result of an extension's operations. An error of [`InfraExtension::on_start`] keeps the pod from running; later ones are
/// only reported.
pub type ExtensionResult<T> = Result<T>;

/// Something that runs in the infra container of each pod.
///
/// ```
/// use magikrun::infra::{ExtensionResult, InfraContext, InfraEvent, InfraExtension};
///
/// #[derive(Default)]
/// struct Census(usize);
///
/// impl InfraExtension for Census {
///     fn name(&self) -> &str {
///         "census"
///     }
///
///     fn on_start(&mut self, context: &InfraContext<'_>) -> ExtensionResult<()> {
///         context.request_udp_port(51820, 51820, self.name())
///     }
///
///     fn on_event(&mut self, event: &InfraEvent, _: &InfraContext<'_>) -> ExtensionResult<()> {
///         if matches!(event, InfraEvent::ContainerStarted { .. }) {
///             self.0 += 1;
///         }
///         Ok(())
///     }
/// }
/// # assert_eq!(Census::default().name(), "census");
/// ```
pub trait InfraExtension {
    /// Its name, for messages and as the name of its directory.
    fn name(&self) -> &str;

    /// The pod's namespaces exist; no container has started. Ports can be requested only here.
    fn on_start(&mut self, context: &InfraContext<'_>) -> ExtensionResult<()>;

    /// Something has happened to the pod.
    fn on_event(&mut self, event: &InfraEvent, context: &InfraContext<'_>) -> ExtensionResult<()>;

    /// The pod ends; its containers have stopped.
    fn on_stop(&mut self, context: &InfraContext<'_>) -> ExtensionResult<()> {
        let _ = context;
        Ok(())
    }
}

/// What an extension may know of the pod.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodInfo {
    /// Id.
    pub id: String,
    /// Name.
    pub name: String,
    /// Namespace.
    pub namespace: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// Names of the containers in the order in which they start.
    pub containers: Vec<String>,
}

/// What happens to a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum InfraEvent {
    /// A container's program runs.
    ContainerStarted {
        /// Name of the container.
        name: String,
    },
    /// A container has ended.
    ContainerExited {
        /// Name of the container.
        name: String,
        /// Its exit code; 128 and the number of the signal that ended it.
        exit_code: u8,
    },
    /// A container has become able, or unable, to work: by its readiness probe.
    ContainerReady {
        /// Name of the container.
        name: String,
        /// Able.
        ready: bool,
    },
    /// All containers run.
    PodStarted,
    /// The containers are being stopped.
    PodStopping,
}

/// Asks for a port of the host to lead to the pod.
pub(super) trait Ports {
    /// `udp` instead of TCP; `who` asks.
    fn request(&self, udp: bool, host_port: u16, container_port: u16, who: &str) -> Result<()>;
}

/// What an extension can do.
pub struct InfraContext<'a> {
    pub(super) pod: &'a PodInfo,
    pub(super) state_directory: &'a Path,
    pub(super) ports: &'a dyn Ports,
}

impl InfraContext<'_> {
    /// The pod.
    pub fn pod(&self) -> &PodInfo {
        self.pod
    }

    /// A directory of the extension's own, which lives as long as the pod; it is made by the first call.
    pub fn state_directory(&self, extension: &str) -> Result<PathBuf> {
        use crate::error::Context as _;
        let path = self.state_directory.join(extension);
        std::fs::create_dir_all(&path).context(|| format!("cannot make '{}'", path.display()))?;
        Ok(path)
    }

    /// Asks for a UDP port of the host to lead to the pod; `who` is the name of the extension.
    pub fn request_udp_port(&self, host_port: u16, container_port: u16, who: &str) -> Result<()> {
        self.ports.request(true, host_port, container_port, who)
    }

    /// Asks for a TCP port of the host to lead to the pod; `who` is the name of the extension.
    pub fn request_tcp_port(&self, host_port: u16, container_port: u16, who: &str) -> Result<()> {
        self.ports.request(false, host_port, container_port, who)
    }
}
