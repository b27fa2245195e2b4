//! Asking a guest.

use super::connection::{Connection, Received, failure, is_unheard, reply_of, told_by, wait};
use crate::error::{Error, ErrorKind, Result};
use rustix::event::PollFlags;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use vm_protocol::frame::Kind;
use vm_protocol::message::{Exec, FailureKind, ProcessInfo, Reply, Request, Stats, Status, Target};
use vm_protocol::spec::Container;

/// Time between two attempts to reach a guest that does not listen yet.
const RETRY: Duration = Duration::from_millis(20);

/// Most bytes of a log that are taken: what a guest keeps, and as much again.
const MAX_LOG: usize = 512 << 10;

/// A guest: the unix socket that leads to its control port.
#[derive(Debug, Clone)]
pub struct Guest {
    path: PathBuf,
}

/// A process that runs in a guest, and the connection that it lives on.
#[derive(Debug)]
pub struct Started {
    /// The connection.
    pub connection: Connection,
    /// Number of the exec, for other connections.
    pub exec: u64,
    /// Pid in the guest.
    pub pid: i32,
}

fn unexpected(reply: &Reply) -> Error {
    let text = format!("{reply:?}");
    let name = text.split([' ', '(']).next().unwrap_or_default().to_owned();
    Error::new(ErrorKind::System, format!("the guest sent an answer to another question: {name}"))
}

impl Guest {
    /// The guest behind the socket at `path`. Nothing is connected yet.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// The socket.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Asks, and returns the connection when the guest has said hello. The socket of a virtual machine accepts before the
    /// guest listens, and closes then: so it is tried again, as long as `going` says that there is sense in it.
    pub fn connect(
        &self,
        request: &Request,
        deadline: Instant,
        going: impl Fn() -> bool,
    ) -> Result<Connection> {
        loop {
            match self.try_connect(request, deadline) {
                Ok(Some(connection)) => return Ok(connection),
                Ok(None) if Instant::now() + RETRY < deadline && going() => std::thread::sleep(RETRY),
                Ok(None) if going() => crate::bail!(Timeout, "cannot reach the guest: it does not listen"),
                Ok(None) => {
                    crate::bail!(InvalidState, "cannot reach the guest: the virtual machine has ended")
                }
                Err(e) => return Err(e.wrap("cannot reach the guest")),
            }
        }
    }

    /// `None` when the guest does not listen.
    fn try_connect(&self, request: &Request, deadline: Instant) -> Result<Option<Connection>> {
        let mut connection = match Connection::open(&self.path, request, deadline) {
            Err(e) if is_unheard(&e) => return Ok(None),
            opened => opened?,
        };
        loop {
            // The hello alone: the frame after it is for the caller.
            match connection.try_greet()? {
                Received::Closed => return Ok(None),
                Received::Nothing => wait(connection.as_fd(), PollFlags::IN, deadline)?,
                Received::Frame(_) => return Ok(Some(connection)),
            }
        }
    }

    /// Asks a guest that listens. A connection that is closed before the guest's hello was taken up by nobody, as when more of them wait
    /// than its kernel lets: then nothing was done, and it is asked once more. After the hello it may have been done, and is not.
    fn reach(&self, request: &Request, deadline: Instant) -> Result<Connection> {
        let again = Cell::new(true);
        self.connect(request, deadline, || again.take())
    }

    /// Asks what is answered with one reply. A failure that the guest tells is an error.
    pub fn ask(&self, request: &Request, timeout: Duration) -> Result<Reply> {
        match self.answer(request, timeout)? {
            Reply::Failed(told) => Err(failure(&told)),
            reply => Ok(reply),
        }
    }

    /// Asks what is answered with one reply, which may be a failure.
    fn answer(&self, request: &Request, timeout: Duration) -> Result<Reply> {
        let deadline = Instant::now() + timeout;
        let answer = self.reach(request, deadline)?.receive(deadline)?;
        let none = || Error::new(ErrorKind::InvalidState, "the virtual machine has ended without an answer");
        told_by(&answer.ok_or_else(none)?)
    }

    /// How the guest is.
    pub fn ping(&self, timeout: Duration) -> Result<Status> {
        match self.ask(&Request::Ping, timeout)? {
            Reply::Status(status) => Ok(status),
            other => Err(unexpected(&other)),
        }
    }

