//! The process that stands for a pod. It is this program, which is static, so that a pod needs no image of a pause program.

use crate::error::{Context as _, Error, Result};
use nix::sys::signal::{SigSet, Signal};
use rustix::process::{DumpableBehavior, WaitOptions};

/// The first argument of this program when it is to become such a process.
pub const ARGUMENT: &str = "become-sandbox";

/// Reaps whatever ends in the pod's pid namespace, and ends when it is asked to.
pub fn become_sandbox() -> Result<()> {
    // Of a process that cannot be dumped, nobody without privileges opens the executable in /proc, which is one of the host.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .context(|| "cannot protect this program")?;
    let signals: SigSet = [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT].into_iter().collect();
    signals.thread_block().map_err(failed)?;
    loop {
        if signals.wait().map_err(failed)? != Signal::SIGCHLD {
            return Ok(());
        }
        while matches!(rustix::process::wait(WaitOptions::NOHANG), Ok(Some(_))) {}
    }
}

fn failed(e: nix::errno::Errno) -> Error {
    Error::from(std::io::Error::from(e)).wrap("cannot wait for signals")
}
