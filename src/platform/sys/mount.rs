//! Mount attributes by descriptor.

use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, MountPropagationFlags};
use std::os::fd::{AsRawFd, BorrowedFd};

/// What [`mount_setattr`] changes.
#[derive(Debug, Clone, Copy)]
pub struct MountAttr<'a> {
    /// Attributes to set.
    pub set: MountAttrFlags,
    /// Attributes to clear, before those of `set` are set. A new access time policy needs all of
    /// `MOUNT_ATTR__ATIME` here.
    pub clear: MountAttrFlags,
    /// The new propagation type; none: leave it.
    pub propagation: Option<MountPropagationFlags>,
    /// The user namespace whose mapping `MOUNT_ATTR_IDMAP` applies.
    pub user_namespace: Option<BorrowedFd<'a>>,
}

impl MountAttr<'_> {
    /// Changes nothing.
    pub const NONE: Self = Self {
        set: MountAttrFlags::empty(),
        clear: MountAttrFlags::empty(),
        propagation: None,
        user_namespace: None,
    };
}

/// Changes the attributes of the mount whose root `mount` is open on, attached or not, and with `recursive` of every mount
/// below it (mount_setattr(2), Linux 5.12; all or nothing).
pub fn mount_setattr(mount: BorrowedFd<'_>, recursive: bool, attr: &MountAttr<'_>) -> Result<(), Errno> {
    let raw = libc::mount_attr {
        attr_set: attr.set.bits().into(),
        attr_clr: attr.clear.bits().into(),
        propagation: attr.propagation.map_or(0, |p| p.bits().into()),
        userns_fd: attr.user_namespace.map_or(0, |fd| fd.as_raw_fd() as u64),
    };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a constant C string, the attributes outlive the call and their size is given; the kernel
    // writes to neither.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const raw,
            size_of::<libc::mount_attr>(),
        )
    };
    if ret == 0 { Ok(()) } else { Err(last_errno()) }
}

fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL)
}
