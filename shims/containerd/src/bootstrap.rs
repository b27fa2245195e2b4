//! `start`: starts the server of a container, or finds that of its pod, and prints its address.

mod request;

use crate::bundle::Config;
use crate::cgroup;
use crate::error::{Context as _, Error, Result};
use crate::flags::Flags;
use crate::options::Options;
use request::Request;
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::process::getpid;
use rustix::thread::{CoreSchedulingScope, create_core_scheduling_cookie};
use sha2::{Digest as _, Sha256};
use std::fmt::Write as _;
use std::fs::{File, Permissions};
use std::io::{ErrorKind, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::{CommandExt as _, parent_id};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Where the sockets of servers are, as of every shim of containerd.
const SOCKETS: &str = "/run/containerd/s";
/// What the C library of a server keeps: one arena for all threads, which do little each, no freed blocks for each thread, which would be
/// scattered over pages that nothing else needs, and of the stacks of threads that have ended no more than 256 KiB, instead of 40 MiB.
pub const TUNABLES: (&str, &str) = (
    "GLIBC_TUNABLES",
    "glibc.malloc.arena_max=1:glibc.malloc.tcache_count=0:glibc.pthread.stack_cache_size=262144",
);
/// Variable in which the server finds the socket for events.
pub const EVENTS: &str = "TTRPC_ADDRESS";
/// Variable by which containerd asks for core scheduling (`sched_core` of its configuration).
const SCHED_CORE: &str = "SCHED_CORE";
/// Largest value of `oom_score_adj`.
const OOM_SCORE_MAX: i32 = 1000;

/// Starts a server for the bundle in the working directory.
pub fn start(flags: &Flags) -> Result<()> {
    let request = Request::read(flags, std::io::stdin())?;
    let flags = &request.flags;
    if flags.namespace.is_empty() || flags.id.is_empty() {
        return Err(Error::invalid("-namespace and -id are needed: containerd calls this program"));
    }
    let bundle = Path::new(".");
    let (config, options) = if Config::exists(bundle) {
        // `create` gets the options too, and tells what is wrong with them.
        (Config::read(bundle)?, request.options.clone().unwrap_or_default())
    } else {
        // That of a sandbox is made by its server, with the options that only this program gets.
        let options = request.options.clone()?.or_named();
        options.save(bundle)?;
        (Config::default(), options)
    };
    let group = config.group().unwrap_or(&flags.id);
    let socket = socket_path(&flags.address, &flags.namespace, group);
    let address = format!("unix://{}", socket.display());
    if let Some(listener) = listen(Path::new(SOCKETS), &socket)? {
        launch(&request, &options, listener).inspect_err(|_| drop(std::fs::remove_file(&socket)))?;
    }
    // What containerd reads after its own restart.
    std::fs::write("address", &address).context(|| "cannot write 'address'")?;
    std::io::stdout().write_all(&request.answer(&address)?).context(|| "cannot print the address")
}

/// The socket of a group of containers: of the same name for every container in it.
fn socket_path(address: &str, namespace: &str, group: &str) -> PathBuf {
    let name = Path::new(address).join(namespace).join(group);
    let digest = Sha256::digest(name.as_os_str().as_encoded_bytes());
    let name = digest.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    });
    Path::new(SOCKETS).join(name)
}

/// A new socket, or nothing if a server has it. A socket whose server is dead is removed.
///
/// `folder` is locked meanwhile: a socket that another has made, and does not listen on yet, looks as if its server was dead.
fn listen(folder: &Path, path: &Path) -> Result<Option<UnixListener>> {
    std::fs::create_dir_all(folder).context(|| format!("cannot make '{}'", folder.display()))?;
    let _locked = lock(folder).context(|| format!("cannot lock '{}'", folder.display()))?;
    let bind = || UnixListener::bind(path).context(|| format!("cannot listen on '{}'", path.display()));
    let listener = match UnixStream::connect(path) {
        Ok(_) => return Ok(None),
        Err(e) if e.kind() == ErrorKind::NotFound => bind()?,
        Err(_) => {
            std::fs::remove_file(path).context(|| format!("cannot remove '{}'", path.display()))?;
            bind()?
        }
    };
    // Whoever may write to it may command the containers, whatever the umask.
    std::fs::set_permissions(path, Permissions::from_mode(0o600))
        .context(|| format!("cannot close '{}' to others", path.display()))?;
    Ok(Some(listener))
}

