//! Notice of processes that are killed for want of memory.

use super::fs;
use super::host::Version;
use crate::error::{Context as _, Result};
use rustix::event::{EventfdFlags, PollFlags, eventfd};
use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// A watch; poll its descriptor for [`OomWatch::events`], then ask [`OomWatch::fired`].
#[derive(Debug)]
pub struct OomWatch {
    source: Source,
}

#[derive(Debug)]
enum Source {
    /// An eventfd that the kernel signals at every event, and when the cgroup is removed.
    V1 { eventfd: OwnedFd, control: PathBuf },
    /// `memory.events`, which can be polled for changes.
    V2 { file: File, seen: u64 },
    /// An ordinary file like that, which something else writes to.
    Told { inotify: OwnedFd, file: File, seen: u64 },
}

impl OomWatch {
    /// Starts to watch a memory cgroup.
    pub(super) fn new(directory: &Path, version: Version) -> Result<Self> {
        let source = match version {
            Version::V1 => {
                let control = directory.join("memory.oom_control");
                let eventfd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
                let file = File::open(&control).context(|| format!("cannot open '{}'", control.display()))?;
                let registration = format!("{} {}", eventfd.as_raw_fd(), file.as_raw_fd());
                fs::write(&directory.join("cgroup.event_control"), &registration)?;
                Source::V1 { eventfd, control }
            }
            Version::V2 => {
                let path = directory.join("memory.events");
                let file = File::open(&path).context(|| format!("cannot open '{}'", path.display()))?;
                let seen = oom_kills(&file)?;
                Source::V2 { file, seen }
            }
        };
        Ok(Self { source })
    }

    /// Starts to watch an ordinary file in which something else writes what `memory.events` would tell.
    pub fn told(path: &Path) -> Result<Self> {
        let cannot = || format!("cannot watch '{}'", path.display());
        let inotify = init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).context(cannot)?;
        add_watch(&inotify, path, WatchFlags::MODIFY).context(cannot)?;
        let file = File::open(path).context(cannot)?;
        let seen = oom_kills(&file)?;
        Ok(Self { source: Source::Told { inotify, file, seen } })
    }

    /// What to poll for.
    pub fn events(&self) -> PollFlags {
        match self.source {
            Source::V1 { .. } | Source::Told { .. } => PollFlags::IN,
            Source::V2 { .. } => PollFlags::PRI,
        }
    }

    /// True if something was killed since the last call.
    pub fn fired(&mut self) -> Result<bool> {
        match &mut self.source {
            Source::V1 { eventfd, control } => {
                let mut count = [0u8; 8];
                let signalled = rustix::io::read(&*eventfd, &mut count).is_ok();
                // The removal of the cgroup signals too.
                Ok(signalled && control.exists())
            }
            Source::V2 { file, seen } => has_grown(file, seen),
            Source::Told { inotify, file, seen } => {
                while rustix::io::read(&*inotify, &mut [0u8; 1024]).is_ok_and(|length| length > 0) {}
                has_grown(file, seen)
            }
        }
    }
}

impl AsFd for OomWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.source {
            Source::V1 { eventfd, .. } => eventfd.as_fd(),
            Source::V2 { file, .. } => file.as_fd(),
            Source::Told { inotify, .. } => inotify.as_fd(),
        }
    }
}

fn has_grown(file: &File, seen: &mut u64) -> Result<bool> {
    let before = std::mem::replace(seen, oom_kills(file)?);
    Ok(*seen > before)
}

/// How often a process was killed for want of memory, by a file that says so.
pub(super) fn oom_kills(file: &File) -> Result<u64> {
    let mut buffer = [0u8; 1024];
    let length = match rustix::io::pread(file, &mut buffer[..], 0) {
        Ok(length) => length,
        // The cgroup is gone.
        Err(rustix::io::Errno::NODEV) => 0,
        Err(e) => return Err(e).context(|| "cannot read memory.events"),
    };
    let text = String::from_utf8_lossy(&buffer[..length]);
    let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
    Ok(line.and_then(|number| number.parse().ok()).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_in_a_file_is_seen_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("told");
        std::fs::write(&path, "").unwrap();
        let mut watch = OomWatch::told(&path).unwrap();
        let ready = |watch: &OomWatch| {
            let now = rustix::event::Timespec::default();
            let mut fds = [rustix::event::PollFd::from_borrowed_fd(watch.as_fd(), watch.events())];
            rustix::event::poll(&mut fds, Some(&now)).unwrap() > 0
        };
        assert!(!ready(&watch) && !watch.fired().unwrap());
        for kills in [9, 12] {
            std::fs::write(&path, format!("oom_kill {kills}\n")).unwrap();
            assert!(ready(&watch) && watch.fired().unwrap());
            assert!(!ready(&watch) && !watch.fired().unwrap());
        }
        std::fs::write(&path, "oom 13\noom_kill 12\n").unwrap();
        assert!(ready(&watch) && !watch.fired().unwrap());
    }
}
