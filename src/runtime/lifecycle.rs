//! The operations on containers: what `create`, `start`, `run`, `exec`, `kill` and the others do.

use crate::error::{Error, ErrorKind, Result};
use crate::platform::sys::clone::Child;
use crate::runtime::cgroups::Stats;
use crate::runtime::container::{CONFIG, Container, SECCOMP, START_SOCKET, Status};
use crate::runtime::foreground::Foreground;
use crate::runtime::hooks::Hooks;
use crate::runtime::native::channel::Channel;
use crate::runtime::native::create::{Created, Starter, write_pid_file};
use crate::runtime::native::exec::ExecPlan;
use crate::runtime::native::prepare::{self, keyring};
use crate::runtime::native::process::ProcessPlan;
use crate::runtime::native::program::Program;
use crate::runtime::native::start::Started;
use crate::runtime::native::target::Target;
use crate::runtime::native::{self, affinity, listener};
use crate::runtime::notify::Notify;
use crate::runtime::options::{CreateOptions, ExecOptions, Host, RunOptions};
use crate::runtime::process_id::ProcessId;
use crate::runtime::record::{Backend, Record};
use crate::runtime::seccomp::Filter;
use crate::runtime::signal::{self, SIGKILL};
use crate::runtime::terminal::{Console, ConsolePlan};
use crate::runtime::validate::no_process;
use crate::runtime::wasm::program::Program as Module;
use crate::runtime::wasm::settings::Settings;
use crate::runtime::wasm::source::{self, Tree};
use crate::runtime::{exec_process, guest_exec, krun, microvm, spec, state};
use crate::storage::state_root::StateDir;
use crate::vm::protocol::message::ProcessInfo;
use oci_spec::runtime::{Process, Spec};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;

pub use crate::runtime::delete::delete;

/// Creates a container: everything is set up, the user's program waits for [`start`].
pub fn create(host: &Host, options: &CreateOptions) -> Result<()> {
    let bundle = prepare::load(host, options)?;
    let console = Console::open(
        wants_terminal(bundle.spec.process().as_ref()),
        true,
        options.console_socket.as_deref(),
    )?;
    native::create::create(host, options, bundle, console.for_child()?, None, Starter::Anyone).map(drop)
}

/// Creates a container as [`create`] does, as a child of this process, whose standard streams it has; or a terminal, whose master
/// is the second part of the answer.
pub fn create_child(
    host: &Host,
    options: &CreateOptions,
    foreground: &Foreground,
) -> Result<(Child, Option<OwnedFd>)> {
    let bundle = prepare::load(host, options)?;
    let console = Console::open(wants_terminal(bundle.spec.process().as_ref()), false, None)?;
    let end = console.for_child()?;
    let created = native::create::create(host, options, bundle, end, Some(foreground), Starter::Anyone)?;
    Ok((created.child, console.master()?))
}

fn wants_terminal(process: Option<&Process>) -> bool {
    process.and_then(Process::terminal).unwrap_or(false)
}

/// Creates and starts a container; unless detached, waits for it, deletes it and returns its exit code.
pub fn run(host: &Host, options: &RunOptions) -> Result<u8> {
    let bundle = prepare::load(host, &options.create)?;
    let process = bundle.spec.process().as_ref().ok_or_else(no_process)?;
    let terminal = wants_terminal(Some(process));
    let console = Console::open(terminal, options.detach, options.create.console_socket.as_deref())?;
    let foreground = if options.detach { None } else { Some(Foreground::new(!options.no_subreaper)?) };
    let end = console.for_child()?;
    let created =
        native::create::create(host, &options.create, bundle, end, foreground.as_ref(), Starter::Creator)?;
    let Created { dir, record, child, lock, spec, channel } = created;
    let started = Notify::open(&dir).and_then(|notify| {
        start_created(&dir, &record, &spec, channel)?;
        Ok(notify)
    });
    drop(lock);
    let notify = match started {
        Ok(notify) => notify,
        Err(e) => {
            let _ = delete(host, &options.create.id, true);
            return Err(e);
        }
    };
    let Some(foreground) = foreground else {
        if let Some(notify) = notify {
            notify.wait(child.pidfd.as_fd(), child.pid)?;
        }
        return Ok(0);
    };
    let status = foreground.wait(&child, console.master()?, notify);
    if !options.keep {
        delete(host, &options.create.id, true)?;
    }
    status
}

