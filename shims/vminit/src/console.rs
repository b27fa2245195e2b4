//! The standard streams of the virtual machine itself, for the container that has them.

use crate::failure::Result;
use crate::ports::Machine;
use crate::pump::Pump;
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use std::os::fd::OwnedFd;
use std::time::Duration;
use vm_protocol::frame::Kind;

/// Bytes written at once: a pipe that says it can be written takes this much without waiting.
const PIECE: usize = 4096;

/// The standard streams.
#[derive(Debug)]
pub struct Console {
    machine: Machine,
    outputs: [Pump; 2],
    input_open: bool,
    pending: [Vec<u8>; 2],
}

fn index(kind: Kind) -> usize {
    usize::from(kind == Kind::Stderr)
}

impl Console {
    /// On the streams of the virtual machine.
    pub fn new(machine: Machine) -> Result<Self> {
        let [stdout, stderr] = &machine.outputs;
        let outputs = [Pump::new(stdout)?, Pump::new(stderr)?];
        Ok(Self { machine, outputs, input_open: true, pending: Default::default() })
    }

    /// Waits until the host has taken everything, at most for `patience`.
    pub fn finish(self, patience: Duration) {
        self.outputs.into_iter().for_each(|output| output.finish(patience));
    }

    /// A child has ended: it may be one that copies output.
    pub fn ended(&mut self, pid: i32, killed: bool) {
        for (pump, output) in self.outputs.iter_mut().zip(&self.machine.outputs) {
            pump.ended(pid, killed, output);
        }
    }

    /// Nobody reads the input.
    pub fn close_input(&mut self) {
        self.input_open = false;
    }

    /// Adds to what is to be written.
    pub fn push(&mut self, kind: Kind, data: &[u8]) {
        self.pending[index(kind)].extend_from_slice(data);
    }

    /// Whether more output can be taken.
    pub fn has_room(&self) -> bool {
        self.is_flushed()
    }

    /// Whether everything was written.
    pub fn is_flushed(&self) -> bool {
        self.pending.iter().all(Vec::is_empty)
    }

    /// What to wait for; input only if it is wanted.
    pub fn wait_for<'a>(&'a self, input: bool, mut add: impl FnMut(PollFd<'a>)) {
        if input && self.input_open {
            add(PollFd::new(&self.machine.stdin, PollFlags::IN));
        }
        for (output, pending) in self.outputs.iter().zip(&self.pending) {
            if !pending.is_empty() {
                add(PollFd::new(&output.input, PollFlags::OUT));
            }
        }
    }

    /// Writes what can be written without waiting.
    pub fn write(&mut self) {
        for (output, pending) in self.outputs.iter().zip(&mut self.pending) {
            while !pending.is_empty() && ready(&output.input, PollFlags::OUT) {
                let piece = pending.len().min(PIECE);
                match rustix::io::write(&output.input, &pending[..piece]) {
                    Ok(written) => drop(pending.drain(..written)),
                    Err(Errno::INTR) => {}
                    Err(Errno::AGAIN) => break,
                    // Nobody reads it any more.
                    Err(_) => pending.clear(),
                }
            }
        }
    }

    /// Reads input if there is some: none when there is nothing now, nothing at its end.
    pub fn read(&mut self) -> Option<Vec<u8>> {
        if !self.input_open || !ready(&self.machine.stdin, PollFlags::IN) {
            return None;
        }
        let mut data = vec![0u8; PIECE];
        match rustix::io::read(&self.machine.stdin, &mut data) {
            Err(Errno::AGAIN | Errno::INTR) => return None,
            read => data.truncate(read.unwrap_or(0)),
        }
        if data.is_empty() {
            self.input_open = false;
        }
        Some(data)
    }
}

fn ready(fd: &OwnedFd, what: PollFlags) -> bool {
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    rustix::event::poll(&mut [PollFd::new(fd, what)], Some(&now)).is_ok_and(|count| count > 0)
}
