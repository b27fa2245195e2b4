//! What is done with one socket.

use super::guest::{Answer, Guest, error, number};
use rustix::io::{Errno, ioctl_fionbio, retry_on_intr};
use rustix::net::{RecvFlags, SendFlags, Shutdown, SocketFlags, SocketType, sockopt};
use std::os::fd::OwnedFd;

/// Most bytes of one transfer: a guest must not make us allocate as much as it likes.
const MAX_TRANSFER: usize = 64 << 10;
/// Of preview 1's `fdflags`: do not wait.
const NONBLOCK: i32 = 4;
/// Of preview 1's `riflags`: leave what is read; and wait for all of it.
const PEEK: i32 = 1;
const WAIT_ALL: i32 = 2;
/// Of preview 1's `rights`: read, set flags, write, poll, shut down, accept.
const RIGHTS: u64 = 1 << 1 | 1 << 3 | 1 << 6 | 1 << 27 | 1 << 28 | 1 << 29;

/// Waits for a connection, as the socket does, and takes it.
pub fn accept(socket: &OwnedFd, flags: i32) -> Result<OwnedFd, i32> {
    let mut with = SocketFlags::CLOEXEC;
    with.set(SocketFlags::NONBLOCK, flags & NONBLOCK != 0);
    retry_on_intr(|| rustix::net::accept_with(socket, with)).map_err(error)
}

/// Receives into the buffers that an array names. Answers how many bytes.
pub fn receive(guest: &mut Guest<'_>, socket: &OwnedFd, at: i32, count: i32, flags: i32) -> Result<u32, i32> {
    let buffers = guest.buffers(at, count, MAX_TRANSFER)?;
    let mut data = vec![0u8; buffers.iter().map(|(_, length)| length).sum()];
    let mut with = RecvFlags::empty();
    with.set(RecvFlags::PEEK, flags & PEEK != 0);
    with.set(RecvFlags::WAITALL, flags & WAIT_ALL != 0);
    let (length, _) = retry_on_intr(|| rustix::net::recv(socket, &mut *data, with)).map_err(error)?;
    let mut rest = &data[..length];
    for (address, size) in buffers {
        let (part, more) = rest.split_at(size.min(rest.len()));
        guest.write(address, part)?;
        rest = more;
    }
    Ok(length as u32)
}

/// Sends the buffers that an array names. Answers how many bytes.
pub fn send(guest: &mut Guest<'_>, socket: &OwnedFd, at: i32, count: i32) -> Result<u32, i32> {
    let mut data = Vec::new();
    for (address, length) in guest.buffers(at, count, MAX_TRANSFER)? {
        data.extend_from_slice(guest.slice(address, length)?);
    }
    let sent = retry_on_intr(|| rustix::net::send(socket, &data, SendFlags::NOSIGNAL));
    sent.map(|length| length as u32).map_err(error)
}

/// Ends receiving, sending, or both.
pub fn shut_down(socket: &OwnedFd, how: i32) -> Answer {
    let how = match how {
        1 => Shutdown::Read,
        2 => Shutdown::Write,
        3 => Shutdown::Both,
        _ => return Err(number::INVAL),
    };
    rustix::net::shutdown(socket, how).map_err(error)
}

/// Lets it wait or not.
pub fn set_flags(socket: &OwnedFd, flags: i32) -> Answer {
    if flags & !NONBLOCK != 0 {
        return Err(number::NOTSUP);
    }
    ioctl_fionbio(socket, flags & NONBLOCK != 0).map_err(error)
}

/// Preview 1's `fdstat` of it.
pub fn describe(socket: &OwnedFd) -> Result<[u8; 24], i32> {
    let status = rustix::fs::fcntl_getfl(socket).map_err(error)?;
    let mut stat = [0u8; 24];
    stat[0] = match sockopt::socket_type(socket).map_err(error)? {
        SocketType::DGRAM => 5,
        _ => 6,
    };
    stat[2] = if status.contains(rustix::fs::OFlags::NONBLOCK) { NONBLOCK as u8 } else { 0 };
    stat[8..16].copy_from_slice(&RIGHTS.to_le_bytes());
    stat[16..24].copy_from_slice(&RIGHTS.to_le_bytes());
    Ok(stat)
}

/// How many bytes can be read; one at least, for what waits may be a connection.
pub fn waiting(socket: &OwnedFd) -> u64 {
    match rustix::io::ioctl_fionread(socket) {
        Ok(bytes) => bytes,
        Err(Errno::INVAL) => 1,
        Err(_) => 0,
    }
}