/// Starts a created container.
pub fn start(host: &Host, id: &str) -> Result<()> {
    let (container, lock) = Container::open_locked(host, id)?;
    match container.status()? {
        Status::Created => {}
        Status::Stopped => crate::bail!(InvalidState, "cannot start a container that has stopped"),
        Status::Running => crate::bail!(InvalidState, "cannot start an already running container"),
        status => crate::bail!(InvalidState, "cannot start a container in the {status} state"),
    }
    let spec = if container.record.start_needs_config {
        spec::parse(&container.dir.read(CONFIG)?.unwrap_or_default(), CONFIG)?
    } else {
        Spec::default()
    };
    let notify = Notify::open(&container.dir)?;
    if spec.process().is_none() {
        // An error that callers need not see: the container is ended as if its program had.
        tracing::warn!("{}: there is nothing to start, and the container ends", no_process());
    }
    start_created(&container.dir, &container.record, &spec, None)?;
    drop(lock);
    let Some(notify) = notify else { return Ok(()) };
    match container.record.init.map(ProcessId::open).transpose()?.flatten() {
        Some(process) => notify.wait(process.pidfd.as_fd(), process.pid),
        None => Ok(()),
    }
}

/// Starts a container over its socket; one with a channel was told to start by what created it, and is waited for.
fn start_created(dir: &StateDir, record: &Record, spec: &Spec, channel: Option<Channel>) -> Result<()> {
    let init = record.init.ok_or_else(|| Error::new(ErrorKind::InvalidState, "container not running"))?;
    let hand_over = |number| {
        let process = init.open()?.ok_or_else(signal::not_running)?;
        listener::hand_over(record, spec, &process, number)
    };
    match channel {
        Some(channel) => native::start::wait_for_execution(&channel, hand_over)?,
        None if native::start::start(dir, hand_over)? == Started::NobodyWaits => {
            dir.remove_file(START_SOCKET)?;
            crate::bail!(InvalidState, "cannot start an already running container");
        }
        None => {}
    }
    tracing::debug!("program of '{}' runs", record.id);
    let hook_state = state::for_hooks(record, init.pid, Status::Running);
    Hooks::new(spec).run_poststart(&hook_state, spec.version()).inspect_err(|_| {
        // The specification: the container is stopped then.
        if let Err(e) = signal::kill_and_wait(record) {
            tracing::warn!("cannot stop the container: {e}");
        }
    })
}

/// Executes a process in a running container; unless detached, waits for it and returns its exit code.
pub fn exec(host: &Host, options: &ExecOptions) -> Result<u8> {
    let foreground = if options.detach { None } else { Some(Foreground::new(!options.no_subreaper)?) };
    let (child, console) = exec_child(host, options, foreground.as_ref())?;
    match foreground {
        Some(foreground) => foreground.wait(&child, console.master()?, None),
        None => Ok(0),
    }
}

