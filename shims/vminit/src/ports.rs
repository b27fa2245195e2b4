//! The streams of the virtual machine itself, for the container that has its console.

use crate::failure::{Context as _, Result};
use rustix::fs::{Mode, OFlags};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

/// Where the kernel shows the ports of consoles, with their names.
const PORTS: &str = "/sys/class/virtio-ports";
/// How long the host may take to name its ports: the kernel goes on to its first process meanwhile.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often is looked for them.
const STEP: Duration = Duration::from_millis(2);

/// The streams.
#[derive(Debug)]
pub struct Machine {
    /// Its standard input.
    pub stdin: OwnedFd,
    /// Its standard output and standard error.
    pub outputs: [OwnedFd; 2],
}

impl Machine {
    /// Our own streams. In a virtual machine those are the kernel's console, which gets our messages: what belongs to the container
    /// goes over the ports that the host has named.
    pub fn open(virtual_machine: bool) -> Result<Self> {
        let Ports { stdin, stdout, stderr } = if virtual_machine { Ports::wait() } else { Ports::default() };
        let or_own = |port: Option<OwnedFd>, own: BorrowedFd<'_>| match port {
            Some(port) => Ok(port),
            None => rustix::io::fcntl_dupfd_cloexec(own, 3).context(|| "cannot copy a standard descriptor"),
        };
        Ok(Self {
            stdin: or_own(stdin, rustix::stdio::stdin())?,
            outputs: [or_own(stdout, rustix::stdio::stdout())?, or_own(stderr, rustix::stdio::stderr())?],
        })
    }
}

/// The ports that were found.
#[derive(Debug, Default)]
struct Ports {
    stdin: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
}

impl Ports {
    fn wait() -> Self {
        let mut ports = Self::default();
        let until = Instant::now() + PATIENCE;
        loop {
            ports.look();
            if ports.stdin.is_some() && ports.stdout.is_some() && ports.stderr.is_some() {
                return ports;
            }
            if Instant::now() >= until {
                eprintln!(
                    "vminit: the host has not named all streams: the kernel's console takes their place"
                );
                return ports;
            }
            std::thread::sleep(STEP);
        }
    }

    /// Opens those that are new: a port can be open once at a time.
    fn look(&mut self) {
        for entry in std::fs::read_dir(PORTS).into_iter().flatten().flatten() {
            let name = std::fs::read_to_string(entry.path().join("name")).unwrap_or_default();
            let (port, flags) = match name.trim_end() {
                "krun-stdin" => (&mut self.stdin, OFlags::RDONLY | OFlags::NONBLOCK),
                "krun-stdout" => (&mut self.stdout, OFlags::WRONLY),
                "krun-stderr" => (&mut self.stderr, OFlags::WRONLY),
                _ => continue,
            };
            if port.is_none() {
                let device = Path::new("/dev").join(entry.file_name());
                *port = rustix::fs::open(device, flags | OFlags::CLOEXEC, Mode::empty()).ok();
            }
        }
    }
}
