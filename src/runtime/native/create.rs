//! Creating a container: what the parent does.

use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::platform::sys::clone::Child;
use crate::runtime::container::{CONFIG, SECCOMP};
use crate::runtime::delete;
use crate::runtime::foreground::Foreground;
use crate::runtime::hooks::Hooks;
use crate::runtime::native::channel::{self, Channel, Message};
use crate::runtime::native::init::{self, Beginning, InitPlan};
use crate::runtime::native::launch::{self, Launch, drop_copy, kill_and_reap};
use crate::runtime::native::listener;
use crate::runtime::native::namespaces::Namespaces;
use crate::runtime::native::network;
use crate::runtime::native::prepare::{self, Bundle, Preparation};
use crate::runtime::native::start::StartSocket;
use crate::runtime::options::{CreateOptions, Host};
use crate::runtime::process_id::ProcessId;
use crate::runtime::record::Record;
use crate::runtime::terminal::ChildEnd;
use crate::runtime::{notify, state};
use crate::storage::atomic;
use crate::storage::lock::Lock;
use crate::storage::state_root::StateDir;
use crate::undo::Undo;
use oci_spec::runtime::{LinuxNamespaceType, Spec};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// A container that was created by this process, and so is its child.
pub struct Created {
    /// Its state directory.
    pub dir: StateDir,
    /// Its record.
    pub record: Record,
    /// Its first process.
    pub child: Child,
    /// Held until dropped: nobody else operates on the container meanwhile.
    pub lock: Lock,
    /// Its configuration.
    pub spec: Spec,
    /// With [`Starter::Creator`]: on which it tells whether its program was executed.
    pub channel: Option<Channel>,
}

/// Who starts a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Starter {
    /// Whoever comes: its first process waits on a socket in the state directory.
    Anyone,
    /// What creates it, right after: it saves both the socket, and each a sleep.
    Creator,
}

/// Creates a container from a bundle. When that fails nothing is left of it.
///
/// `console` is the socket that receives the master of the terminal, if the configuration asks for one.
pub fn create(
    host: &Host,
    options: &CreateOptions,
    mut bundle: Bundle,
    console: Option<ChildEnd>,
    foreground: Option<&Foreground>,
    starter: Starter,
) -> Result<Created> {
    let target = prepare::target(&mut bundle)?;
    let (mut dir, lock) = host.root.reserve(&options.id, host.max_containers, delete::clean_leftover)?;
    let path = dir.path().to_owned();
    tracing::debug!("state of '{}' is in '{}'", options.id, path.display());
    let mut undo = Undo::new();
    undo.push("remove the state directory", move || host.root.remove(&path));
    let made = (|| {
        let notify = notify::prepare(&dir)?;
        let (mut prepared, mut init) =
            prepare::prepare(host, options, &bundle, target, console, notify.as_ref(), foreground)?;
        // A cgroup of others must never be in a record: cleaning up after us would kill what is in it.
        prepared.record.cgroup.check_unused()?;
        prepared.record.save(&dir)?;
        if let Some(membership) = prepared.record.membership.clone() {
            undo.push("take the root out of the pod's microVM", move || membership.end());
        }
        prepared.record.cgroup.create(&mut undo)?;
        init.target.limit_memory(&prepared.record.cgroup);
        init.target.set_directory(&dir, &prepared.namespaces)?;
        let clone_into = prepared.record.cgroup.clone_into()?;
        let word = Word::of(&bundle.spec, &prepared, &init, clone_into.is_some());
        if word == Word::None {
            init.beginning = Beginning::AtOnce { rootless: prepared.record.rootless };
        }
        let limits = init.process.limits.clone();
        // What creates a container for itself need not be waited for: the word to start is there when its first process is ready.
        let starts_when_ready = starter == Starter::Creator && !init.runtime_hooks;
        let start = (starter == Starter::Anyone).then(|| StartSocket::bind(&dir)).transpose()?;
        let (child, channel) = launch_init(&prepared, init, clone_into, start, &mut undo)?;
        tracing::debug!("first process is {}, in its namespaces and cgroup", child.pid);
        if word != Word::None {
            limits.apply_to(Some(child.pid), prepared.record.rootless)?;
        }
        if word == Word::BeforeLimits {
            go_on(&child, &channel)?;
        }
        set_limits(&mut prepared, &bundle, &child, &mut undo)?;
        tracing::debug!("limits are set");
        if word == Word::AfterLimits {
            go_on(&child, &channel)?;
        }
        keep(&dir, &bundle, &mut prepared, &child)?;
        if starts_when_ready {
            publish(host, options, &mut dir, &child, &channel, &mut undo)?;
        }
        follow(&prepared, &bundle, &child, &channel)?;
        if !starts_when_ready {
            publish(host, options, &mut dir, &child, &channel, &mut undo)?;
        }
        if starter == Starter::Creator {
            tracing::debug!("'{}' is created, and is told to start", options.id);
            return Ok((prepared.record, child, Some(channel)));
        }
        tracing::debug!("'{}' is created, and waits for its start", options.id);
        Ok((prepared.record, child, None))
    })();
    match made {
        Ok((record, child, channel)) => {
            undo.commit();
            Ok(Created { dir, record, child, lock, spec: bundle.spec, channel })
        }
        Err(e) => Err(undo.unwind(e)),
    }
}