/// Executes a process in a running container as a child of this process, and returns as soon as its program runs.
pub fn exec_child(
    host: &Host,
    options: &ExecOptions,
    foreground: Option<&Foreground>,
) -> Result<(Child, Console)> {
    let container = Container::open(host, &options.id)?;
    match container.status()? {
        Status::Stopped | Status::Creating => {
            crate::bail!(InvalidState, "cannot exec in a stopped container")
        }
        Status::Paused if !options.ignore_paused => {
            crate::bail!(InvalidState, "cannot exec in a paused container (use --ignore-paused to override)")
        }
        _ => {}
    }
    let spec = match &options.member {
        Some(member) => spec::load(&member.config)?.0,
        None => spec::parse(&container.dir.read(CONFIG)?.unwrap_or_default(), CONFIG)?,
    };
    let process = exec_process::resolve(&options.process, &spec)?;
    let console =
        Console::open(wants_terminal(Some(&process)), options.detach, options.console_socket.as_deref())?;
    let child = if container.record.backend == Backend::Krun {
        guest_exec::exec(host, &container, &process, options, &console)?
    } else {
        let root = options.member.as_ref().map(|member| member.root.as_str());
        let target = exec_target(host, &container, root, &spec, &process)?;
        let plan = exec_plan(&container, &spec, &process, target, options, &console, foreground)?;
        native::exec::exec(&container, &spec, plan)?
    };
    if let Some(path) = &options.pidfd_socket {
        listener::send_pidfd(path, &child)?;
    }
    if let Some(path) = &options.pid_file {
        write_pid_file(path, child.pid)?;
    }
    Ok((child, console))
}

/// In a container of a module, what is a module too runs as one, and everything else as the native program that it is. `root` is that
/// of the process inside the container's, if it is not that.
fn exec_target(
    host: &Host,
    container: &Container,
    root: Option<&str>,
    spec: &Spec,
    process: &Process,
) -> Result<Target> {
    let (Backend::Wasm, Some(init)) = (container.record.backend, container.live_init()) else {
        return Ok(Target::native());
    };
    let Record { bundle, rootfs, cgroup, .. } = &container.record;
    let in_container = spec.linux().is_some();
    let tree = if in_container {
        Tree::of_process(init.pid, root.unwrap_or_default())
    } else {
        Tree::of_bundle(bundle, rootfs, spec)
    }?;
    let found = match source::find(&tree, process) {
        Ok(found) if found.is_module() || !in_container => found,
        Err(e) if !in_container => return Err(e),
        _ => return Ok(Target::native()),
    };
    let settings = Settings::for_exec(spec, &host.wasm)?;
    let mut target =
        Target::module(Module::prepare(&host.wasm, settings, &found)?, process, spec, bundle, rootfs)?;
    target.limit_memory(cgroup);
    Ok(target)
}

fn exec_plan<'a>(
    container: &Container,
    spec: &Spec,
    process: &Process,
    target: Target,
    options: &ExecOptions,
    console: &Console,
    foreground: Option<&'a Foreground>,
) -> Result<ExecPlan<'a>> {
    let linux = spec.linux().as_ref();
    let filter = container.dir.read(SECCOMP)?.map(|data| Filter::decode(&data)).transpose()?;
    if filter.is_none() && linux.is_some_and(|linux| linux.seccomp().is_some()) {
        // Never run without the filter that the container has.
        crate::bail!(Storage, "the seccomp filter of the container is missing from its state directory");
    }
    Ok(ExecPlan {
        process: match linux {
            Some(linux) => ProcessPlan::new(
                process,
                linux.personality().as_ref(),
                linux.memory_policy().as_ref(),
                keyring(false, &container.record.id, false),
            )?,
            None => ProcessPlan::inherited(process)?,
        },
        program: Program::new(process, &[])?,
        target,
        root: options.member.as_ref().map(|member| PathBuf::from(&member.root)),
        seccomp: filter,
        console: console.for_child()?.map(|end| ConsolePlan::new(end, process)),
        preserve_fds: options.preserve_fds,
        affinity: affinity::Plan::new(process)?,
        cgroup: options.cgroup.clone(),
        foreground,
    })
}

