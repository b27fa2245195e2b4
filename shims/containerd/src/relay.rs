//! Moving bytes between descriptors, and waiting for events: one thread for every container of the server.
//!
//! A pump reads what its source has, and writes it to its destination. When that is full, the pump keeps the rest and waits
//! for the destination; others go on. So a reader that does not read stops the process that writes to it, and nobody else.

use crate::error::{Context as _, Result};
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::collections::HashMap;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How much is read at once, in bytes: half of a pipe.
const CHUNK: usize = 32 * 1024;

/// What happens to a pump or a watch after an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Go on.
    Continue,
    /// Forget it.
    Stop,
}

struct Pump {
    owner: u64,
    /// Whether the owner's output comes this way, which is waited for.
    output: bool,
    source: OwnedFd,
    destination: OwnedFd,
    /// What was read and could not be written yet.
    rest: Vec<u8>,
    /// How many bytes were written.
    moved: u64,
}

enum Item {
    Pump(Pump),
    Watch { owner: u64, fd: Arc<OwnedFd>, check: Box<dyn FnMut() -> Next + Send> },
}

impl Item {
    fn owner(&self) -> u64 {
        match self {
            Self::Pump(pump) => pump.owner,
            Self::Watch { owner, .. } => *owner,
        }
    }

    /// The descriptor that is waited for at the moment.
    fn waiting_for(&self) -> BorrowedFd<'_> {
        match self {
            Self::Pump(pump) if pump.rest.is_empty() => pump.source.as_fd(),
            Self::Pump(pump) => pump.destination.as_fd(),
            Self::Watch { fd, .. } => fd.as_fd(),
        }
    }
}

#[derive(Default)]
struct Table {
    items: HashMap<u64, Item>,
    next: u64,
}

/// The thread and what it looks after.
pub struct Relay {
    epoll: OwnedFd,
    table: Mutex<Table>,
    ended: Condvar,
}