/// The word by which the first process goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Word {
    /// It needs none: one clone makes it what it is to be, and it sets its limits itself.
    None,
    /// It is told when it is in its cgroup and has its ids.
    BeforeLimits,
    /// It is told when the limits of its cgroup hold, too.
    AfterLimits,
}

impl Word {
    fn of(spec: &Spec, prepared: &Preparation, init: &InitPlan<'_>, in_cgroup: bool) -> Self {
        if !goes_beside_its_limits(spec) || prepared.record.cgroup.denies_meanwhile() {
            Self::AfterLimits
        } else if in_cgroup && init.is_complete() {
            Self::None
        } else {
            Self::BeforeLimits
        }
    }
}

/// Makes the first process in its namespaces and its cgroup.
fn launch_init(
    prepared: &Preparation,
    init: InitPlan<'_>,
    clone_into: Option<OwnedFd>,
    start: Option<StartSocket>,
    undo: &mut Undo<'_>,
) -> Result<(Child, Channel)> {
    let (ours, theirs) = channel::pair()?;
    let cgroup = &prepared.record.cgroup;
    let attach = |pid| cgroup.attach(pid);
    let plan = Launch {
        namespaces: &prepared.namespaces,
        cgroup: clone_into.as_ref().map(AsFd::as_fd),
        attach: &attach,
    };
    hide_from_others(&prepared.namespaces)?;
    let child = launch::launch(&plan, || {
        drop_copy(&ours);
        init::run(init, theirs, start)
    })?;
    cgroup.undo_attach(undo);
    let same = Child { pid: child.pid, pidfd: child.pidfd.try_clone().map_err(Error::from)? };
    undo.push("end the container's first process", move || {
        kill_and_reap(&same);
        Ok(())
    });
    Ok((child, ours))
}

/// Others that are in the container's pid namespace already must not open or trace its first process while that is still
/// ours (CVE-2016-9962). Without privileges the files of such a process in procfs would be closed to ourselves too.
fn hide_from_others(namespaces: &Namespaces) -> Result<()> {
    let shared = namespaces.join.iter().any(|join| join.kind == LinuxNamespaceType::Pid);
    if shared && launch::privileged() { launch::hide() } else { Ok(()) }
}

/// Whether the first process may make its mounts while the limits of its cgroup are being set: the kernel's check of the device
/// program alone takes a tenth of `create`. They hold before it runs anything of the container's, since it waits for its start;
/// but hooks in the container run before, and kernel parameters may be those of a network device that is moved into it. Nor may it
/// where it is denied devices meanwhile: those that it cannot make would be the host's.
fn goes_beside_its_limits(spec: &Spec) -> bool {
    let hooks = spec.hooks().as_ref().and_then(|hooks| hooks.create_container().as_ref());
    let linux = spec.linux().as_ref();
    let lent = linux.is_some_and(|linux| {
        linux.intel_rdt().is_some() || linux.net_devices().as_ref().is_some_and(|devices| !devices.is_empty())
    });
    hooks.is_none_or(Vec::is_empty) && !lent
}

fn go_on(child: &Child, channel: &Channel) -> Result<()> {
    channel.send(&Message::Go).map_err(|e| died(child, e))
}

