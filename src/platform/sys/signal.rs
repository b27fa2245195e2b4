//! Signals: dispositions, and sending any of the 64 by number.

use crate::error::{Error, Result};
use std::os::fd::{AsFd, AsRawFd};

/// Sends the signal with this number, 0 to 64, to a process: pidfd_send_signal(2).
pub fn pidfd_send_signal(pidfd: impl AsFd, signal: i32) -> Result<()> {
    let fd = pidfd.as_fd().as_raw_fd();
    let no_info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: a null siginfo asks the kernel to fill it in as kill(2) does.
    let ret = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, no_info, 0) };
    if ret == 0 { Ok(()) } else { Err(Error::from(std::io::Error::last_os_error())) }
}

/// Ignores SIGPIPE: writing to a closed pipe is an error to be reported, and must not end us half-way.
pub fn ignore_sigpipe() {
    // SAFETY: sets a disposition; no handler runs.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}

/// Gives SIGPIPE its default action again. We ignore it, and an ignored signal stays ignored across
/// execve(2), which programs do not expect.
pub fn default_sigpipe() {
    // SAFETY: sets a default disposition; no handler runs.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
}
