//! What a process of a container becomes when everything is set up: a program of its root, or a WebAssembly module.

use crate::error::Result;
use crate::runtime::cgroups::Cgroup;
use crate::runtime::native::program::Program;
use crate::runtime::wasm::handover::Handover;
use crate::runtime::wasm::preopen;
use crate::runtime::wasm::program::Program as Module;
use oci_spec::runtime::{Process, Spec};
use std::convert::Infallible;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};
use std::process::exit;

/// What a process becomes.
#[derive(Debug)]
pub enum Target {
    /// The program that its arguments name.
    Native {
        /// Where it was found; none until it was looked for.
        path: Option<PathBuf>,
    },
    /// A module.
    Wasm(Box<Handover>),
    /// Nothing: the configuration has no process, and the container ends when it is started.
    Nothing,
}

impl Target {
    /// A program, to be looked for.
    pub fn native() -> Self {
        Self::Native { path: None }
    }

    /// A module. `spec`, `bundle` and `rootfs` are those of its container: without `linux` in the configuration there is none,
    /// and the module sees the bundle's files.
    pub fn module(
        module: Module,
        process: &Process,
        spec: &Spec,
        bundle: &Path,
        rootfs: &Path,
    ) -> Result<Self> {
        let preopens = match spec.linux() {
            Some(_) => None,
            None => Some(preopen::of_bundle(spec, bundle, rootfs)?),
        };
        Ok(Self::Wasm(Box::new(Handover::new(module, process.cwd(), preopens)?)))
    }

    /// Tells it the cgroup whose memory limit it has to keep, when the cgroup is made.
    pub fn limit_memory(&mut self, cgroup: &Cgroup) {
        if let Self::Wasm(handover) = self {
            handover.set_memory_limit(cgroup.memory_limit());
        }
    }

    /// In the container's root, with all privileges there.
    pub fn in_root(&mut self) -> Result<()> {
        match self {
            Self::Native { .. } | Self::Nothing => Ok(()),
            Self::Wasm(handover) => handover.in_root(),
        }
    }

    /// The descriptors that it needs until it is executed.
    pub fn descriptors(&self) -> Vec<RawFd> {
        match self {
            Self::Native { .. } | Self::Nothing => Vec::new(),
            Self::Wasm(handover) => handover.descriptors(),
        }
    }

    /// As the container's user: finds the program. A module was found by the parent.
    pub fn find(&mut self, program: &Program) -> Result<()> {
        if let Self::Native { path } = self {
            *path = Some(program.find()?);
        }
        Ok(())
    }

    /// Executes it, or ends where there is nothing to execute; returns only when that fails.
    pub fn execute(&self, program: &Program) -> Result<Infallible> {
        match self {
            Self::Native { path: Some(path) } => program.execute(path),
            Self::Native { path: None } => program.execute(&program.find()?),
            Self::Wasm(handover) => handover.execute(program),
            Self::Nothing => exit(0),
        }
    }
}
