//! `start`: starts the server of a container, or finds that of its pod, and prints its address.

use crate::bundle::Config;
use crate::cgroup;
use crate::error::{Context as _, Error, Result};
use crate::flags::Flags;
use crate::options::Options;
use containerd_shim_protos::protobuf::Message as _;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use rustix::fs::{Mode, OFlags};
use sha2::{Digest as _, Sha256};
use std::fmt::Write as _;
use std::io::{ErrorKind, Read as _, Write as _};
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
/// Variable in which containerd tells the newest version of the task API that it speaks; 1.6 does not.
const NEWEST_VERSION: &str = "MAX_SHIM_VERSION";
/// The versions of the task API that the server speaks.
const VERSIONS: (u32, u32) = (2, 3);
/// Largest request on standard input, in bytes.
const REQUEST_LIMIT: u64 = 4 * 1024 * 1024;
/// Largest value of `oom_score_adj`.
const OOM_SCORE_MAX: i32 = 1000;

/// Starts a server for the bundle in the working directory.
pub fn start(flags: &Flags) -> Result<()> {
    if flags.namespace.is_empty() || flags.id.is_empty() {
        return Err(Error::invalid("-namespace and -id are needed: containerd calls this program"));
    }
    let options = read_options()?;
    let config = read_config(&options)?;
    let group = config.group().unwrap_or(&flags.id);
    let socket = socket_path(&flags.address, &flags.namespace, group);
    let address = format!("unix://{}", socket.display());
    if let Some(listener) = listen(&socket)? {
        launch(flags, &options, listener).inspect_err(|_| drop(std::fs::remove_file(&socket)))?;
    }
    // What containerd reads after its own restart.
    std::fs::write("address", &address).context(|| "cannot write 'address'")?;
    let answer = answer(&address, std::env::var(NEWEST_VERSION).ok().as_deref());
    std::io::stdout().write_all(answer.as_bytes()).context(|| "cannot print the address")
}

/// What `start` prints: a document where containerd has told the newest version that it speaks, else the address alone.
fn answer(address: &str, newest: Option<&str>) -> String {
    let Some(newest) = newest.and_then(|text| text.parse::<u32>().ok()) else { return address.to_owned() };
    let version = newest.clamp(VERSIONS.0, VERSIONS.1);
    serde_json::json!({"version": version, "address": address, "protocol": "ttrpc"}).to_string()
}

/// The configuration in the working directory. A sandbox has none: its server makes it, with the options that only this program gets.
fn read_config(options: &Options) -> Result<Config> {
    let bundle = Path::new(".");
    if Config::exists(bundle) {
        return Config::read(bundle);
    }
    options.save(bundle)?;
    Ok(Config::default())
}

/// The runtime's options, which containerd writes to standard input.
fn read_options() -> Result<Options> {
    let mut data = Vec::new();
    std::io::stdin()
        .take(REQUEST_LIMIT)
        .read_to_end(&mut data)
        .context(|| "cannot read the options from standard input")?;
    // Newer versions may send something else than the options. `create` gets them anyway, and tells what is wrong with them.
    Ok(Any::parse_from_bytes(&data)
        .ok()
        .and_then(|any| Options::from_any(Some(&any)).ok())
        .unwrap_or_default())
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

fn launch(flags: &Flags, options: &Options, listener: UnixListener) -> Result<()> {
    let mut child = spawn(flags, listener)?;
    settle(&child, options).inspect_err(|_| {
        let _ = child.kill();
        let _ = child.wait();
    })
}

fn spawn(flags: &Flags, listener: UnixListener) -> Result<Child> {
    let program = std::env::current_exe().context(|| "cannot find this program")?;
    let mut command = Command::new(program);
    command.args(["-namespace", &flags.namespace, "-id", &flags.id, "-address", &flags.address]);
    if flags.debug {
        command.arg("-debug");
    }
    command.env(TUNABLES.0, TUNABLES.1);
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
    fn the_answer_is_of_the_newest_version_that_both_speak() {
        let version = |newest: &str| {
            let answer = answer("unix:///s", Some(newest));
            let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
            assert_eq!((&answer["address"], &answer["protocol"]), (&"unix:///s".into(), &"ttrpc".into()));
            answer["version"].as_u64().unwrap()
        };
        assert_eq!((version("2"), version("3"), version("9")), (2, 3, 3));
        assert_eq!((answer("unix:///s", None).as_str(), answer("a", Some("x")).as_str()), ("unix:///s", "a"));
    }

    #[test]
    fn a_group_has_one_socket() {
        let path = |group: &str| socket_path("/run/containerd/containerd.sock", "k8s.io", group);
        assert_eq!(path("pod"), path("pod"));
        assert_ne!(path("pod"), path("other"));
        assert_eq!(path("pod").as_os_str().len(), SOCKETS.len() + 1 + 64);
    }
}
