//! A process that copies to an output of the virtual machine.
//!
//! Writing to a port without waiting does not tell whether the host has taken it, so that the end of the virtual machine could come
//! first; and writing with waiting would keep the guest's loop from everything else. So another process waits.

use crate::failure::{Context as _, Result};
use crate::ffi::{self, Child, CloneArgs};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// The way to an output.
#[derive(Debug)]
pub struct Pump {
    /// Where what is to be written goes to.
    pub input: OwnedFd,
    /// What the process reads, for the next one; none when the output takes nothing any more.
    reader: Option<OwnedFd>,
    child: Child,
}

impl Pump {
    /// A process that copies to `output`.
    pub fn new(output: &OwnedFd) -> Result<Self> {
        let cannot = || "cannot set up an output";
        let (reader, input) = pipe_with(PipeFlags::CLOEXEC).context(cannot)?;
        rustix::io::ioctl_fionbio(&input, true).context(cannot)?;
        let child = start(&reader, output).context(cannot)?;
        Ok(Self { input, reader: Some(reader), child })
    }

    /// A child of ours has ended. Another one goes on for one that was killed; one that has ended by itself could not write.
    pub fn ended(&mut self, pid: i32, killed: bool, output: &OwnedFd) {
        if pid != self.child.pid {
            return;
        }
        let next = self.reader.take().filter(|_| killed);
        let next = next.and_then(|reader| start(&reader, output).ok().map(|child| (reader, child)));
        if let Some((reader, child)) = next {
            (self.reader, self.child) = (Some(reader), child);
        }
    }

    /// Waits until everything was written, at most for `patience`.
    pub fn finish(self, patience: Duration) {
        let until = Instant::now() + patience;
        drop(self.input);
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
            let mut fds = [PollFd::from_borrowed_fd(self.child.pidfd.as_fd(), PollFlags::IN)];
            if rustix::event::poll(&mut fds, Some(&timeout)) != Err(Errno::INTR) {
                return;
            }
        }
    }
}

fn start(reader: &OwnedFd, output: &OwnedFd) -> std::io::Result<Child> {
    ffi::clone3(&CloneArgs::default(), || {
        let ready = rustix::stdio::dup2_stdin(reader).and_then(|()| rustix::stdio::dup2_stdout(output));
        // Its own copy of the writing end, above all: it would never see the end.
        if ready.is_err() || ffi::close_from(3).is_err() {
            return 1;
        }
        copy(rustix::stdio::stdin(), rustix::stdio::stdout())
    })
}

/// Copies to the end of the input, or until nobody takes it.
fn copy(input: BorrowedFd<'_>, output: BorrowedFd<'_>) -> i32 {
    let mut buffer = [0u8; 8 << 10];
    loop {
        let length = match rustix::io::read(input, &mut buffer) {
            Ok(0) => return 0,
            Ok(length) => length,
            Err(Errno::INTR) => continue,
            Err(_) => return 1,
        };
        let mut rest = &buffer[..length];
        while !rest.is_empty() {
            match rustix::io::write(output, rest) {
                Ok(written) => rest = &rest[written..],
                Err(Errno::INTR) => {}
                Err(_) => return 1,
            }
        }
    }
}
