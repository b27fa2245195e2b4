//! Output on its way to whoever reads it.
//!
//! Clients stop to read when they hear that the process has ended: the library of containerd 1.6 closes its FIFOs at once, and later ones
//! those that they have not opened yet. So the end is told when the output has been read.

use super::OUTPUT_DEADLINE;
use crate::relay::Relay;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The first and the longest pause between two looks: nothing wakes up whoever waits for a FIFO to become empty.
const PAUSES: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(20));

/// The output of a process.
pub struct Output {
    pub(super) relay: Arc<Relay>,
    pub(super) owner: u64,
    /// The reading sides of the FIFOs that it goes to.
    pub(super) fifos: Vec<OwnedFd>,
}

impl Output {
    /// Whether everything that was written so far has been read.
    pub fn is_read(&self) -> bool {
        let is_empty = |fifo| rustix::io::ioctl_fionread(fifo).is_ok_and(|count| count == 0);
        // In this order: nothing is between the two.
        self.relay.has_moved_all(self.owner) && self.fifos.iter().all(is_empty)
    }

    /// Waits until everything has been read, at most until the deadline: a reader that does not read must not keep an end secret.
    pub fn wait_read(&self) {
        let end = Instant::now() + OUTPUT_DEADLINE;
        let mut pause = PAUSES.0;
        while !self.is_read() && Instant::now() < end {
            std::thread::sleep(pause);
            pause = (pause * 2).min(PAUSES.1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, poll};
    use rustix::pipe::{PipeFlags, pipe_with};
    use std::io::{Read as _, Write as _};

    #[test]
    fn output_is_read_when_it_is_neither_on_its_way_nor_in_the_fifo() {
        let pipe = || pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).unwrap();
        let ((source, process), (fifo, destination)) = (pipe(), pipe());
        let relay = Relay::start().unwrap();
        let owner = relay.owner();
        let mut reader = std::fs::File::from(fifo.try_clone().unwrap());
        let output = Output { relay: Arc::clone(&relay), owner, fifos: vec![fifo] };
        relay.pump(owner, true, source, destination).unwrap();
        assert!(output.is_read());
        std::fs::File::from(process.try_clone().unwrap()).write_all(b"last\n").unwrap();
        assert!(!output.is_read());
        let waiting = std::thread::spawn(move || output.wait_read());
        std::thread::sleep(PAUSES.1);
        assert!(!waiting.is_finished());
        poll(&mut [PollFd::new(&reader, PollFlags::IN)], None).unwrap();
        assert_eq!(reader.read(&mut [0; 16]).unwrap(), 5);
        // The process still has its output open: that it may write more is nothing to wait for.
        let began = Instant::now();
        waiting.join().unwrap();
        assert!(began.elapsed() < OUTPUT_DEADLINE / 2);
        drop(process);
    }
}
