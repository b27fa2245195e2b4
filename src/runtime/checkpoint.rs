//! Checkpoint and restore: criu does it, called as a program; see criu(8).

mod arguments;

use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::platform::sys::clone::Child;
use crate::platform::sys::security;
use crate::runtime::cgroups::Cgroup;
use crate::runtime::container::{CONFIG, Container, Status};
use crate::runtime::delete::{self, delete};
use crate::runtime::foreground::Foreground;
use crate::runtime::hooks::Hooks;
use crate::runtime::native::create::write_pid_file;
use crate::runtime::native::namespaces::Namespaces;
use crate::runtime::native::prepare::{self, Bundle};
use crate::runtime::options::{Host, RunOptions};
use crate::runtime::process_id::ProcessId;
use crate::runtime::record::{Backend, Record};
use crate::runtime::{spec, state};
use crate::storage::state_root::StateDir;
use crate::undo::Undo;
use oci_spec::runtime::Spec;
use rustix::mount::{MountPropagationFlags, mount_bind_recursive, mount_change};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Name of the file beside the images that says what the standard descriptors were connected to; runc's.
const DESCRIPTORS: &str = "descriptors.json";

/// How criu treats cgroups: criu(8) `--manage-cgroups`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum CgroupMode {
    /// Restore properties of cgroups that it makes.
    Soft,
    /// Restore properties always.
    Full,
    /// Fail if there is a difference.
    Strict,
    /// Leave cgroups alone.
    Ignore,
}

/// What both operations need.
#[derive(Debug, Clone)]
pub struct CriuOptions {
    /// The program.
    pub criu: PathBuf,
    /// Directory of the image files.
    pub image_path: PathBuf,
    /// Directory of logs and work files.
    pub work_path: PathBuf,
    /// Treatment of cgroups.
    pub cgroup_mode: CgroupMode,
    /// Options that criu gets as they are.
    pub flags: Vec<String>,
}

/// Arguments of [`checkpoint`].
#[derive(Debug, Clone)]
pub struct CheckpointOptions {
    /// Container id.
    pub id: String,
    /// For criu.
    pub criu: CriuOptions,
    /// Images of an earlier pre-dump.
    pub parent_path: Option<PathBuf>,
    /// Leave the container running.
    pub leave_running: bool,
    /// `ADDRESS:PORT` of a page server.
    pub page_server: Option<String>,
    /// Save the memory only.
    pub pre_dump: bool,
}

/// Arguments of [`restore`].
#[derive(Debug, Clone)]
pub struct RestoreOptions {
    /// For criu.
    pub criu: CriuOptions,
    /// For the container.
    pub run: RunOptions,
}

/// Saves the state of a running container. Unless it is left running, it is deleted afterwards.
pub fn checkpoint(host: &Host, options: &CheckpointOptions) -> Result<()> {
    let (container, lock) = Container::open_locked(host, &options.id)?;
    let status = container.status()?;
    if !matches!(status, Status::Running | Status::Paused) {
        crate::bail!(InvalidState, "container cannot be checkpointed in {status} state");
    }
    if container.record.backend != Backend::Native {
        crate::bail!(NotSupported, "only native containers can be checkpointed");
    }
    let spec = spec::parse(&container.dir.read(CONFIG)?.unwrap_or_default(), CONFIG)?;
    let pid = container.record.init.map_or(0, |init| init.pid);
    make_directories(&options.criu)?;
    save_descriptors(pid, &options.criu.image_path)?;
    let log = if options.pre_dump { "pre-dump.log" } else { "dump.log" };
    run_criu(&options.criu, &arguments::dump(options, &spec, pid, log)?, log)?;
    drop(lock);
    if options.leave_running || options.pre_dump { Ok(()) } else { delete(host, &options.id, true) }
}

fn make_directories(options: &CriuOptions) -> Result<()> {
    for path in [&options.image_path, &options.work_path] {
        std::fs::create_dir_all(path).context(|| format!("cannot make directory '{}'", path.display()))?;
    }
    Ok(())
}

fn save_descriptors(pid: i32, images: &Path) -> Result<()> {
    let target = |number: u32| {
        let path = format!("/proc/{pid}/fd/{number}");
        std::fs::read_link(path).map(|target| target.display().to_string()).unwrap_or_default()
    };
    let targets: Vec<String> = (0..3).map(target).collect();
    let path = images.join(DESCRIPTORS);
    std::fs::write(&path, serde_json::to_vec(&targets)?)
        .context(|| format!("cannot write '{}'", path.display()))
}

fn run_criu(options: &CriuOptions, arguments: &[String], log: &str) -> Result<()> {
    let output = Command::new(&options.criu).args(arguments).output().map_err(|e| {
        let program = options.criu.display();
        Error::from(e)
            .wrap(format!("cannot execute '{program}': install criu (Debian: apt-get install criu)"))
            .with_kind(ErrorKind::NotSupported)
    })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
    let log = options.work_path.join(log);
    crate::bail!(System, "criu failed: {} (log file: {}) {said}", output.status, log.display())
}

