//! The host's procfs, used only after it has proved to be one.

use crate::error::{Context as _, Result};
use rustix::fd::{AsFd, AsRawFd as _, OwnedFd};
use rustix::fs::{Mode, OFlags, PROC_SUPER_MAGIC, fstat, fstatfs, open};

/// Inode number of the root of every procfs (`PROC_ROOT_INO` of linux/proc_ns.h).
pub(super) const ROOT_INODE: u64 = 1;

/// Opens `/proc` and makes sure that it is the root of a procfs, not something mounted or linked in its place
/// (CVE-2019-19921, CVE-2025-52881).
pub(super) fn open_verified() -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = open("/proc", flags, Mode::empty()).context(|| "cannot open '/proc'")?;
    if !is_procfs(&fd)? || fstat(&fd).context(|| "cannot check '/proc'")?.st_ino != ROOT_INODE {
        crate::bail!(System, "cannot use '/proc': it is not the root of a procfs");
    }
    Ok(fd)
}

/// Whether `fd` is on a procfs.
pub(super) fn is_procfs(fd: impl AsFd) -> Result<bool> {
    Ok(fstatfs(fd).context(|| "cannot check for procfs")?.f_type == PROC_SUPER_MAGIC)
}

/// The path by which the classic mount calls, which know no descriptors, reach what `fd` is open on.
pub(super) fn path_of(fd: impl AsFd) -> Result<String> {
    open_verified()?;
    Ok(format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd()))
}