/// Sets the limits of the cgroup, and gives the process what the host lends it.
fn set_limits(prepared: &mut Preparation, bundle: &Bundle, child: &Child, undo: &mut Undo<'_>) -> Result<()> {
    let Preparation { record, resources, .. } = prepared;
    record.cgroup.apply(resources)?;
    let Some(linux) = bundle.spec.linux() else { return Ok(()) };
    if let Some(devices) = linux.net_devices().as_ref().filter(|devices| !devices.is_empty()) {
        network::move_devices(devices, child.pid)?;
    }
    if let Some(rdt) = linux.intel_rdt() {
        let made = libcontainer::process::intel_rdt::setup_intel_rdt(
            Some(&record.id),
            &nix_for_libraries::unistd::Pid::from_raw(child.pid),
            rdt,
        )
        .map_err(|e| Error::new(ErrorKind::CreateFailed, format!("cannot set up Intel RDT: {e}")))?;
        record.intel_rdt = [made.0, made.1].into_iter().flatten().collect();
        let directories = record.intel_rdt.clone();
        undo.push("remove the resctrl group", move || delete::remove_resctrl(&directories));
    }
    Ok(())
}

/// Follows the child to the point where it waits for the start.
fn follow(prepared: &Preparation, bundle: &Bundle, child: &Child, channel: &Channel) -> Result<()> {
    loop {
        match channel.receive().map_err(in_container)? {
            Some(Message::Mounted) => {
                tracing::debug!("root file system is mounted");
                Hooks::new(&bundle.spec)
                    .run_runtime(|status| state::for_hooks(&prepared.record, child.pid, status))?;
                channel.send(&Message::Go)?;
            }
            Some(Message::Ready) => {
                tracing::debug!("first process is set up");
                return Ok(());
            }
            Some(Message::Listener(number)) => {
                listener::hand_over(&prepared.record, &bundle.spec, child, number)?;
                channel.send(&Message::Go)?;
            }
            Some(other) => crate::bail!(CreateFailed, "unexpected message {other:?}"),
            None => {
                let gone = Error::new(ErrorKind::CreateFailed, "it closed the channel without a word");
                return Err(died(child, gone));
            }
        }
    }
}

/// What the child reports, in the frame that runc puts around it.
fn in_container(e: Error) -> Error {
    let kind = if e.kind() == ErrorKind::System { ErrorKind::CreateFailed } else { e.kind() };
    e.wrap("unable to start container process: error during container init").with_kind(kind)
}

/// Why a child that said nothing is gone. It may also live, where it is the channel that failed.
fn died(child: &Child, e: Error) -> Error {
    use rustix::process::{WaitId, WaitIdOptions, waitid};
    let mut ended = [PollFd::new(&child.pidfd, PollFlags::IN)];
    let _ = rustix::io::retry_on_intr(|| poll(&mut ended, Some(&Timespec { tv_sec: 1, tv_nsec: 0 })));
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
    let how = match waitid(WaitId::PidFd(child.pidfd.as_fd()), options) {
        Ok(Some(status)) => match (status.terminating_signal(), status.exit_status()) {
            (Some(signal), _) => format!("killed by signal {signal} (out of memory?)"),
            (None, Some(code)) => format!("exited with status {code}"),
            (None, None) => "died".to_owned(),
        },
        _ => return e,
    };
    e.wrap(format!("unable to start container process: container init {how}"))
        .with_kind(ErrorKind::CreateFailed)
}

/// Writes what later operations read, while the first process makes its mounts.
fn keep(dir: &StateDir, bundle: &Bundle, prepared: &mut Preparation, child: &Child) -> Result<()> {
    dir.write(CONFIG, &bundle.raw)?;
    if let Some(filter) = &prepared.seccomp {
        dir.write(SECCOMP, &filter.encode())?;
    }
    prepared.record.init = Some(ProcessId::of(child)?);
    prepared.record.save(dir)
}

/// Makes the container visible, and says so to its first process.
fn publish<'a>(
    host: &'a Host,
    options: &'a CreateOptions,
    dir: &mut StateDir,
    child: &Child,
    channel: &Channel,
    undo: &mut Undo<'a>,
) -> Result<()> {
    if let Some(path) = &options.pidfd_socket {
        listener::send_pidfd(path, child)?;
    }
    if let Some(path) = &options.pid_file {
        write_pid_file(path, child.pid)?;
        undo.push("remove the pid file", move || Ok(std::fs::remove_file(path)?));
    }
    dir.publish(&host.root, &options.id)?;
    undo.push("take the container out of sight", || host.root.retract(&options.id).map(drop));
    // If this is not heard the process is gone: the container is a stopped one, or its channel tells why.
    let _ = channel.send(&Message::Go);
    Ok(())
}

/// Writes a pid file as callers expect it: the number alone, and never a part of it.
pub fn write_pid_file(path: &Path, pid: i32) -> Result<()> {
    atomic::write(path, pid.to_string().as_bytes())
        .or_kind(ErrorKind::Storage, || format!("cannot write pid file '{}'", path.display()))
}
