//! How often the kernel of a guest has ended a process of a container for want of memory. The guest tells the process that stands for the
//! container; that writes it to a file of the state directory, as `memory.events` of a cgroup has it, where it can be watched.

use crate::error::{Context as _, Result};
use crate::storage::state_root::StateDir;
use rustix::fs::{Mode, OFlags, openat};
use std::fs::File;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::FileExt as _;

/// The file in the state directory.
pub const FILE: &str = "memory.events";

/// The file, for who writes to it.
#[derive(Debug)]
pub struct MemoryEvents {
    file: File,
    kills: u64,
}

impl MemoryEvents {
    /// Makes the file.
    pub fn create(dir: &StateDir) -> Result<Self> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = openat(dir.fd(), FILE, flags, Mode::from_raw_mode(0o600));
        let file = file.context(|| format!("cannot make the file '{FILE}'"))?.into();
        Ok(Self { file, kills: 0 })
    }

    /// Writes how often it has happened by now. What a guest takes back is not believed.
    pub fn tell(&mut self, kills: u64) {
        if kills > self.kills {
            self.kills = kills;
            // On a full disk an event is lost; the container must not end by that.
            let _ = self.file.write_at(format!("oom_kill {kills}\n").as_bytes(), 0);
        }
    }
}

impl AsRawFd for MemoryEvents {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}
