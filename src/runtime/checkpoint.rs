//! Checkpoint and restore: criu does it, called as a program; see criu(8).

mod criu;
mod request;
mod rpc;

use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::platform::sys::clone::Child;
use crate::platform::sys::security;
use crate::runtime::cgroups::Cgroup;
use crate::runtime::container::{CONFIG, Container, SECCOMP, Status};
use crate::runtime::delete::{self, delete};
use crate::runtime::foreground::Foreground;
use crate::runtime::hooks::Hooks;
use crate::runtime::native::create::write_pid_file;
use crate::runtime::native::namespaces::Namespaces;
use crate::runtime::native::prepare::{self, Bundle};
use crate::runtime::options::{Host, RunOptions};
use crate::runtime::process_id::ProcessId;
use crate::runtime::record::{Backend, Record};
use crate::runtime::terminal::Console;
use crate::runtime::{seccomp, spec, state};
use crate::storage::state_root::StateDir;
use crate::undo::Undo;
use criu::Criu;
use oci_spec::runtime::Process;
use rpc::{CgroupRoot, Kind};
use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_bind_recursive, mount_change};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::path::{Path, PathBuf};

/// Name of the file beside the images that says what the standard descriptors were connected to; runc's.
const DESCRIPTORS: &str = "descriptors.json";

/// How criu treats cgroups: criu(8) `--manage-cgroups`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum CgroupMode {
    /// Restore properties of cgroups that it makes.
    #[default]
    Soft,
    /// Restore properties always.
    Full,
    /// Fail if there is a difference.
    Strict,
    /// Leave cgroups alone.
    Ignore,
}

/// What criu refuses to save unless it is allowed: criu(8).
#[derive(Debug, Clone, Default)]
#[allow(missing_docs)] // The names are those of criu's options.
pub struct Allow {
    pub tcp_established: bool,
    pub tcp_skip_in_flight: bool,
    pub ext_unix_sk: bool,
    pub shell_job: bool,
    pub file_locks: bool,
    pub link_remap: bool,
}

