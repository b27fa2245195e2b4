//! Unix sockets.

use crate::error::{Context as _, Result};
use rustix::fs::{Mode, OFlags};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// Connects to a unix socket whose path may be longer than an address can hold.
pub fn connect(path: &Path) -> Result<OwnedFd> {
    connect_with(path, SocketFlags::CLOEXEC)
}

/// Does the same, and fails with `EAGAIN` where it had to wait until an earlier connection is accepted. The socket does not block.
pub fn connect_at_once(path: &Path) -> Result<OwnedFd> {
    connect_with(path, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)
}

fn connect_with(path: &Path, flags: SocketFlags) -> Result<OwnedFd> {
    let cannot = || format!("cannot connect to socket '{}'", path.display());
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).context(cannot)?;
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

/// Most descriptors of a message.
const MAX_DESCRIPTORS: usize = 3;

/// Sends a descriptor with `data`, at least one byte, over a unix socket.
pub fn send_descriptor(socket: impl AsFd, fd: BorrowedFd<'_>, data: &[u8]) -> Result<()> {
    send_descriptors(socket, &[fd], data)
}

/// Sends up to three descriptors with `data`, at least one byte, over a unix socket.
pub fn send_descriptors(socket: impl AsFd, fds: &[BorrowedFd<'_>], data: &[u8]) -> Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(fds)) {
        crate::bail!(System, "cannot send {} descriptors at once", fds.len());
    }
    rustix::io::retry_on_intr(|| {
        rustix::net::sendmsg(&socket, &[IoSlice::new(data)], &mut control, SendFlags::NOSIGNAL)
    })
    .context(|| "cannot send a descriptor")?;
    Ok(())
}

/// Waits for data, and answers how many bytes came, and the descriptor that came with them, if one did.
pub fn receive_descriptor(socket: impl AsFd, data: &mut [u8]) -> Result<(usize, Option<OwnedFd>)> {
    let (bytes, mut fds) = receive_descriptors(socket, data)?;
    Ok((bytes, fds.pop()))
}

/// Waits for data, and answers how many bytes came, and the descriptors that came with them, at most three.
pub fn receive_descriptors(socket: impl AsFd, data: &mut [u8]) -> Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::io::retry_on_intr(|| {
        rustix::net::recvmsg(&socket, &mut [IoSliceMut::new(data)], &mut control, RecvFlags::CMSG_CLOEXEC)
    })
    .context(|| "cannot receive a descriptor")?;
    let mut found = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            found.extend(fds);
        }
    }
    Ok((received.bytes, found))
}
