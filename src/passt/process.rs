//! The processes of passt and pasta.

use super::arguments::{Forward, NOBODY, passt, pasta};
use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::platform::stdio;
use crate::platform::sys::clone::{Child, CloneArgs, clone3};
use crate::platform::userns;
use rustix::process::{Pid, PidfdFlags, Resource, Rlimit, getrlimit, pidfd_open, setrlimit};
use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where Debian has it; otherwise it is looked for on the search path.
const PROGRAM: &str = "/usr/bin/pasta";
/// The same for virtual machines.
const MACHINES: &str = "/usr/bin/passt";
/// Descriptors that passt needs to forward every port.
const PASST_DESCRIPTORS: u64 = 1 << 18;

/// A running pasta, a child of this process.
#[derive(Debug)]
pub struct Pasta {
    /// Its process id.
    pub pid: i32,
    /// Its process.
    pub pidfd: OwnedFd,
    /// What it has to say, as long as it can: must be read, or it waits.
    pub output: Option<File>,
}

/// Connects a network namespace, and returns when it is connected.
///
/// The namespace and the way back are descriptors 0 and 1, which pasta closes none of; by process, opening the namespace takes a
/// capability that it drops first.
pub fn start(namespace: BorrowedFd<'_>, forwards: &[Forward]) -> Result<Pasta> {
    let program = if Path::new(PROGRAM).exists() { PROGRAM } else { "pasta" };
    let root = rustix::process::geteuid().is_root();
    let mut child = Command::new(program)
        .args(pasta("/proc/self/fd/0", "/proc/self/fd/1", forwards, root))
        .stdin(namespace.try_clone_to_owned()?)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .env_clear()
        .spawn()
        .map_err(|e| cannot_execute("pasta", e))?;
    let pid = child.id() as i32;
    let (Some(mut ready), Some(output)) = (child.stdout.take(), child.stderr.take()) else {
        crate::bail!(System, "pasta has no standard streams");
    };
    let mut output = File::from(OwnedFd::from(output));
    // Its pid as it sees it itself, or the end of what it can say.
    if ready.read(&mut [0u8; 32]).unwrap_or(0) == 0 {
        let mut said = String::new();
        let _ = output.read_to_string(&mut said);
        let _ = child.wait();
        let lines = said.lines().map(str::trim).filter(|line| !line.is_empty());
        let text = lines.collect::<Vec<_>>().join("; ");
        crate::bail!(StartFailed, "cannot connect the pod's network: pasta: {text}");
    }
    let cannot = || "cannot find the process of pasta";
    let id = Pid::from_raw(pid).ok_or_else(|| Error::new(ErrorKind::System, cannot()))?;
    let pidfd = pidfd_open(id, PidfdFlags::empty()).context(cannot)?;
    rustix::io::ioctl_fionbio(&output, true)?;
    Ok(Pasta { pid, pidfd, output: Some(output) })
}

/// Starts passt for a virtual machine whose network device is the other end of `socket`; see [`passt`]. It is a child of this
/// process, which has one thread, and ends with the connection.
pub fn connect(socket: OwnedFd, address: &str, gateway: &str, ports: (&str, &str)) -> Result<Child> {
    let program = find(MACHINES, "passt")?;
    let root = is_host_root();
    // In a mount namespace of its own: pivot_root(2) would change its root too, and have it read files of the container.
    let args = CloneArgs { flags: libc::CLONE_NEWNS as u64, ..CloneArgs::default() };
    clone3(&args, || {
        raise_descriptor_limit();
        let e = match rustix::io::dup(&socket) {
            Ok(inherited) => Command::new(&program)
                .args(passt(inherited.as_raw_fd(), address, gateway, ports, root))
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .env_clear()
                .exec(),
            Err(e) => e.into(),
        };
        stdio::tell(format_args!("magikrun: {}", cannot_execute("passt", e)));
        libc::EXIT_FAILURE
    })
}

/// Whether this process is root of the host, which passt does not stay.
fn is_host_root() -> bool {
    rustix::process::geteuid().is_root() && !userns::is_nested()
}

/// The group of passt when it is started by this process.
pub(super) fn group() -> u32 {
    if is_host_root() { NOBODY } else { rustix::process::getegid().as_raw() }
}

/// Every port that it forwards is a descriptor, and the limit that we were started with may be for a shell.
fn raise_descriptor_limit() {
    let limit = Some(PASST_DESCRIPTORS);
    let wanted = Rlimit { current: limit, maximum: limit };
    if getrlimit(Resource::Nofile).maximum.is_some_and(|most| most < PASST_DESCRIPTORS) {
        let _ = setrlimit(Resource::Nofile, wanted);
    }
}

/// A program at its usual place, or on the search path.
fn find(usual: &str, name: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let all =
        std::iter::once(PathBuf::from(usual)).chain(std::env::split_paths(&path).map(|dir| dir.join(name)));
    let mut found = all.filter(|path| path.is_absolute() && path.is_file());
    found.next().ok_or_else(|| cannot_execute(name, std::io::ErrorKind::NotFound.into()))
}

fn cannot_execute(program: &str, e: std::io::Error) -> Error {
    match e.kind() {
        std::io::ErrorKind::NotFound => Error::new(
            ErrorKind::RuntimeUnavailable,
            format!("cannot execute '{program}': it is not installed (Debian package passt)"),
        ),
        _ => Error::from(e).wrap(format!("cannot execute '{program}'")),
    }
}
