//! Files that can be handed to a container without the container being able to write to them.
//!
//! Whoever may look at a process opens its files anew through `/proc/PID/fd`, also for writing where the file's permissions allow
//! that (CVE-2019-5736). A detached, read-only clone of the file's mount, which no mount namespace holds and so nobody can make
//! writable again, refuses it.

use crate::error::Result;
use crate::platform::sys::mount::{MountAttr, mount_setattr};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{MountAttrFlags, OpenTreeFlags};
use std::fs::File;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::Path;

/// A read-only clone of the mount that a file is on, open on the file as with `O_PATH`. Needs the privilege to mount. A symbolic
/// link is not followed unless it is one of procfs.
pub fn clone(path: &Path) -> Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if !path.starts_with("/proc/self") {
        flags |= OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
    }
    let tree = rustix::mount::open_tree(CWD, path, flags)?;
    let attr = MountAttr { set: MountAttrFlags::MOUNT_ATTR_RDONLY, ..MountAttr::NONE };
    mount_setattr(tree.as_fd(), false, &attr)?;
    Ok(tree)
}

/// Opens a file for reading by way of such a clone.
pub fn open(path: &Path) -> Result<File> {
    let tree = clone(path)?;
    let path = format!("/proc/self/fd/{}", tree.as_raw_fd());
    Ok(File::from(rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?))
}
