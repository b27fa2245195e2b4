//! Terminals of containers: made inside by the process itself, and handed out over a socket.

use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::platform::raw::make_raw;
use crate::platform::socket::{connect, receive_descriptor, send_descriptor};
use oci_spec::runtime::Process;
use rustix::fs::{FileType, Mode, OFlags, fstat, fstatfs};
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::{Gid, Uid};
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// `DEVPTS_SUPER_MAGIC` of statfs(2).
const DEVPTS_SUPER_MAGIC: i64 = 0x1cd1;

/// What a process needs to hand its terminal out.
#[derive(Debug)]
pub struct ChildEnd {
    /// Where it sends the master.
    socket: OwnedFd,
    /// Size of the terminal, where the configuration has none.
    size: Option<Winsize>,
}

/// What the caller wants to happen with the terminal of a process.
#[derive(Debug)]
pub enum Console {
    /// The process has none.
    None,
    /// The caller's socket receives the master.
    Socket(OwnedFd),
    /// We forward between the master and our own terminal.
    Foreground {
        /// Where the master arrives.
        ours: OwnedFd,
        /// Where the process sends it.
        theirs: OwnedFd,
    },
}

impl Console {
    /// Checks, in runc's words, that terminal, detaching and socket fit together, and connects to the socket.
    pub fn open(terminal: bool, detach: bool, socket: Option<&Path>) -> Result<Self> {
        match (terminal, detach, socket) {
            (true, true, Some(path)) => Ok(Self::Socket(connect(path)?)),
            (true, true, None) => {
                crate::bail!(
                    Usage,
                    "cannot allocate tty if magikrun will detach without setting console socket"
                )
            }
            (_, _, Some(_)) => {
                crate::bail!(Usage, "cannot use console socket if magikrun will not detach or allocate tty")
            }
            (true, false, None) => {
                let (ours, theirs) = rustix::net::socketpair(
                    AddressFamily::UNIX,
                    SocketType::STREAM,
                    SocketFlags::CLOEXEC,
                    None,
                )
                .context(|| "cannot make a socket pair")?;
                Ok(Self::Foreground { ours, theirs })
            }
            (false, _, None) => Ok(Self::None),
        }
    }

    /// The end for the process.
    pub fn for_child(&self) -> Result<Option<ChildEnd>> {
        let (socket, size) = match self {
            Self::None => return Ok(None),
            Self::Socket(socket) => (socket, None),
            // Ours, from the program's first moment on; later changes are passed on.
            Self::Foreground { theirs, .. } => {
                (theirs, rustix::termios::tcgetwinsize(rustix::stdio::stdin()).ok())
            }
        };
        Ok(Some(ChildEnd { socket: socket.try_clone()?, size }))
    }

    /// Hands out the master of a terminal that was made for the process, as the process would.
    pub fn hand_out(&self, master: OwnedFd) -> Result<()> {
        match self {
            Self::None => Ok(()),
            Self::Socket(socket) => send_descriptor(socket, master.as_fd(), b"/dev/ptmx"),
            Self::Foreground { theirs, .. } => send_descriptor(theirs, master.as_fd(), b"/dev/ptmx"),
        }
    }

    /// The master that a foreground process has sent.
    pub fn master(self) -> Result<Option<OwnedFd>> {
        match self {
            Self::Foreground { ours, theirs } => {
                drop(theirs);
                receive_terminal(&ours).map(Some)
            }
            _ => Ok(None),
        }
    }
}

/// The terminal that a process has sent.
fn receive_terminal(socket: &OwnedFd) -> Result<OwnedFd> {
    let (_, terminal) = receive_descriptor(socket, &mut [0u8; 64])?;
    terminal.ok_or_else(|| Error::new(ErrorKind::System, "the container has sent no terminal"))
}

/// The terminal that a process makes for itself.
#[derive(Debug)]
pub struct ConsolePlan {
    socket: OwnedFd,
    size: Option<Winsize>,
    owner: u32,
}

impl ConsolePlan {
    /// The master goes to the socket of `end`; size and owner are those of the process object.
    pub fn new(end: ChildEnd, process: &Process) -> Self {
        let size = process.console_size().map(|size| Winsize {
            ws_row: u16::try_from(size.height()).unwrap_or(u16::MAX),
            ws_col: u16::try_from(size.width()).unwrap_or(u16::MAX),
            ws_xpixel: 0,
            ws_ypixel: 0,
        });
        Self { socket: end.socket, size: size.or(end.size), owner: process.user().uid() }
    }

    /// Size of the terminal, if it is known.
    pub fn size(&self) -> Option<Winsize> {
        self.size
    }
}

/// Makes a terminal, in the devpts of the root that this process has entered: its master, and its other end.
fn make(size: Option<Winsize>) -> Result<(OwnedFd, OwnedFd)> {
    let master = open_master()?;
    rustix::pty::unlockpt(&master).context(|| "cannot unlock the terminal")?;
    // The peer is opened by the master, so nothing in the container's file system can be opened in its place.
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags).context(|| "cannot open the terminal")?;
    if let Some(size) = size {
        rustix::termios::tcsetwinsize(&slave, size).context(|| "cannot set the size of the terminal")?;
    }
    Ok((master, slave))
}

