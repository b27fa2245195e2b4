//! A process, told apart from a later one that has its pid.

use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::platform::small_file;
use crate::platform::sys::clone::Child;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{fstat, fstatfs};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};
use std::os::fd::AsFd;
use std::str::SplitAsciiWhitespace;

/// `PID_FS_MAGIC` of linux/magic.h.
const PIDFS_MAGIC: i64 = 0x5049_4446;

/// `PF_EXITING` of linux/sched.h.
const EXITING: u64 = 0x4;

/// What is recorded of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    /// Process id in the host's pid namespace.
    pub pid: i32,
    /// Start time in clock ticks after boot: field 22 of proc(5) `/proc/PID/stat`.
    pub start_time: u64,
    /// Inode of its pidfd, which no other process has until the next boot (pidfs, Linux 6.9); 0 where there is none.
    #[serde(default)]
    pub inode: u64,
}

impl ProcessId {
    /// What there is to record of a process.
    pub fn of(process: &Child) -> Result<Self> {
        let gone = || Error::new(ErrorKind::CreateFailed, "the container's first process is gone");
        let (_, start_time) = stat(process.pid).ok_or_else(gone)?;
        let pidfs = fstatfs(&process.pidfd).is_ok_and(|fs| fs.f_type == PIDFS_MAGIC);
        let inode = if pidfs { fstat(&process.pidfd)?.st_ino } else { 0 };
        Ok(Self { pid: process.pid, start_time, inode })
    }

    /// Opens the process if it is alive (not even a zombie) and still the one that was recorded.
    pub fn open(self) -> Result<Option<Child>> {
        let Some(pid) = Pid::from_raw(self.pid) else { return Ok(None) };
        // The descriptor pins whatever has the pid now; whether that is the right process is asked after.
        match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) if self.is_open_on(&pidfd)? => Ok(Some(Child { pid: self.pid, pidfd })),
            Ok(_) | Err(rustix::io::Errno::SRCH) => Ok(None),
            Err(e) => Err(e).context(|| "cannot open a pidfd of the container"),
        }
    }

    fn is_open_on(self, pidfd: impl AsFd) -> Result<bool> {
        if self.inode == 0 {
            return Ok(self.is_in_proc());
        }
        Ok(fstat(&pidfd)?.st_ino == self.inode && has_not_exited(&pidfd)?)
    }

    fn is_in_proc(self) -> bool {
        stat(self.pid)
            .is_some_and(|(state, start_time)| start_time == self.start_time && !matches!(state, 'Z' | 'X'))
    }

    /// True while the process exists and is neither a zombie nor another one with the same pid.
    pub fn is_alive(self) -> bool {
        self.find().is_some()
    }

    /// The process if it is alive, to be asked again later.
    pub fn find(self) -> Option<Found> {
        match self.open() {
            Ok(process) => process.map(|process| Found { id: self, process: Some(process) }),
            Err(_) => self.is_in_proc().then_some(Found { id: self, process: None }),
        }
    }
}

/// A process that was alive when it was found.
#[derive(Debug)]
pub struct Found {
    id: ProcessId,
    /// None where it cannot be opened.
    process: Option<Child>,
}

impl Found {
    /// True while it is still alive. Takes one system call where it could be opened, and the kernel tells by an inode which
    /// process that is.
    pub fn is_alive(&self) -> bool {
        let open = self.process.as_ref().filter(|_| self.id.inode != 0);
        open.and_then(|process| has_not_exited(&process.pidfd).ok()).unwrap_or_else(|| self.id.is_in_proc())
    }
}

fn has_not_exited(pidfd: impl AsFd) -> Result<bool> {
    let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
    Ok(poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))? == 0)
}

/// True if a process has begun to end, and will execute nothing more.
pub fn is_exiting(pid: i32) -> bool {
    with_stat(pid, |fields| fields.nth(6)?.parse::<u64>().ok()).is_some_and(|flags| flags & EXITING != 0)
}

/// State letter and start time of a process.
fn stat(pid: i32) -> Option<(char, u64)> {
    with_stat(pid, |fields| Some((fields.next()?.chars().next()?, fields.nth(18)?.parse().ok()?)))
}

/// The fields of proc(5) `/proc/PID/stat` from the third on, for `read`.
fn with_stat<T>(pid: i32, read: impl FnOnce(&mut SplitAsciiWhitespace<'_>) -> Option<T>) -> Option<T> {
    let text = small_file::read(format!("/proc/{pid}/stat")).ok()?;
    // The command name is in parentheses and may itself hold any byte, so count from the last one.
    read(&mut text[text.rfind(')')? + 1..].split_ascii_whitespace())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_alive_until_it_has_ended_and_another_is_not_it() {
        let mut sleep = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = sleep.id() as i32;
        let pidfd = pidfd_open(Pid::from_raw(pid).unwrap(), PidfdFlags::empty()).unwrap();
        let id = ProcessId::of(&Child { pid, pidfd }).unwrap();
        // The same without the inode is what kernels before 6.9 have.
        let by_time = ProcessId { inode: 0, ..id };
        assert!(id.is_alive() && by_time.is_alive());
        assert!(!ProcessId { start_time: id.start_time + 1, inode: 0, ..id }.is_alive());
        if id.inode != 0 {
            assert!(!ProcessId { inode: id.inode + 1, ..id }.is_alive());
        }
        let watch = id.open().unwrap().unwrap();
        let found = [id.find().unwrap(), by_time.find().unwrap()];
        let not_open = Found { id: by_time, process: None };
        assert!(found.iter().chain([&not_open]).all(Found::is_alive));
        sleep.kill().unwrap();
        poll(&mut [PollFd::new(&watch.pidfd, PollFlags::IN)], None).unwrap();
        let gone =
            || !id.is_alive() && !by_time.is_alive() && !found.iter().chain([&not_open]).any(Found::is_alive);
        assert!(gone(), "a zombie is not alive");
        sleep.wait().unwrap();
        assert!(gone());
    }
}
