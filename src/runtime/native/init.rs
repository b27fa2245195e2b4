//! The first process of a container, from the clone to its program: what the child does.
//!
//! It is a copy of the runtime in new namespaces. All decisions were made before the clone; what fails here is told
//! to the parent, and later to `start`, over a channel.

use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::platform::sys::{fd, security, signal};
use crate::platform::userns::become_root;
use crate::runtime::container::Status;
use crate::runtime::foreground::Foreground;
use crate::runtime::hooks::{self, HookKind};
use crate::runtime::native::channel::{Channel, Message};
use crate::runtime::native::namespaces::{Namespaces, Route};
use crate::runtime::native::process::ProcessPlan;
use crate::runtime::native::program::Program;
use crate::runtime::native::start::StartSocket;
use crate::runtime::native::target::Target;
use crate::runtime::native::{network, sysctl};
use crate::runtime::rootfs::{self, RootfsPlan};
use crate::runtime::seccomp::Filter;
use crate::runtime::terminal::{self, ConsolePlan};
use oci_spec::runtime::{Hook, LinuxNamespaceType};
use rustix::process::Signal;
use std::os::fd::{AsFd, AsRawFd};
use std::rc::Rc;

/// Everything that the child needs.
pub struct InitPlan<'a> {
    /// Namespaces; those to join are joined here, unless an intermediate process has done it.
    pub namespaces: Rc<Namespaces>,
    /// How the child was made.
    pub route: Route,
    /// Root file system; none where the process stays in that of the host.
    pub rootfs: Option<RootfsPlan>,
    /// Identity and limits.
    pub process: ProcessPlan,
    /// Program: its arguments, environment and directory.
    pub program: Program,
    /// What it is executed as.
    pub target: Target,
    /// Host name to set.
    pub hostname: Option<String>,
    /// NIS domain name to set.
    pub domainname: Option<String>,
    /// Kernel parameters to set, name and value.
    pub sysctl: Vec<(String, String)>,
    /// Terminal to make.
    pub console: Option<ConsolePlan>,
    /// Filter to load.
    pub seccomp: Option<Filter>,
    /// The parent has hooks to run once the mounts are made.
    pub runtime_hooks: bool,
    /// `createContainer` hooks.
    pub create_container: Vec<Hook>,
    /// `startContainer` hooks.
    pub start_container: Vec<Hook>,
    /// Makes the state that hooks read on standard input from a pid and a status.
    pub hook_state: Box<dyn Fn(i32, Status) -> Vec<u8>>,
    /// Number of descriptors after standard error that the program gets.
    pub preserve_fds: u32,
    /// Signal handling of the waiting parent, to be taken back in the child.
    pub foreground: Option<&'a Foreground>,
    /// What it does first.
    pub beginning: Beginning,
}

impl InitPlan<'_> {
    /// True if nothing is to be done for the process once one clone has made it in its cgroup.
    pub fn is_complete(&self) -> bool {
        self.route == Route::Direct && !self.namespaces.makes(LinuxNamespaceType::User)
    }
}

/// What a first process does before anything else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beginning {
    /// It waits until its parent has put it into its cgroup, written its id mappings and set its limits.
    WhenTold,
    /// It sets its limits itself: it is where it belongs from its first moment on. Waiting would cost a tenth of `create`.
    AtOnce {
        /// Without privileges a lower score for the case of no memory is left out.
        rootless: bool,
    },
}

/// Runs the child's part. Returns the exit status for when the program could not be executed.
///
/// Without a socket to wait for its start on, what creates the container starts it too, and the next word on the channel is that.
pub fn run(mut plan: InitPlan<'_>, channel: Channel, start: Option<StartSocket>) -> i32 {
    if let Err(e) = set_up(&mut plan, &channel, start.as_ref()) {
        channel.send_error(&e);
        return 1;
    }
    let Ok(starter) = wait_for_start(channel, start) else { return 1 };
    let Err(e) = execute(&mut plan, &starter);
    starter.send_error(&e);
    1
}

/// Waits until the container is complete and started, and returns the channel on which to tell what became of that.
fn wait_for_start(channel: Channel, start: Option<StartSocket>) -> Result<Channel> {
    channel.wait_for_go()?;
    let Some(start) = start else { return Ok(channel) };
    drop(channel);
    start.wait()
}

/// From the clone to the point where only `start` is missing.
fn set_up(plan: &mut InitPlan<'_>, channel: &Channel, start: Option<&StartSocket>) -> Result<()> {
    // If the runtime dies before the container is complete, so does this process.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .context(|| "cannot ask for a signal on the parent's death")?;
    if let Some(foreground) = &plan.foreground {
        foreground.restore_in_child()?;
    }
    match plan.beginning {
        Beginning::WhenTold => channel.wait_for_go()?,
        Beginning::AtOnce { rootless } => plan.process.limits.apply_to(None, rootless)?,
    }
    rustix::process::setsid().context(|| "cannot make a session")?;
    enter_namespaces(plan)?;
    plan.process.join_keyring()?;
    name_host(plan)?;
    make_root(plan, channel)?;
    plan.target.in_root()?;
    plan.process.apply_attributes()?;
    let mut needed = plan.target.descriptors();
    needed.push(channel.raw());
    needed.extend(start.map(|start| start.as_fd().as_raw_fd()));
    close_foreign_descriptors(plan.preserve_fds, &needed)?;
    plan.process.become_user_in(&plan.program)?;
    plan.program.set_home(plan.process.uid);
    plan.target.find(&plan.program)?;
    // From here on the closed channel tells that the runtime has died; the signal could come after it has said go.
    rustix::process::set_parent_process_death_signal(None).context(|| "cannot outlive the parent")?;
    channel.send(&Message::Ready)
}

