//! The two processes of a pod that are this program: how they are executed, and how they know themselves.

use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::infra;
use crate::platform::sys::fd::inherited;
use crate::pod::monitor;
use rustix::io::{FdFlags, fcntl_setfd};
use std::convert::Infallible;
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd as _};

/// This program, from the protected copy of it that runs.
const EXE: &std::ffi::CStr = c"/proc/self/exe";

/// Replaces this process by one of the two, which gets these descriptors, null standard streams and no environment. `label` is
/// for people who look at the list of processes.
pub fn execute(name: &str, descriptors: &[&dyn AsFd], label: &str) -> Result<Infallible> {
    let null = rustix::fs::open(
        "/dev/null",
        rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )
    .context(|| "cannot open '/dev/null'")?;
    // No directory of the caller's is to be held.
    rustix::process::chdir("/").context(|| "cannot change to '/'")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    let mut args = vec![name.to_owned()];
    for descriptor in descriptors {
        fcntl_setfd(descriptor.as_fd(), FdFlags::empty())?;
        args.push(descriptor.as_fd().as_raw_fd().to_string());
    }
    args.push(label.to_owned());
    let args = args.into_iter().map(CString::new).collect::<std::result::Result<Vec<_>, _>>();
    let args = args.map_err(|e| Error::new(ErrorKind::System, e.to_string()))?;
    let none: [&std::ffi::CStr; 0] = [];
    nix::unistd::execve(EXE, &args, &none).context(|| "cannot execute this program again")
}

/// Runs this process as the monitor or the infra container of a pod, if it was executed as one.
pub fn role() -> Option<u8> {
    let mut args = std::env::args_os();
    let name = args.next()?;
    let run: fn(Vec<std::os::fd::OwnedFd>) -> u8 = match name.to_str()? {
        monitor::PROCESS_NAME => monitor::main,
        infra::PROCESS_NAME => infra_main,
        _ => return None,
    };
    let numbers = args.filter_map(|arg| arg.to_str()?.parse().ok());
    let descriptors: Result<Vec<_>> = numbers.map(inherited).collect();
    Some(descriptors.map_or(1, run))
}

fn infra_main(descriptors: Vec<std::os::fd::OwnedFd>) -> u8 {
    let mut all = descriptors.into_iter();
    match (all.next(), all.next()) {
        (Some(wire), Some(kill)) => infra::main(wire, kill, all.next()),
        _ => 1,
    }
}
