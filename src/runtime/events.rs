//! Waiting for what happens to a container.

use crate::error::{Context as _, Result};
use crate::runtime::cgroups::OomWatch;
use crate::runtime::container::Container;
use crate::runtime::process_id::ProcessId;
use crate::runtime::signal;
use crate::vm::memory;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Instant;

/// What ended a wait.
#[derive(Debug, PartialEq, Eq)]
pub enum Wakeup {
    /// The given moment has come.
    Time,
    /// A process was killed for want of memory.
    OutOfMemory,
    /// The container's first process has ended.
    Ended,
}

/// A watch of a running container.
#[derive(Debug)]
pub struct Watch {
    init: OwnedFd,
    oom: Option<OomWatch>,
}

impl Watch {
    /// Starts to watch. Without a memory cgroup there are no out-of-memory events.
    pub fn new(container: &Container) -> Result<Self> {
        let init = container.record.init.map(ProcessId::open).transpose()?.flatten();
        let init = init.ok_or_else(signal::not_running)?.pidfd;
        let told = container.dir.path().join(memory::FILE);
        // The process that stands for a container in the microVM of its pod is not the one that may be killed.
        let oom = if told.exists() { OomWatch::told(&told) } else { container.record.cgroup.oom_watch() };
        let oom = oom.inspect_err(|e| tracing::warn!("no out-of-memory events: {e}")).ok();
        Ok(Self { init, oom })
    }

    /// Waits until something happens, or until `moment`.
    pub fn wait(&mut self, moment: Instant) -> Result<Wakeup> {
        loop {
            let left = moment.saturating_duration_since(Instant::now());
            let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
            let mut fds = vec![PollFd::new(&self.init, PollFlags::IN)];
            if let Some(oom) = &self.oom {
                fds.push(PollFd::from_borrowed_fd(oom.as_fd(), oom.events()));
            }
            let ready = rustix::io::retry_on_intr(|| poll(&mut fds, Some(&timeout)))
                .context(|| "cannot wait for events")?;
            let (ended, signalled) =
                (!fds[0].revents().is_empty(), fds.get(1).is_some_and(|fd| !fd.revents().is_empty()));
            drop(fds);
            if signalled
                && let Some(oom) = &mut self.oom
                && oom.fired()?
            {
                return Ok(Wakeup::OutOfMemory);
            }
            if ended {
                return Ok(Wakeup::Ended);
            }
            if ready == 0 {
                return Ok(Wakeup::Time);
            }
        }
    }
}
