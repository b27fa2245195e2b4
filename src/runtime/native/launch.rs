//! Making the first process of a container in its namespaces and its cgroup.

use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::platform::sys::clone::{Child, CloneArgs, ProcView, clone3};
use crate::platform::userns::{become_root, write_mappings};
use crate::runtime::native::channel::{self, Channel, Message};
use crate::runtime::native::namespaces::{Namespaces, Route, UserNamespace};
use oci_spec::runtime::{LinuxIdMapping, LinuxNamespaceType};
use rustix::process::{DumpableBehavior, Pid, WaitOptions};
use std::os::fd::BorrowedFd;

/// What [`launch`] needs to know.
pub struct Launch<'a> {
    /// Namespaces to make and join.
    pub namespaces: &'a Namespaces,
    /// Cgroup directory to make the process in; otherwise `attach` moves it.
    pub cgroup: Option<BorrowedFd<'a>>,
    /// Moves a process into the container's cgroup.
    pub attach: &'a dyn Fn(i32) -> Result<()>,
}

/// True with full privileges in our own user namespace.
pub fn privileged() -> bool {
    rustix::process::geteuid().is_root()
}

/// Makes this process, and those it makes, invisible to whoever is in a namespace with them: what procfs tells of them and
/// ptrace(2) are for root of the host alone, until they execute a program.
pub fn hide() -> Result<()> {
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .context(|| "cannot make this process undumpable")
}

/// Makes the first process, which goes on with `child`, and returns when it is in its namespaces, id mappings and cgroup; it
/// must wait for that by its own channel.
pub fn launch(plan: &Launch<'_>, child: impl FnOnce() -> i32) -> Result<Child> {
    match plan.namespaces.route(privileged()) {
        Route::Direct => direct(plan, child),
        Route::Intermediate { in_user_namespace } => intermediate(plan, in_user_namespace, child),
    }
}

fn direct(plan: &Launch<'_>, child: impl FnOnce() -> i32) -> Result<Child> {
    let mut flags = plan.namespaces.new;
    if plan.namespaces.makes(LinuxNamespaceType::User) {
        flags |= libc::CLONE_NEWUSER as u64;
    }
    let args = CloneArgs { flags, cgroup: plan.cgroup, sibling: false };
    let made = clone3(&args, child)?;
    finish(plan, made, true)
}

/// What is left to do for a process that exists: its cgroup and its id mappings. On failure it is killed and reaped.
fn finish(plan: &Launch<'_>, child: Child, map: bool) -> Result<Child> {
    let done = (|| {
        if plan.cgroup.is_none() {
            (plan.attach)(child.pid)?;
        }
        match &plan.namespaces.user {
            UserNamespace::New { uids, gids } if map => map_ids(child.pid, uids, gids),
            _ => Ok(()),
        }
    })();
    match done {
        Ok(()) => Ok(child),
        Err(e) => {
            kill_and_reap(&child);
            Err(e)
        }
    }
}

fn map_ids(pid: i32, uids: &[LinuxIdMapping], gids: &[LinuxIdMapping]) -> Result<()> {
    write_mappings(pid, uids, gids, !privileged())
}

/// Ends a child at once.
pub fn kill_and_reap(child: &Child) {
    let _ = rustix::process::pidfd_send_signal(&child.pidfd, rustix::process::Signal::KILL);
    let _ = rustix::io::retry_on_intr(|| {
        rustix::process::waitpid(Pid::from_raw(child.pid), WaitOptions::empty())
    });
}

fn intermediate(plan: &Launch<'_>, in_user_namespace: bool, child: impl FnOnce() -> i32) -> Result<Child> {
    let (ours, theirs) = channel::pair()?;
    let flags = if in_user_namespace { libc::CLONE_NEWUSER as u64 } else { 0 };
    let args = CloneArgs { flags, cgroup: plan.cgroup, sibling: false };
    let namespaces = plan.namespaces;
    let stage = clone3(&args, || {
        drop_copy(&ours);
        match make_sibling(namespaces, in_user_namespace, &theirs, child) {
            Ok(()) => 0,
            Err(e) => {
                theirs.send_error(&e);
                1
            }
        }
    })?;
    drop(theirs);
    // The final process is in the cgroup from its first moment, for it inherits that of this one.
    let stage = finish(plan, stage, in_user_namespace)?;
    let made = ours.send(&Message::Go).and_then(|()| ours.receive());
    let _ = rustix::io::retry_on_intr(|| {
        rustix::process::waitpid(Pid::from_raw(stage.pid), WaitOptions::empty())
    });
    let Some(Message::Made(pid)) = made? else {
        return Err(Error::new(ErrorKind::CreateFailed, "the intermediate process died"));
    };
    let Some(target) = Pid::from_raw(pid) else {
        return Err(Error::new(ErrorKind::CreateFailed, "the intermediate process made no process"));
    };
    let child = Child::adopt(target)?;
    if let UserNamespace::New { uids, gids } = &namespaces.user
        && !in_user_namespace
        && let Err(e) = map_ids(pid, uids, gids)
    {
        kill_and_reap(&child);
        return Err(e);
    }
    Ok(child)
}

/// In a child: closes the copy of the parent's end of a channel, which would keep the channel open after the parent's death.
pub fn drop_copy(channel: &Channel) {
    let _ = nix::unistd::close(channel.raw());
}

fn make_sibling(
    namespaces: &Namespaces,
    in_user_namespace: bool,
    channel: &Channel,
    child: impl FnOnce() -> i32,
) -> Result<()> {
    channel.wait_for_go()?;
    if in_user_namespace {
        become_root()?;
    }
    if let UserNamespace::Joined(user) = &namespaces.user {
        user.enter()?;
        become_root()?;
    }
    namespaces.enter()?;
    namespaces.make_time_namespace()?;
    let mut flags = namespaces.new;
    if namespaces.makes(LinuxNamespaceType::User) && !in_user_namespace {
        flags |= libc::CLONE_NEWUSER as u64;
    }
    let made = clone3(&CloneArgs { flags, cgroup: None, sibling: true }, child)?;
    let pid = if namespaces.children_elsewhere { ProcView::open()?.pid_of(&made)? } else { made.pid };
    channel.send(&Message::Made(pid))
}