/// Brings a container back. Unless detached, waits for it, deletes it and returns its exit code.
pub fn restore(host: &Host, options: &RestoreOptions) -> Result<u8> {
    let create = &options.run.create;
    let bundle = prepare::load(host, create)?;
    if bundle.backend != Backend::Native {
        crate::bail!(NotSupported, "only native containers can be restored");
    }
    if bundle.spec.process().as_ref().is_some_and(|process| process.terminal().unwrap_or(false)) {
        crate::bail!(NotSupported, "a container with a terminal cannot be restored by this version");
    }
    let foreground =
        if options.run.detach { None } else { Some(Foreground::new(!options.run.no_subreaper)?) };
    let (mut dir, lock) = host.root.reserve(&create.id, host.max_containers, delete::clean_leftover)?;
    let path = dir.path().to_owned();
    let mut undo = Undo::new();
    undo.push("remove the state directory", move || host.root.remove(&path));
    match restore_in(host, options, &bundle, &mut dir, &mut undo) {
        Err(e) => Err(undo.unwind(e)),
        Ok((record, child)) => {
            undo.commit();
            drop(lock);
            let hook_state = state::for_hooks(&record, child.pid, Status::Running);
            Hooks::new(&bundle.spec).run_poststart(&hook_state, bundle.spec.version())?;
            let Some(foreground) = foreground else { return Ok(0) };
            let status = foreground.wait(&child, None, None);
            delete(host, &create.id, true)?;
            status
        }
    }
}

fn restore_in(
    host: &Host,
    options: &RestoreOptions,
    bundle: &Bundle,
    dir: &mut StateDir,
    undo: &mut Undo<'_>,
) -> Result<(Record, Child)> {
    let create = &options.run.create;
    let spec = &bundle.spec;
    let linux = spec.linux().clone().unwrap_or_default();
    let cgroup =
        Cgroup::locate(host.cgroup_driver, linux.cgroups_path().as_deref(), &create.id, host.rootless)?;
    let namespaces = Namespaces::from_linux(&linux)?;
    let mut record = prepare::record(host, create, bundle, &namespaces, cgroup);
    record.save(dir)?;
    record.cgroup.create(undo)?;
    record.cgroup.apply(&linux.resources().clone().unwrap_or_default())?;
    let pid = run_restore(options, spec, &bundle.rootfs, dir)?;
    let target = Pid::from_raw(pid).ok_or_else(|| Error::from_errno(libc::ESRCH))?;
    let pidfd = pidfd_open(target, PidfdFlags::empty()).context(|| "cannot open a pidfd")?;
    let child = Child { pid, pidfd };
    let cgroup = record.cgroup.clone();
    undo.push("end the restored processes", move || cgroup.kill_all(super::signal::SIGKILL));
    record.cgroup.attach(pid)?;
    record.init = Some(ProcessId::of(&child)?);
    dir.write(CONFIG, &bundle.raw)?;
    record.save(dir)?;
    if let Some(path) = &create.pid_file {
        write_pid_file(path, pid)?;
    }
    dir.publish(&host.root, &create.id)?;
    Ok((record, child))
}

/// Runs criu and returns the pid of the restored first process.
fn run_restore(options: &RestoreOptions, spec: &Spec, rootfs: &Path, dir: &StateDir) -> Result<i32> {
    /// Name of the pid file and of the root's mount point in the state directory.
    const PID_FILE: &str = "criu.pid";
    const ROOT: &str = "criu-root";
    let images = &options.criu.image_path;
    std::fs::create_dir_all(&options.criu.work_path)
        .context(|| format!("cannot make directory '{}'", options.criu.work_path.display()))?;
    let data = std::fs::read(images.join(DESCRIPTORS))
        .or_kind(ErrorKind::Usage, || format!("'{}' holds no checkpoint", images.display()))?;
    let descriptors: Vec<String> = serde_json::from_slice(&data)?;
    // criu wants the root to be a mount. It is made in a mount namespace that ends with this process, so that nothing stays
    // whatever happens.
    security::unshare(libc::CLONE_NEWNS as u64).context(|| "cannot make a mount namespace")?;
    mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)
        .context(|| "cannot set the propagation of '/'")?;
    let root = dir.path().join(ROOT);
    std::fs::create_dir(&root).context(|| format!("cannot make directory '{}'", root.display()))?;
    mount_bind_recursive(rootfs, &root).context(|| format!("cannot bind '{}'", rootfs.display()))?;
    let pid_file = dir.path().join(PID_FILE);
    let log = "restore.log";
    let arguments = arguments::restore(options, spec, &root, &pid_file, &descriptors, log);
    run_criu(&options.criu, &arguments, log)?;
    let text = std::fs::read_to_string(&pid_file).context(|| "criu has written no pid")?;
    text.trim()
        .parse()
        .map_err(|_| Error::new(ErrorKind::System, format!("criu has written the pid '{text}'")))
}
