//! Unix sockets.

use crate::error::{Context as _, Result};
use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::os::fd::OwnedFd;
use std::path::Path;

/// Connects to a unix socket whose path may be longer than an address can hold.
pub fn connect(path: &Path) -> Result<OwnedFd> {
    let cannot = || format!("cannot connect to socket '{}'", path.display());
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
            .context(cannot)?;
    let by_descriptor;
    let address = if let Ok(address) = SocketAddrUnix::new(path) {
        address
    } else {
        by_descriptor =
            rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).context(cannot)?;
        let number = std::os::fd::AsRawFd::as_raw_fd(&by_descriptor);
        SocketAddrUnix::new(format!("/proc/self/fd/{number}")).context(cannot)?
    };
    rustix::net::connect(&socket, &address).context(cannot)?;
    Ok(socket)
}