    /// Waits until every container runs; an error if one cannot, or after `timeout`. `going` says whether the virtual machine still
    /// runs.
    pub fn ready(&self, timeout: Duration, going: impl Fn() -> bool) -> Result<Status> {
        let deadline = Instant::now() + timeout;
        let mut connection = self.connect(&Request::Ready, deadline, going)?;
        match connection.reply(deadline)? {
            Some(Reply::Status(status)) => Ok(status),
            Some(other) => Err(unexpected(&other)),
            None => {
                Err(Error::new(ErrorKind::StartFailed, "the virtual machine has ended before it was ready"))
            }
        }
    }

    /// Starts a container that waits for that, and returns when its program is executed.
    pub fn start(&self, container: &str, timeout: Duration) -> Result<()> {
        self.done(&Request::Start { container: container.to_owned() }, timeout)
    }

    /// Asks for the output of a container until its end, which is told by [`Reply::Done`] after all of it.
    pub fn follow(&self, container: &str, timeout: Duration) -> Result<Connection> {
        let request = Request::Logs { container: container.to_owned(), follow: true };
        self.reach(&request, Instant::now() + timeout)
    }

    /// The way to the standard input of a container; [`Request::Input`] says what follows.
    pub fn input(&self, container: &str, timeout: Duration) -> Result<Connection> {
        let request = Request::Input { container: container.to_owned() };
        self.reach(&request, Instant::now() + timeout)
    }

    /// Sends a signal; false when the process does not run, or not any more. Whatever else keeps it from the process is an error.
    pub fn signal(&self, target: Target, signal: i32, all: bool, timeout: Duration) -> Result<bool> {
        match self.answer(&Request::Signal { target, signal, all }, timeout)? {
            Reply::Done => Ok(true),
            Reply::Failed(told) if told.kind == FailureKind::InvalidState => Ok(false),
            Reply::Failed(told) => Err(failure(&told)),
            other => Err(unexpected(&other)),
        }
    }

    /// Ends everything in the guest, and the virtual machine: SIGTERM, and SIGKILL after `grace`. Returns when that has begun.
    pub fn stop(&self, grace: Duration, timeout: Duration) -> Result<()> {
        self.done(&Request::Stop { grace: u64::try_from(grace.as_millis()).unwrap_or(u64::MAX) }, timeout)
    }