impl Relay {
    /// Starts the thread.
    pub fn start() -> Result<Arc<Self>> {
        let epoll = epoll::create(CreateFlags::CLOEXEC).context(|| "cannot wait for events")?;
        let relay = Arc::new(Self { epoll, table: Mutex::default(), ended: Condvar::new() });
        let own = Arc::clone(&relay);
        std::thread::Builder::new()
            .name("relay".to_owned())
            .spawn(move || own.run())
            .context(|| "cannot start a thread")?;
        Ok(relay)
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number for somebody who owns pumps.
    pub fn owner(&self) -> u64 {
        let mut table = self.lock();
        table.next += 1;
        table.next
    }

    /// Moves everything from `source` to `destination` until there is no more. Both must not block.
    pub fn pump(&self, owner: u64, output: bool, source: OwnedFd, destination: OwnedFd) -> Result<()> {
        let pump = Pump { owner, output, source, destination, rest: Vec::new(), moved: 0 };
        self.insert(Item::Pump(pump), EventFlags::IN)
    }

    /// Calls `check` whenever `fd` has one of the events, until it answers [`Next::Stop`].
    pub fn watch(
        &self,
        owner: u64,
        fd: Arc<OwnedFd>,
        events: EventFlags,
        check: impl FnMut() -> Next + Send + 'static,
    ) -> Result<()> {
        self.insert(Item::Watch { owner, fd, check: Box::new(check) }, events)
    }

    fn insert(&self, item: Item, events: EventFlags) -> Result<()> {
        let mut table = self.lock();
        table.next += 1;
        let key = table.next;
        epoll::add(&self.epoll, item.waiting_for(), EventData::new_u64(key), events)
            .context(|| "cannot wait for a file")?;
        table.items.insert(key, item);
        Ok(())
    }

    /// Waits until all output of an owner has been moved, at most for `limit`; then forgets what is left.
    pub fn finish(&self, owner: u64, limit: Duration) {
        let busy = |table: &mut Table| {
            table.items.values().any(|item| matches!(item, Item::Pump(p) if p.owner == owner && p.output))
        };
        let waited = self.ended.wait_timeout_while(self.lock(), limit, busy);
        let (mut table, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let theirs = table.items.extract_if(|_, item| item.owner() == owner);
        theirs.for_each(|(_, item)| self.forget(item));
    }

    /// Whether what the owner's processes have written so far has all been moved.
    pub fn has_moved_all(&self, owner: u64) -> bool {
        self.lock().items.values().all(|item| match item {
            Item::Pump(pump) if pump.owner == owner && pump.output => pump.is_idle(),
            _ => true,
        })
    }

    /// How many bytes of the owner's output were moved, by what still moves it: it changes whenever something is moved.
    pub fn moved(&self, owner: u64) -> u64 {
        let table = self.lock();
        let counts = table.items.values().filter_map(|item| match item {
            Item::Pump(pump) if pump.owner == owner && pump.output => Some(pump.moved),
            _ => None,
        });
        counts.sum()
    }

    /// Closing alone is not enough: a terminal's master has duplicates, and would go on to have events.
    fn forget(&self, item: Item) {
        let _ = epoll::delete(&self.epoll, item.waiting_for());
        drop(item);
    }

    fn run(&self) {
        let mut buffer = vec![0; CHUNK];
        let mut events = [MaybeUninit::<Event>::uninit(); 16];
        loop {
            let ready = match epoll::wait(&self.epoll, &mut events, None) {
                Ok((ready, _)) => ready,
                Err(Errno::INTR) => continue,
                Err(e) => return log::error!("cannot wait for events: {e}"),
            };
            for event in ready.iter() {
                let key = event.data.u64();
                let mut table = self.lock();
                let next = match table.items.get_mut(&key) {
                    // It was forgotten between the event and now.
                    None => continue,
                    Some(Item::Pump(pump)) => pump.step(&self.epoll, key, &mut buffer),
                    Some(Item::Watch { check, .. }) => check(),
                };
                if next == Next::Stop
                    && let Some(item) = table.items.remove(&key)
                {
                    self.forget(item);
                    self.ended.notify_all();
                }
            }
        }
    }
}

impl Pump {
    /// Whether there is nothing to move at the moment. A terminal passes on what was written to it when it is asked, not before.
    fn is_idle(&self) -> bool {
        let mut fds = [PollFd::new(&self.source, PollFlags::IN)];
        self.rest.is_empty()
            && poll(&mut fds, Some(&Timespec::default())).is_ok()
            && !fds[0].revents().contains(PollFlags::IN)
    }

    fn step(&mut self, epoll: &OwnedFd, key: u64, buffer: &mut [u8]) -> Next {
        let data = EventData::new_u64(key);
        if self.rest.is_empty() {
            let count = match rustix::io::read(&self.source, &mut *buffer) {
                Ok(0) => return Next::Stop,
                Ok(count) => count,
                Err(Errno::AGAIN | Errno::INTR) => return Next::Continue,
                // EIO is how a terminal says that its other side was closed.
                Err(_) => return Next::Stop,
            };
            return match self.write(&buffer[..count]) {
                Ok(written) if written == count => Next::Continue,
                Ok(written) => {
                    self.rest = buffer[written..count].to_vec();
                    let moved = epoll::delete(epoll, &self.source)
                        .and_then(|()| epoll::add(epoll, &self.destination, data, EventFlags::OUT));
                    if moved.is_ok() { Next::Continue } else { Next::Stop }
                }
                Err(next) => next,
            };
        }
        let rest = std::mem::take(&mut self.rest);
        match self.write(&rest) {
            Ok(written) if written == rest.len() => {
                let moved = epoll::delete(epoll, &self.destination)
                    .and_then(|()| epoll::add(epoll, &self.source, data, EventFlags::IN));
                if moved.is_ok() { Next::Continue } else { Next::Stop }
            }
            Ok(written) => {
                self.rest = rest[written..].to_vec();
                Next::Continue
            }
            Err(next) => next,
        }
    }

    /// Writes what there is room for.
    fn write(&mut self, bytes: &[u8]) -> Result<usize, Next> {
        let mut written = 0;
        while written < bytes.len() {
            match rustix::io::write(&self.destination, &bytes[written..]) {
                Ok(count) => {
                    written += count;
                    self.moved += count as u64;
                }
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Err(Errno::PIPE | Errno::IO) => return Err(Next::Stop),
                // A log on a full disk must not stop the container: what has no room is lost.
                Err(e) => {
                    log::warn!("cannot write output of a container: {e}");
                    return Ok(bytes.len());
                }
            }
        }
        Ok(written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::OFlags;
    use rustix::pipe::{PipeFlags, pipe_with};
    use std::fs::File;
    use std::io::{Read as _, Write as _};

    fn pipe() -> (File, OwnedFd) {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        (read.into(), write)
    }

    fn without_blocking(fd: OwnedFd) -> OwnedFd {
        rustix::fs::fcntl_setfl(&fd, OFlags::NONBLOCK).unwrap();
        fd
    }

    #[test]
    fn a_slow_reader_gets_everything_and_stops_nobody_else() {
        let relay = Relay::start().unwrap();
        let owner = relay.owner();
        let ((from, to), (mut out, into)) = (pipe(), pipe());
        relay.pump(owner, true, without_blocking(from.into()), without_blocking(into)).unwrap();
        let ((quick_from, quick_to), (mut quick_out, quick_into)) = (pipe(), pipe());
        relay.pump(owner, true, without_blocking(quick_from.into()), without_blocking(quick_into)).unwrap();
        let data: Vec<u8> = (0..1_000_000_u32).flat_map(u32::to_le_bytes).collect();
        let expected = data.clone();
        let writer = std::thread::spawn(move || File::from(to).write_all(&data).unwrap());
        File::from(quick_to).write_all(b"quick").unwrap();
        let mut text = String::new();
        quick_out.read_to_string(&mut text).unwrap();
        assert_eq!(text, "quick");
        // Nobody reads the rest yet.
        while relay.has_moved_all(owner) {
            std::thread::yield_now();
        }
        let mut received = Vec::new();
        out.read_to_end(&mut received).unwrap();
        assert!(received == expected, "{} of {} bytes", received.len(), expected.len());
        writer.join().unwrap();
        assert!(relay.has_moved_all(owner));
        relay.finish(owner, Duration::from_secs(60));
        assert!(relay.lock().items.is_empty());
    }

    #[test]
    fn output_that_nobody_reads_is_given_up_after_the_limit() {
        let relay = Relay::start().unwrap();
        let owner = relay.owner();
        let ((from, to), (_out, into)) = (pipe(), pipe());
        relay.pump(owner, true, without_blocking(from.into()), without_blocking(into)).unwrap();
        relay.finish(owner, Duration::from_millis(10));
        // A child that another test has just forked has a copy of the other end, until it executes its program.
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        let error = loop {
            match rustix::io::write(&to, b"x") {
                Ok(_) => std::thread::sleep(Duration::from_millis(1)),
                Err(e) => break e,
            }
            assert!(std::time::Instant::now() < deadline, "the output is still read");
        };
        assert_eq!(error, Errno::PIPE);
    }
}
