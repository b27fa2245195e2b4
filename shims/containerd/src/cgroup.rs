//! The little that the server does with cgroups itself: out-of-memory events, and its own place.

use crate::error::{Context as _, Error, Result};
use crate::relay::{Next, Relay};
use rustix::event::EventfdFlags;
use rustix::event::epoll::EventFlags;
use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};
use rustix::fs::{FsWord, Mode, OFlags};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const ROOT: &str = "/sys/fs/cgroup";
/// `CGROUP2_SUPER_MAGIC` of statfs(2).
const MAGIC: FsWord = 0x6367_7270;

/// Whether the host has version 2 alone.
pub fn is_unified() -> bool {
    rustix::fs::statfs(ROOT).is_ok_and(|stat| stat.f_type == MAGIC)
}

/// The path of the cgroup for memory in `/proc/PID/cgroup`: of the unified hierarchy, or of the controller.
fn memory_path(text: &str, unified: bool) -> Option<&str> {
    text.lines().find_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        let ours =
            if unified { controllers.is_empty() } else { controllers.split(',').any(|c| c == "memory") };
        ours.then_some(path)
    })
}

/// Calls `tell` whenever a process in the cgroup of `pid` is killed for want of memory.
pub fn watch_memory(relay: &Relay, owner: u64, pid: i32, tell: impl Fn() + Send + 'static) -> Result<()> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).context(|| "cannot find its cgroup")?;
    let unified = is_unified();
    let path = memory_path(&text, unified).ok_or_else(|| Error::new("it has no cgroup for memory"))?;
    let root = Path::new(ROOT).join(if unified { "" } else { "memory" });
    let directory = root.join(path.trim_start_matches('/'));
    if unified { watch_v2(relay, owner, &directory, tell) } else { watch_v1(relay, owner, &directory, tell) }
}

fn watch_v2(relay: &Relay, owner: u64, directory: &Path, tell: impl Fn() + Send + 'static) -> Result<()> {
    let file = Arc::new(open(&directory.join("memory.events"))?);
    let own = Arc::clone(&file);
    let mut known = killed(&file).unwrap_or(0);
    relay.watch(owner, file, EventFlags::PRI, move || match killed(&own) {
        // The cgroup is gone.
        None => Next::Stop,
        Some(count) => {
            if count > known {
                tell();
            }
            known = count;
            Next::Continue
        }
    })
}

/// The same for a container in a microVM, whose runtime writes to a file what `memory.events` would tell.
pub fn watch_told(relay: &Relay, owner: u64, path: &Path, tell: impl Fn() + Send + 'static) -> Result<()> {
    let cannot = || format!("cannot watch '{}'", path.display());
    let events = Arc::new(init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).context(cannot)?);
    add_watch(&events, path, WatchFlags::MODIFY).context(cannot)?;
    let file = open(path)?;
    let own = Arc::clone(&events);
    let mut known = 0;
    relay.watch(owner, events, EventFlags::IN, move || {
        while rustix::io::read(&*own, &mut [0; 1024]).is_ok_and(|length| length > 0) {}
        let count = killed(&file).unwrap_or(known);
        if count > known {
            tell();
        }
        known = count;
        Next::Continue
    })
}

fn killed(file: &OwnedFd) -> Option<u64> {
    let mut buffer = [0; 1024];
    let count = rustix::io::pread(file, &mut buffer, 0).ok()?;
    let text = String::from_utf8_lossy(&buffer[..count]);
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.parse().ok())
}

fn watch_v1(relay: &Relay, owner: u64, directory: &Path, tell: impl Fn() + Send + 'static) -> Result<()> {
    let event = Arc::new(
        rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .context(|| "cannot make an eventfd")?,
    );
    let path = directory.join("memory.oom_control");
    let control = open(&path)?;
    let registration = format!("{} {}", event.as_raw_fd(), control.as_raw_fd());
    std::fs::write(directory.join("cgroup.event_control"), registration)
        .context(|| format!("cannot watch '{}'", path.display()))?;
    let own = Arc::clone(&event);
    relay.watch(owner, event, EventFlags::IN, move || {
        let _ = rustix::io::read(&*own, &mut [0; 8]);
        // That the cgroup was removed is an event too.
        if path.exists() {
            tell();
            return Next::Continue;
        }
        Next::Stop
    })
}

fn open(path: &Path) -> Result<OwnedFd> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .context(|| format!("cannot open '{}'", path.display()))
}

/// Moves a process into a cgroup that exists: in the hierarchy of version 2, or in every one of version 1 that has it.
pub fn enter(path: &str, pid: u32) -> Result<()> {
    let relative = path.trim_start_matches('/');
    let candidates: Vec<PathBuf> = if is_unified() {
        vec![Path::new(ROOT).join(relative)]
    } else {
        let names = std::fs::read_dir(ROOT).into_iter().flatten().flatten();
        names.map(|entry| entry.path().join(relative)).collect()
    };
    let files: Vec<_> =
        candidates.iter().map(|dir| dir.join("cgroup.procs")).filter(|file| file.exists()).collect();
    if files.is_empty() {
        return Err(Error::not_found(format!("cgroup {path}")));
    }
    files.iter().try_for_each(|file| {
        std::fs::write(file, pid.to_string()).context(|| format!("cannot write '{}'", file.display()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cgroup_for_memory_is_found() {
        let text = "3:cpu,cpuacct:/c\n2:memory:/m\n0::/u\n";
        assert_eq!(memory_path(text, false), Some("/m"));
        assert_eq!(memory_path(text, true), Some("/u"));
        assert_eq!(memory_path("1:cpu:/\n", true), None);
    }
}
