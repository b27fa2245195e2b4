//! What a container made from an image is to be like.

use oci_spec::runtime::Mount;
use std::path::PathBuf;

/// Settings of a container; what is not set comes from the image, or is the default.
#[derive(Debug, Clone, Default)]
pub struct OciContainerConfig {
    /// Name of the container: its host name unless [`OciContainerConfig::hostname`] says otherwise.
    pub name: String,
    /// Replaces the image's entrypoint, and its command too.
    pub command: Option<Vec<String>>,
    /// Replaces the image's command.
    pub args: Option<Vec<String>>,
    /// `NAME=VALUE` pairs, added to those of the image.
    pub env: Vec<String>,
    /// `USER[:GROUP]`, by name or number.
    pub user: Option<String>,
    /// Working directory.
    pub working_dir: Option<String>,
    /// Host name.
    pub hostname: Option<String>,
    /// Additional mounts.
    pub mounts: Vec<Mount>,
    /// Memory limit, in bytes. [`crate::limits::DEFAULT_MEMORY_BYTES`] if not set; 0: none.
    pub memory: Option<u64>,
    /// Processors, as in 1.5.
    pub cpus: Option<f64>,
    /// Most processes.
    pub pids: Option<i64>,
    /// Give the process a terminal.
    pub terminal: bool,
    /// Make the root file system read-only.
    pub read_only: bool,
    /// Use the host's network instead of one of its own.
    pub host_network: bool,
    /// The backend that runs it: `native`, `wasm` or `krun`; none: as the bundle's content asks for.
    pub backend: Option<String>,
    /// Annotations.
    pub annotations: Vec<(String, String)>,
    /// Which system calls it may make.
    pub seccomp: Seccomp,
    /// How the root file system comes about.
    pub root: RootMode,
}

/// The seccomp profile of a container.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Seccomp {
    /// That of the host, which the operator can replace; a microVM has none, since its kernel is its own.
    #[default]
    Default,
    /// None: every system call reaches the kernel.
    Unconfined,
    /// The one in a file, in the format of Docker or of the runtime specification.
    File(PathBuf),
}

/// How a root file system is made from layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RootMode {
    /// An overlay of the shared layers, mounted by this runtime when the container is created.
    #[default]
    Overlay,
    /// A copy, which every runtime and every backend takes.
    Copy,
}
