//! The socket of the monitor.

use super::Monitor;
use super::jobs::Purpose;
use super::viewers::Viewer;
use crate::error::{Error, ErrorKind, Result};
use crate::infra::wire::{MAX_MESSAGE, Received, Wire};
use crate::pod::plan::Action;
use crate::pod::protocol::{Ask, Reply, Request, VERSION, listen};
use crate::pod::store::EVENTS;
use crate::storage::state_root::StateDir;
use rustix::event::PollFlags;
use rustix::net::{SocketFlags, accept_with};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

/// Most connections at the same time.
const MAX_CLIENTS: usize = 64;
/// Most text of an answer, in bytes: what a message can carry even if every byte is escaped.
const MAX_TEXT: u64 = MAX_MESSAGE as u64 / 8;

/// The listening socket and the connections.
pub(super) struct Clients {
    listener: OwnedFd,
    pub(super) all: Vec<Client>,
    last: usize,
}

pub(super) struct Client {
    pub(super) number: usize,
    pub(super) wire: Wire,
    pub(super) waits: Waits,
}

/// What a client waits for.
pub(super) enum Waits {
    /// It has not asked yet.
    ToAsk,
    Stop,
    Job(u64),
    /// What a container uses.
    Measure(usize),
    /// What a container writes.
    Output(Viewer),
}

impl Clients {
    pub(super) fn listen(dir: &StateDir) -> Result<Self> {
        Ok(Self { listener: listen(dir)?, all: Vec::new(), last: 0 })
    }

    pub(super) fn listener(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    /// The connections, and what each waits for.
    pub(super) fn wires(&self) -> impl Iterator<Item = (usize, &Wire, PollFlags)> {
        self.all.iter().map(|client| {
            let flags =
                if let Waits::Output(viewer) = &client.waits { viewer.flags() } else { PollFlags::IN };
            (client.number, &client.wire, flags)
        })
    }

    /// Accepts a connection. When there are too many, the oldest goes that has asked nothing: whoever means it asks at once.
    pub(super) fn accept(&mut self) {
        let Ok(socket) = accept_with(&self.listener, SocketFlags::CLOEXEC) else { return };
        if self.all.len() >= MAX_CLIENTS
            && let Some(idle) = self.all.iter().position(|client| matches!(client.waits, Waits::ToAsk))
        {
            self.all.remove(idle);
        }
        if self.all.len() < MAX_CLIENTS {
            self.last += 1;
            self.all.push(Client { number: self.last, wire: socket.into(), waits: Waits::ToAsk });
        }
    }

    fn answer(&mut self, number: usize, reply: &Reply) {
        if let Some(at) = self.all.iter().position(|client| client.number == number) {
            let _ = self.all.remove(at).wire.send(reply);
        }
    }

    /// The pod has stopped: whoever waits for that hears it.
    pub(super) fn answer_stopped(&mut self) {
        for client in self.all.extract_if(.., |client| matches!(client.waits, Waits::Stop)) {
            let _ = client.wire.send(&Reply::Done);
        }
    }

    /// Answers those who wait for what a container uses.
    pub(super) fn answer_measured(&mut self, member: usize, reply: &Reply) {
        for client in
            self.all.extract_if(.., |client| matches!(client.waits, Waits::Measure(of) if of == member))
        {
            let _ = client.wire.send(reply);
        }
    }

    pub(super) fn wait(&mut self, number: usize, waits: Waits) {
        if let Some(client) = self.all.iter_mut().find(|client| client.number == number) {
            client.waits = waits;
        }
    }
}

impl Monitor<'_> {
    pub(super) fn serve_client(&mut self, number: usize) {
        self.clients.flush(number);
        let Some(client) = self.clients.all.iter_mut().find(|client| client.number == number) else { return };
        if let Waits::Output(viewer) = &client.waits {
            let member = viewer.member();
            return self.hear_viewer(number, member);
        }
        match client.wire.try_receive::<Request>() {
            Ok(Received::Nothing) => {}
            Ok(Received::Message(request)) if matches!(client.waits, Waits::ToAsk) => {
                match self.serve_request(number, request) {
                    Ok(Some(reply)) => self.clients.answer(number, &reply),
                    Ok(None) => {}
                    Err(e) => {
                        let reply = Reply::Failed { kind: e.kind(), message: e.message().to_owned() };
                        self.clients.answer(number, &reply);
                    }
                }
            }
            _ => self.clients.all.retain(|client| client.number != number),
        }
    }

    fn serve_request(&mut self, number: usize, request: Request) -> Result<Option<Reply>> {
        if request.version != VERSION {
            crate::bail!(
                NotSupported,
                "the monitor of the pod speaks version {VERSION}, not {}",
                request.version
            );
        }
        match request.ask {
            Ask::Status => Ok(Some(Reply::Status(Box::new(self.status.clone())))),
            Ask::Stop { grace_seconds } => {
                self.ask_to_stop(grace_seconds.unwrap_or(self.plan().grace_seconds));
                self.clients.wait(number, Waits::Stop);
                Ok(None)
            }
            Ask::Exec { container, command } => {
                let member = self.member(&container)?;
                let limit = self.orders.timeouts.exec();
                let job = self.start_job(member, Purpose::Client, &Action::Exec(command), limit);
                self.clients.wait(number, Waits::Job(job));
                Ok(None)
            }
            Ask::Measure { container } => {
                let member = self.member(&container)?;
                self.measure_module(number, member).map(|()| None)
            }
            Ask::Logs { container } => {
                let name = &self.members[self.member(&container)?].plan.name;
                Ok(Some(Reply::Text(tail(&self.log_directory().join(format!("{name}.log")))?)))
            }
            Ask::Attach { container, input } => self.attach_client(number, &container, input).map(|()| None),
            Ask::Resize { .. } => crate::bail!(Usage, "this connection is attached to no container"),
            Ask::Events => Ok(Some(Reply::Text(tail(&self.dir.path().join(EVENTS))?))),
        }
    }

    pub(super) fn member(&self, name: &str) -> Result<usize> {
        let found = self.members.iter().position(|member| member.plan.name == name);
        found.ok_or_else(|| {
            Error::new(ErrorKind::ContainerNotFound, format!("the pod has no container '{name}'"))
        })
    }

    /// Answers the clients whose commands have ended.
    pub(super) fn answer_jobs(&mut self) {
        let waiting: Vec<(usize, u64)> = self
            .clients
            .all
            .iter()
            .filter_map(
                |client| if let Waits::Job(job) = client.waits { Some((client.number, job)) } else { None },
            )
            .collect();
        for (number, job) in waiting {
            let Some((outcome, stdout, stderr)) = self.jobs.take(job) else { continue };
            let reply = match outcome.failure {
                Some(message) if outcome.exit_code == 255 => {
                    Reply::Failed { kind: ErrorKind::ExecFailed, message }
                }
                _ => Reply::Executed { exit_code: outcome.exit_code, stdout, stderr },
            };
            self.clients.answer(number, &reply);
        }
    }
}

/// The last lines of a file.
fn tail(path: &Path) -> Result<String> {
    let mut file = std::fs::File::open(path)?;
    let size = file.metadata()?.len();
    let skip = size.saturating_sub(MAX_TEXT);
    file.seek(SeekFrom::Start(skip))?;
    let mut text = Vec::new();
    file.take(MAX_TEXT).read_to_end(&mut text)?;
    let text = String::from_utf8_lossy(&text).into_owned();
    // The first line may be a part of one.
    Ok(if skip > 0 { text.split_once('\n').map_or("", |(_, rest)| rest).to_owned() } else { text })
}
