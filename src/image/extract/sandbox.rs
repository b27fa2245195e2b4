//! The process that unpacks: it has no other root than the layer's directory, no descriptor but the layer's stream, and no
//! privilege that making files does not need.

use super::{Rules, Unpacked, extract, tree};
use crate::error::{Context as _, Result};
use crate::platform::sys::security::unshare;
use crate::platform::userns::IdMappings;
use crate::platform::worker::{self, Worker};
use rustix::fs::{CWD, Mode};
use rustix::mount::{
    MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount_change, move_mount, open_tree,
    unmount,
};
use rustix::process::{Resource, Rlimit, chdir, fchdir, pivot_root, setrlimit};
use rustix::thread::{CapabilitySet, CapabilitySets};
use std::fs::File;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;

/// What making files with any owner, mode and attribute takes.
const CAPABILITIES: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::SETFCAP);

/// A layer that is being unpacked.
pub struct Extraction {
    worker: Worker<Unpacked>,
}

/// Starts to unpack what comes from `input` into the directory `target`, which must exist and be empty.
pub fn start(
    input: OwnedFd,
    target: &Path,
    rules: &Rules,
    mappings: Option<&IdMappings>,
) -> Result<Extraction> {
    let raw = input.as_raw_fd();
    let (rules, target) = (rules.clone(), target.to_owned());
    let worker = worker::start(mappings, &[raw], move || {
        enclose(&target).context(|| "cannot enclose the process that unpacks")?;
        let root = tree::current()?;
        extract(File::from(input), root, &rules)
    })?;
    Ok(Extraction { worker })
}

impl Extraction {
    /// Waits until the layer is unpacked. The input must have been closed by whoever writes it.
    pub fn finish(self) -> Result<Unpacked> {
        self.worker.finish()
    }
}

/// Leaves everything but `target` behind.
fn enclose(target: &Path) -> Result<()> {
    unshare((libc::CLONE_NEWNS | libc::CLONE_NEWIPC) as u64)?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    let tree = open_tree(CWD, target, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)?;
    move_mount(&tree, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    fchdir(&tree)?;
    pivot_root(".", ".")?;
    unmount(".", UnmountFlags::DETACH)?;
    chdir("/")?;
    rustix::process::umask(Mode::empty());
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    rustix::thread::set_no_new_privs(true)?;
    let sets = CapabilitySets {
        effective: CAPABILITIES,
        permitted: CAPABILITIES,
        inheritable: CapabilitySet::empty(),
    };
    rustix::thread::set_capabilities(None, sets)?;
    Ok(())
}