    fn done(&self, request: &Request, timeout: Duration) -> Result<()> {
        match self.ask(request, timeout)? {
            Reply::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// What a container uses; without a name, the only one.
    pub fn stats(&self, container: &str, timeout: Duration) -> Result<Stats> {
        match self.ask(&Request::Stats { container: container.to_owned() }, timeout)? {
            Reply::Stats(stats) => Ok(stats),
            other => Err(unexpected(&other)),
        }
    }

    /// The processes of a container; without a name, of the only one.
    pub fn processes(&self, container: &str, timeout: Duration) -> Result<Vec<ProcessInfo>> {
        match self.ask(&Request::Processes { container: container.to_owned() }, timeout)? {
            Reply::Processes(all) => Ok(all),
            other => Err(unexpected(&other)),
        }
    }

    /// The last output of a container: standard output and standard error as they were written.
    pub fn logs(&self, container: &str, timeout: Duration) -> Result<Vec<u8>> {
        let deadline = Instant::now() + timeout;
        let request = Request::Logs { container: container.to_owned(), follow: false };
        let mut connection = self.reach(&request, deadline)?;
        let mut log = Vec::new();
        while let Some(frame) = connection.receive(deadline)? {
            if !matches!(frame.kind, Kind::Stdout | Kind::Stderr) {
                return match reply_of(&frame)? {
                    Reply::Done => Ok(log),
                    other => Err(unexpected(&other)),
                };
            }
            if log.len() + frame.body.len() > MAX_LOG {
                crate::bail!(System, "the guest sent a log of more than {MAX_LOG} bytes");
            }
            log.extend(frame.body);
        }
        crate::bail!(InvalidState, "the virtual machine has ended")
    }

    /// Executes a process, and returns when its program runs.
    pub fn exec(&self, exec: Exec, timeout: Duration) -> Result<Started> {
        self.begin(&Request::Exec(Box::new(exec)), timeout)
    }

    /// Makes a container that is not in the guest's specification, and returns when its program runs. It lives with the connection.
    pub fn run(&self, container: Container, timeout: Duration) -> Result<Started> {
        self.begin(&Request::Run(Box::new(container)), timeout)
    }

    /// Changes limits of a container: files of its cgroup v2.
    pub fn limit(&self, container: &str, cgroup: BTreeMap<String, String>, timeout: Duration) -> Result<()> {
        self.done(&Request::Limit { container: container.to_owned(), cgroup }, timeout)
    }

    fn begin(&self, request: &Request, timeout: Duration) -> Result<Started> {
        let deadline = Instant::now() + timeout;
        let mut connection = self.reach(request, deadline)?;
        match connection.reply(deadline)? {
            Some(Reply::Started { exec, pid }) => Ok(Started { connection, exec, pid }),
            Some(Reply::Failed(told)) => Err(failure(&told)),
            Some(other) => Err(unexpected(&other)),
            None => Err(Error::new(ErrorKind::InvalidState, "the virtual machine has ended")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::protocol::frame::encode_json;
    use crate::vm::protocol::message::{Failure, Hello};
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixListener;
    use std::thread::JoinHandle;

    const LIMIT: Duration = Duration::from_secs(10);

    /// What a guest does with a connection.
    enum Does {
        /// It takes nothing.
        Close,
        /// It says hello alone.
        Hello,
        Answer(Reply),
    }

    /// A guest that does this with one connection after the other.
    fn guest(all: Vec<Does>) -> (tempfile::TempDir, Guest, JoinHandle<UnixListener>) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control");
        let listener = UnixListener::bind(&path).unwrap();
        let serve = move || {
            for does in all {
                let (mut connection, _) = listener.accept().unwrap();
                // What nobody has read would make the end of the connection an error.
                assert_ne!(connection.read(&mut [0; 4096]).unwrap(), 0);
                if !matches!(does, Does::Close) {
                    connection.write_all(&encode_json(Kind::Hello, &Hello::new("a guest")).unwrap()).unwrap();
                }
                if let Does::Answer(reply) = does {
                    connection.write_all(&encode_json(Kind::Message, &reply).unwrap()).unwrap();
                }
            }
            listener
        };
        (directory, Guest::at(path), std::thread::spawn(serve))
    }

    /// Sends a signal to such a guest, of which it takes as many connections as it has something to do with.
    fn signal(all: Vec<Does>) -> Result<bool> {
        let (_directory, guest, served) = guest(all);
        let sent = guest.signal(Target::Container("app".to_owned()), libc::SIGTERM, false, LIMIT);
        let listener = served.join().unwrap();
        listener.set_nonblocking(true).unwrap();
        assert!(listener.accept().is_err(), "it was asked once more");
        sent
    }

    fn refused(kind: FailureKind) -> Does {
        Does::Answer(Reply::Failed(Failure { kind, message: "because".to_owned() }))
    }

    #[test]
    fn what_nobody_has_taken_up_is_asked_once_more() {
        assert!(signal(vec![Does::Close, Does::Answer(Reply::Done)]).unwrap());
        let e = signal(vec![Does::Close, Does::Close]).unwrap_err();
        assert!(e.message().starts_with("cannot reach the guest: "), "{e}");
    }

    #[test]
    fn what_may_have_been_done_is_not_asked_again() {
        let e = signal(vec![Does::Hello]).unwrap_err();
        assert!(e.message().contains("without an answer"), "{e}");
    }

    #[test]
    fn a_signal_for_what_has_ended_is_told_from_one_that_is_lost() {
        assert!(signal(vec![Does::Answer(Reply::Done)]).unwrap());
        assert!(!signal(vec![refused(FailureKind::InvalidState)]).unwrap());
        for kind in [FailureKind::NotFound, FailureKind::TooMany, FailureKind::System] {
            assert_eq!(signal(vec![refused(kind)]).unwrap_err().message(), "because");
        }
        let e = signal(vec![Does::Answer(Reply::Taken { bytes: 1 })]).unwrap_err();
        assert!(e.message().contains("another question"), "{e}");
    }
}
