//! Procfs, used only after it has proved to be one.
//!
//! An image, or another container that shares a volume, could have put something else in its place, so that what is
//! written there changes nothing, or the wrong thing (CVE-2019-19921, CVE-2025-52881).

use crate::error::{Context as _, Error, ErrorKind, Result};
use rustix::fd::{AsFd, AsRawFd as _, OwnedFd};
use rustix::fs::{Mode, OFlags, PROC_SUPER_MAGIC, ResolveFlags, fstat, fstatfs, open, openat2, readlinkat};
use std::fs::File;
use std::io::Write as _;

/// Inode number of the root of every procfs (`PROC_ROOT_INO` of linux/proc_ns.h).
const ROOT_INODE: u64 = 1;

/// Opens `/proc` and makes sure that it is the root of a procfs.
pub fn open_verified() -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = open("/proc", flags, Mode::empty()).context(|| "cannot open '/proc'")?;
    if !is_procfs(&fd)? || fstat(&fd).context(|| "cannot check '/proc'")?.st_ino != ROOT_INODE {
        crate::bail!(System, "cannot use '/proc': it is not the root of a proc file system");
    }
    Ok(fd)
}

/// The number that `/proc` has for this process, which getpid(2) does not tell where `/proc` is that of an outer pid namespace.
pub fn own_pid() -> Result<i32> {
    let cannot = || "cannot read '/proc/self'";
    let link = rustix::fs::readlink("/proc/self", Vec::new()).context(cannot)?;
    let number = link.to_str().ok().and_then(|text| text.parse().ok());
    number.ok_or_else(|| Error::from_errno(libc::ESRCH)).context(cannot)
}

/// Whether `fd` is on a procfs.
pub fn is_procfs(fd: impl AsFd) -> Result<bool> {
    Ok(fstatfs(fd).context(|| "cannot check for procfs")?.f_type == PROC_SUPER_MAGIC)
}

/// The path by which the classic mount calls, which know no descriptors, reach what `fd` is open on.
pub fn path_of(fd: impl AsFd) -> Result<String> {
    open_verified()?;
    Ok(format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd()))
}

/// Writes a kernel parameter, `path` below `/proc/sys`.
pub fn write_parameter(path: &str, value: &str) -> Result<()> {
    write(&open_verified()?, &format!("sys/{path}"), value)
}

/// Writes a security attribute of this process, `name` below `/proc/self/attr`.
pub fn write_attribute(name: &str, value: &str) -> Result<()> {
    let proc = open_verified()?;
    let this = readlinkat(&proc, "self", Vec::new()).context(|| "cannot read '/proc/self'")?;
    write(&proc, &format!("{}/attr/{name}", this.to_string_lossy()), value)
}

/// Writes a file that is reached without a link or another mount on the way.
fn write(proc: &OwnedFd, path: &str, value: &str) -> Result<()> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    openat2(proc, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty(), resolve)
        .map_err(Error::from)
        .and_then(|fd| Ok(File::from(fd).write_all(value.as_bytes())?))
        .or_kind(ErrorKind::CreateFailed, || format!("open /proc/{path}"))
}
