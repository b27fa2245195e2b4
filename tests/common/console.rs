//! The caller's side of `--console-socket`: a listener that receives the master of the terminal.

use super::process::{DEADLINE, readable};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use std::fs::File;
use std::io::{IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// A listening socket for one terminal.
pub struct ConsoleSocket {
    listener: UnixListener,
    path: PathBuf,
}

/// The master side of a container's terminal.
pub struct Terminal {
    master: File,
    seen: String,
}

impl ConsoleSocket {
    /// Listens at `dir/name`.
    pub fn listen(dir: &Path, name: &str) -> Self {
        let path = dir.join(name);
        let listener = UnixListener::bind(&path).expect("a console socket");
        Self { listener, path }
    }

    /// The path for `--console-socket`.
    pub fn path(&self) -> &str {
        self.path.to_str().expect("a path in UTF-8")
    }

    /// Accepts one connection and the descriptor that comes over it.
    pub fn terminal(&self) -> Terminal {
        assert!(readable(&self.listener), "nothing connected to the console socket");
        let (stream, _) = self.listener.accept().expect("a connection to the console socket");
        assert!(readable(&stream), "nothing came over the console socket");
        let mut name = [0; 4096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut slices = [IoSliceMut::new(&mut name)];
        rustix::net::recvmsg(&stream, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC)
            .expect("a message over the console socket");
        let mut fds: Vec<OwnedFd> = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = message {
                fds.extend(received);
            }
        }
        let master = fds.pop().expect("a descriptor comes over the console socket");
        assert!(rustix::termios::isatty(&master), "what came over the console socket is not a terminal");
        Terminal { master: File::from(master), seen: String::new() }
    }
}

impl Terminal {
    /// A terminal of the test's own, and its other end for a program.
    pub fn open() -> (Self, OwnedFd) {
        use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags).expect("a terminal");
        grantpt(&master).and_then(|()| unlockpt(&master)).expect("its other end can be opened");
        let slave = ioctl_tiocgptpeer(&master, flags).expect("its other end");
        (Self { master: File::from(master), seen: String::new() }, slave)
    }

    /// Reads until `needle` has come and answers everything read so far.
    #[track_caller]
    pub fn read_until(&mut self, needle: &str) -> String {
        let end = Instant::now() + DEADLINE;
        let mut chunk = [0; 4096];
        while !self.seen.contains(needle) {
            assert!(
                Instant::now() < end && readable(&self.master),
                "'{needle}' did not come: {:?}",
                self.seen
            );
            // The master answers EIO once every slave is closed.
            let count = self.master.read(&mut chunk).unwrap_or(0);
            assert!(count > 0, "the terminal closed before '{needle}' came: {:?}", self.seen);
            self.seen.push_str(&String::from_utf8_lossy(&chunk[..count]));
        }
        self.seen.clone()
    }

    /// Types into the terminal.
    pub fn write(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).expect("the terminal takes input");
    }

    /// The size of the terminal, rows and columns.
    pub fn size(&self) -> (u16, u16) {
        let size = rustix::termios::tcgetwinsize(&self.master).expect("the size of the terminal");
        (size.ws_row, size.ws_col)
    }

    /// Sets the size of the terminal.
    pub fn resize(&self, rows: u16, columns: u16) {
        let size = rustix::termios::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(&self.master, size).expect("the terminal takes a size");
    }
}
