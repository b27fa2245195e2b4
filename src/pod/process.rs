//! The two processes of a pod that are this program: how they are executed, and how they know themselves.

use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::infra;
use crate::platform::sys::fd::inherited;
use crate::pod::monitor;
use crate::runtime::krun::engine::Libkrun;
use crate::runtime::krun::replace;
use crate::runtime::wasm::linked;
use rustix::io::{FdFlags, fcntl_setfd};
use std::convert::Infallible;
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd as _};

/// Where the loader looks for the guest's kernel beside the usual directories.
const LIBRARIES: &str = "LD_LIBRARY_PATH";

/// A program that is to become one of the two.
#[derive(Debug)]
pub struct Program {
    path: CString,
    env: Vec<CString>,
}

impl Program {
    /// This program, from the protected copy of it that runs.
    pub fn this() -> Self {
        Self { path: c"/proc/self/exe".to_owned(), env: Vec::new() }
    }

    /// The one with libkrun. No process of a container comes near its executable, which needs no protection.
    pub fn with_libkrun() -> Result<Self> {
        let libraries = std::env::var_os(LIBRARIES).map(|path| format!("{LIBRARIES}={}", path.display()));
        let env = std::iter::once(replace::marker()).chain(libraries).map(string).collect::<Result<_>>()?;
        Ok(Self { path: string(replace::program()?.display().to_string())?, env })
    }
}

fn string(text: String) -> Result<CString> {
    CString::new(text).map_err(|e| Error::new(ErrorKind::System, e.to_string()))
}

impl Program {
    /// Replaces this process by one of the two, which gets these descriptors, null standard streams and no other environment. `label`
    /// is for people who look at the list of processes.
    pub fn execute(&self, name: &str, descriptors: &[&dyn AsFd], label: &str) -> Result<Infallible> {
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
        let args = args.into_iter().map(string).collect::<Result<Vec<_>>>()?;
        let cannot = || format!("cannot execute '{}'", self.path.to_string_lossy());
        nix::unistd::execve(&self.path, &args, &self.env).context(cannot)
    }
}

/// Runs this process as the monitor or the infra container of a pod, if it was executed as one: the result is its exit status then.
pub fn role() -> Option<u8> {
    linked::link();
    role_with(Libkrun::Beside)
}

/// [`role`] of a program with libkrun, or beside it.
pub(crate) fn role_with(libkrun: Libkrun) -> Option<u8> {
    let mut args = std::env::args_os();
    let name = args.next()?;
    let is_monitor = match name.to_str()? {
        monitor::PROCESS_NAME => true,
        infra::PROCESS_NAME => false,
        _ => return None,
    };
    let numbers = args.filter_map(|arg| arg.to_str()?.parse().ok());
    let descriptors: Result<Vec<_>> = numbers.map(inherited).collect();
    Some(descriptors.map_or(1, |all| if is_monitor { monitor::main(all, libkrun) } else { infra_main(all) }))
}

fn infra_main(descriptors: Vec<std::os::fd::OwnedFd>) -> u8 {
    let mut all = descriptors.into_iter();
    match (all.next(), all.next()) {
        (Some(wire), Some(kill)) => infra::main(wire, kill, all.next()),
        _ => 1,
    }
}
