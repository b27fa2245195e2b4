//! The network of a guest: passt in the network namespace of its container.

use super::guest::{GATEWAY, address};
use super::settings::{Network, Settings};
use crate::error::{Context as _, Result};
use crate::passt;
use crate::platform::sys::clone::Child;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use std::os::fd::OwnedFd;

/// A network namespace: the device and the number of its file in procfs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Namespace(u64, u64);

impl Namespace {
    /// The one that this process is in.
    pub fn current() -> Option<Self> {
        rustix::fs::stat("/proc/self/ns/net").ok().map(|stat| Self(stat.st_dev, stat.st_ino))
    }
}

/// Starts what the network needs. In the network namespace of the container, and in the host's root. `outside` is the namespace that
/// whoever makes the container is in, in which nothing is changed.
///
/// Returns passt and the socket that it is connected to. A namespace that leads nowhere has no use for it.
pub fn start(settings: &Settings, outside: Option<Namespace>) -> Result<Option<(Child, OwnedFd)>> {
    if settings.network != Network::Passt || !has_default_route() {
        return Ok(None);
    }
    if Namespace::current() != outside
        && let Err(e) = passt::allow_ping()
    {
        tracing::warn!("{e}");
    }
    let (ours, theirs) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
            .context(|| "cannot make a socket pair")?;
    let child = passt::connect(theirs, address(), GATEWAY, (&settings.ports.tcp, &settings.ports.udp))?;
    Ok(Some((child, ours)))
}

/// Whether an interface leads out of this network namespace, for IPv4, which is what guests have.
fn has_default_route() -> bool {
    // Interface, destination, gateway, flags, ...: a destination of 0 with a mask of 0, in hexadecimal.
    let routes = std::fs::read_to_string("/proc/thread-self/net/route").unwrap_or_default();
    routes.lines().skip(1).any(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        fields.get(1) == Some(&"00000000") && fields.get(7) == Some(&"00000000")
    })
}
