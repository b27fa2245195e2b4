//! Sending signals to the first process of a container, never to another one that has its pid.

use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::platform::sys::signal::pidfd_send_signal;
use crate::runtime::process_id::{self, ProcessId};
use crate::runtime::record::Record;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Number of SIGKILL on every architecture.
pub const SIGKILL: i32 = 9;

/// How long a killed process may take to be gone, in seconds: a moment, and then as long as runc waits.
const PATIENCE: [i64; 2] = [1, 9];

/// The error of runc for a container whose first process is gone.
pub fn not_running() -> Error {
    Error::new(ErrorKind::InvalidState, "container not running")
}

/// Sends a signal to the first process of a container.
pub fn send(record: &Record, signal: i32) -> Result<()> {
    let init = record.init.ok_or_else(not_running)?;
    let process = init.open()?.ok_or_else(not_running)?;
    pidfd_send_signal(&process.pidfd, signal).map_err(|e| match e.errno() {
        Some(libc::ESRCH) => not_running(),
        _ => e.wrap(format!("cannot send signal {signal}")),
    })?;
    if signal == SIGKILL && record.cgroup.is_frozen()? {
        // A frozen process dies only when it is thawed.
        record.cgroup.thaw()?;
    }
    Ok(())
}

/// Kills the first process of a container, if it lives, and waits until it is gone.
///
/// The first process of a pid namespace is gone when all others of it are reaped. One that somebody else must reap, as the machine's
/// first process what an `exec` has left, may take as long as it likes: nothing runs and nothing is held by then but a pid.
pub fn kill_and_wait(record: &Record) -> Result<()> {
    let Some(process) = record.init.map(ProcessId::open).transpose()?.flatten() else { return Ok(()) };
    match send(record, SIGKILL) {
        Err(e) if e.kind() == ErrorKind::InvalidState => return Ok(()),
        sent => sent?,
    }
    for patience in PATIENCE {
        let mut fds = [PollFd::new(&process.pidfd, PollFlags::IN)];
        let timeout = Timespec { tv_sec: patience, tv_nsec: 0 };
        let gone = rustix::io::retry_on_intr(|| poll(&mut fds, Some(&timeout)))
            .context(|| "cannot wait for the container's end")?;
        if gone > 0 || process_id::is_exiting(process.pid) {
            return Ok(());
        }
    }
    crate::bail!(Timeout, "container init still running")
}
