//! Executing a further process in a container.

use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::platform::sys::clone::{Child, CloneArgs, ProcView, clone3};
use crate::platform::sys::signal;
use crate::platform::userns::become_root;
use crate::runtime::container::Container;
use crate::runtime::foreground::Foreground;
use crate::runtime::native::channel::{self, Channel, Message};
use crate::runtime::native::init::{close_foreign_descriptors, load_filter};
use crate::runtime::native::launch::{drop_copy, hide, kill_and_reap};
use crate::runtime::native::namespaces::children_elsewhere;
use crate::runtime::native::process::ProcessPlan;
use crate::runtime::native::program::Program;
use crate::runtime::native::target::Target;
use crate::runtime::native::{affinity, listener, start};
use crate::runtime::rootfs;
use crate::runtime::seccomp::Filter;
use crate::runtime::terminal::{self, ConsolePlan};
use oci_spec::runtime::{Linux, LinuxNamespaceType, Spec};
use rustix::process::{PidfdFlags, WaitOptions};
use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};
use std::convert::Infallible;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

/// Everything that the process needs.
pub struct ExecPlan<'a> {
    /// Identity and limits.
    pub process: ProcessPlan,
    /// Program: its arguments, environment and directory.
    pub program: Program,
    /// What it is executed as.
    pub target: Target,
    /// Its root, where that is one inside the container's.
    pub root: Option<PathBuf>,
    /// Filter to load: that of the container.
    pub seccomp: Option<Filter>,
    /// Terminal to make.
    pub console: Option<ConsolePlan>,
    /// Number of descriptors after standard error that the program gets.
    pub preserve_fds: u32,
    /// Processors to run on: before and after the process is in its cgroup.
    pub affinity: affinity::Plan,
    /// Sub-cgroups, each `[CONTROLLER,...:]PATH`.
    pub cgroup: Vec<String>,
    /// Signal handling of the waiting parent.
    pub foreground: Option<&'a Foreground>,
}

/// Makes a process in the container and returns when its program is executed.
pub fn exec(container: &Container, spec: &Spec, plan: ExecPlan<'_>) -> Result<Child> {
    let init = container
        .live_init()
        .ok_or_else(|| Error::new(ErrorKind::InvalidState, "cannot exec in a stopped container"))?;
    let init_fd = rustix::process::Pid::from_raw(init.pid)
        .ok_or(rustix::io::Errno::SRCH)
        .and_then(|pid| rustix::process::pidfd_open(pid, PidfdFlags::empty()))
        .context(|| "cannot open a pidfd of the container")?;
    // The pidfd pins whatever has this pid now; ask again whether that is the container.
    if container.live_init().is_none() {
        crate::bail!(InvalidState, "cannot exec in a stopped container");
    }
    let linux = spec.linux().as_ref();
    let mut namespaces = namespaces_of(linux);
    if container.record.rootless && is_in_another_user_namespace(init.pid)? {
        namespaces |= ThreadNameSpaceType::USER;
    }
    affinity::apply(plan.affinity.initial.as_ref())?;
    let (ours, theirs) = channel::pair()?;
    // Seen from inside the container from its first moment on, the process must not be traced or opened there.
    hide()?;
    let child = make(container, &init_fd, namespaces, plan, &ours, theirs)?;
    let followed = follow(container, spec, &child, &ours);
    if let Err(e) = followed {
        kill_and_reap(&child);
        return Err(e);
    }
    Ok(child)
}

/// The namespaces that the container has apart from the host.
fn namespaces_of(linux: Option<&Linux>) -> ThreadNameSpaceType {
    let all = linux.and_then(|linux| linux.namespaces().as_ref()).into_iter().flatten();
    all.map(|namespace| match namespace.typ() {
        LinuxNamespaceType::Mount => ThreadNameSpaceType::MOUNT,
        LinuxNamespaceType::Cgroup => ThreadNameSpaceType::CONTROL_GROUP,
        LinuxNamespaceType::Uts => ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME,
        LinuxNamespaceType::Ipc => ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION,
        LinuxNamespaceType::User => ThreadNameSpaceType::USER,
        LinuxNamespaceType::Pid => ThreadNameSpaceType::PROCESS_ID,
        LinuxNamespaceType::Network => ThreadNameSpaceType::NETWORK,
        LinuxNamespaceType::Time => ThreadNameSpaceType::TIME,
    })
    .fold(ThreadNameSpaceType::empty(), |all, one| all | one)
}

/// True where the container inherited a user namespace that we are not in: that of whoever made it.
fn is_in_another_user_namespace(pid: i32) -> Result<bool> {
    let read = |path: &str| std::fs::read_link(path).context(|| format!("cannot read '{path}'"));
    Ok(read("/proc/self/ns/user")? != read(&format!("/proc/{pid}/ns/user"))?)
}

