//! What pods do with the microVM that all their containers are in.

use crate::error::Result;
use crate::platform::sys::clone::Child;
use crate::runtime::cgroups::Stats;
use crate::runtime::container::{Container, Status};
use crate::runtime::krun;
use crate::runtime::native::channel::Channel;
use crate::runtime::native::start;
use crate::runtime::options::Host;
use crate::runtime::signal::not_running;
use crate::vm::Guest;
use std::os::fd::{AsFd, BorrowedFd};

/// A machine that was created by this process.
#[derive(Debug)]
pub struct Machine {
    /// The first process of the container around it.
    pub child: Child,
    container: Container,
}

/// A machine that is booting: what becomes of it can be read from the descriptor.
#[derive(Debug)]
pub struct Booting(Channel);

impl AsFd for Booting {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Booting {
    /// Waits until the guest is ready; an error says why it does not get there.
    pub fn finish(self) -> Result<()> {
        start::wait_for_execution(&self.0, |_| Ok(()))
    }
}

impl Machine {
    /// The machine whose container has this id; `child` is its first process.
    pub fn new(host: &Host, id: &str, child: Child) -> Result<Self> {
        Ok(Self { child, container: Container::open(host, id)? })
    }

    /// Lets it boot, without waiting for that.
    pub fn boot(&self) -> Result<Booting> {
        start::begin(&self.container.dir)?.map(Booting).ok_or_else(not_running)
    }

    /// The way to its guest.
    pub fn guest(&self) -> Guest {
        krun::guest_of(&self.container.dir)
    }
}

/// Usage and limits of a container in the guest of the container `id`.
pub fn stats(host: &Host, id: &str, member: &str) -> Result<Stats> {
    let container = Container::open(host, id)?;
    if matches!(container.status()?, Status::Stopped | Status::Creating) {
        return Err(not_running());
    }
    stats_of(host, &krun::guest_of(&container.dir), member)
}

/// Usage and limits of a container in a guest.
pub fn stats_of(host: &Host, guest: &Guest, member: &str) -> Result<Stats> {
    let told = guest.stats(member, host.vm.answer())?;
    let nanoseconds = |microseconds: u64| microseconds.saturating_mul(1000);
    let mut stats = Stats::default();
    stats.cpu.usage.total = nanoseconds(told.cpu_usage);
    stats.cpu.usage.user = nanoseconds(told.cpu_user);
    stats.cpu.usage.kernel = nanoseconds(told.cpu_system);
    stats.memory.usage.usage = told.memory;
    stats.memory.usage.max = told.memory_peak;
    // Without a limit it is the largest number, as elsewhere.
    stats.memory.usage.limit = if told.memory_limit == 0 { u64::MAX } else { told.memory_limit };
    stats.memory.usage.failcnt = told.oom_kills;
    stats.memory.cache = told.memory_stat.get("file").copied().unwrap_or(0);
    (stats.memory.raw, stats.memory.events) = (told.memory_stat, told.memory_events);
    (stats.pids.current, stats.pids.limit) = (told.pids, told.pids_limit);
    Ok(stats)
}
