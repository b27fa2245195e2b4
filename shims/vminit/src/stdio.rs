//! The standard streams of processes: pipes, terminals, and the ports of the virtual machine's own.

use crate::failure::{Context as _, Result, system};
use rustix::fs::{FileType, Mode, OFlags, fstat};
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;
use std::os::fd::OwnedFd;
use vm_protocol::spec::{Process, Size};

/// The child's ends of its standard streams.
#[derive(Debug)]
pub enum ChildStdio {
    /// Input, output, error.
    Descriptors(OwnedFd, OwnedFd, OwnedFd),
    /// A terminal that it makes in the devpts of its container.
    NewTerminal,
}

/// Our ends of the standard streams of a child.
#[derive(Debug, Default)]
pub struct OurStdio {
    /// Where its input is written to.
    pub stdin: Option<OwnedFd>,
    /// Where its output is read from.
    pub stdout: Option<OwnedFd>,
    /// Where its errors are read from.
    pub stderr: Option<OwnedFd>,
}

/// A pipe whose end of ours does not block: reader and writer.
fn pipe(ours_reads: bool) -> Result<(OwnedFd, OwnedFd)> {
    let cannot = || "cannot make a pipe";
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).context(cannot)?;
    rustix::io::ioctl_fionbio(if ours_reads { &reader } else { &writer }, true).context(cannot)?;
    Ok((reader, writer))
}

fn null() -> Result<OwnedFd> {
    rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .context(|| "cannot open '/dev/null'")
}

/// Pipes for output, and with `input` for input.
pub fn pipes(input: bool) -> Result<(OurStdio, ChildStdio)> {
    let (stdout, their_stdout) = pipe(true)?;
    let (stderr, their_stderr) = pipe(true)?;
    let (their_stdin, stdin) = if input {
        let (reader, writer) = pipe(false)?;
        (reader, Some(writer))
    } else {
        (null()?, None)
    };
    let ours = OurStdio { stdin, stdout: Some(stdout), stderr: Some(stderr) };
    Ok((ours, ChildStdio::Descriptors(their_stdin, their_stdout, their_stderr)))
}

/// No streams.
pub fn nothing() -> Result<(OurStdio, ChildStdio)> {
    Ok((OurStdio::default(), ChildStdio::Descriptors(null()?, null()?, null()?)))
}

/// Our ends of a terminal.
pub fn of_terminal(master: OwnedFd) -> Result<OurStdio> {
    let cannot = || "cannot set up a terminal";
    rustix::io::ioctl_fionbio(&master, true).context(cannot)?;
    let writer = master.try_clone().context(cannot)?;
    Ok(OurStdio { stdin: Some(writer), stdout: Some(master), stderr: None })
}

/// A size as the kernel has it.
pub fn winsize(size: Size) -> Winsize {
    Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 }
}

/// In a child that leads a session: makes a terminal its controlling one and its standard streams. Returns its master.
pub fn become_terminal(process: &Process) -> Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let master = rustix::fs::open("/dev/pts/ptmx", flags | OFlags::NOFOLLOW, Mode::empty())
        .or_else(|_| rustix::fs::open("/dev/ptmx", flags, Mode::empty()))
        .context(|| "cannot open '/dev/pts/ptmx'")?;
    let stat = fstat(&master).context(|| "cannot look at '/dev/pts/ptmx'")?;
    let number = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
    if FileType::from_raw_mode(stat.st_mode) != FileType::CharacterDevice || number != (5, 2) {
        return Err(system("cannot make a terminal: '/dev/ptmx' is not the multiplexer of a devpts"));
    }
    rustix::pty::unlockpt(&master).context(|| "cannot unlock the terminal")?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags).context(|| "cannot open the terminal")?;
    if let Some(size) = process.size {
        rustix::termios::tcsetwinsize(&slave, winsize(size))
            .context(|| "cannot set the size of the terminal")?;
    }
    let owner = rustix::process::Uid::from_raw(process.uid);
    rustix::fs::fchown(&slave, Some(owner), None).context(|| "cannot give the terminal away")?;
    rustix::process::ioctl_tiocsctty(&slave).context(|| "cannot set the controlling terminal")?;
    become_standard(&slave, &slave, &slave)?;
    Ok(master)
}

/// In a child: makes these its standard streams.
pub fn become_standard(stdin: &OwnedFd, stdout: &OwnedFd, stderr: &OwnedFd) -> Result<()> {
    rustix::stdio::dup2_stdin(stdin)
        .and_then(|()| rustix::stdio::dup2_stdout(stdout))
        .and_then(|()| rustix::stdio::dup2_stderr(stderr))
        .context(|| "cannot set the standard descriptors")
}
