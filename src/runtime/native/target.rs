//! What a process of a container becomes when everything is set up: a program of its root, a WebAssembly module, a
//! microVM, or what stands for a container in one.

use crate::error::Result;
use crate::runtime::cgroups::Cgroup;
use crate::runtime::krun::member::{Member, Membership};
use crate::runtime::krun::target::Guest;
use crate::runtime::native::channel::{Channel, Message};
use crate::runtime::native::namespaces::Namespaces;
use crate::runtime::native::program::Program;
use crate::runtime::wasm::handover::Handover;
use crate::runtime::wasm::preopen;
use crate::runtime::wasm::program::Program as Module;
use crate::runtime::wasm::together::Programs;
use crate::storage::state_root::StateDir;
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
    /// A microVM.
    Vm(Box<Guest>),
    /// What stands for a container in the microVM of its pod.
    Member(Box<Member>),
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

    /// The microVM that the container is in, where that is not its own.
    pub fn membership(&self) -> Option<Membership> {
        match self {
            Self::Member(member) => Some(member.membership.clone()),
            _ => None,
        }
    }

    /// Several modules, in a container with mounts of its own.
    pub fn modules(programs: Programs) -> Result<Self> {
        Ok(Self::Wasm(Box::new(Handover::to_several(programs)?)))
    }

    /// Tells it the cgroup whose memory limit it has to keep, when the cgroup is made.
    pub fn limit_memory(&mut self, cgroup: &Cgroup) {
        if let Self::Wasm(handover) = self {
            handover.set_memory_limit(cgroup.memory_limit());
        }
    }

    /// Tells it the state directory of its container, and the namespaces.
    pub fn set_directory(&mut self, dir: &StateDir, namespaces: &Namespaces) -> Result<()> {
        match self {
            Self::Nothing | Self::Native { .. } | Self::Wasm(_) => Ok(()),
            Self::Vm(guest) => guest.set_directory(dir, namespaces.root_ids()),
            Self::Member(member) => member.set_directory(dir),
        }
    }

    /// In the container's namespaces, with the files of the host, when the hooks that set up a network have run.
    pub fn in_namespaces(&mut self) -> Result<()> {
        match self {
            Self::Nothing | Self::Native { .. } | Self::Wasm(_) | Self::Member(_) => Ok(()),
            Self::Vm(guest) => guest.in_namespaces(),
        }
    }

    /// In the container's root, with all privileges there.
    pub fn in_root(&mut self) -> Result<()> {
        match self {
            Self::Native { .. } | Self::Nothing => Ok(()),
            Self::Wasm(handover) => handover.in_root(),
            Self::Vm(guest) => guest.in_root(),
            Self::Member(member) => member.in_root(),
        }
    }

    /// The descriptors that it needs until it is executed.
    pub fn descriptors(&self) -> Vec<RawFd> {
        match self {
            Self::Native { .. } | Self::Nothing => Vec::new(),
            Self::Wasm(handover) => handover.descriptors(),
            Self::Vm(guest) => guest.descriptors(),
            Self::Member(member) => member.descriptors(),
        }
    }

    /// As the container's user: finds the program. A module was found by the parent.
    pub fn find(&mut self, program: &Program) -> Result<()> {
        match self {
            Self::Native { path } => *path = Some(program.find()?),
            // The guest sees the same files, and finds it again.
            Self::Vm(guest) if guest.finds_program() => drop(program.find()?),
            Self::Member(_) => drop(program.find()?),
            Self::Nothing | Self::Wasm(_) | Self::Vm(_) => {}
        }
        Ok(())
    }

    /// Tells whoever waits for the start that execve(2) comes next. A microVM tells that itself, much later.
    pub fn announce(&self, starter: &Channel) -> Result<()> {
        match self {
            Self::Nothing | Self::Native { .. } | Self::Wasm(_) => starter.send(&Message::Ready),
            Self::Vm(_) | Self::Member(_) => Ok(()),
        }
    }

    /// Executes it, or ends where there is nothing to execute; returns only when that fails. `starter` is closed by execve(2), or by
    /// a microVM when its program runs.
    pub fn execute(&mut self, program: &Program, starter: &Channel) -> Result<Infallible> {
        match self {
            Self::Native { path: Some(path) } => program.execute(path),
            Self::Native { path: None } => program.execute(&program.find()?),
            Self::Wasm(handover) => handover.execute(program),
            Self::Nothing => exit(0),
            Self::Vm(guest) => guest.execute(starter),
            Self::Member(member) => member.execute(starter),
        }
    }
}
