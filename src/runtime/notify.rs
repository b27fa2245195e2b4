//! `NOTIFY_SOCKET`: a service manager's question whether the container is ready, sd_notify(3).
//!
//! The container gets a socket of its own, in a directory of its state that is bound to `/run/notify`; what it says of
//! its readiness there is passed on. The manager's own socket is never in reach of the container.

use crate::error::{Context as _, Result};
use crate::storage::state_root::StateDir;
use rustix::fs::{Mode, chmod};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

/// Environment variable that names the socket.
const VARIABLE: &str = "NOTIFY_SOCKET";
/// Directory in the state directory that holds the container's socket.
const DIRECTORY: &str = "notify";
/// Name of the socket in it.
const SOCKET: &str = "notify.sock";
/// Where the container sees the directory.
const TARGET: &str = "/run/notify";
/// Longest message that is read, in bytes.
const MAX_MESSAGE: usize = 4096;

/// The directory that a new container gets, and where.
#[derive(Debug, Clone)]
pub struct NotifyMount {
    /// On the host.
    pub source: PathBuf,
    /// In the container.
    pub target: PathBuf,
    /// Environment variable for the container's process.
    pub variable: String,
}

fn manager() -> Option<PathBuf> {
    std::env::var_os(VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from)
}

/// Makes the directory for a new container, if our caller has a socket.
pub fn prepare(dir: &StateDir) -> Result<Option<NotifyMount>> {
    if manager().is_none() {
        return Ok(None);
    }
    let source = dir.path().join(DIRECTORY);
    std::fs::create_dir(&source).context(|| format!("cannot make directory '{}'", source.display()))?;
    // Any user of the container may say that it is ready.
    chmod(&source, Mode::from_raw_mode(0o755))
        .context(|| "cannot open the notify directory to the container")?;
    let variable = format!("{VARIABLE}={TARGET}/{SOCKET}");
    Ok(Some(NotifyMount { source, target: TARGET.into(), variable }))
}

/// The container's socket, open.
#[derive(Debug)]
pub struct Notify {
    socket: UnixDatagram,
    manager: PathBuf,
}

impl AsFd for Notify {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Notify {
    /// Opens the container's socket, if it has a directory for one and our caller wants to know. Call before the container
    /// starts.
    pub fn open(dir: &StateDir) -> Result<Option<Self>> {
        let (Some(manager), true) = (manager(), dir.has(DIRECTORY)) else { return Ok(None) };
        let path = dir.path().join(DIRECTORY).join(SOCKET);
        let _ = std::fs::remove_file(&path);
        let socket = UnixDatagram::bind(&path).context(|| format!("cannot bind '{}'", path.display()))?;
        chmod(&path, Mode::from_raw_mode(0o777))
            .context(|| "cannot open the notify socket to the container")?;
        socket.set_nonblocking(true).context(|| "cannot set up the notify socket")?;
        Ok(Some(Self { socket, manager }))
    }

    /// Reads what has come, and passes readiness on with the container's pid. True once the container is ready.
    pub fn pump(&self, pid: i32) -> Result<bool> {
        let mut buffer = [0u8; MAX_MESSAGE];
        while let Ok(length) = self.socket.recv(&mut buffer) {
            let text = String::from_utf8_lossy(&buffer[..length]);
            if text.lines().any(|line| line == "READY=1") {
                self.tell(&format!("MAINPID={pid}\nREADY=1\n"))?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn tell(&self, message: &str) -> Result<()> {
        let socket = UnixDatagram::unbound().context(|| "cannot make a socket")?;
        let name = self.manager.to_string_lossy();
        let sent = match name.strip_prefix('@') {
            Some(name) => {
                use std::os::linux::net::SocketAddrExt as _;
                std::os::unix::net::SocketAddr::from_abstract_name(name)
                    .and_then(|address| socket.send_to_addr(message.as_bytes(), &address))
            }
            None => socket.send_to(message.as_bytes(), Path::new(&*self.manager)),
        };
        sent.map(drop).context(|| format!("cannot tell '{name}' that the container is ready"))
    }

    /// Waits until the container is ready or `process`, its pidfd, has ended.
    pub fn wait(&self, process: BorrowedFd<'_>, pid: i32) -> Result<()> {
        use rustix::event::{PollFd, PollFlags, poll};
        loop {
            if self.pump(pid)? {
                return Ok(());
            }
            let mut fds = [
                PollFd::from_borrowed_fd(process, PollFlags::IN),
                PollFd::from_borrowed_fd(self.socket.as_fd(), PollFlags::IN),
            ];
            rustix::io::retry_on_intr(|| poll(&mut fds, None)).context(|| "cannot wait for readiness")?;
            let ended = !fds[0].revents().is_empty();
            if ended {
                self.pump(pid)?;
                return Ok(());
            }
        }
    }
}
