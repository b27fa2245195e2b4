//! What the host asks for.

use crate::child;
use crate::connection::Role;
use crate::failure::{Result, failure};
use crate::ffi;
use crate::guest::{Exec, Guest, MAX_EXECS, find};
use crate::member::Named;
use crate::processes;
use crate::running::Running;
use crate::stdio::{self, ChildStdio, OurStdio};
use std::os::fd::AsFd as _;
use std::time::Duration;
use vm_protocol::frame::{Frame, Kind};
use vm_protocol::message::{self, FailureKind, Reply, Request, Target};

/// The failure of a request that makes no sense.
pub fn invalid(message: impl Into<String>) -> message::Failure {
    failure(FailureKind::InvalidRequest, message)
}

impl Guest {
    /// Reads from every connection, and does what came.
    pub(crate) fn hear_connections(&mut self) {
        let numbers: Vec<u64> = self.connections.keys().copied().collect();
        for number in numbers {
            if let Some(connection) = self.connections.get_mut(&number) {
                connection.receive();
            }
            while let Some(connection) = self.connections.get_mut(&number) {
                let done = match connection.next_frame() {
                    Ok(None) => break,
                    Ok(Some(_)) if connection.role == Role::Done => continue,
                    Ok(Some(frame)) => self.frame(number, &frame),
                    Err(e) => Err(invalid(e.to_string())),
                };
                if let (Err(failure), Some(connection)) = (done, self.connections.get_mut(&number)) {
                    connection.fail(failure);
                    break;
                }
            }
        }
    }

    fn frame(&mut self, number: u64, frame: &Frame) -> Result<()> {
        let role = self.connections.get(&number).map_or(Role::Done, |connection| connection.role);
        match (role, frame.kind) {
            (Role::New, Kind::Message) => {
                let request = frame.parse().map_err(|e| invalid(e.to_string()))?;
                self.request(number, request)
            }
            (Role::Exec(exec), Kind::Message) => {
                let request = frame.parse().map_err(|e| invalid(e.to_string()))?;
                // It may have ended meanwhile, or have no terminal: nobody waits for an answer.
                let _ = self.tell_exec(exec, &request);
                Ok(())
            }
            (Role::Exec(exec), Kind::Stdin) => {
                self.execs.get_mut(&exec).map_or(Ok(()), |exec| input(&mut exec.running, &frame.body))
            }
            (Role::Input(container), Kind::Message) => {
                let request = frame.parse().map_err(|e| invalid(e.to_string()))?;
                let _ = self.containers[container].named().and_then(|named| tell_container(&named, &request));
                Ok(())
            }
            (Role::Input(container), Kind::Stdin) => {
                let first = self.containers[container].first.as_mut();
                first.map_or(Ok(()), |first| input(first, &frame.body))
            }
            _ => Err(invalid("this frame has no place here")),
        }
    }

    fn tell_exec(&self, exec: u64, request: &Request) -> Result<()> {
        let unknown = || failure(FailureKind::NotFound, format!("there is no exec {exec}"));
        let running = &self.execs.get(&exec).ok_or_else(unknown)?.running;
        match request {
            Request::Resize { size, .. } => running.resize(*size),
            Request::Signal { signal, .. } => running.signal(*signal),
            _ => Err(invalid("this connection belongs to an exec")),
        }
    }

    fn request(&mut self, number: u64, request: Request) -> Result<()> {
        let role = match &request {
            Request::Ready => Some(Role::Ready),
            Request::Watch => Some(Role::Watch(true)),
            Request::Start { container } => {
                let index = find(&self.containers, container)?;
                self.start_requested(index)?;
                Some(Role::Start(index))
            }
            Request::Input { container } => Some(Role::Input(self.take_input(container)?)),
            Request::Logs { container, follow } => {
                let container = find(&self.containers, container)?;
                self.containers[container].followed |= *follow;
                let end = (!follow).then(|| self.containers[container].log.end());
                Some(Role::Logs { container, next: 0, end })
            }
            _ => None,
        };
        if let (Some(role), Some(connection)) = (role, self.connections.get_mut(&number)) {
            connection.role = role;
            return Ok(());
        }
        let reply = match request {
            Request::Exec(exec) => return self.exec(number, *exec),
            Request::Run(container) => return self.run_member(number, &container),
            other => self.answer(&other)?,
        };
        self.connection(Some(number)).into_iter().for_each(|connection| connection.finish(&reply));
        Ok(())
    }

