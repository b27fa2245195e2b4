//! The guest: its containers, the processes executed in them, and the connections of the host. One thread, one loop.

use crate::connection::{Connection, Role};
use crate::console::Console;
use crate::container::Container;
use crate::failure::{Result, failure};
use crate::ffi;
use crate::held::{self, Left};
use crate::life::FLUSH;
use crate::member::Member;
use crate::mounts;
use crate::running::Running;
use rustix::event::{PollFd, PollFlags, Timespec};
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};
use vm_protocol::message::{Failure, FailureKind, Reply, Status};
use vm_protocol::spec::{PodSpec, Stdio};

/// Most connections at a time.
pub const MAX_CONNECTIONS: usize = 1024;

/// Most execs at a time.
pub const MAX_EXECS: usize = 512;

/// A process that lives with a connection: executed in a container, or the first one of a container that was made for it.
#[derive(Debug)]
pub struct Exec {
    /// The process.
    pub running: Running,
    /// The connection that it belongs to; none when that is gone, or when it is detached.
    pub connection: Option<u64>,
    /// Nobody is told how it ends.
    pub detach: bool,
    /// The container that it is the first process of.
    pub member: Option<Member>,
}

/// How the virtual machine is going to end.
#[derive(Debug)]
pub struct Ending {
    /// Its exit code.
    pub code: u8,
    /// When it ends whoever still waits.
    pub until: Instant,
}

/// The guest.
#[derive(Debug)]
pub struct Guest {
    pub(crate) containers: Vec<Container>,
    pub(crate) execs: BTreeMap<u64, Exec>,
    /// What is left of containers that have ended.
    pub(crate) leaving: Vec<Left>,
    pub(crate) connections: BTreeMap<u64, Connection>,
    pub(crate) spec: PodSpec,
    pub(crate) console: Console,
    /// When the containers are killed that have not ended.
    pub(crate) stopping: Option<Instant>,
    pub(crate) killed: bool,
    pub(crate) failed: Option<Failure>,
    /// Exit code of the container that has ended first.
    pub(crate) first_end: Option<u8>,
    pub(crate) ending: Option<Ending>,
    /// Somebody who asked was told that the containers run, or why not.
    pub(crate) told: bool,
    signals: OwnedFd,
    listener: OwnedFd,
    next: u64,
}

impl Guest {
    /// A guest with nothing in it.
    pub fn new(signals: OwnedFd, listener: OwnedFd, console: Console) -> Self {
        Self {
            containers: Vec::new(),
            execs: BTreeMap::new(),
            leaving: Vec::new(),
            connections: BTreeMap::new(),
            spec: PodSpec::default(),
            console,
            stopping: None,
            killed: false,
            failed: None,
            first_end: None,
            ending: None,
            told: false,
            signals,
            listener,
            next: 1,
        }
    }

    /// A number that was not given before.
    pub(crate) fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Serves until the virtual machine ends; returns its exit code.
    pub fn serve(mut self) -> u8 {
        loop {
            self.advance();
            self.flush();
            if let Some(code) = self.end() {
                self.console.finish(FLUSH);
                crate::boot::unmount_disks(&self.spec);
                return code;
            }
            self.wait();
            self.hear_signals();
            self.accept();
            self.hear_children();
            self.move_console();
            self.move_output();
            self.let_go();
            self.hear_connections();
        }
    }

    /// Ends what is left of containers without processes.
    fn let_go(&mut self) {
        let over: Vec<_> = self.leaving.extract_if(.., |left| left.is_over()).collect();
        if !over.is_empty() {
            let shares = self.spec.mounts.iter().filter(|mount| mount.kind == mounts::SHARE);
            held::let_go(over, &shares.map(|mount| mount.destination.as_str()).collect::<Vec<_>>());
        }
    }

    /// How it is.
    pub(crate) fn status(&self) -> Status {
        let uptime = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let ready = !self.containers.is_empty()
            && self.containers.iter().all(|container| container.spec.on_request || container.is_started());
        Status {
            ready,
            uptime: uptime.tv_sec as u64 * 1000 + uptime.tv_nsec as u64 / 1_000_000,
            containers: self.containers.iter().map(Container::status).collect(),
        }
    }

    /// Something has changed: those who watch are told.
    pub(crate) fn changed(&mut self) {
        for connection in self.connections.values_mut() {
            if let Role::Watch(_) = connection.role {
                connection.role = Role::Watch(true);
            }
        }
    }

