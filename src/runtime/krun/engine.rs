//! The seam between this library and libkrun, which only `magikrun-krun` is linked with.

use super::settings::Settings;
use crate::error::{Error, Result};
use std::fmt::Debug;
use std::os::fd::RawFd;

/// What the program that is linked with libkrun hands to the main function of this library.
pub trait Engine: Debug + Sync {
    /// Loads what must be loaded before a container's root is entered: the guest's kernel, in this process.
    ///
    /// Fails when it is not installed.
    fn load(&self) -> Result<Box<dyn Machine>>;
}

/// Where libkrun is.
#[derive(Debug, Clone, Copy, Default)]
pub enum Libkrun {
    /// Nowhere: a program that uses this library cannot be replaced by another one.
    #[default]
    Absent,
    /// In the program that this one replaces itself by.
    Beside,
    /// In this program.
    Linked(&'static dyn Engine),
}

/// A virtual machine that is loaded and not configured yet.
pub trait Machine: Debug {
    /// Configures the machine and becomes it: returns only when that fails, otherwise the process ends with the exit code
    /// that the guest has told.
    fn enter(&self, config: &MachineConfig) -> Error;
}

/// What a machine is made of. Paths and numbers are those of the process that becomes it.
#[derive(Debug)]
pub struct MachineConfig {
    /// Processors and memory.
    pub settings: Settings,
    /// Program that is the guest's first process.
    pub init: &'static [u8],
    /// Specification of the guest, see `vm_protocol::spec`.
    pub spec: &'static [u8],
    /// Directory that the guest sees as a virtiofs share with the tag [`ROOTFS`].
    pub rootfs: String,
    /// Path at which the machine listens for connections to the control port of the guest.
    pub control: String,
    /// Write end of a pipe that gets what the guest's kernel and first process say.
    pub console: RawFd,
    /// Connected socket of passt.
    pub passt: Option<RawFd>,
    /// The first disk, [`DISK`] in the guest.
    pub disk: Option<DiskConfig>,
}

/// A disk of a machine.
#[derive(Debug)]
pub struct DiskConfig {
    /// Path of an image without a format of its own, or of a block device.
    pub path: String,
    /// The guest cannot write to it.
    pub read_only: bool,
}

/// Tag of the share with the container's root.
pub const ROOTFS: &str = "rootfs";
/// The first disk, in the guest.
pub const DISK: &str = "/dev/vda";