    /// The container whose standard input is to come over another connection from now on.
    fn take_input(&mut self, name: &str) -> Result<usize> {
        let index = find(&self.containers, name)?;
        if !self.containers[index].spec.stdin {
            let message = format!("container '{}' has no standard input", self.containers[index].spec.name);
            return Err(failure(FailureKind::InvalidState, message));
        }
        let before = self.connections.values_mut().filter(|it| it.role == Role::Input(index));
        before.for_each(|connection| connection.finish(&Reply::Done));
        Ok(index)
    }

    fn answer(&mut self, request: &Request) -> Result<Reply> {
        match request {
            Request::Ping => Ok(Reply::Status(self.status())),
            Request::Stats { container } => self.named(container)?.stats().map(Reply::Stats),
            Request::Processes { container } => {
                processes::list(self.named(container)?.namespace()?).map(Reply::Processes)
            }
            Request::Limit { container, cgroup } => {
                self.named(container)?.limit(cgroup).map(|()| Reply::Done)
            }
            Request::Stop { grace } => {
                self.stop(Duration::from_millis(*grace));
                // Who ends it need not be told that it has begun.
                self.tell();
                Ok(Reply::Done)
            }
            Request::Resize { target, .. } | Request::Signal { target, .. } => {
                match target {
                    Target::Exec(exec) => self.tell_exec(*exec, request)?,
                    Target::Container(name) => tell_container(&self.named(name)?, request)?,
                    Target::This => return Err(invalid("this connection belongs to no exec")),
                }
                Ok(Reply::Done)
            }
            Request::Ready
            | Request::Watch
            | Request::Start { .. }
            | Request::Input { .. }
            | Request::Logs { .. }
            | Request::Run(_)
            | Request::Exec(_) => Err(invalid("this request is no question")),
        }
    }

    fn exec(&mut self, connection: u64, exec: message::Exec) -> Result<()> {
        exec.process.check().map_err(invalid)?;
        if self.execs.len() >= MAX_EXECS {
            return Err(failure(
                FailureKind::TooMany,
                format!("more than {MAX_EXECS} processes are executed"),
            ));
        }
        let container = self.named(&exec.container).map_err(|e| match e.kind {
            FailureKind::InvalidState => {
                failure(FailureKind::InvalidState, "cannot exec in a stopped container")
            }
            _ => e,
        })?;
        let (ours, theirs) = match (exec.detach, exec.process.terminal) {
            (true, _) => stdio::nothing()?,
            (false, true) => (OurStdio::default(), ChildStdio::NewTerminal),
            (false, false) => stdio::pipes(exec.stdin)?,
        };
        let cgroup = container.cgroup.map(|cgroup| cgroup.directory.as_fd());
        let (child, channel) = child::make_further(&container.first.child, &exec.process, cgroup, theirs)?;
        let running = Running::new(child, channel, ours);
        let number = self.number();
        let exec = Exec { running, connection: Some(connection), detach: exec.detach, member: None };
        self.execs.insert(number, exec);
        self.connection(Some(connection)).into_iter().for_each(|it| it.role = Role::Exec(number));
        Ok(())
    }
}

fn tell_container(container: &Named<'_>, request: &Request) -> Result<()> {
    let first = container.first;
    match request {
        Request::Signal { signal, all: true, .. } => {
            // Those that are made meanwhile may be missed; with SIGKILL the first one takes all others with it.
            first.signal(*signal)?;
            for pid in processes::pids(container.namespace()?)? {
                if pid != first.child.pid {
                    let _ = signal_pid(pid, *signal);
                }
            }
            Ok(())
        }
        Request::Signal { signal, .. } => first.signal(*signal),
        Request::Resize { size, .. } => first.resize(*size),
        _ => Err(invalid("this request is for no container")),
    }
}

fn input(running: &mut Running, data: &[u8]) -> Result<()> {
    if running.pending_input() + data.len() > vm_protocol::STDIN_WINDOW {
        return Err(invalid("more standard input than the window allows"));
    }
    running.add_input(data);
    Ok(())
}

/// Sends a signal to a process that is no child of this one.
pub fn signal_pid(pid: i32, signal: i32) -> std::io::Result<()> {
    let pid = rustix::process::Pid::from_raw(pid).ok_or(rustix::io::Errno::SRCH)?;
    let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?;
    ffi::pidfd_send_signal(pidfd, signal)
}