/// Makes the process, by way of an intermediate one that enters the namespaces first: a pid namespace is entered only by
/// children, and what we enter ourselves we could not leave.
fn make(
    container: &Container,
    init: &OwnedFd,
    namespaces: ThreadNameSpaceType,
    plan: ExecPlan<'_>,
    ours: &Channel,
    theirs: Channel,
) -> Result<Child> {
    let cgroup = &container.record.cgroup;
    let sub_cgroups = plan.cgroup.clone();
    let clone_into = if sub_cgroups.is_empty() { cgroup.clone_into_for_exec()? } else { None };
    let (stage_ours, stage_theirs) = channel::pair()?;
    let args = CloneArgs { flags: 0, cgroup: clone_into.as_ref().map(AsFd::as_fd), sibling: false };
    let limits = plan.process.limits.clone();
    let rootless = container.record.rootless;
    let in_place = clone_into.is_some();
    let elsewhere = children_elsewhere();
    let stage = clone3(&args, || {
        drop_copy(ours);
        drop_copy(&stage_ours);
        let begun = if in_place { limits.apply_to(None, rootless) } else { stage_theirs.wait_for_go() };
        let made = begun.and_then(|()| {
            // Of the `/proc` that is ours, before the container's takes its place.
            let view = elsewhere.then(ProcView::open).transpose()?;
            enter(init, namespaces)?;
            let args = CloneArgs { sibling: true, ..CloneArgs::default() };
            let made = clone3(&args, || run(plan, &theirs))?;
            view.map_or(Ok(made.pid), |view| view.pid_of(&made))
        });
        match made.and_then(|pid| stage_theirs.send(&Message::Made(pid))) {
            Ok(()) => 0,
            Err(e) => {
                stage_theirs.send_error(&e);
                1
            }
        }
    })?;
    drop(stage_theirs);
    let placed = (|| {
        if !in_place {
            let init = container.record.init.map_or(0, |init| init.pid);
            cgroup.attach_exec(stage.pid, init, &sub_cgroups)?;
            limits.apply_to(Some(stage.pid), rootless)?;
            stage_ours.send(&Message::Go)?;
        }
        stage_ours.receive()
    })();
    if placed.is_err() {
        let _ = rustix::process::pidfd_send_signal(&stage.pidfd, rustix::process::Signal::KILL);
    }
    let _ = rustix::io::retry_on_intr(|| {
        rustix::process::waitpid(rustix::process::Pid::from_raw(stage.pid), WaitOptions::empty())
    });
    let Some(Message::Made(pid)) = placed? else {
        crate::bail!(ExecFailed, "the intermediate process died");
    };
    let target = rustix::process::Pid::from_raw(pid)
        .ok_or_else(|| Error::new(ErrorKind::ExecFailed, "the intermediate process made no process"))?;
    Child::adopt(target)
}

fn enter(init: &OwnedFd, namespaces: ThreadNameSpaceType) -> Result<()> {
    if namespaces.is_empty() {
        return Ok(());
    }
    move_into_thread_name_spaces(init.as_fd(), namespaces)
        .context(|| "cannot enter the namespaces of the container")?;
    if namespaces.contains(ThreadNameSpaceType::USER) {
        become_root()?;
    }
    Ok(())
}

fn run(mut plan: ExecPlan<'_>, channel: &Channel) -> i32 {
    let Err(e) = set_up(&mut plan, channel);
    channel.send_error(&e);
    1
}

fn set_up(plan: &mut ExecPlan<'_>, channel: &Channel) -> Result<Infallible> {
    if let Some(foreground) = plan.foreground {
        foreground.restore_in_child()?;
    }
    rustix::process::setsid().context(|| "cannot make a session")?;
    plan.process.join_keyring()?;
    affinity::apply(plan.affinity.after.as_ref())?;
    if let Some(console) = &plan.console {
        terminal::set_up(console, None)?;
    }
    plan.root.as_deref().map_or(Ok(()), rootfs::enter_inner)?;
    plan.target.in_root()?;
    plan.process.apply_attributes()?;
    let mut needed = plan.target.descriptors();
    needed.push(channel.raw());
    close_foreign_descriptors(plan.preserve_fds, &needed)?;
    plan.process.become_user_in(&plan.program)?;
    plan.program.set_home(plan.process.uid);
    plan.target.find(&plan.program)?;
    signal::default_sigpipe();
    plan.target.announce(channel)?;
    load_filter(plan.seccomp.as_ref(), &plan.process, channel)?;
    plan.target.execute(&plan.program, channel)
}

fn follow(container: &Container, spec: &Spec, child: &Child, channel: &Channel) -> Result<()> {
    start::wait_for_execution(channel, |number| listener::hand_over(&container.record, spec, child, number))
        .map_err(|e| {
            let kind = if e.kind() == ErrorKind::System { ErrorKind::ExecFailed } else { e.kind() };
            e.wrap("unable to start container process").with_kind(kind)
        })
}