    pub(crate) fn slowest_reader(&self, container: usize) -> Option<u64> {
        if self.containers[container].waits_for_reader() {
            return Some(0);
        }
        let readers = self.connections.values().filter_map(|connection| match connection.role {
            Role::Logs { container: of, next, end: None } if of == container => Some(next),
            _ => None,
        });
        readers.min()
    }

    fn exec_has_room(&self, exec: &Exec) -> bool {
        let connection = exec.connection.and_then(|number| self.connections.get(&number));
        connection.is_none_or(Connection::has_room)
    }

    fn wait(&self) {
        let mut fds =
            vec![PollFd::new(&self.signals, PollFlags::IN), PollFd::new(&self.listener, PollFlags::IN)];
        for connection in self.connections.values() {
            let mut what = PollFlags::IN;
            what.set(PollFlags::OUT, connection.wants_to_send());
            fds.push(PollFd::new(connection, what));
        }
        for (index, container) in self.containers.iter().enumerate() {
            let room = container.has_room(&self.console, self.slowest_reader(index));
            container.first.iter().for_each(|first| first.wait_for(room, |fd| fds.push(fd)));
        }
        for exec in self.execs.values() {
            exec.running.wait_for(self.exec_has_room(exec), |fd| fds.push(fd));
            let events = exec.member.as_ref().and_then(Member::events);
            fds.extend(events.map(|events| PollFd::from_borrowed_fd(events, PollFlags::PRI)));
        }
        self.console.wait_for(self.console_reader().is_some(), |fd| fds.push(fd));
        let deadlines = self.connections.values().filter_map(Connection::deadline);
        let stopping = self.stopping.filter(|_| !self.killed);
        let ending = self.ending.as_ref().map(|ending| ending.until);
        let first = deadlines.chain(stopping).chain(ending).min();
        let timeout = first.map(|until| {
            let left = until.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
            Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) }
        });
        let _ = rustix::event::poll(&mut fds, timeout.as_ref());
    }

    fn hear_signals(&mut self) {
        while let Some(signal) = ffi::next_signal(&self.signals) {
            if signal == libc::SIGCHLD {
                self.reap();
            } else {
                let first = self.containers.iter().filter_map(|container| container.live().ok());
                first.for_each(|first| drop(first.signal(signal)));
            }
        }
    }

    fn accept(&mut self) {
        use rustix::net::SocketFlags;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        while let Ok(fd) = rustix::net::accept_with(&self.listener, flags) {
            let mut connection = Connection::new(fd);
            if self.connections.len() >= MAX_CONNECTIONS {
                connection
                    .fail(failure(FailureKind::TooMany, format!("more than {MAX_CONNECTIONS} connections")));
                connection.send();
                continue;
            }
            let number = self.number();
            self.connections.insert(number, connection);
        }
    }

    pub(crate) fn connection(&mut self, number: Option<u64>) -> Option<&mut Connection> {
        number.and_then(|number| self.connections.get_mut(&number))
    }

    /// The container that has the console's input, if it takes more.
    fn console_reader(&self) -> Option<usize> {
        self.containers.iter().position(|container| {
            container.spec.stdio == Stdio::Console
                && container.first.as_ref().is_some_and(|first| {
                    first.code.is_none() && first.is_started() && first.pending_input() == 0
                })
        })
    }

    fn move_console(&mut self) {
        self.console.write();
        for (index, container) in self.containers.iter_mut().enumerate() {
            let taken = container.first.as_mut().map_or(0, Running::write_input);
            let mut inputs = self.connections.values_mut().filter(|it| it.role == Role::Input(index));
            if let Some(connection) = inputs.next().filter(|_| taken > 0) {
                connection.reply(&Reply::Taken { bytes: taken as u32 });
            }
        }
        if let Some(index) = self.console_reader()
            && let Some(data) = self.console.read()
            && let Some(first) = &mut self.containers[index].first
        {
            first.add_input(&data);
            first.write_input();
        }
    }
}

/// The containers of a specification must exist when somebody asks for one.
pub(crate) fn find(containers: &[Container], name: &str) -> Result<usize> {
    let found = match containers {
        [_] if name.is_empty() => Some(0),
        all => all.iter().position(|container| container.spec.name == name),
    };
    found.ok_or_else(|| {
        failure(FailureKind::NotFound, format!("there is no container '{}'", name.escape_debug()))
    })
}
