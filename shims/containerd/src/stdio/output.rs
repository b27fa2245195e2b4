//! Output on its way to whoever reads it.
//!
//! Clients stop to read when they hear that the process has ended: the library of containerd 1.6 closes its FIFOs at once, and later ones
//! those that they have not opened yet. So the end is told when the output has been read.

use super::{OUTPUT_DEADLINE, READ_DEADLINE};
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

    /// What changes whenever some of it is moved or read.
    fn progress(&self) -> Progress {
        let waiting = self.fifos.iter().map(|fifo| rustix::io::ioctl_fionread(fifo).unwrap_or(0));
        (self.relay.moved(self.owner), waiting.sum())
    }

    /// Waits until everything has been read, for as long as there is [`Patience`].
    pub fn wait_read(&self) {
        self.wait(Patience::new(Instant::now(), self.progress()));
    }

    fn wait(&self, mut patience: Patience) {
        let mut pause = PAUSES.0;
        while !self.is_read() && !patience.is_over(Instant::now(), self.progress()) {
            std::thread::sleep(pause);
            pause = (pause * 2).min(PAUSES.1);
        }
    }
}

/// How many bytes were moved, and how many wait to be read.
type Progress = (u64, u64);

/// How long a reader is waited for: one that does not read, or hardly, must not keep an end secret.
struct Patience {
    began: Instant,
    last: Instant,
    progress: Progress,
    /// For how long without progress, and in all.
    limits: (Duration, Duration),
}

impl Patience {
    fn new(now: Instant, progress: Progress) -> Self {
        Self { began: now, last: now, progress, limits: (OUTPUT_DEADLINE, READ_DEADLINE) }
    }

    /// Whether it is over: there was no progress for a while, or too little in all.
    fn is_over(&mut self, now: Instant, progress: Progress) -> bool {
        if progress != self.progress {
            (self.last, self.progress) = (now, progress);
        }
        now >= self.last + self.limits.0 || now >= self.began + self.limits.1
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
        poll(&mut [PollFd::new(&reader, PollFlags::IN)], None).unwrap();
        // More than a machine that has much else to do needs for this.
        let hour = Duration::from_secs(3600);
        let patience = Patience { limits: (hour, hour), ..Patience::new(Instant::now(), output.progress()) };
        let waiting = std::thread::spawn(move || {
            output.wait(patience);
            (output.is_read(), output.progress())
        });
        std::thread::sleep(PAUSES.1);
        assert!(!waiting.is_finished());
        assert_eq!(reader.read(&mut [0; 16]).unwrap(), 5);
        // The process still has its output open: that it may write more is nothing to wait for.
        assert_eq!(waiting.join().unwrap(), (true, (5, 0)));
        drop(process);
    }

    #[test]
    fn a_slow_reader_is_waited_for_as_long_as_it_reads_but_not_for_ever() {
        let began = Instant::now();
        let after = |millis| began + Duration::from_millis(millis);
        let mut patience = Patience::new(began, (7, 9));
        assert!(!patience.is_over(after(1999), (7, 9)));
        assert!(patience.is_over(after(2000), (7, 9)));
        // A byte each second. That nobody looked for longer than the reader may take is not its fault.
        for (millis, waiting) in [(4000, 8), (5999, 8), (6000, 7), (7999, 6), (9000, 5), (9999, 5)] {
            assert!(!patience.is_over(after(millis), (7, waiting)), "{millis}");
        }
        assert!(patience.is_over(after(10_000), (7, 4)));
        // What is moved into a FIFO as fast as it is read is progress too.
        let mut patience = Patience::new(began, (7, 9));
        assert!(!patience.is_over(after(2000), (8, 9)));
        assert!(patience.is_over(after(4000), (8, 9)));
    }
}
