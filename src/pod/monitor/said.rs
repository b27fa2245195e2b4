//! The last words of a process that the monitor has made.

use crate::error::Result;
use crate::vm::connection::shown;
use rustix::pipe::{PipeFlags, pipe_with};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

/// How much of what a process says last is kept, in bytes.
const MAX_SAID: usize = 1 << 10;

/// What a process has said last.
#[derive(Debug)]
pub(super) struct Said {
    pipe: Option<OwnedFd>,
    last: Vec<u8>,
}

impl Said {
    /// A pipe, whose writing end a process is to have as its output.
    pub(super) fn new() -> Result<(Self, OwnedFd)> {
        let (pipe, theirs) = pipe_with(PipeFlags::CLOEXEC)?;
        rustix::io::ioctl_fionbio(&pipe, true)?;
        Ok((Self { pipe: Some(pipe), last: Vec::new() }, theirs))
    }

    /// Where more can come from.
    pub(super) fn source(&self) -> Option<BorrowedFd<'_>> {
        self.pipe.as_ref().map(|pipe| pipe.as_fd())
    }

    /// Takes what has come, without waiting.
    pub(super) fn read(&mut self) {
        let mut buffer = [0u8; MAX_SAID];
        while let Some(fd) = &self.pipe {
            match rustix::io::read(fd, &mut buffer) {
                Ok(read @ 1..) => {
                    self.last.extend_from_slice(&buffer[..read]);
                    let surplus = self.last.len().saturating_sub(MAX_SAID);
                    self.last.drain(..surplus);
                }
                Err(rustix::io::Errno::AGAIN) => return,
                Err(rustix::io::Errno::INTR) => {}
                _ => self.pipe = None,
            }
        }
    }

    /// What is to be added to the message that the process has ended.
    pub(super) fn suffix(&mut self) -> String {
        self.read();
        let said = shown(String::from_utf8_lossy(&self.last).trim());
        if said.is_empty() { said } else { format!(": {said}") }
    }
}