fn enter_namespaces(plan: &InitPlan<'_>) -> Result<()> {
    if plan.route == Route::Direct {
        plan.namespaces.enter()?;
    }
    if plan.namespaces.makes(LinuxNamespaceType::User) {
        become_root()?;
    }
    if plan.namespaces.new_cgroup {
        security::unshare(libc::CLONE_NEWCGROUP as u64).context(|| "cannot make a cgroup namespace")?;
    }
    if plan.namespaces.makes(LinuxNamespaceType::Network) {
        network::loopback_up()?;
    }
    Ok(())
}

fn name_host(plan: &InitPlan<'_>) -> Result<()> {
    if let Some(name) = &plan.hostname {
        rustix::system::sethostname(name.as_bytes()).context(|| format!("cannot set host name '{name}'"))?;
    }
    if let Some(name) = &plan.domainname {
        rustix::system::setdomainname(name.as_bytes())
            .context(|| format!("cannot set domain name '{name}'"))?;
    }
    Ok(())
}

fn make_root(plan: &mut InitPlan<'_>, channel: &Channel) -> Result<()> {
    let prepared = plan.rootfs.as_mut().map(rootfs::prepare).transpose()?;
    if plan.runtime_hooks {
        channel.send(&Message::Mounted)?;
        channel.wait_for_go()?;
    }
    plan.target.in_namespaces()?;
    let state = || (plan.hook_state)(own_pid(), Status::Creating);
    if !plan.create_container.is_empty() {
        hooks::run(HookKind::CreateContainer, &plan.create_container, &state())?;
    }
    if let (Some(rootfs), Some(prepared)) = (&plan.rootfs, &prepared) {
        rootfs::enter(rootfs, prepared)?;
    }
    if let Some(console) = &plan.console {
        terminal::set_up(console, plan.rootfs.as_ref().and_then(RootfsPlan::console_target))?;
    }
    // Before /proc/sys becomes read-only.
    sysctl::apply(&plan.sysctl)?;
    plan.rootfs.as_ref().map_or(Ok(()), rootfs::finish)
}

fn own_pid() -> i32 {
    rustix::process::getpid().as_raw_pid()
}

/// Closes every descriptor that is neither the program's nor needed until it runs: the caller's leaked ones must not
/// be reachable from the container (CVE-2024-21626), ours neither.
pub fn close_foreign_descriptors(preserve: u32, needed: &[i32]) -> Result<()> {
    // The log's descriptor goes too, and its number may become another one's: nothing is logged from here on.
    std::mem::forget(tracing::dispatcher::set_default(&tracing::Dispatch::none()));
    let first = 3 + preserve;
    let mut keep: Vec<u32> = needed.iter().map(|n| *n as u32).filter(|n| *n >= first).collect();
    keep.sort_unstable();
    let mut from = first;
    for number in keep {
        if number > from {
            fd::close_range(from, number - 1)?;
        }
        from = number + 1;
    }
    fd::close_range(from, u32::MAX)
}

/// From `start` to the program.
fn execute(plan: &mut InitPlan<'_>, starter: &Channel) -> Result<std::convert::Infallible> {
    if !plan.start_container.is_empty() {
        let state = (plan.hook_state)(own_pid(), Status::Created);
        hooks::run(HookKind::StartContainer, &plan.start_container, &state)?;
    }
    // Again: what was found may have been changed until the start.
    plan.target.find(&plan.program)?;
    signal::default_sigpipe();
    plan.target.announce(starter)?;
    load_filter(plan.seccomp.as_ref(), &plan.process, starter)?;
    plan.target.execute(&plan.program, starter)
}

/// Loads the filter and drops the capabilities that are left; nothing but execve(2) comes after. Shared with `exec`.
///
/// Without no_new_privs a filter takes `CAP_SYS_ADMIN`, so the capabilities go last: a profile must allow
/// capset(2) and prctl(2) then, as with runc.
pub fn load_filter(filter: Option<&Filter>, process: &ProcessPlan, peer: &Channel) -> Result<()> {
    let Some(filter) = filter else { return process.apply_capabilities() };
    if process.no_new_privs {
        process.apply_capabilities()?;
        return hand_over(filter, peer);
    }
    process.widen_capabilities()?;
    hand_over(filter, peer)?;
    process.apply_capabilities()
}

fn hand_over(filter: &Filter, peer: &Channel) -> Result<()> {
    let listener = filter.load()?;
    if let Some(listener) = listener {
        // The other half takes it out of this process by its number: sending descriptors may be filtered already.
        peer.send(&Message::Listener(listener.as_raw_fd()))?;
        peer.wait_for_go().map_err(|e| {
            Error::new(ErrorKind::CreateFailed, format!("cannot hand over the seccomp listener: {e}"))
        })?;
    }
    Ok(())
}
