//! The standard streams of containers, as the monitor has them.

use crate::error::{Error, ErrorKind, Result};
use crate::infra::wire::ready;
use crate::pod::plan::{ContainerPlan, Input};
use rustix::event::PollFlags;
use rustix::io::{Errno, fcntl_dupfd_cloexec, ioctl_fionbio};
use rustix::pipe::{PipeFlags, pipe_with};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::Duration;

/// Bytes read at once from a container's output.
const BUFFER: usize = 16 << 10;

/// Most reads of what a container has left in a stream: 1 MiB, the most that a pipe holds unless the host's root says otherwise.
const MAX_RESTS: usize = (1 << 20) / BUFFER;

/// An output of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stream {
    Stdout,
    Stderr,
}

/// Our ends of a container's standard streams. With a terminal, its master takes the place of standard output.
#[derive(Debug, Default)]
pub(super) struct Streams {
    input: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
}

/// The container's ends.
#[derive(Debug, Default)]
pub(super) struct Theirs {
    stdin: Option<OwnedFd>,
    outputs: Option<(OwnedFd, OwnedFd)>,
}

impl Streams {
    /// The pipes of a container that has no terminal; one that has makes its own.
    pub(super) fn new(plan: &ContainerPlan) -> Result<(Self, Theirs)> {
        if plan.tty {
            return Ok((Self::default(), Theirs::default()));
        }
        let (stdout, their_stdout) = pipe_with(PipeFlags::CLOEXEC)?;
        let (stderr, their_stderr) = pipe_with(PipeFlags::CLOEXEC)?;
        for end in [&stdout, &stderr] {
            ioctl_fionbio(end, true)?;
        }
        let input = (plan.input != Input::None).then(|| pipe_with(PipeFlags::CLOEXEC)).transpose()?;
        let (stdin, input) = input.unzip();
        let ours = Self { input, stdout: Some(stdout), stderr: Some(stderr) };
        Ok((ours, Theirs { stdin, outputs: Some((their_stdout, their_stderr)) }))
    }

    /// Those of a container in a guest, and the end from which what clients write for it goes there. What it writes comes from the guest.
    pub(super) fn of_guest(plan: &ContainerPlan) -> Result<(Self, Option<OwnedFd>)> {
        if plan.input == Input::None {
            return Ok((Self::default(), None));
        }
        let (theirs, input) = pipe_with(PipeFlags::CLOEXEC)?;
        ioctl_fionbio(&theirs, true)?;
        Ok((Self { input: Some(input), ..Self::default() }, Some(theirs)))
    }

    /// The container has made its terminal.
    pub(super) fn set_terminal(&mut self, master: OwnedFd, input: Input) -> Result<()> {
        ioctl_fionbio(&master, true)?;
        self.input = (input != Input::None).then(|| master.try_clone()).transpose()?;
        self.stdout = Some(master);
        Ok(())
    }

    /// The outputs that are still open.
    pub(super) fn outputs(&self) -> impl Iterator<Item = (Stream, BorrowedFd<'_>)> {
        let stdout = self.stdout.iter().map(|fd| (Stream::Stdout, fd.as_fd()));
        stdout.chain(self.stderr.iter().map(|fd| (Stream::Stderr, fd.as_fd())))
    }

    fn slot(&mut self, stream: Stream) -> &mut Option<OwnedFd> {
        if stream == Stream::Stdout { &mut self.stdout } else { &mut self.stderr }
    }

    /// Some of what the container has written, without waiting. At its end the stream is closed.
    pub(super) fn read(&mut self, stream: Stream) -> Option<Vec<u8>> {
        let slot = self.slot(stream);
        let mut buffer = vec![0u8; BUFFER];
        match rustix::io::read(slot.as_ref()?, &mut buffer) {
            Ok(read @ 1..) => {
                buffer.truncate(read);
                return Some(buffer);
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            // A terminal that nobody has open any more answers EIO.
            _ => *slot = None,
        }
        None
    }

    /// What is still there of all that the container has written.
    pub(super) fn rest(mut self) -> Vec<(Stream, Vec<u8>)> {
        let mut all = Vec::new();
        for stream in [Stream::Stdout, Stream::Stderr] {
            for _ in 0..MAX_RESTS {
                let Some(fd) = self.slot(stream) else { break };
                if !ready(fd.as_fd(), PollFlags::IN, Some(Duration::ZERO)).unwrap_or(false) {
                    break;
                }
                all.extend(self.read(stream).map(|data| (stream, data)));
            }
        }
        all
    }

    /// The container's standard input, for a client that attaches to it. The only one there is, if it is for one client; a terminal
    /// stays open after that, since it is the output too.
    pub(super) fn lend_input(&mut self, plan: &ContainerPlan) -> Result<OwnedFd> {
        let name = &plan.name;
        let given = match (plan.input, plan.tty) {
            (Input::None, _) => {
                crate::bail!(
                    InvalidState,
                    "container '{name}' has no standard input: its manifest does not say 'stdin: true'"
                )
            }
            (Input::Once, false) => self.input.take(),
            _ => self.input.as_ref().map(OwnedFd::try_clone).transpose()?,
        };
        given.ok_or_else(|| {
            Error::new(
                ErrorKind::InvalidState,
                format!("the standard input of container '{name}' was for one client, which has had it (stdinOnce)"),
            )
        })
    }
}

impl Theirs {
    /// Runs `job` with these three as descriptors to be passed on: input, output, second output.
    pub(super) fn lent_to(self, job: impl FnOnce(&[BorrowedFd<'_>]) -> Result<()>) -> Result<()> {
        let Some((stdout, stderr)) = &self.outputs else {
            crate::bail!(System, "it has no standard streams");
        };
        // Without an input it is that of this process: nothing.
        let stdin = self.stdin.as_ref().map_or_else(|| rustix::stdio::stdin(), |stdin| stdin.as_fd());
        job(&[stdin, stdout.as_fd(), stderr.as_fd()])
    }

    /// Runs `job` with these as standard streams, for children of it to keep.
    pub(super) fn given_to<T>(self, job: impl FnOnce() -> Result<T>) -> Result<T> {
        match &self.outputs {
            Some((stdout, stderr)) => with_streams(self.stdin.as_ref(), stdout, stderr, job),
            None => job(),
        }
    }
}

/// Runs `job` with these as standard streams, nothing as standard input if there is none; children of it keep them.
pub(super) fn with_streams<T>(
    stdin: Option<&OwnedFd>,
    stdout: &OwnedFd,
    stderr: &OwnedFd,
    job: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let null = fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
    if let Some(stdin) = stdin {
        rustix::stdio::dup2_stdin(stdin)?;
    }
    rustix::stdio::dup2_stdout(stdout)?;
    rustix::stdio::dup2_stderr(stderr)?;
    let done = job();
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    done
}
