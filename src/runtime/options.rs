//! What the life-cycle operations are asked to do: resolved arguments, without any parsing left.

use crate::limits::MAX_CONTAINERS;
use crate::runtime::cgroups::Driver;
use crate::runtime::krun::engine::Libkrun;
use crate::runtime::krun::guest::Given;
use crate::runtime::wasm::linked;
use crate::runtime::wasm::together::Together;
use crate::storage::config::{Annotations, Timeouts, VmLimits, WasmLimits};
use crate::storage::state_root::StateRoot;
use std::path::PathBuf;

/// What holds for every operation of one call of the program.
#[derive(Debug)]
pub struct Host {
    /// Where the state of containers lives.
    pub root: StateRoot,
    /// Who manages cgroups.
    pub cgroup_driver: Driver,
    /// True without privileges over the host: an ordinary user, or root of a user namespace.
    pub rootless: bool,
    /// Most containers under the state root.
    pub max_containers: usize,
    /// What WebAssembly modules may use at most.
    pub wasm: WasmLimits,
    /// Which annotations may change how a container is run.
    pub annotations: Annotations,
    /// What microVMs may do at most.
    pub vm: VmLimits,
    /// How long things may take.
    pub timeouts: Timeouts,
    /// Where libkrun is.
    pub libkrun: Libkrun,
    /// The name that this program was called by: a link can name a backend.
    pub called_as: String,
}

impl Host {
    /// A host with the default limits, on which modules can run.
    pub fn new(root: impl Into<PathBuf>, cgroup_driver: Driver, rootless: bool) -> Self {
        linked::link();
        Self::with_defaults(root, cgroup_driver, rootless)
    }

    /// One on which they can if that is linked.
    pub(crate) fn with_defaults(root: impl Into<PathBuf>, cgroup_driver: Driver, rootless: bool) -> Self {
        Self {
            root: StateRoot::new(root),
            cgroup_driver,
            rootless,
            max_containers: MAX_CONTAINERS,
            wasm: WasmLimits::default(),
            annotations: Annotations::default(),
            vm: VmLimits::default(),
            timeouts: Timeouts::default(),
            libkrun: Libkrun::Absent,
            called_as: String::new(),
        }
    }
}

/// Arguments of `create`.
#[derive(Debug, Clone, Default)]
pub struct CreateOptions {
    /// Container id; validated by the operation.
    pub id: String,
    /// Directory of the bundle; may be relative.
    pub bundle: PathBuf,
    /// The bundle was made for this container alone: it is removed with the container.
    pub owned_bundle: bool,
    /// Configuration to use instead of the bundle's `config.json`.
    pub config: Option<PathBuf>,
    /// File that receives the pid of the container's first process.
    pub pid_file: Option<PathBuf>,
    /// Unix socket that receives the master of the container's terminal.
    pub console_socket: Option<PathBuf>,
    /// Unix socket that receives a pidfd of the container's first process.
    pub pidfd_socket: Option<PathBuf>,
    /// Use `MS_MOVE` and chroot(2) instead of pivot_root(2): the root is a ramdisk.
    pub no_pivot: bool,
    /// Do not make a new session keyring.
    pub no_new_keyring: bool,
    /// Number of descriptors after standard error (and after those of `LISTEN_FDS`) to pass to the container.
    pub preserve_fds: u32,
    /// What runs in the guest of a microVM instead of the container's own program.
    pub guest: Option<Given>,
    /// The modules that the container's process runs instead of one.
    pub together: Option<Together>,
}

/// Arguments of `run`.
#[derive(Debug, Clone, Default)]
pub struct RunOptions {
    /// What to create.
    pub create: CreateOptions,
    /// Return as soon as the container runs.
    pub detach: bool,
    /// Do not delete the container when it has exited.
    pub keep: bool,
    /// Do not become a child subreaper while waiting.
    pub no_subreaper: bool,
}

/// One of several containers that another one is around: in the guest of a microVM, or in the process of modules.
#[derive(Debug, Clone)]
pub struct Member {
    /// Its name there.
    pub name: String,
    /// Its root, below that of the container around it.
    pub root: String,
    /// File with its configuration.
    pub config: PathBuf,
}

/// Arguments of `exec`.
#[derive(Debug, Clone, Default)]
pub struct ExecOptions {
    /// Container id.
    pub id: String,
    /// Which of the containers that this one is around, if it is.
    pub member: Option<Member>,
    /// What to execute.
    pub process: ExecProcess,
    /// Unix socket that receives the master of the process's terminal.
    pub console_socket: Option<PathBuf>,
    /// Unix socket that receives a pidfd of the process.
    pub pidfd_socket: Option<PathBuf>,
    /// Return as soon as the process runs.
    pub detach: bool,
    /// File that receives the pid of the process.
    pub pid_file: Option<PathBuf>,
    /// Number of descriptors after standard error to pass to the process.
    pub preserve_fds: u32,
    /// Sub-cgroups to run in, each `[CONTROLLER,...:]PATH`.
    pub cgroup: Vec<String>,
    /// Allow it in a paused container: the process then waits until the container is resumed.
    pub ignore_paused: bool,
    /// Do not become a child subreaper while waiting.
    pub no_subreaper: bool,
}

/// What `exec` runs.
#[derive(Debug, Clone)]
pub enum ExecProcess {
    /// The OCI process object in this file.
    File(PathBuf),
    /// The container's own process object with these changes.
    Args(ExecArgs),
}

impl Default for ExecProcess {
    fn default() -> Self {
        Self::Args(ExecArgs::default())
    }
}

/// Changes to the container's own process object.
#[derive(Debug, Clone, Default)]
pub struct ExecArgs {
    /// Command and arguments.
    pub args: Vec<String>,
    /// Working directory.
    pub cwd: Option<String>,
    /// `NAME=VALUE` pairs added to the environment.
    pub env: Vec<String>,
    /// User and group id: `UID[:GID]`.
    pub user: Option<String>,
    /// Additional group ids.
    pub additional_gids: Vec<u32>,
    /// Allocate a terminal.
    pub tty: bool,
    /// Capabilities to add.
    pub cap: Vec<String>,
    /// AppArmor profile.
    pub apparmor: Option<String>,
    /// SELinux label.
    pub process_label: Option<String>,
    /// Set no_new_privs.
    pub no_new_privs: bool,
}
