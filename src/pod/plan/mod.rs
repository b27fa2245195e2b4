//! From a manifest and the images that it names to everything that a pod consists of: a pure function. What it returns is
//! data; the monitor carries it out.

mod build;
pub mod cgroup;
pub mod config;
mod dns;
mod env;
mod microvm;
mod probes;
mod resources;
mod security;
pub mod users;
mod volumes;
mod wasm;

pub use build::{Context, plan};
pub use dns::CLUSTER_DOMAIN;
pub use microvm::VmPlan;
pub use security::{apparmor_profile, seccomp_profiles};
pub use wasm::WasmPlan;

use crate::cni;
use crate::pod::manifest::types::{Metadata, RestartPolicy, Strings};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::net::IpAddr;
use std::path::PathBuf;

/// What is known of an image that a container is made from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageFacts {
    /// Digest of the image.
    pub id: String,
    /// Command that arguments are added to.
    pub entrypoint: Vec<String>,
    /// Arguments, or the command where there is no entrypoint.
    pub cmd: Vec<String>,
    /// Environment, `NAME=VALUE`.
    pub env: Vec<String>,
    /// Working directory; empty for `/`.
    pub working_dir: String,
    /// User id that the image asks for.
    pub uid: u32,
    /// Group id that the image asks for.
    pub gid: u32,
    /// Further groups of that user.
    pub groups: Vec<u32>,
    /// Name or number of the signal that asks the program to end.
    pub stop_signal: Option<String>,
    /// The image is a WebAssembly module.
    pub wasm: bool,
}

/// How a pod is connected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// Loopback only.
    None,
    /// The network of the host.
    Host,
    /// An own network, connected through pasta(1).
    Pasta,
    /// An own network, connected through plugins of the Container Network Interface.
    Cni(Box<cni::Network>),
    /// An existing network namespace.
    Path(PathBuf),
}

impl Network {
    /// The pod has a network namespace of its own, made with it.
    pub fn is_own(&self) -> bool {
        matches!(self, Self::None | Self::Pasta | Self::Cni(_))
    }

    /// Ports of the host can lead to the pod.
    pub fn maps_ports(&self) -> bool {
        match self {
            Self::Pasta => true,
            Self::Cni(network) => network.maps_ports(),
            Self::None | Self::Host | Self::Path(_) => false,
        }
    }
}

/// Everything that a pod consists of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PodPlan {
    /// Id of the pod, a UUID of version 7.
    pub id: String,
    /// Name, namespace, labels and annotations.
    pub metadata: Metadata,
    /// Host name of the pod.
    pub hostname: String,
    /// Network.
    pub network: Network,
    /// Processes of all containers see each other.
    pub share_pid: bool,
    /// Containers are in the host's pid namespace.
    pub host_pid: bool,
    /// Containers are in the host's IPC namespace.
    pub host_ipc: bool,
    /// Kernel parameters of the pod's namespaces.
    pub sysctls: Vec<(String, String)>,
    /// Whose user and group ids it has.
    pub users: users::Users,
    /// The pod's cgroup; those of the containers are below.
    pub cgroup: cgroup::PodCgroup,
    /// Limits of the pod as a whole, `linux.resources` of the runtime specification.
    pub resources: Value,
    /// Volumes.
    pub volumes: Vec<VolumePlan>,
    /// Containers in the order in which they are started.
    pub containers: Vec<ContainerPlan>,
    /// Ports of the host that lead to the pod.
    pub ports: Vec<PortPlan>,
    /// Names in `/etc/hosts`: address and names.
    pub host_aliases: Vec<(String, Vec<String>)>,
    /// Content of `/etc/resolv.conf`.
    pub resolv_conf: String,
    /// Servers that the pod's own name server asks for what it does not know; none where the pod has no such server.
    pub name_server: Option<Vec<IpAddr>>,
    /// What the pod is found below, as `NAME.SUBDOMAIN`.
    pub subdomain: Option<String>,
    /// Group that owns the volumes.
    pub fs_group: Option<u32>,
    /// Time between SIGTERM and SIGKILL, in seconds.
    pub grace_seconds: u32,
    /// Time after which the pod is stopped and has failed, in seconds.
    pub deadline_seconds: Option<u32>,
    /// What the exit of a container means.
    pub restart_policy: RestartPolicy,
    /// Programs that extend the infra container.
    pub extensions: Vec<PathBuf>,
    /// The microVM that all containers are in, if they are.
    pub vm: Option<VmPlan>,
    /// The process that all containers are modules in, if they are.
    pub wasm: Option<WasmPlan>,
}

/// What a container is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Runs to its end before the next is started.
    Init,
    /// Runs beside the others, from before them until after them.
    Sidecar,
    /// What the pod is for.
    App,
}