/// Locks a folder for as long as the file is open.
fn lock(folder: &Path) -> Result<File> {
    let file = File::open(folder)?;
    rustix::io::retry_on_intr(|| rustix::fs::flock(&file, FlockOperation::LockExclusive))?;
    Ok(file)
}

fn launch(request: &Request, options: &Options, listener: UnixListener) -> Result<()> {
    if std::env::var_os(SCHED_CORE).is_some_and(|value| !value.is_empty()) {
        share_no_core()?;
    }
    let mut child = spawn(request, listener)?;
    settle(&child, options).inspect_err(|_| {
        let _ = child.kill();
        let _ = child.wait();
    })
}

/// Gives this process, and what it starts, processor cores of its own: while a thread of theirs runs on one, no others do on its siblings.
/// The server and its containers are of one tenant.
fn share_no_core() -> Result<()> {
    create_core_scheduling_cookie(getpid(), CoreSchedulingScope::ThreadGroup)
        .context(|| "cannot enable core scheduling, which containerd's configuration asks for")
}

fn spawn(request: &Request, listener: UnixListener) -> Result<Child> {
    let flags = &request.flags;
    let program = std::env::current_exe().context(|| "cannot find this program")?;
    let mut command = Command::new(program);
    // It knows the backend by it.
    command.arg0(std::env::args_os().next().unwrap_or_default());
    command.args(["-namespace", &flags.namespace, "-id", &flags.id, "-address", &flags.address]);
    if flags.debug {
        command.arg("-debug");
    }
    command.env(TUNABLES.0, TUNABLES.1);
    if let Some(events) = request.events.as_ref().filter(|_| std::env::var_os(EVENTS).is_none()) {
        command.env(EVENTS, events);
    }
    command.stdin(OwnedFd::from(listener)).stdout(Stdio::null()).stderr(log_stream());
    // Signals for containerd's process group are not for the server.
    command.process_group(0);
    command.spawn().context(|| "cannot start the server")
}

/// The FIFO that containerd copies into its own log. Writing to it never blocks.
fn log_stream() -> Stdio {
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    rustix::fs::open("log", flags, Mode::empty()).map_or_else(|_| Stdio::null(), Stdio::from)
}

/// Gives the server its place.
fn settle(child: &Child, options: &Options) -> Result<()> {
    if !options.shim_cgroup.is_empty() {
        cgroup::enter(&options.shim_cgroup, child.id())
            .context(|| format!("cannot move the server into cgroup '{}'", options.shim_cgroup))?;
    }
    // When memory is short, a server goes before containerd and after containers.
    if let Err(e) = adjust_oom_score(child.id()) {
        log::warn!("cannot adjust the server's oom_score_adj: {e}");
    }
    Ok(())
}

fn adjust_oom_score(pid: u32) -> Result<()> {
    let read = |pid: u32| std::fs::read_to_string(format!("/proc/{pid}/oom_score_adj"));
    let parent = read(parent_id())?;
    let score = parent.trim().parse::<i32>().unwrap_or(0).saturating_add(1).min(OOM_SCORE_MAX);
    Ok(std::fs::write(format!("/proc/{pid}/oom_score_adj"), score.to_string())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    #[test]
    fn of_many_that_start_a_group_one_listens_and_a_dead_socket_is_in_nobodys_way() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let die = |listeners: Vec<UnixListener>| {
            drop(listeners);
            // A child that another test has just forked has a copy, until it executes its program.
            let end = Instant::now() + Duration::from_secs(60);
            while UnixStream::connect(&path).is_ok() {
                assert!(Instant::now() < end, "the socket is still listened on");
                std::thread::sleep(Duration::from_millis(1));
            }
        };
        die(vec![UnixListener::bind(&path).unwrap()]);
        for _ in 0..20 {
            let listeners: Vec<_> = std::thread::scope(|scope| {
                let start = || listen(folder.path(), &path).unwrap();
                let threads: Vec<_> = (0..8).map(|_| scope.spawn(start)).collect();
                threads.into_iter().filter_map(|thread| thread.join().unwrap()).collect()
            });
            assert_eq!(listeners.len(), 1);
            assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
            die(listeners);
        }
    }

    #[test]
    fn a_group_has_one_socket() {
        let path = |group: &str| socket_path("/run/containerd/containerd.sock", "k8s.io", group);
        assert_eq!(path("pod"), path("pod"));
        assert_ne!(path("pod"), path("other"));
        assert_eq!(path("pod").as_os_str().len(), SOCKETS.len() + 1 + 64);
    }
}