/// What both operations need.
#[derive(Debug, Clone, Default)]
pub struct CriuOptions {
    /// The program.
    pub criu: PathBuf,
    /// Directory of the image files.
    pub image_path: PathBuf,
    /// Directory of logs and work files.
    pub work_path: PathBuf,
    /// Treatment of cgroups.
    pub cgroup_mode: CgroupMode,
    /// What it accepts.
    pub allow: Allow,
    /// Save memory images without duplicates.
    pub auto_dedup: bool,
    /// Restore memory when it is used.
    pub lazy_pages: bool,
    /// Descriptor to which it writes when lazy pages are ready.
    pub status_fd: Option<i32>,
    /// Make the network namespace, but do not save or restore its properties.
    pub empty_network: bool,
    /// Security profile to restore with, `TYPE:NAME`.
    pub lsm_profile: Option<String>,
    /// SELinux context for mounts.
    pub lsm_mount_context: Option<String>,
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
    let (kind, log) =
        if options.pre_dump { (Kind::PreDump, "pre-dump.log") } else { (Kind::Dump, "dump.log") };
    let freezer = container.record.cgroup.freezer_directory();
    let request =
        request::dump(options, &spec, &container.record.cgroup.mount_points(), pid, freezer.as_deref())?;
    Criu::start(&options.criu, log)?.request(kind, request, |_, _| Ok(()))?;
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

/// Brings a container back. Unless detached, waits for it, deletes it and returns its exit code.
pub fn restore(host: &Host, options: &RestoreOptions) -> Result<u8> {
    let create = &options.run.create;
    let bundle = prepare::load(host, create)?;
    if bundle.backend != Backend::Native {
        crate::bail!(NotSupported, "only native containers can be restored");
    }
    let terminal = bundle.spec.process().as_ref().and_then(Process::terminal).unwrap_or(false);
    let console = Console::open(terminal, options.run.detach, create.console_socket.as_deref())?;
    let foreground =
        if options.run.detach { None } else { Some(Foreground::new(!options.run.no_subreaper)?) };
    let (mut dir, lock) = host.root.reserve(&create.id, host.max_containers, delete::clean_leftover)?;
    let path = dir.path().to_owned();
    let mut undo = Undo::new();
    undo.push("remove the state directory", move || host.root.remove(&path));
    match restore_in(host, options, &bundle, &console, &mut dir, &mut undo) {
        Err(e) => Err(undo.unwind(e)),
        Ok((record, child)) => {
            undo.commit();
            drop(lock);
            let hook_state = state::for_hooks(&record, child.pid, Status::Running);
            Hooks::new(&bundle.spec).run_poststart(&hook_state, bundle.spec.version())?;
            let Some(foreground) = foreground else { return Ok(0) };
            let status = foreground.wait(&child, console.master()?, None);
            delete(host, &create.id, true)?;
            status
        }
    }
}

fn restore_in(
    host: &Host,
    options: &RestoreOptions,
    bundle: &Bundle,
    console: &Console,
    dir: &mut StateDir,
    undo: &mut Undo<'_>,
) -> Result<(Record, Child)> {
    let create = &options.run.create;
    let spec = &bundle.spec;
    let linux = spec.linux().clone().unwrap_or_default();
    let filter = linux.seccomp().as_ref().map(|profile| seccomp::filter(&host.root, profile)).transpose()?;
    let cgroup = Cgroup::locate(
        host.cgroup_driver,
        linux.cgroups_path().as_deref(),
        &create.id,
        host.rootless,
        spec.annotations().as_ref(),
    )?;
    let namespaces = Namespaces::from_linux(&linux)?;
    let mut record = prepare::record(host, create, bundle, &namespaces, cgroup);
    record.save(dir)?;
    record.cgroup.create(undo)?;
    let pid = run_restore(options, bundle, &record, console, dir, undo)?;
    let target = Pid::from_raw(pid).ok_or_else(|| Error::from_errno(libc::ESRCH))?;
    let pidfd = pidfd_open(target, PidfdFlags::empty()).context(|| "cannot open a pidfd")?;
    let child = Child { pid, pidfd };
    record.init = Some(ProcessId::of(&child)?);
    dir.write(CONFIG, &bundle.raw)?;
    if let Some(filter) = &filter {
        dir.write(SECCOMP, &filter.encode())?;
    }
    record.save(dir)?;
    if let Some(path) = &create.pid_file {
        write_pid_file(path, pid)?;
    }
    dir.publish(&host.root, &create.id)?;
    Ok((record, child))
}

/// Brings the processes back and returns the pid of the first.
fn run_restore(
    options: &RestoreOptions,
    bundle: &Bundle,
    record: &Record,
    console: &Console,
    dir: &StateDir,
    undo: &mut Undo<'_>,
) -> Result<i32> {
    /// Name of the root's mount point in the state directory.
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
    mount_bind_recursive(&bundle.rootfs, &root)
        .context(|| format!("cannot bind '{}'", bundle.rootfs.display()))?;
    let restored = request_restore(options, bundle, record, console, &root, &descriptors, undo);
    // Criu's processes have the root; our own mount would keep the state directory busy.
    let gone = rustix::mount::unmount(&root, UnmountFlags::DETACH).context(|| "cannot unmount the root");
    let gone =
        gone.and_then(|()| std::fs::remove_dir(&root).context(|| "cannot remove the root's mount point"));
    restored.and_then(|pid| gone.map(|()| pid))
}

/// Has criu restore the processes in the container's cgroup.
fn request_restore(
    options: &RestoreOptions,
    bundle: &Bundle,
    record: &Record,
    console: &Console,
    root: &Path,
    descriptors: &[String],
    undo: &mut Undo<'_>,
) -> Result<i32> {
    let mut request =
        request::restore(options, &bundle.spec, &record.cgroup.mount_points(), root, descriptors);
    let criu = Criu::start(&options.criu, "restore.log")?;
    // What criu makes is in the container's cgroup from its first moment, for criu is.
    record.cgroup.attach(criu.pid())?;
    record.cgroup.undo_attach(undo);
    let cgroup = record.cgroup.clone();
    undo.push("end the restored processes", move || cgroup.kill_all(super::signal::SIGKILL));
    let linux = bundle.spec.linux().clone().unwrap_or_default();
    record.cgroup.apply(&linux.resources().clone().unwrap_or_default())?;
    request.cgroup_roots = cgroup_roots(criu.pid())?;
    let hooks = Hooks::new(&bundle.spec);
    let restored = criu.request(Kind::Restore, request, |notification, descriptor| {
        match (notification.script.as_deref(), descriptor) {
            (Some("setup-namespaces"), _) => {
                let pid = notification.pid.unwrap_or(0);
                hooks.run_runtime(|status| state::for_hooks(record, pid, status))
            }
            (Some("orphan-pts-master"), Some(master)) => console.hand_out(master),
            _ => Ok(()),
        }
    })?;
    restored.ok_or_else(|| Error::new(ErrorKind::System, "criu has told no pid"))
}

/// Where criu is to put what it restores: in its own cgroups.
fn cgroup_roots(pid: i32) -> Result<Vec<CgroupRoot>> {
    let path = format!("/proc/{pid}/cgroup");
    let text = std::fs::read_to_string(&path).context(|| format!("cannot read '{path}'"))?;
    let root = |line: &str| {
        let mut parts = line.splitn(3, ':').skip(1).map(str::to_owned);
        Some(CgroupRoot { ctrl: parts.next(), path: parts.next()? })
    };
    Ok(text.lines().filter_map(root).collect())
}
