//! What a child tells while it becomes the program: its terminal, and why it failed. The channel closes when the program is
//! executed. What it is told is that it may begin.

use crate::failure::{Context as _, Result, system};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use vm_protocol::message::Failure;

/// Longest packet, in bytes.
const PACKET: usize = 16 << 10;

/// One end.
#[derive(Debug)]
pub struct Channel(OwnedFd);

/// What a child has told.
#[derive(Debug)]
pub enum Told {
    /// Nothing yet.
    Nothing,
    /// To go on.
    Go,
    /// Its pid, by way of the process that made it.
    Pid(i32),
    /// The master of its terminal.
    Terminal(OwnedFd),
    /// It has failed.
    Failed(Failure),
    /// It executes its program, or is dead.
    Closed,
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Both ends of a new channel; the first does not wait.
pub fn pair() -> Result<(Channel, Channel)> {
    let (ours, theirs) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .context(|| "cannot make a socket pair")?;
    Ok((Channel(ours), Channel(theirs)))
}

impl Channel {
    fn send(&self, data: &[u8], fd: Option<BorrowedFd<'_>>) -> Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fds: Vec<_> = fd.into_iter().collect();
        if !fds.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(&fds));
        }
        rustix::net::sendmsg(&self.0, &[IoSlice::new(data)], &mut control, SendFlags::NOSIGNAL)
            .map(drop)
            .context(|| "cannot tell the other process")
    }

    /// Tells the pid of a process that was made for the other end.
    pub fn tell_pid(&self, pid: i32) -> Result<()> {
        self.send(&[&b"p"[..], &pid.to_ne_bytes()].concat(), None)
    }

    /// Tells a child to go on.
    pub fn tell_go(&self) -> Result<()> {
        self.send(b"g", None)
    }

    /// Hands the master of a terminal over.
    pub fn tell_terminal(&self, master: &OwnedFd) -> Result<()> {
        self.send(b"t", Some(master.as_fd()))
    }

    /// Tells a failure. Nobody hears of one that cannot be told.
    pub fn tell_failure(&self, failure: &Failure) {
        let mut short = failure.clone();
        short.message = short.message.chars().take(2048).collect();
        let mut data = b"f".to_vec();
        data.extend(serde_json::to_vec(&short).unwrap_or_default());
        let _ = self.send(&data, None);
    }

    /// What was told since; with `wait`, until something is.
    pub fn hear(&self, wait: bool) -> Result<Told> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut data = vec![0u8; PACKET];
        let mut flags = RecvFlags::CMSG_CLOEXEC;
        flags.set(RecvFlags::DONTWAIT, !wait);
        let received = rustix::io::retry_on_intr(|| {
            rustix::net::recvmsg(&self.0, &mut [IoSliceMut::new(&mut data)], &mut control, flags)
        });
        let length = match received {
            Ok(received) => received.bytes,
            Err(Errno::AGAIN) => return Ok(Told::Nothing),
            Err(e) => return Err(e).context(|| "cannot hear a child"),
        };
        let mut fds = control.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        match data[..length].split_first() {
            None => Ok(Told::Closed),
            Some((b'g', _)) => Ok(Told::Go),
            Some((b'p', pid)) => {
                Ok(pid.try_into().map_or(Told::Nothing, |pid| Told::Pid(i32::from_ne_bytes(pid))))
            }
            Some((b't', _)) => Ok(fds.next().map_or(Told::Nothing, Told::Terminal)),
            Some((_, failure)) => Ok(Told::Failed(
                serde_json::from_slice(failure).unwrap_or_else(|_| system("a child failed without a reason")),
            )),
        }
    }
}
