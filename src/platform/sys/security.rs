//! Namespaces, session keyrings, execution domains.

use crate::error::{Error, Result};
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd};

/// Moves the calling, only thread into new namespaces: `CLONE_NEW*` flags.
pub fn unshare(flags: u64) -> Result<()> {
    // SAFETY: takes an integer. Without CLONE_FILES, as here, no descriptor table is split from another thread's.
    check(i64::from(unsafe { libc::unshare(flags as libc::c_int) }))
}

/// The `CLONE_NEW*` flag that tells what kind of namespace a descriptor refers to (ioctl_ns(2) `NS_GET_NSTYPE`).
pub fn namespace_type(fd: impl AsFd) -> Result<u64> {
    const NS_GET_NSTYPE: libc::Ioctl = 0xb703;
    // SAFETY: this request takes no argument and writes nothing.
    let ret = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), NS_GET_NSTYPE) };
    if ret < 0 { Err(Error::from(std::io::Error::last_os_error())) } else { Ok(ret as u64) }
}

/// Joins the session keyring `name`, or makes it: keyctl(2) `KEYCTL_JOIN_SESSION_KEYRING`. Returns its serial number.
pub fn join_session_keyring(name: &str) -> Result<i32> {
    let name = CString::new(name).map_err(|_| Error::from_errno(libc::EINVAL))?;
    // SAFETY: the kernel reads the string up to its end.
    let ret =
        unsafe { libc::syscall(libc::SYS_keyctl, libc::KEYCTL_JOIN_SESSION_KEYRING, name.as_ptr(), 0, 0, 0) };
    if ret < 0 { Err(Error::from(std::io::Error::last_os_error())) } else { Ok(ret as i32) }
}

/// Gives the possessor and the owner's user id the right to find a keyring: keyctl(2) `KEYCTL_SETPERM`.
pub fn set_keyring_permissions(serial: i32, permissions: u32) -> Result<()> {
    // SAFETY: takes integers only.
    check(unsafe { libc::syscall(libc::SYS_keyctl, libc::KEYCTL_SETPERM, serial, permissions, 0, 0) })
}

/// Permissions of a keyring: keyctl(2) `KEYCTL_DESCRIBE`, the third field.
pub fn keyring_permissions(serial: i32) -> Result<u32> {
    let mut text = [0u8; 256];
    // SAFETY: the kernel writes at most the stated length into the buffer.
    let ret = unsafe {
        libc::syscall(libc::SYS_keyctl, libc::KEYCTL_DESCRIBE, serial, text.as_mut_ptr(), text.len(), 0)
    };
    if ret < 0 {
        return Err(Error::from(std::io::Error::last_os_error()));
    }
    // type;uid;gid;permissions;description
    let text = String::from_utf8_lossy(&text);
    let field = text.split(';').nth(3).unwrap_or_default();
    u32::from_str_radix(field, 16).map_err(|_| Error::from_errno(libc::EINVAL))
}

/// Duplicates descriptor `target` of another process: pidfd_getfd(2).
pub fn pidfd_getfd(pidfd: impl AsFd, target: i32) -> Result<std::os::fd::OwnedFd> {
    use std::os::fd::FromRawFd as _;
    // SAFETY: takes integers only.
    let ret = unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_fd().as_raw_fd(), target, 0) };
    if ret < 0 {
        return Err(Error::from(std::io::Error::last_os_error()));
    }
    // SAFETY: the kernel returned a new descriptor that nothing else owns.
    Ok(unsafe { std::os::fd::OwnedFd::from_raw_fd(ret as i32) })
}

/// Sets the execution domain of the calling process: personality(2).
pub fn personality(domain: u64) -> Result<()> {
    // SAFETY: takes an integer.
    if unsafe { libc::personality(domain) } < 0 {
        return Err(Error::from(std::io::Error::last_os_error()));
    }
    Ok(())
}

fn check(ret: i64) -> Result<()> {
    if ret == 0 { Ok(()) } else { Err(Error::from(std::io::Error::last_os_error())) }
}
