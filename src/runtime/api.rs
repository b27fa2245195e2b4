//! The library's interface to single containers: one trait, and the runtime for Linux containers.

use crate::error::{Error, ErrorKind, Result};
use crate::runtime::cgroups::Driver;
use crate::runtime::container::{Container, State};
use crate::runtime::lifecycle;
use crate::runtime::options::{CreateOptions, Host};
use crate::storage::config::Config;
use std::path::Path;

/// Where the state of containers lives unless told otherwise.
const STATE_ROOT: &str = "/run/magikrun";

/// Signals that containers are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// Asks it to end.
    Term,
    /// Ends it.
    Kill,
    /// Interrupt, as from a keyboard.
    Int,
    /// Hang-up: by custom, read the configuration again.
    Hup,
    /// For the program to give meaning to.
    Usr1,
    /// For the program to give meaning to.
    Usr2,
    /// Any other, by number.
    Number(i32),
}

impl Signal {
    /// Its number on Linux.
    pub fn number(self) -> i32 {
        match self {
            Self::Term => libc::SIGTERM,
            Self::Kill => libc::SIGKILL,
            Self::Int => libc::SIGINT,
            Self::Hup => libc::SIGHUP,
            Self::Usr1 => libc::SIGUSR1,
            Self::Usr2 => libc::SIGUSR2,
            Self::Number(number) => number,
        }
    }
}

/// The life of a single container, whatever isolates it.
pub trait OciRuntime {
    /// Creates the container of a bundle; its program waits.
    fn create(&self, id: &str, bundle: &Path) -> Result<()>;
    /// Starts the program of a created container.
    fn start(&self, id: &str) -> Result<()>;
    /// Sends a signal to a container.
    fn kill(&self, id: &str, signal: Signal) -> Result<()>;
    /// Deletes a stopped container.
    fn delete(&self, id: &str) -> Result<()>;
    /// The state of a container.
    fn state(&self, id: &str) -> Result<State>;
}

/// Linux containers.
///
/// [`OciRuntime::create`] copies the calling process, which must have no other thread then. A program with threads
/// executes the `magikrun` binary instead.
#[derive(Debug)]
pub struct NativeRuntime {
    host: Host,
}

impl Default for NativeRuntime {
    fn default() -> Self {
        Self::new()
    }
}

impl NativeRuntime {
    /// The runtime with the usual state root.
    pub fn new() -> Self {
        Self::with_root(Path::new(STATE_ROOT))
    }

    /// The runtime with another state root.
    pub fn with_root(root: &Path) -> Self {
        let rootless = !rustix::process::geteuid().is_root();
        Self { host: Host::new(root, Driver::Cgroupfs, rootless) }
    }

    /// The runtime with the limits of the operator's configuration.
    pub fn with_config(root: &Path, config: &Config) -> Self {
        let mut runtime = Self::with_root(root);
        runtime.host.max_containers = config.limits.max_containers;
        runtime.host.wasm = config.wasm.clone();
        runtime.host.annotations = config.annotations.clone();
        runtime
    }
}

impl OciRuntime for NativeRuntime {
    fn create(&self, id: &str, bundle: &Path) -> Result<()> {
        let threads = std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count);
        if threads > 1 {
            return Err(Error::new(
                ErrorKind::CreateFailed,
                format!(
                    "cannot create '{id}': this process has {threads} threads; execute the magikrun program instead"
                ),
            ));
        }
        let options =
            CreateOptions { id: id.to_owned(), bundle: bundle.to_owned(), ..CreateOptions::default() };
        lifecycle::create(&self.host, &options)
    }

    fn start(&self, id: &str) -> Result<()> {
        lifecycle::start(&self.host, id)
    }

    fn kill(&self, id: &str, signal: Signal) -> Result<()> {
        lifecycle::kill(&self.host, id, signal.number(), false)
    }

    fn delete(&self, id: &str) -> Result<()> {
        lifecycle::delete(&self.host, id, false)
    }

    fn state(&self, id: &str) -> Result<State> {
        Container::open(&self.host, id)?.state()
    }
}