/// Sends a signal to the container's first process, or with `all` to every process.
pub fn kill(host: &Host, id: &str, signal: i32, all: bool) -> Result<()> {
    let container = Container::open(host, id)?;
    let record = &container.record;
    if record.backend == Backend::Krun && signal != SIGKILL {
        // The first process passes it on to the guest; the others are the machine's.
        if all {
            let inside = krun::inside(host, &container)?;
            let sent = inside.guest.signal(inside.target(), signal, true, host.vm.answer())?;
            return if sent { Ok(()) } else { Err(signal::not_running()) };
        }
        return signal::send(record, signal);
    }
    if all && record.cgroup.is_tracked() {
        return record.cgroup.kill_all(signal);
    }
    if signal == SIGKILL && !record.own_pid_namespace && record.cgroup.is_tracked() {
        // The death of the first process ends the others only where it is the first of a pid namespace.
        return record.cgroup.kill_all(signal);
    }
    signal::send(record, signal)
}

/// Freezes all processes of a container.
pub fn pause(host: &Host, id: &str) -> Result<()> {
    let (container, _lock) = Container::open_locked(host, id)?;
    match container.status()? {
        // The one in the microVM of its pod first: what stands for it is to be asked no more.
        Status::Running if container.record.membership.is_some() => {
            freeze_in_guest(host, &container, true)?;
            container.record.cgroup.freeze().inspect_err(|_| {
                if let Err(e) = freeze_in_guest(host, &container, false) {
                    tracing::warn!("{e}");
                }
            })
        }
        Status::Running | Status::Created => container.record.cgroup.freeze(),
        _ => Err(signal::not_running()),
    }
}

/// Freezes or thaws a container in the microVM of its pod.
fn freeze_in_guest(host: &Host, container: &Container, freeze: bool) -> Result<()> {
    let krun::Inside { guest, name, .. } = &krun::inside(host, container)?;
    let file = ("cgroup.freeze".to_owned(), u8::from(freeze).to_string());
    guest.limit(name, [file].into(), host.vm.answer())
}

/// Lets the processes of a paused container go on.
pub fn resume(host: &Host, id: &str) -> Result<()> {
    let (container, _lock) = Container::open_locked(host, id)?;
    match container.status()? {
        Status::Paused if waits_in_guest(&container) => {
            freeze_in_guest(host, &container, false)?;
            container.record.cgroup.thaw()
        }
        Status::Paused => container.record.cgroup.thaw(),
        _ => crate::bail!(InvalidState, "container not paused"),
    }
}

/// Whether a paused container is one in the microVM of its pod that was started before.
fn waits_in_guest(container: &Container) -> bool {
    container.record.membership.is_some() && !container.dir.has(START_SOCKET)
}

/// Usage and limits of a container.
pub fn stats(host: &Host, id: &str) -> Result<Stats> {
    let container = Container::open(host, id)?;
    match container.status()? {
        Status::Stopped => Err(signal::not_running()),
        Status::Running if container.record.membership.is_some() => {
            let krun::Inside { guest, name, .. } = &krun::inside(host, &container)?;
            microvm::stats_of(host, guest, name)
        }
        _ => Ok(container.record.cgroup.stats()),
    }
}

/// The processes in the guest of a container that is a microVM; none for others.
pub fn guest_processes(host: &Host, id: &str) -> Result<Option<Vec<ProcessInfo>>> {
    let container = Container::open(host, id)?;
    match (container.record.backend, container.status()?) {
        (Backend::Krun, Status::Stopped | Status::Creating) => Err(signal::not_running()),
        (Backend::Krun, Status::Paused) => {
            crate::bail!(InvalidState, "cannot ask a microVM that is paused")
        }
        (Backend::Krun, _) => {
            let krun::Inside { guest, name, .. } = &krun::inside(host, &container)?;
            guest.processes(name, host.vm.answer()).map(Some)
        }
        _ => Ok(None),
    }
}

/// The pids of all processes of a container, in the host's pid namespace.
pub fn pids(host: &Host, id: &str) -> Result<Vec<i32>> {
    Container::open(host, id)?.record.cgroup.pids()
}
