//! Executing a further process in a container.

use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::platform::sys::apart::apart;
use crate::platform::sys::clone::{Child, CloneArgs, ProcView, clone3};
use crate::platform::sys::signal;
use crate::platform::userns::become_root;
use crate::runtime::container::Container;
use crate::runtime::foreground::Foreground;
use crate::runtime::native::channel::{self, Channel};
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
use rustix::process::PidfdFlags;
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
pub fn exec(container: &Container, spec: &Spec, mut plan: ExecPlan<'_>) -> Result<Child> {
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
    let child = make(container, &init_fd, namespaces, &mut plan, &ours, &theirs)?;
    // What it holds for the process, of which only that one's copies shall stay open.
    drop((plan, theirs));
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

/// Makes the process, by way of one apart that enters the namespaces first: a pid namespace is entered only by children, and whoever is seen
/// in the container must have its root already.
fn make(
    container: &Container,
    init: &OwnedFd,
    namespaces: ThreadNameSpaceType,
    plan: &mut ExecPlan<'_>,
    ours: &Channel,
    theirs: &Channel,
) -> Result<Child> {
    let cgroup = &container.record.cgroup;
    let clone_into = if plan.cgroup.is_empty() { cgroup.clone_into_for_exec()? } else { None };
    let rootless = container.record.rootless;
    let (early, late) = split(namespaces, rootless);
    let elsewhere = children_elsewhere();
    let made = apart(|| {
        if clone_into.is_none() {
            let first = container.record.init.map_or(0, |init| init.pid);
            cgroup.attach_exec(0, first, &plan.cgroup)?;
        }
        plan.process.limits.apply_to(None, rootless)?;
        // Of the `/proc` that is ours, before the container's takes its place.
        let view = elsewhere.then(ProcView::open).transpose()?;
        enter(init, early)?;
        let args = CloneArgs { flags: 0, cgroup: clone_into.as_ref().map(AsFd::as_fd), sibling: true };
        let made = clone3(&args, || {
            drop_copy(ours);
            run(init, late, plan, theirs)
        })?;
        view.map_or(Ok(made.pid), |view| view.pid_of(&made))
    })?;
    let Some(made) = made else { crate::bail!(ExecFailed, "the process that enters the container died") };
    let target = rustix::process::Pid::from_raw(made?).ok_or_else(|| {
        Error::new(ErrorKind::ExecFailed, "the process that enters the container made no process")
    })?;
    Child::adopt(target)
}

/// Which namespaces are entered before the process is made, and which the process enters itself.
///
/// The kernel takes no process that would share our memory into a time namespace, and makes none in a cgroup that is outside of its
/// cgroup namespace. As root of the host it may be made in the container's cgroup; where there is none, the user namespace gives the right to enter the others.
fn split(all: ThreadNameSpaceType, rootless: bool) -> (ThreadNameSpaceType, ThreadNameSpaceType) {
    let mut late = ThreadNameSpaceType::TIME | ThreadNameSpaceType::CONTROL_GROUP;
    if !rootless {
        late |= ThreadNameSpaceType::USER;
    }
    (all - late, all & late)
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

fn run(init: &OwnedFd, namespaces: ThreadNameSpaceType, plan: &mut ExecPlan<'_>, channel: &Channel) -> i32 {
    let Err(e) = enter(init, namespaces).and_then(|()| set_up(plan, channel));
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
