//! `start`: starts the server of a container, or finds that of its pod, and prints its address.

mod request;

use crate::bundle::Config;
use crate::cgroup;
use crate::error::{Context as _, Error, Result};
use crate::flags::Flags;
use crate::options::Options;
use request::Request;
use rustix::fs::{Mode, OFlags};
use sha2::{Digest as _, Sha256};
use std::fmt::Write as _;
use std::io::{ErrorKind, Write as _};
use std::os::fd::OwnedFd;
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
    if let Some(listener) = listen(&socket)? {
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
fn listen(path: &Path) -> Result<Option<UnixListener>> {
    std::fs::create_dir_all(SOCKETS).context(|| format!("cannot make '{SOCKETS}'"))?;
    for _ in 0..2 {
        match UnixListener::bind(path) {
            Ok(listener) => return Ok(Some(listener)),
            Err(e) if e.kind() != ErrorKind::AddrInUse => {
                return Err(e).context(|| format!("cannot listen on '{}'", path.display()));
            }
            Err(_) if UnixStream::connect(path).is_ok() => return Ok(None),
            Err(_) => {
                std::fs::remove_file(path).context(|| format!("cannot remove '{}'", path.display()))?;
            }
        }
    }
    Err(Error::new(format!("cannot listen on '{}': others keep making it", path.display())))
}

fn launch(request: &Request, options: &Options, listener: UnixListener) -> Result<()> {
    let mut child = spawn(request, listener)?;
    settle(&child, options).inspect_err(|_| {
        let _ = child.kill();
        let _ = child.wait();
    })
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

    #[test]
    fn a_group_has_one_socket() {
        let path = |group: &str| socket_path("/run/containerd/containerd.sock", "k8s.io", group);
        assert_eq!(path("pod"), path("pod"));
        assert_ne!(path("pod"), path("other"));
        assert_eq!(path("pod").as_os_str().len(), SOCKETS.len() + 1 + 64);
    }
}
