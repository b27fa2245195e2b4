//! A process of a container: the first one, or one of `exec`.

use crate::reaper::Exit;
use crate::stdio::{Io, Wanted};
use containerd_shim_protos::api::Status;
use std::os::fd::OwnedFd;

/// Where a process is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// It waits to be started; one of `exec` does not exist yet.
    Created,
    /// It is being started. That it has ended is not told before that it was started.
    Starting,
    /// It was started.
    Running,
}

/// What hears of the end of a process.
pub type Waiter = Box<dyn FnOnce(Exit) + Send>;

/// A process, as containerd knows it.
pub struct Process {
    /// The pid on the host; 0 as long as there is none.
    pub pid: i32,
    /// Where it is in its life.
    pub phase: Phase,
    /// Where its streams were wanted.
    pub wanted: Wanted,
    /// Its streams.
    pub io: Option<Io>,
    /// Its handle, for signals to a process of `exec`.
    pub pidfd: Option<OwnedFd>,
    /// Signals that are being sent. That it has ended is told after them: containerd deletes a container as soon as it hears of its end,
    /// and hangs up on the call that sends the signal.
    pub kills: usize,
    /// Whether its output is still being read. That it has ended is told after that: clients stop to read when they hear of it.
    pub is_being_read: bool,
    /// The JSON of a process of `exec` that is not started.
    pub spec: Vec<u8>,
    /// How it ended, once that was told.
    exit: Option<Exit>,
    /// How it ended, while that must not be told yet.
    held: Option<Exit>,
    waiters: Vec<Waiter>,
}

impl Process {
    /// A process that waits to be started.
    pub fn new(wanted: Wanted) -> Self {
        Self {
            pid: 0,
            phase: Phase::Created,
            wanted,
            io: None,
            pidfd: None,
            kills: 0,
            is_being_read: false,
            spec: Vec::new(),
            exit: None,
            held: None,
            waiters: Vec::new(),
        }
    }

    /// How it ended.
    pub fn exit(&self) -> Option<Exit> {
        self.exit
    }

    /// Whether it exists, as far as is known.
    pub fn is_alive(&self) -> bool {
        self.pid != 0 && !self.has_ended()
    }

    /// Whether it has ended, also where that was not told yet.
    pub fn has_ended(&self) -> bool {
        self.exit.or(self.held).is_some()
    }

    /// Whether its end is to be told, now or later: it exists, is being made, or has ended a moment ago.
    pub fn is_untold(&self) -> bool {
        self.exit.is_none() && (self.pid != 0 || self.phase == Phase::Starting)
    }

    /// The status, for a container that is not paused.
    pub fn status(&self) -> Status {
        match (self.exit, self.phase) {
            (Some(_), _) => Status::STOPPED,
            (None, Phase::Running) => Status::RUNNING,
            (None, Phase::Created | Phase::Starting) => Status::CREATED,
        }
    }

    /// Keeps how it ended, until [`Process::release`].
    pub fn hold(&mut self, exit: Exit) {
        self.held = Some(exit);
    }

    /// How it ended, if that is being kept and may be told now.
    pub fn held(&self) -> Option<Exit> {
        self.held.filter(|_| self.phase != Phase::Starting && self.kills == 0 && !self.is_being_read)
    }

    /// Makes what was held the end of the process. The waiters hear of it.
    pub fn release(&mut self) {
        self.exit = self.held.take().or(self.exit);
        if let Some(exit) = self.exit {
            self.waiters.drain(..).for_each(|waiter| waiter(exit));
        }
    }

    /// How it ended; one that was never made has ended now.
    pub fn finish(&mut self) -> Exit {
        let exit = self.exit.unwrap_or_else(|| Exit::now(0));
        self.held = Some(exit);
        self.release();
        exit
    }

    /// Calls `waiter` when the process has ended, or now if it has.
    pub fn wait(&mut self, waiter: Waiter) {
        match self.exit {
            Some(exit) => waiter(exit),
            None => self.waiters.push(waiter),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    #[test]
    fn an_end_during_a_signal_is_told_after_it() {
        let mut process = Process::new(Wanted::default());
        process.kills = 1;
        process.hold(Exit::now(137));
        assert_eq!(process.held(), None);
        process.kills = 0;
        assert_eq!(process.held().map(|exit| exit.status), Some(137));
    }

    #[test]
    fn an_end_is_told_after_the_output_was_read() {
        let mut process = Process::new(Wanted::default());
        process.is_being_read = true;
        process.hold(Exit::now(0));
        assert_eq!((process.held(), process.is_alive()), (None, false));
        process.is_being_read = false;
        assert_eq!(process.held().map(|exit| exit.status), Some(0));
    }

    #[test]
    fn an_end_during_the_start_is_told_after_it() {
        let mut process = Process::new(Wanted::default());
        let (sender, receiver) = channel();
        process.wait(Box::new(move |exit| sender.send(exit.status).unwrap()));
        process.phase = Phase::Starting;
        process.hold(Exit::now(3));
        assert_eq!((process.held(), process.status()), (None, Status::CREATED));
        process.phase = Phase::Running;
        assert_eq!(process.held().map(|exit| exit.status), Some(3));
        process.release();
        assert_eq!((process.status(), receiver.try_recv()), (Status::STOPPED, Ok(3)));
    }

    #[test]
    fn an_end_is_to_be_told_of_whatever_was_or_is_being_made() {
        let mut process = Process::new(Wanted::default());
        assert!(!process.is_untold());
        process.phase = Phase::Starting;
        assert!(process.is_untold());
        (process.pid, process.phase, process.is_being_read) = (7, Phase::Running, true);
        process.hold(Exit::now(0));
        assert!(process.is_untold() && process.has_ended());
        process.release();
        assert!(!process.is_untold());
    }
}
