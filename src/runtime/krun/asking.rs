//! A request on its way to the guest, from one who never waits: it is made again until somebody has taken it up.

use crate::error::{Error, ErrorKind, Result};
use crate::vm::connection::{Connection, Received, failure, is_unheard, told_by};
use rustix::event::{PollFd, PollFlags};
use std::path::Path;
use std::time::{Duration, Instant};
use vm_protocol::frame::Frame;
use vm_protocol::message::{FailureKind, Reply, Request};

/// Time until a request is made again that nobody has taken up; at first.
pub const RETRY: Duration = Duration::from_millis(20);

/// A request that the guest has not answered.
#[derive(Debug)]
pub struct Asking {
    way: Way,
    pause: Duration,
    longest: Duration,
}

#[derive(Debug)]
enum Way {
    /// The answer comes here.
    Asked(Connection),
    /// Nobody has taken it up. It is made again then.
    Again(Instant),
}

/// What has become of a request.
enum Became {
    Waits,
    /// The guest has done it, or has nothing any more that it would be for.
    Done,
    /// Nothing was done about it.
    Unheard,
}

impl Asking {
    /// One that [`Asking::look`] makes, and again after pauses that grow to the longest.
    pub fn new(longest: Duration) -> Self {
        Self { way: Way::Again(Instant::now()), pause: RETRY, longest }
    }

    /// What to wait for.
    pub fn wait_for(&self) -> Option<PollFd<'_>> {
        match &self.way {
            Way::Asked(connection) => Some(PollFd::new(connection, PollFlags::IN)),
            Way::Again(_) => None,
        }
    }

    /// When to look again, whatever happens.
    pub fn wakeup(&self) -> Option<Instant> {
        match self.way {
            Way::Again(at) => Some(at),
            Way::Asked(_) => None,
        }
    }

    /// Goes on; true when it is done. `request` is asked for what to send now. Fails when the guest answers what it must not.
    pub fn look(&mut self, control: &Path, request: impl FnOnce() -> Request, now: Instant) -> Result<bool> {
        match self.go_on(control, request, now)? {
            Became::Done => return Ok(true),
            Became::Waits => {}
            Became::Unheard => {
                self.way = Way::Again(now + self.pause);
                self.pause = (self.pause * 2).min(self.longest);
            }
        }
        Ok(false)
    }

    fn go_on(&mut self, control: &Path, request: impl FnOnce() -> Request, now: Instant) -> Result<Became> {
        match &self.way {
            Way::Again(at) if now < *at => return Ok(Became::Waits),
            Way::Again(_) => match Connection::open_at_once(control, &request()) {
                Ok(connection) => self.way = Way::Asked(connection),
                // The machine may have ended: whoever waits for it knows.
                Err(e) if is_unheard(&e) => return Ok(Became::Unheard),
                Err(e) => return Err(e),
            },
            Way::Asked(_) => {}
        }
        let Way::Asked(connection) = &mut self.way else { return Ok(Became::Waits) };
        match connection.try_receive()? {
            Received::Nothing => Ok(Became::Waits),
            // The guest has it, or is about to end.
            Received::Closed if connection.is_greeted() => Ok(Became::Done),
            Received::Closed => Ok(Became::Unheard),
            Received::Frame(frame) => judge(&frame),
        }
    }
}

fn judge(frame: &Frame) -> Result<Became> {
    match told_by(frame)? {
        Reply::Done => Ok(Became::Done),
        Reply::Failed(told) => match told.kind {
            FailureKind::InvalidState | FailureKind::NotFound => Ok(Became::Done),
            FailureKind::TooMany => Ok(Became::Unheard),
            _ => Err(failure(&told)),
        },
        _ => Err(Error::new(ErrorKind::System, "the guest gave a wrong answer")),
    }
}
