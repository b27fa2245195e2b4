//! MicroVMs: a container whose program runs on a kernel of its own, by libkrun.
//!
//! The container is made as any other: namespaces, mounts, cgroups and seccomp stand around the virtual machine monitor, which is
//! its first process. What the guest sees of files is the container's root, without procfs, sysfs and their like. libkrun itself is
//! in another program, `magikrun-krun`: this same library with an [`engine::Engine`], which the plain program replaces itself by
//! ([`replace`]) when a bundle asks for a microVM.

use crate::storage::state_root::StateDir;
use crate::vm::Guest;
use std::os::fd::AsRawFd as _;

pub mod check;
pub mod console;
pub mod disk;
pub mod engine;
pub mod guest;
pub mod monitor_spec;
pub mod network;
pub mod on_disk;
pub mod ports;
pub mod prepare;
pub mod replace;
pub mod settings;
pub mod superblock;
pub mod supervisor;
pub mod target;
mod vm_file;

/// Directory in the state directory that holds the control socket; the monitor sees nothing else of the latter.
const DIRECTORY: &str = "vm";
/// Name of the control socket in it.
const SOCKET: &str = "control.sock";

/// The guest of the container whose state directory this is, which must stay open.
pub fn guest_of(dir: &StateDir) -> Guest {
    // Short, however long the path of the state directory is.
    Guest::at(format!("/proc/self/fd/{}/{DIRECTORY}/{SOCKET}", dir.fd().as_raw_fd()))
}
