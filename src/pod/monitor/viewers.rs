//! Clients that are attached to a container: they are sent what it writes, as it comes.
//!
//! What they write does not come here: each is given the container's standard input itself. See [`crate::pod::protocol::attach`].

use super::Monitor;
use super::clients::{Clients, Waits};
use super::streams::Stream;
use crate::error::Result;
use crate::infra::wire::{Received, Wire, ready};
use crate::pod::plan::Input;
use crate::pod::protocol::{Ask, Left, Reply, Request};
use crate::vm::protocol::frame::{Kind, encode, encode_json};
use crate::vm::protocol::spec::Size;
use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{SendFlags, send};
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

/// Most clients that are attached to containers of a pod: others must be able to ask for something else.
const MAX_VIEWERS: usize = 32;
/// So much is kept for a client, in bytes, before the container has to wait for it.
const ENOUGH: usize = 64 << 10;
/// How long a client may take nothing before it is cut off: nobody can stop a container by attaching to it and going to sleep.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the clients have, when the pod has ended, for what they have not taken yet.
const LAST_PATIENCE: Duration = Duration::from_secs(2);

/// What is known of such a client.
#[derive(Debug)]
pub(super) struct Viewer {
    member: usize,
    /// What it has not taken yet.
    pending: Vec<u8>,
    /// When it is cut off, unless it takes something before.
    cut_at: Option<Instant>,
    /// Nothing more will come.
    is_last: bool,
}

impl Viewer {
    fn new(member: usize) -> Self {
        Self { member, pending: Vec::new(), cut_at: None, is_last: false }
    }

    /// The container that it is attached to.
    pub(super) fn member(&self) -> usize {
        self.member
    }

    /// What is waited for at its connection.
    pub(super) fn flags(&self) -> PollFlags {
        if self.pending.is_empty() { PollFlags::IN } else { PollFlags::IN | PollFlags::OUT }
    }

    /// Sends what it takes without waiting; false when it is gone, or has everything.
    fn flush(&mut self, wire: &Wire) -> bool {
        while !self.pending.is_empty() {
            match send(wire, &self.pending, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
                Ok(sent) => {
                    self.pending.drain(..sent);
                    self.cut_at = None;
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    self.cut_at.get_or_insert_with(|| Instant::now() + PATIENCE);
                    return true;
                }
                Err(_) => return false,
            }
        }
        !self.is_last
    }
}

impl Clients {
    /// Sends something to those who are attached to a container.
    fn send_to_viewers(&mut self, member: usize, bytes: &[u8], is_last: bool) {
        self.all.retain_mut(|client| match &mut client.waits {
            Waits::Output(viewer) if viewer.member == member && !viewer.is_last => {
                viewer.pending.extend_from_slice(bytes);
                viewer.is_last = is_last;
                viewer.flush(&client.wire)
            }
            _ => true,
        });
    }

    /// A container has written something.
    pub(super) fn show(&mut self, member: usize, stream: Stream, data: &[u8]) {
        let kind = if stream == Stream::Stdout { Kind::Stdout } else { Kind::Stderr };
        for piece in data.chunks(kind.limit()) {
            if let Ok(frame) = encode(kind, piece) {
                self.send_to_viewers(member, &frame, false);
            }
        }
    }

    /// A container has ended.
    pub(super) fn left(&mut self, member: usize, exit_code: u8) {
        if let Ok(frame) = encode_json(Kind::Message, &Left { exit_code }) {
            self.send_to_viewers(member, &frame, true);
        }
    }

    fn viewers(&self) -> impl Iterator<Item = &Viewer> {
        self.all.iter().filter_map(|client| match &client.waits {
            Waits::Output(viewer) => Some(viewer),
            _ => None,
        })
    }

    /// True while a client has not taken what a container has written before.
    pub(super) fn hold(&self, member: usize) -> bool {
        self.viewers()
            .any(|viewer| viewer.member == member && !viewer.is_last && viewer.pending.len() >= ENOUGH)
    }

    /// Sends on what a client has not taken yet.
    pub(super) fn flush(&mut self, number: usize) {
        self.all.retain_mut(|client| match &mut client.waits {
            Waits::Output(viewer) if client.number == number => viewer.flush(&client.wire),
            _ => true,
        });
    }

    /// When a client may have to be cut off.
    pub(super) fn next_cut(&self) -> Option<Instant> {
        self.viewers().filter_map(|viewer| viewer.cut_at).min()
    }

    /// Cuts off those who take nothing.
    pub(super) fn cut(&mut self, now: Instant) {
        self.all.retain(|client| match &client.waits {
            Waits::Output(viewer) => viewer.cut_at.is_none_or(|at| now < at),
            _ => true,
        });
    }

    /// The pod has ended: lets them take what is left.
    pub(super) fn finish(&mut self) {
        let deadline = Instant::now() + LAST_PATIENCE;
        for client in &mut self.all {
            let Waits::Output(viewer) = &mut client.waits else { continue };
            while viewer.flush(&client.wire) {
                let left = deadline.saturating_duration_since(Instant::now());
                if !ready(client.wire.as_fd(), PollFlags::OUT, Some(left)).unwrap_or(false) || left.is_zero()
                {
                    break;
                }
            }
        }
    }
}

impl Monitor<'_> {
    /// An attached client may tell the size of its terminal; for anything else it is cut off.
    pub(super) fn hear_viewer(&mut self, number: usize, member: usize) {
        while let Some(client) = self.clients.all.iter_mut().find(|client| client.number == number) {
            match client.wire.try_receive::<Request>() {
                Ok(Received::Nothing) => return,
                Ok(Received::Message(Request { ask: Ask::Resize { columns, rows }, .. })) => {
                    self.resize_in_guest(member, Size { columns, rows });
                }
                _ => self.clients.all.retain(|client| client.number != number),
            }
        }
    }

    /// Attaches a client to a container.
    pub(super) fn attach_client(&mut self, client: usize, container: &str, input: bool) -> Result<()> {
        let number = self.member(container)?;
        if self.clients.viewers().count() >= MAX_VIEWERS {
            crate::bail!(InvalidState, "{MAX_VIEWERS} clients are attached to the pod already");
        }
        let member = &mut self.members[number];
        if !member.is_running() {
            crate::bail!(InvalidState, "container '{container}' does not run");
        }
        let (tty, once) = (member.plan.tty, member.plan.input == Input::Once && !member.plan.tty);
        let reply = Reply::Attached { tty, once };
        let input = input.then(|| member.streams.lend_input(&member.plan)).transpose()?;
        let Some(client) = self.clients.all.iter_mut().find(|known| known.number == client) else {
            return Ok(());
        };
        match input {
            Some(input) => client.wire.send_with(&reply, input.as_fd())?,
            None => client.wire.send(&reply)?,
        }
        client.waits = Waits::Output(Viewer::new(number));
        Ok(())
    }
}
