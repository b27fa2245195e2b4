//! Terminals: the socket on which the runtime hands over the master, and its size.

use crate::error::{Context as _, Error, Result};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use rustix::termios::Winsize;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use tempfile::TempDir;

/// A socket that waits for the master of a terminal.
pub struct ConsoleSocket {
    listener: UnixListener,
    path: PathBuf,
    /// A bundle's path is too long for a socket, so it is in a folder of its own, which goes away with it.
    _folder: TempDir,
}

impl ConsoleSocket {
    /// A new socket.
    pub fn new() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("magikrun-pty").tempdir();
        let folder = folder.context(|| "cannot make a folder for a terminal's socket")?;
        let path = folder.path().join("s");
        let listener = UnixListener::bind(&path).context(|| "cannot make a terminal's socket")?;
        Ok(Self { listener, path, _folder: folder })
    }

    /// The value of `--console-socket`.
    pub fn path(&self) -> &PathBuf {
        &self.path
    }

    /// The master that the runtime has sent. Call when the runtime has succeeded: then it is there.
    pub fn receive(&self) -> Result<OwnedFd> {
        self.listener.set_nonblocking(true).context(|| "cannot receive a terminal")?;
        let (stream, _) = self.listener.accept().context(|| "the runtime has sent no terminal")?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut name = [0; 128];
        let mut parts = [IoSliceMut::new(&mut name)];
        rustix::net::recvmsg(&stream, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)
            .context(|| "cannot receive a terminal")?;
        let descriptors = control.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
            _ => None,
        });
        descriptors
            .flatten()
            .next()
            .ok_or_else(|| Error::new("cannot receive a terminal: there is no descriptor in the message"))
    }
}

/// Changes the size of a terminal, in characters.
pub fn resize(master: &OwnedFd, width: u32, height: u32) -> Result<()> {
    let side = |length: u32| u16::try_from(length).unwrap_or(u16::MAX);
    let size = Winsize { ws_row: side(height), ws_col: side(width), ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(master, size).context(|| "cannot change the size of the terminal")
}
