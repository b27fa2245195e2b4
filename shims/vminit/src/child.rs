//! Making processes: what happens between the clone and the program.

use crate::channel::{Channel, Told, pair};
use crate::failure::{Context as _, Result, system};
use crate::ffi::{self, Child, CloneArgs};
use crate::held::Held;
use crate::stdio::ChildStdio;
use crate::{identity, program, rootfs, stdio};
use rustix::process::{Pid, PidfdFlags, WaitOptions, waitpid};
use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};
use std::convert::Infallible;
use std::os::fd::{AsFd, BorrowedFd};
use vm_protocol::message::Failure;
use vm_protocol::spec::{Container, Process};

/// The namespaces that a container has apart from the guest, beside one for its pids.
const NAMESPACES: u64 = (libc::CLONE_NEWNS | libc::CLONE_NEWCGROUP) as u64;

/// Makes the first process of a container: that of a pid namespace of its own, or one in the namespace of the process to join. It tells
/// over the channel how it goes on. It does nothing before its mount namespace is held.
pub fn make_first(
    container: &Container,
    joined: Option<&Child>,
    cgroup: Option<BorrowedFd<'_>>,
    stdio: ChildStdio,
) -> Result<(Child, Channel, Held)> {
    let (ours, theirs) = pair()?;
    let become_first = || {
        run(&theirs, || {
            if !matches!(theirs.hear(true)?, Told::Go) {
                return Err(system("nobody has told the process to go on"));
            }
            identity::apply_limits(&container.process)?;
            rustix::process::setsid().context(|| "cannot make a session")?;
            rootfs::enter(container)?;
            take_streams(&container.process, stdio, &theirs)?;
            if container.process.terminal {
                rootfs::bind_console()?;
            }
            Ok(Some(become_program(&container.process)))
        })
    };
    let child = if let Some(other) = joined {
        within(other, ThreadNameSpaceType::PROCESS_ID, NAMESPACES, cgroup, || Ok(()), become_first)?
    } else {
        let flags = NAMESPACES | libc::CLONE_NEWPID as u64;
        let args = CloneArgs { flags, cgroup, sibling: false };
        ffi::clone3(&args, become_first).context(|| "cannot make a process")?
    };
    let held = Held::of(child.pid).and_then(|held| ours.tell_go().map(|()| held));
    // It has our end of the channel too, and would wait for ever.
    let held = held.inspect_err(|_| drop(ffi::pidfd_send_signal(&child.pidfd, libc::SIGKILL)))?;
    Ok((child, ours, held))
}

/// Makes a further process in the container of a process.
pub fn make_further(
    first: &Child,
    process: &Process,
    cgroup: Option<BorrowedFd<'_>>,
    stdio: ChildStdio,
) -> Result<(Child, Channel)> {
    let (ours, theirs) = pair()?;
    let namespaces =
        ThreadNameSpaceType::MOUNT | ThreadNameSpaceType::PROCESS_ID | ThreadNameSpaceType::CONTROL_GROUP;
    let become_further = || {
        run(&theirs, || {
            rustix::process::setsid().context(|| "cannot make a session")?;
            take_streams(process, stdio, &theirs)?;
            Ok(Some(become_program(process)))
        })
    };
    let child = within(first, namespaces, 0, cgroup, || identity::apply_limits(process), become_further)?;
    Ok((child, ours))
}

/// Makes a child that goes on with `act` in namespaces of another process, and in new ones by `flags`.
///
/// By way of an intermediate one that enters them, which does what has to be done before: a pid namespace is entered only by children.
fn within(
    other: &Child,
    namespaces: ThreadNameSpaceType,
    flags: u64,
    cgroup: Option<BorrowedFd<'_>>,
    before: impl FnOnce() -> Result<()>,
    act: impl FnOnce() -> i32,
) -> Result<Child> {
    let (stage_ours, stage_theirs) = pair()?;
    let stage = ffi::clone3(&CloneArgs { flags: 0, cgroup, sibling: false }, || {
        run(&stage_theirs, || {
            before()?;
            move_into_thread_name_spaces(other.pidfd.as_fd(), namespaces)
                .context(|| "cannot enter the namespaces of the container")?;
            let args = CloneArgs { flags, sibling: true, ..CloneArgs::default() };
            let made = ffi::clone3(&args, act).context(|| "cannot make a process")?;
            stage_theirs.tell_pid(made.pid)?;
            Ok(None)
        })
    })
    .context(|| "cannot make a process")?;
    drop(stage_theirs);
    let told = stage_ours.hear(true);
    let _ = rustix::io::retry_on_intr(|| waitpid(Pid::from_raw(stage.pid), WaitOptions::empty()));
    match told? {
        Told::Pid(pid) => {
            // It is our child, and we have not waited for it: the pid still means it.
            let id = Pid::from_raw(pid).ok_or_else(|| system("the intermediate process made no process"))?;
            let pidfd =
                rustix::process::pidfd_open(id, PidfdFlags::empty()).context(|| "cannot open a process")?;
            Ok(Child { pid, pidfd })
        }
        Told::Failed(failure) => Err(failure),
        _ => Err(system("the intermediate process died")),
    }
}

/// In a child: does it, and tells what went wrong.
fn run(channel: &Channel, act: impl FnOnce() -> Result<Option<Failure>>) -> i32 {
    match act().unwrap_or_else(Some) {
        Some(failure) => {
            channel.tell_failure(&failure);
            1
        }
        None => 0,
    }
}

/// In a child that is where its program will be: takes its standard streams, and tells of a terminal that it makes.
fn take_streams(process: &Process, stdio: ChildStdio, channel: &Channel) -> Result<()> {
    match stdio {
        ChildStdio::Descriptors(input, output, error) => stdio::become_standard(&input, &output, &error),
        ChildStdio::NewTerminal => channel.tell_terminal(&stdio::become_terminal(process)?),
    }
}

/// In a child that has its streams: becomes the program. Returns only when that fails.
fn become_program(process: &Process) -> Failure {
    let Err(failure) = try_become(process);
    failure
}

fn try_become(process: &Process) -> Result<Infallible> {
    identity::become_user(process)?;
    ffi::close_on_exec_from(3).context(|| "cannot close descriptors")?;
    ffi::reset_signals().context(|| "cannot reset signals")?;
    Err(program::execute(process))
}
