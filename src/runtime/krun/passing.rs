//! Signals on their way to the guest's program: each is asked for until the guest has taken it up, and by one who never waits.

use super::asking::{Asking, RETRY};
use super::guest;
use crate::error::{Error, Result};
use rustix::event::PollFd;
use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use vm_protocol::message::Request;

/// The signals of which the guest has not said yet that it has them, in their order: one that overtakes another would undo what that has
/// done, as SIGCONT does to SIGSTOP.
#[derive(Debug)]
pub struct Passing {
    control: PathBuf,
    patience: Duration,
    first: Option<Sent>,
    behind: VecDeque<i32>,
}

#[derive(Debug)]
struct Sent {
    signal: i32,
    /// When the guest must have taken it.
    until: Instant,
    asking: Asking,
}

impl Passing {
    /// None yet, for the guest behind the socket `control`, which may take so long for each.
    pub fn new(control: PathBuf, patience: Duration) -> Self {
        Self { control, patience, first: None, behind: VecDeque::new() }
    }

    /// Sends a signal, as soon as [`Passing::look`] is called and those before it are taken.
    pub fn add(&mut self, signal: i32) {
        self.behind.push_back(signal);
    }

    /// What to wait for.
    pub fn wait_for(&self) -> Option<PollFd<'_>> {
        self.first.as_ref()?.asking.wait_for()
    }

    /// When to look again, whatever happens.
    pub fn wakeup(&self) -> Option<Instant> {
        match &self.first {
            Some(Sent { until, asking, .. }) => asking.wakeup().into_iter().chain([*until]).min(),
            None => (!self.behind.is_empty()).then(Instant::now),
        }
    }

    /// Goes on with all of them. Fails when the guest has not taken one in time, or answers what it must not.
    pub fn look(&mut self) -> Result<()> {
        while let Some(mut sent) = self.first.take().or_else(|| self.next()) {
            let now = Instant::now();
            let request = || Request::Signal { target: guest::target(), signal: sent.signal, all: false };
            if sent.asking.look(&self.control, request, now).map_err(cannot)? {
                continue;
            }
            if now >= sent.until {
                crate::bail!(Timeout, "the microVM does not answer to a signal, and is ended");
            }
            self.first = Some(sent);
            return Ok(());
        }
        Ok(())
    }

    fn next(&mut self) -> Option<Sent> {
        let signal = self.behind.pop_front()?;
        Some(Sent { signal, until: Instant::now() + self.patience, asking: Asking::new(RETRY) })
    }
}

