//! Loading filters: seccomp(2).

use crate::error::{Error, Result};
use std::os::fd::{FromRawFd, OwnedFd};

/// One classic BPF instruction.
pub type Instruction = libc::sock_filter;

/// Returns a listener for `SECCOMP_RET_USER_NOTIF`.
pub const FLAG_NEW_LISTENER: u32 = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER as u32;

/// Loads a filter for the calling thread; a descriptor comes back only with [`FLAG_NEW_LISTENER`].
pub fn set_mode_filter(program: &[Instruction], flags: u32) -> Result<Option<OwnedFd>> {
    let length = u16::try_from(program.len()).map_err(|_| Error::from_errno(libc::EINVAL))?;
    let raw = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut() };
    // SAFETY: the program is described with its true length, and the kernel copies it before it returns.
    let ret =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const raw) };
    match ret {
        0 => Ok(None),
        fd if fd > 0 && flags & FLAG_NEW_LISTENER != 0 => {
            // SAFETY: the kernel returned a new descriptor that nothing else owns.
            Ok(Some(unsafe { OwnedFd::from_raw_fd(fd as i32) }))
        }
        // With TSYNC alone, the id of a thread that could not be synchronised.
        thread if thread > 0 => Err(Error::from_errno(libc::EBUSY)),
        _ => Err(Error::from(std::io::Error::last_os_error())),
    }
}

/// True if the kernel knows this action: seccomp(2) `SECCOMP_GET_ACTION_AVAIL`.
pub fn action_available(action: u32) -> bool {
    // SAFETY: the kernel reads four bytes from a valid pointer.
    unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_ACTION_AVAIL, 0, &raw const action) == 0 }
}

/// True if the kernel knows this flag of filters.
pub fn flag_available(flag: u32) -> bool {
    // SAFETY: there is no program to read: the kernel finds that out (EFAULT) only after it has accepted the flag.
    let ret = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flag, 0usize) };
    ret != 0 && std::io::Error::last_os_error().raw_os_error() == Some(libc::EFAULT)
}
