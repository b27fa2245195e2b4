//! Descriptors that are handed to others: seccomp listeners and pidfds.

use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::platform::socket::send_descriptor;
use crate::platform::sys::clone::Child;
use crate::platform::sys::security::pidfd_getfd;
use crate::runtime::container::Status;
use crate::runtime::record::Record;
use crate::runtime::{seccomp, state};
use oci_spec::runtime::Spec;
use std::os::fd::AsFd;
use std::path::Path;

/// Takes the seccomp listener `number` out of a process of the container and sends it to the agent that the
/// configuration names.
pub fn hand_over(record: &Record, spec: &Spec, process: &Child, number: i32) -> Result<()> {
    let profile = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
    let path = profile.and_then(|profile| profile.listener_path().as_ref()).ok_or_else(|| {
        Error::new(ErrorKind::InvalidBundle, "linux.seccomp.listenerPath must be set for a notify action")
    })?;
    let metadata = profile.and_then(|profile| profile.listener_metadata().clone()).unwrap_or_default();
    let listener = pidfd_getfd(&process.pidfd, number)
        .context(|| "cannot get the seccomp listener from the container")?;
    let status = if record.init.is_none() { Status::Creating } else { Status::Running };
    let init_pid = record.init.map_or(process.pid, |init| init.pid);
    let container = state::for_hooks(record, init_pid, status);
    seccomp::send_listener(path, &metadata, process.pid, &container, listener.as_fd())
}

/// Sends a pidfd to whoever listens on the unix socket at `path`, as runc's `--pidfd-socket` does.
pub fn send_pidfd(path: &Path, process: &Child) -> Result<()> {
    let socket = crate::platform::socket::connect(path)?;
    send_descriptor(&socket, process.pidfd.as_fd(), b"pidfd")
}
