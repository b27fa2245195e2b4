//! Executing a process in a running microVM.
//!
//! The process is the guest's, and no host sees it. What callers get is a process of the host that passes everything on: its standard
//! streams, signals, window size and exit code are those of the process in the guest. It is a copy of this program that has
//! executed nothing, and has no privileges.

use crate::error::{Context as _, ErrorKind, Result};
use crate::platform::sys::clone::{Child, CloneArgs, clone3};
use crate::runtime::container::{Container, Status};
use crate::runtime::foreground::Foreground;
use crate::runtime::krun;
use crate::runtime::native::init::close_foreign_descriptors;
use crate::runtime::native::launch::kill_and_reap;
use crate::runtime::native::process::{CapabilityPlan, ProcessPlan};
use crate::runtime::options::{ExecOptions, Host};
use crate::runtime::terminal::{self, Console, ConsolePlan};
use crate::vm::client::Started;
use crate::vm::session::Session;
use oci_spec::runtime as oci;
use rustix::fs::FileType;
use rustix::thread::{CapabilitySet, CapabilitySets};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use vm_protocol::message::Exec;
use vm_protocol::spec::{Capabilities, Process, Rlimit, Size};

/// Exit code of a process whose virtual machine has ended under it: it was killed.
const KILLED: i32 = 137;

/// Makes a process in the guest, and one of the host that passes everything on to it.
pub fn exec(
    host: &Host,
    container: &Container,
    process: &oci::Process,
    options: &ExecOptions,
    console: &Console,
) -> Result<Child> {
    refuse(options)?;
    if container.status()? == Status::Created {
        crate::bail!(InvalidState, "cannot exec in a microVM that has not been started");
    }
    let console = console.for_child()?.map(|end| ConsolePlan::new(end, process));
    let mut wanted = guest_process(process)?;
    let size = console.as_ref().and_then(ConsolePlan::size);
    wanted.size = size.map(|size| Size { columns: size.ws_col, rows: size.ws_row });
    let input = wanted.terminal || has_input();
    let inside = krun::inside(host, container)?;
    let name = options.member.as_ref().map_or(inside.name, |member| member.name.clone());
    let exec = Exec { container: name, process: wanted, stdin: input, detach: false };
    let started = inside.guest.exec(exec, host.vm.answer()).map_err(|e| {
        let kind = if e.kind() == ErrorKind::System { ErrorKind::ExecFailed } else { e.kind() };
        e.wrap("unable to start container process").with_kind(kind)
    })?;
    let terminal = console.as_ref().map(terminal::make_on_host).transpose()?;
    drop(console);
    let cgroup = container.record.cgroup.clone_into_for_exec()?;
    let args = CloneArgs { cgroup: cgroup.as_ref().map(OwnedFd::as_fd), ..CloneArgs::default() };
    // Should it fail, the connection closes, and the guest kills the process.
    // The monitor of a pod has much open that only it must hold; what executes by itself may have a log.
    let alone = options.member.is_some();
    let child = clone3(&args, || pass_on(started, terminal, input, alone))?;
    if cgroup.is_none() {
        let init = container.record.init.map_or(0, |init| init.pid);
        container.record.cgroup.attach_exec(child.pid, init, &[]).inspect_err(|_| kill_and_reap(&child))?;
    }
    Ok(child)
}

/// Whether standard input is something to read: a guest has a null device of its own, and need not be told of the end of ours.
fn has_input() -> bool {
    let null = rustix::fs::makedev(1, 3);
    !rustix::fs::fstat(rustix::stdio::stdin()).is_ok_and(|stat| {
        FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == null
    })
}

/// What concerns a process of the host, and would have no effect in the guest.
fn refuse(options: &ExecOptions) -> Result<()> {
    for (given, name) in
        [(options.preserve_fds > 0, "--preserve-fds"), (!options.cgroup.is_empty(), "--cgroup")]
    {
        if given {
            crate::bail!(NotSupported, "{name} has no effect in a microVM");
        }
    }
    Ok(())
}

/// A process object as the guest takes it.
pub fn guest_process(process: &oci::Process) -> Result<Process> {
    let ProcessPlan { uid, gid, groups, umask, capabilities, no_new_privs, limits, .. } =
        ProcessPlan::new(process, None, None, None)?;
    let CapabilityPlan { bounding, effective, permitted, inheritable, ambient } = capabilities;
    let rlimit = |limit: &oci::PosixRlimit| Rlimit {
        kind: limit.typ().to_string(),
        soft: limit.soft(),
        hard: limit.hard(),
    };
    Ok(Process {
        args: process.args().clone().unwrap_or_default(),
        env: process.env().clone().unwrap_or_default(),
        cwd: process.cwd().display().to_string(),
        uid,
        gid,
        groups,
        umask,
        capabilities: Capabilities { bounding, effective, permitted, inheritable, ambient },
        no_new_privileges: no_new_privs,
        rlimits: process.rlimits().iter().flatten().map(rlimit).collect(),
        oom_score_adj: limits.oom_score_adj,
        terminal: process.terminal().unwrap_or(false),
        size: None,
    })
}

/// In the process of the host.
fn pass_on(started: Started, terminal: Option<OwnedFd>, input: bool, alone: bool) -> i32 {
    match session(started, terminal, input, alone) {
        Ok(code) => i32::from(code),
        Err(e) => {
            tracing::warn!("{e}");
            KILLED
        }
    }
}

fn session(started: Started, terminal: Option<OwnedFd>, input: bool, alone: bool) -> Result<u8> {
    rustix::process::setsid().context(|| "cannot make a session")?;
    if let Some(terminal) = terminal {
        terminal::take_over(&terminal)?;
    }
    if alone {
        close_foreign_descriptors(0, &[started.connection.as_fd().as_raw_fd()])?;
    }
    let signals = Foreground::new(false)?;
    let none = CapabilitySet::empty();
    let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
    rustix::thread::set_capabilities(None, sets).context(|| "cannot drop capabilities")?;
    Session::new(started, input).run(signals.signals())
}