fn cannot(e: Error) -> Error {
    e.wrap("cannot pass a signal on to the microVM, which is ended")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::socket::connect_at_once;
    use rustix::event::{Timespec, poll};
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::{UnixListener, UnixStream};
    use vm_protocol::frame::{Kind, encode_json};
    use vm_protocol::message::{Failure, FailureKind, Hello, Reply};

    const PATIENCE: Duration = Duration::from_secs(10);
    /// How long a test waits for what does not come.
    const LIMIT: Duration = Duration::from_secs(30);

    struct Guest {
        _directory: tempfile::TempDir,
        listener: UnixListener,
        passing: Passing,
    }

    impl Guest {
        fn new(patience: Duration) -> Self {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("control");
            let listener = UnixListener::bind(&path).unwrap();
            Self { _directory: directory, listener, passing: Passing::new(path, patience) }
        }

        /// Lets the signals go on as their loop does, until `done`.
        fn go_on_until(&mut self, mut done: impl FnMut(&Self) -> bool) -> Result<()> {
            let begin = Instant::now();
            loop {
                assert!(begin.elapsed() < LIMIT, "nothing happens");
                self.passing.look()?;
                if done(self) {
                    return Ok(());
                }
                let mut fds: Vec<_> = self.passing.wait_for().into_iter().collect();
                let left = self.passing.wakeup().map_or(Duration::ZERO, |at| at - Instant::now().min(at));
                poll(&mut fds, Some(&Timespec::try_from(left).unwrap())).unwrap();
            }
        }

        /// Takes the next connection, with its request read.
        fn accept(&self) -> UnixStream {
            let (mut connection, _) = self.listener.accept().unwrap();
            let read = connection.read(&mut [0; 4096]).unwrap();
            assert_ne!(read, 0);
            connection
        }

        /// Answers the next connection with its hello and this.
        fn answer(&self, reply: Option<&Reply>) {
            let mut connection = self.accept();
            let mut bytes = encode_json(Kind::Hello, &Hello::new("a guest")).unwrap();
            bytes.extend(reply.iter().flat_map(|reply| encode_json(Kind::Message, reply).unwrap()));
            connection.write_all(&bytes).unwrap();
        }

        fn is_asked(&self) -> bool {
            self.passing.wait_for().is_some()
        }

        /// Sends a signal, and lets the guest do this with it.
        fn send(&mut self, act: impl FnOnce(&Self)) {
            self.passing.add(libc::SIGTERM);
            self.passing.look().unwrap();
            act(self);
        }

        fn settle(&mut self) -> Result<()> {
            self.go_on_until(|guest| guest.passing.wakeup().is_none())
        }
    }

    fn refused(kind: FailureKind) -> Reply {
        Reply::Failed(Failure { kind, message: "because".to_owned() })
    }

    #[test]
    fn a_signal_that_nobody_has_taken_up_is_sent_until_somebody_does() {
        let mut guest = Guest::new(PATIENCE);
        guest.send(|guest| drop(guest.accept()));
        for _ in 0..3 {
            guest.go_on_until(|guest| !guest.is_asked()).unwrap();
            guest.go_on_until(Guest::is_asked).unwrap();
            drop(guest.accept());
        }
        guest.go_on_until(|guest| !guest.is_asked()).unwrap();
        guest.go_on_until(Guest::is_asked).unwrap();
        guest.answer(Some(&refused(FailureKind::TooMany)));
        guest.go_on_until(|guest| !guest.is_asked()).unwrap();
        guest.go_on_until(Guest::is_asked).unwrap();
        guest.answer(Some(&Reply::Done));
        guest.settle().unwrap();
    }

    #[test]
    fn what_the_guest_has_taken_up_is_not_sent_again() {
        let mut guest = Guest::new(PATIENCE);
        let done = [None, Some(Reply::Done), Some(refused(FailureKind::InvalidState))];
        for reply in done {
            guest.send(|guest| guest.answer(reply.as_ref()));
            guest.settle().unwrap();
        }
        guest.listener.set_nonblocking(true).unwrap();
        assert!(guest.listener.accept().is_err(), "it was sent once more");
        guest.listener.set_nonblocking(false).unwrap();
        guest.send(|guest| guest.answer(Some(&refused(FailureKind::System))));
        let e = guest.settle().unwrap_err();
        assert!(e.message().ends_with(": because"), "{e}");
    }

    #[test]
    fn a_machine_that_takes_no_signal_is_ended_and_one_that_has_ended_is_not_blamed() {
        let mut guest = Guest::new(Duration::from_millis(100));
        // It accepts nothing, as one that is stopped.
        guest.passing.add(libc::SIGTERM);
        let e = guest.settle().unwrap_err();
        assert!(e.message().contains("does not answer to a signal"), "{e}");
        let mut guest = Guest::new(PATIENCE);
        std::fs::remove_file(&guest.passing.control).unwrap();
        guest.passing.add(libc::SIGTERM);
        guest.passing.look().unwrap();
        assert!(guest.passing.wakeup().is_some() && !guest.is_asked());
    }

    #[test]
    fn signals_are_sent_in_their_order_and_one_at_a_time() {
        let mut guest = Guest::new(PATIENCE);
        let signals = [libc::SIGSTOP, libc::SIGCONT, libc::SIGTERM];
        signals.iter().for_each(|signal| guest.passing.add(*signal));
        for signal in signals {
            guest.go_on_until(Guest::is_asked).unwrap();
            // The first time nobody takes it up, and no other one overtakes it.
            drop(guest.accept());
            guest.go_on_until(|guest| !guest.is_asked()).unwrap();
            guest.go_on_until(Guest::is_asked).unwrap();
            assert_eq!(guest.passing.first.as_ref().unwrap().signal, signal);
            guest.answer(Some(&Reply::Done));
            guest.passing.wait_for().map(|fd| poll(&mut [fd], None)).unwrap().unwrap();
            guest.passing.look().unwrap();
        }
        assert!(guest.passing.wakeup().is_none());
    }

    #[test]
    fn nobody_waits_for_a_machine_that_accepts_no_more_connections() {
        let mut guest = Guest::new(PATIENCE);
        // More than the socket keeps for a machine that accepts none.
        rustix::net::listen(&guest.listener, 1).unwrap();
        let another = |_| connect_at_once(&guest.passing.control).ok();
        let others: Vec<_> = (0..8).map_while(another).collect();
        assert!((1..8).contains(&others.len()), "{}", others.len());
        guest.passing.add(libc::SIGUSR1);
        guest.passing.look().unwrap();
        assert!(!guest.is_asked());
    }
}
