//! A cgroup v2 for each container, where the guest's kernel has them.

use crate::failure::{Context as _, Result, system};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, statfs};
use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use vm_protocol::message::Stats;

/// `CGROUP2_SUPER_MAGIC` of statfs(2).
const CGROUP2_MAGIC: i64 = 0x6367_7270;

/// The cgroup of a container.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
    /// Its open directory.
    pub directory: OwnedFd,
    /// Its `memory.events`, which can be polled for changes; none where memory is not accounted.
    events: Option<File>,
}

/// Makes the cgroup of a container with its limits. `None` where there are no cgroups, and no limits to set.
pub fn make(name: &str, limits: &BTreeMap<String, String>) -> Result<Option<Cgroup>> {
    let root = Path::new("/sys/fs/cgroup");
    if !statfs(root).is_ok_and(|found| found.f_type == CGROUP2_MAGIC) {
        return match limits.keys().next() {
            Some(file) => Err(system(format!("cannot set '{file}': the guest's kernel has no cgroup v2"))),
            None => Ok(None),
        };
    }
    let controllers = std::fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
    for controller in controllers.split_whitespace() {
        // One that cannot be had is missed when a limit needs it.
        let _ = std::fs::write(root.join("cgroup.subtree_control"), format!("+{controller}"));
    }
    let path = root.join(name);
    let cannot = || format!("cannot make the cgroup of container '{name}'");
    // Of an earlier run of the container, if it could not be removed then.
    let _ = std::fs::remove_dir(&path);
    std::fs::create_dir(&path).context(cannot)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(&path, flags, Mode::empty()).context(cannot)?;
    let events = File::open(path.join("memory.events")).ok();
    let made = Cgroup { path, directory, events };
    if let Err(e) = made.write(limits) {
        made.remove();
        return Err(e);
    }
    Ok(Some(made))
}

impl Cgroup {
    /// Writes files of it: limits, and `cgroup.freeze`.
    pub fn write(&self, files: &BTreeMap<String, String>) -> Result<()> {
        for (file, value) in files {
            std::fs::write(self.path.join(file), value)
                .context(|| format!("cannot set '{file}' to '{value}'"))?;
        }
        Ok(())
    }

    fn text(&self, file: &str) -> String {
        std::fs::read_to_string(self.path.join(file)).unwrap_or_default()
    }

    fn number(&self, file: &str) -> u64 {
        self.text(file).trim().parse().unwrap_or(0)
    }

    /// Removes it when nothing is in it any more; false when something is.
    pub fn remove(&self) -> bool {
        std::fs::remove_dir(&self.path).is_ok() || !self.path.exists()
    }

    /// Kills everything in it.
    pub fn kill(&self) -> Result<()> {
        self.write(&[("cgroup.kill".to_owned(), "1".to_owned())].into())
    }

    /// How often the memory limit made the kernel end a process.
    pub fn oom_kills(&self) -> u64 {
        let mut text = [0; 1024];
        let length = self.events.as_ref().and_then(|events| events.read_at(&mut text, 0).ok()).unwrap_or(0);
        field(&String::from_utf8_lossy(&text[..length]), "oom_kill")
    }

    /// What to poll for changes of that: [`PollFlags::PRI`] is there until [`Cgroup::oom_kills`] is asked.
    pub fn events(&self) -> Option<BorrowedFd<'_>> {
        self.events.as_ref().map(|events| events.as_fd())
    }

    /// Whether that has changed since it was asked.
    pub fn has_event(&self) -> bool {
        let Some(events) = self.events() else { return false };
        let mut fds = [PollFd::from_borrowed_fd(events, PollFlags::PRI)];
        poll(&mut fds, Some(&Timespec::default())).is_ok() && fds[0].revents().contains(PollFlags::PRI)
    }

    /// What the container uses.
    pub fn stats(&self) -> Stats {
        let cpu = self.text("cpu.stat");
        let io = self.text("io.stat");
        Stats {
            cpu_usage: field(&cpu, "usage_usec"),
            cpu_user: field(&cpu, "user_usec"),
            cpu_system: field(&cpu, "system_usec"),
            memory: self.number("memory.current"),
            memory_peak: self.number("memory.peak"),
            memory_limit: self.number("memory.max"),
            oom_kills: self.oom_kills(),
            memory_stat: fields(&self.text("memory.stat")),
            memory_events: fields(&self.text("memory.events")),
            pids: self.number("pids.current"),
            pids_limit: self.number("pids.max"),
            read_bytes: sum(&io, "rbytes="),
            written_bytes: sum(&io, "wbytes="),
        }
    }
}

/// The numbers of a file of lines `NAME NUMBER`.
fn fields(text: &str) -> BTreeMap<String, u64> {
    let lines = text.lines().filter_map(|line| line.split_once(' '));
    lines.filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?))).collect()
}

/// One of them.
fn field(text: &str, name: &str) -> u64 {
    fields(text).remove(name).unwrap_or(0)
}

/// The sum of all numbers after a prefix.
fn sum(text: &str, prefix: &str) -> u64 {
    text.split_whitespace()
        .filter_map(|word| word.strip_prefix(prefix))
        .filter_map(|value| value.parse::<u64>().ok())
        .fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_by_their_names() {
        assert_eq!(field("usage_usec 12\nuser_usec 7\n", "user_usec"), 7);
        assert_eq!(field("oom 3\noom_kill 1\n", "oom_kill"), 1);
        let all = fields("low 0\noom_kill 1\nhigh max\n");
        assert_eq!(all, [("low".to_owned(), 0), ("oom_kill".to_owned(), 1)].into());
        assert_eq!(sum("254:0 rbytes=5 wbytes=1\n254:16 rbytes=7 wbytes=0\n", "rbytes="), 12);
    }
}