/// A container.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ContainerPlan {
    /// Name, unique in the pod; also its id in the pod's own state root.
    pub name: String,
    /// What it is for.
    pub role: Role,
    /// Reference of its image, as in the manifest.
    pub image: String,
    /// Digest of its image.
    pub image_id: String,
    /// The backend that runs it, where that is not the native one.
    pub backend: Option<String>,
    /// Annotations that are settings of the backend.
    #[serde(default)]
    pub settings: Strings,
    /// Command and arguments, before `$(NAME)` is replaced.
    pub args: Vec<String>,
    /// Environment, before `$(NAME)` is replaced.
    pub env: Vec<EnvPlan>,
    /// Working directory.
    pub cwd: String,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Additional group ids.
    pub groups: Vec<u32>,
    /// Names of capabilities, with `CAP_`.
    pub capabilities: Vec<String>,
    /// Set no_new_privs.
    pub no_new_privileges: bool,
    /// Everything of the host is allowed.
    pub privileged: bool,
    /// The root file system is read-only.
    pub read_only_root: bool,
    /// Paths of procfs and sysfs are masked and read-only as usual.
    pub masked: bool,
    /// Seccomp profile, `linux.seccomp` of the runtime specification.
    pub seccomp: Option<Value>,
    /// Name of an AppArmor profile; empty for none.
    pub apparmor: String,
    /// SELinux label; empty for none.
    pub selinux: String,
    /// Mounts of volumes.
    pub mounts: Vec<MountPlan>,
    /// Limits, `linux.resources` of the runtime specification.
    pub resources: Value,
    /// Must succeed before the container counts as started.
    pub startup: Option<ProbePlan>,
    /// Says whether the container can work now.
    pub readiness: Option<ProbePlan>,
    /// When it fails, so has the pod.
    pub liveness: Option<ProbePlan>,
    /// Runs right after the start.
    pub post_start: Option<Action>,
    /// Runs before the container is stopped.
    pub pre_stop: Option<Action>,
    /// Number of the signal that asks it to end.
    pub stop_signal: i32,
    /// What it gets as standard input.
    pub input: Input,
    /// Its standard streams are a terminal.
    pub tty: bool,
}

/// What a container gets as standard input.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Input {
    /// Nothing: it is at its end.
    #[default]
    None,
    /// What clients write who attach.
    Open,
    /// What the first client writes who attaches; then it is at its end.
    Once,
}

/// A variable of a container's environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnvPlan {
    /// Name.
    pub name: String,
    /// Value.
    pub value: EnvValue,
}

/// The value of a variable: some are known only when the pod has a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum EnvValue {
    /// Text in which `$(NAME)` is replaced by the value of a variable before it.
    Template(String),
    /// Text as it is.
    Text(String),
    /// The pod's address.
    PodIp,
    /// The host's address.
    HostIp,
}

/// What a probe or a hook does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Executes a command in the container; good is exit code 0.
    Exec(Vec<String>),
    /// Asks from the pod's network by HTTP; good is a status from 200 to 399.
    Http {
        /// Through TLS, whoever the server is.
        #[serde(default)]
        tls: bool,
        /// Host name or address to connect to.
        host: String,
        /// Port.
        port: u16,
        /// Path with query.
        path: String,
        /// Headers.
        headers: Vec<(String, String)>,
    },
    /// Connects from the pod's network; good is a connection.
    Tcp {
        /// Host name or address.
        host: String,
        /// Port.
        port: u16,
    },
    /// Asks a server for its health by gRPC; good is that it serves.
    Grpc {
        /// Host name or address.
        host: String,
        /// Port.
        port: u16,
        /// Name of the service that is asked for; empty for all of the server.
        service: String,
    },
    /// Waits for this many seconds.
    Sleep(u32),
}

/// A probe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProbePlan {
    /// What it does.
    pub action: Action,
    /// Seconds before the first.
    pub initial_delay: u32,
    /// Seconds between two.
    pub period: u32,
    /// Seconds that one may take.
    pub timeout: u32,
    /// So many good ones in a row are success.
    pub success: u32,
    /// So many bad ones in a row are failure.
    pub failure: u32,
    /// Seconds between SIGTERM and SIGKILL when it ends the pod; none for the pod's.
    pub grace: Option<u32>,
}

/// A mount of a volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountPlan {
    /// Name of the volume.
    pub volume: String,
    /// Where in the container.
    pub target: String,
    /// Path in the volume: none for the whole.
    pub sub_path: Option<SubPath>,
    /// Cannot be written to.
    pub read_only: bool,
    /// Neither can what is mounted below.
    pub recursive_read_only: bool,
    /// Where later mounts show up.
    pub propagation: Propagation,
}

/// Where what is mounted below a volume later shows up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Propagation {
    /// Where it is mounted.
    #[default]
    None,
    /// Mounts of the host in the container too.
    FromHost,
    /// And those of the container on the host, and in other containers.
    Both,
}

/// A path below a volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SubPath {
    /// As it is.
    Text(String),
    /// With `$(NAME)` to be replaced.
    Template(String),
}

/// A volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumePlan {
    /// Name, unique in the pod.
    pub name: String,
    /// What it is.
    pub source: VolumeKind,
}

/// What a volume is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VolumeKind {
    /// A directory on disk that lives as long as the pod.
    Directory {
        /// Its mode.
        mode: u32,
    },
    /// A file system in memory that lives as long as the pod.
    Memory {
        /// Most bytes that it may take; none for half of the host's memory.
        size: Option<u64>,
        /// Its mode.
        mode: u32,
    },
    /// Files that are written when the pod is made; read-only.
    Files(Vec<FilePlan>),
    /// A path of the host.
    Host {
        /// The path.
        path: String,
        /// What must be there, or is made there: the types of Kubernetes.
        kind: String,
    },
    /// The files of an image, read-only.
    Image {
        /// Its reference, as in the manifest.
        reference: String,
    },
    /// A directory that outlives the pod.
    Claim {
        /// Its name, unique among all claims of the host.
        name: String,
        /// Cannot be written to by any container.
        read_only: bool,
    },
}

/// A file of a volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilePlan {
    /// Path in the volume.
    pub path: String,
    /// Mode.
    pub mode: u32,
    /// Content.
    pub content: Vec<u8>,
}

/// A port of the host that leads to the pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortPlan {
    /// Address of the host; all of them where there is none.
    pub host_ip: Option<String>,
    /// Port of the host.
    pub host_port: u16,
    /// Port in the pod.
    pub container_port: u16,
    /// UDP instead of TCP.
    pub udp: bool,
}

#[cfg(test)]
mod tests;
