//! MicroVMs: a container whose program runs on a kernel of its own, by libkrun.
//!
//! The container is made as any other: namespaces, mounts, cgroups and seccomp stand around the virtual machine monitor, which is
//! its first process. What the guest sees of files is the container's root, without procfs, sysfs and their like. libkrun itself is
//! in another program, `magikrun-krun`: this same library with an [`engine::Engine`], which the plain program replaces itself by
//! ([`replace`]) when a bundle asks for a microVM.

use crate::error::{ErrorKind, Result};
use crate::runtime::container::Container;
use crate::runtime::options::Host;
use crate::storage::state_root::StateDir;
use crate::vm::Guest;
use std::os::fd::AsRawFd as _;
use vm_protocol::message::Target;

mod asking;
pub mod check;
pub mod console;
pub mod disk;
pub mod engine;
pub mod guest;
pub mod member;
pub mod monitor_spec;
pub mod network;
pub mod on_disk;
mod passing;
mod place;
pub mod pod;
pub mod ports;
pub mod prepare;
pub mod replace;
mod resizing;
pub mod settings;
mod shared_pids;
pub mod superblock;
pub mod supervisor;
pub mod target;
mod vm_file;
mod volumes;

/// Directory in the state directory that holds the control socket; the monitor sees nothing else of the latter.
const DIRECTORY: &str = "vm";
/// Name of the control socket in it.
const SOCKET: &str = "control.sock";

/// The guest that a container is in, and its name there.
#[derive(Debug)]
pub struct Inside {
    /// The guest.
    pub guest: Guest,
    /// The name; the only one in the specification of a guest needs none.
    pub name: String,
    /// The state directory of the pod's sandbox, through which the guest is reached, where it is not the container's own.
    _sandbox: Option<StateDir>,
}

impl Inside {
    /// The container's first process there.
    pub fn target(&self) -> Target {
        Target::Container(self.name.clone())
    }
}

/// The guest that a container is in, whose state directory must stay open.
pub fn inside(host: &Host, container: &Container) -> Result<Inside> {
    let Some(membership) = &container.record.membership else {
        return Ok(Inside { guest: guest_of(&container.dir), name: String::new(), _sandbox: None });
    };
    let sandbox = host.root.open(&membership.sandbox).map_err(|e| match e.kind() {
        ErrorKind::ContainerNotFound => e.wrap("the microVM of the pod is gone"),
        _ => e,
    })?;
    Ok(Inside { guest: guest_of(&sandbox), name: container.record.id.clone(), _sandbox: Some(sandbox) })
}

/// The guest of the container whose state directory this is, which must stay open.
pub fn guest_of(dir: &StateDir) -> Guest {
    // Short, however long the path of the state directory is.
    Guest::at(format!("/proc/self/fd/{}/{DIRECTORY}/{SOCKET}", dir.fd().as_raw_fd()))
}