/// Makes a terminal on the host for a process that is elsewhere: sends the master away, and returns the other end, for what passes
/// everything on. What goes through is not changed: the process has a terminal of its own that does that.
pub fn make_on_host(plan: &ConsolePlan) -> Result<OwnedFd> {
    let (master, slave) = make(plan.size)?;
    make_raw(slave.as_fd())?;
    send_descriptor(&plan.socket, master.as_fd(), b"/dev/ptmx")?;
    Ok(slave)
}

/// Makes a terminal the controlling one of this session, and the three standard descriptors.
pub fn take_over(slave: &OwnedFd) -> Result<()> {
    rustix::process::ioctl_tiocsctty(slave).context(|| "cannot set the controlling terminal")?;
    rustix::stdio::dup2_stdin(slave)
        .and_then(|()| rustix::stdio::dup2_stdout(slave))
        .and_then(|()| rustix::stdio::dup2_stderr(slave))
        .context(|| "cannot set the standard descriptors")
}

/// Makes a terminal, in the devpts of the root that this process has entered: sends the master away, and makes the other
/// end the controlling terminal and the three standard descriptors. With `console` it is also bound to that path.
///
/// The caller must be a session leader without a terminal.
pub fn set_up(plan: &ConsolePlan, console: Option<&Path>) -> Result<()> {
    let (master, slave) = make(plan.size)?;
    let owner = Uid::from_raw(plan.owner);
    match rustix::fs::fchown(&slave, Some(owner), None::<Gid>) {
        // An id that the user namespace does not map, or a read-only devpts: the terminal stays root's.
        Ok(()) | Err(rustix::io::Errno::PERM | rustix::io::Errno::INVAL | rustix::io::Errno::ROFS) => {}
        Err(e) => return Err(e).context(|| "cannot give the terminal to the user of the process"),
    }
    if let Some(path) = console {
        bind_console(slave.as_fd(), path)
            .map_err(|e| e.wrap(format!("cannot bind the terminal to '{}'", path.display())))?;
    }
    send_descriptor(&plan.socket, master.as_fd(), b"/dev/ptmx")?;
    take_over(&slave)
}

/// Opens a new master. It must come from a real devpts: an image, or a racing container, could have put a file or
/// another device there (CVE-2025-52565).
fn open_master() -> Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let master = rustix::fs::open("/dev/pts/ptmx", flags, Mode::empty())
        .or_else(|_| rustix::fs::open("/dev/ptmx", flags - OFlags::NOFOLLOW, Mode::empty()))
        .context(|| "cannot open '/dev/pts/ptmx'")?;
    let stat = fstat(&master)?;
    let is_ptmx = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
        && (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev)) == (5, 2);
    if !is_ptmx {
        crate::bail!(CreateFailed, "cannot make a terminal: '/dev/ptmx' is not the multiplexer of a devpts");
    }
    Ok(master)
}

fn bind_console(slave: BorrowedFd<'_>, path: &Path) -> Result<()> {
    if fstatfs(slave)?.f_type != DEVPTS_SUPER_MAGIC {
        crate::bail!(CreateFailed, "the terminal is not on a devpts");
    }
    let flags = OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::WRONLY | OFlags::NONBLOCK;
    let made = rustix::fs::open(path, flags | OFlags::EXCL, Mode::from_raw_mode(0o666));
    if let Err(e) = made
        && e != rustix::io::Errno::EXIST
    {
        return Err(e.into());
    }
    let target = rustix::fs::open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    if FileType::from_raw_mode(fstat(&target)?.st_mode) == FileType::Symlink {
        return Err(Error::from_errno(libc::ELOOP));
    }
    let clone =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    let tree = open_tree(slave, "", clone)?;
    let both = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(&tree, "", &target, "", both)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminal_detaching_and_socket_must_fit_together() {
        let e = Console::open(true, true, None).unwrap_err();
        assert!(e.message().starts_with("cannot allocate tty if"), "{e}");
        for (terminal, detach) in [(true, false), (false, false), (false, true)] {
            let e = Console::open(terminal, detach, Some(Path::new("/nonexistent"))).unwrap_err();
            assert!(e.message().starts_with("cannot use console socket if"), "{e}");
        }
        assert!(matches!(Console::open(false, true, None).unwrap(), Console::None));
    }

    #[test]
    fn a_descriptor_arrives_at_the_other_end() {
        let Console::Foreground { ours, theirs } = Console::open(true, false, None).unwrap() else {
            panic!("not a foreground console")
        };
        let null = rustix::fs::open("/dev/null", OFlags::RDWR, Mode::empty()).unwrap();
        send_descriptor(&theirs, null.as_fd(), b"x").unwrap();
        let arrived = receive_terminal(&ours).unwrap();
        assert_eq!(fstat(&arrived).unwrap().st_rdev, fstat(&null).unwrap().st_rdev);
    }
}
