//! The little that the server does with cgroups itself: out-of-memory events, and its own place.

use crate::error::{Context as _, Error, Result};
use crate::relay::{Next, Relay};
use rustix::event::EventfdFlags;
use rustix::event::epoll::EventFlags;
use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};
use rustix::fs::{FsWord, Mode, OFlags};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

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

/// What looks whether a process was killed, and tells of it. One that was told of is not told of again.
type Check = dyn FnMut() -> Next + Send;

/// A watch of a container, for processes that are killed for want of memory.
pub struct MemoryWatch(Arc<Mutex<Check>>);

impl MemoryWatch {
    fn start(
        relay: &Relay,
        owner: u64,
        (fd, events): (Arc<OwnedFd>, EventFlags),
        check: impl FnMut() -> Next + Send + 'static,
    ) -> Result<Self> {
        let watch = Self(Arc::new(Mutex::new(check)));
        let own = Self(Arc::clone(&watch.0));
        relay.watch(owner, fd, events, move || own.look())?;
        Ok(watch)
    }

    /// Looks now, and does not wait until the kernel says that there is something to see: on version 2 that may be 10 ms after a kill.
    pub fn check(&self) {
        self.look();
    }

    fn look(&self) -> Next {
        // Whoever comes second waits here until the first has told what it saw.
        (*self.0.lock().unwrap_or_else(PoisonError::into_inner))()
    }
}

/// Calls `tell` whenever a process in the cgroup of `pid` is killed for want of memory.
pub fn watch_memory(
    relay: &Relay,
    owner: u64,
    pid: i32,
    tell: impl Fn() + Send + 'static,
) -> Result<MemoryWatch> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).context(|| "cannot find its cgroup")?;
    let unified = is_unified();
    let path = memory_path(&text, unified).ok_or_else(|| Error::new("it has no cgroup for memory"))?;
    let root = Path::new(ROOT).join(if unified { "" } else { "memory" });
    let directory = root.join(path.trim_start_matches('/'));
    if unified { watch_v2(relay, owner, &directory, tell) } else { watch_v1(relay, owner, &directory, tell) }
}

fn watch_v2(
    relay: &Relay,
    owner: u64,
    directory: &Path,
    tell: impl Fn() + Send + 'static,
) -> Result<MemoryWatch> {
    let file = Arc::new(open(&directory.join("memory.events"))?);
    let known = killed(&file).unwrap_or(0);
    // That it cannot be read means that the cgroup is gone.
    let check = of_counter(Arc::clone(&file), known, Next::Stop, tell);
    MemoryWatch::start(relay, owner, (file, EventFlags::PRI), check)
}

/// The same for a container in a microVM, whose runtime writes to a file what `memory.events` would tell.
pub fn watch_told(
    relay: &Relay,
    owner: u64,
    path: &Path,
    tell: impl Fn() + Send + 'static,
) -> Result<MemoryWatch> {
    let cannot = || format!("cannot watch '{}'", path.display());
    let events = Arc::new(init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).context(cannot)?);
    add_watch(&events, path, WatchFlags::MODIFY).context(cannot)?;
    let own = Arc::clone(&events);
    let mut check = of_counter(Arc::new(open(path)?), 0, Next::Continue, tell);
    MemoryWatch::start(relay, owner, (events, EventFlags::IN), move || {
        while rustix::io::read(&*own, &mut [0; 1024]).is_ok_and(|length| length > 0) {}
        check()
    })
}

/// Tells when the count of a file has grown. `unreadable` is what follows where there is none.
fn of_counter(file: Arc<OwnedFd>, mut known: u64, unreadable: Next, tell: impl Fn()) -> impl FnMut() -> Next {
    move || {
        let Some(count) = killed(&file) else { return unreadable };
        if count > known {
            tell();
        }
        known = count;
        Next::Continue
    }
}

fn killed(file: &OwnedFd) -> Option<u64> {
    let mut buffer = [0; 1024];
    let count = rustix::io::pread(file, &mut buffer, 0).ok()?;
    let text = String::from_utf8_lossy(&buffer[..count]);
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.parse().ok())
}

fn watch_v1(
    relay: &Relay,
    owner: u64,
    directory: &Path,
    tell: impl Fn() + Send + 'static,
) -> Result<MemoryWatch> {
    let event = Arc::new(counter()?);
    let path = directory.join("memory.oom_control");
    let control = open(&path)?;
    let registration = format!("{} {}", event.as_raw_fd(), control.as_raw_fd());
    std::fs::write(directory.join("cgroup.event_control"), registration)
        .context(|| format!("cannot watch '{}'", path.display()))?;
    let check = of_signals(Arc::clone(&event), path, tell);
    MemoryWatch::start(relay, owner, (event, EventFlags::IN), check)
}

fn counter() -> Result<OwnedFd> {
    rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
        .context(|| "cannot make an eventfd")
}

/// Tells when the kernel has signalled since the last time. That the cgroup was removed it signals too.
fn of_signals(event: Arc<OwnedFd>, path: PathBuf, tell: impl Fn()) -> impl FnMut() -> Next {
    move || {
        let signalled = rustix::io::read(&*event, &mut [0; 8]).is_ok();
        if !path.exists() {
            return Next::Stop;
        }
        if signalled {
            tell();
        }
        Next::Continue
    }
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
    use std::sync::atomic::{AtomicU32, Ordering};

    /// A counter, and what adds to it.
    fn telling() -> (Arc<AtomicU32>, impl Fn() + Send) {
        let told = Arc::new(AtomicU32::new(0));
        let own = Arc::clone(&told);
        (told, move || _ = own.fetch_add(1, Ordering::SeqCst))
    }

    #[test]
    fn a_kill_is_told_of_once_by_whoever_looks_first() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let write = |count| std::fs::write(file.path(), format!("oom 7\noom_kill {count}\n")).unwrap();
        write(2);
        let (told, tell) = telling();
        let mut check = of_counter(Arc::new(open(file.path()).unwrap()), 2, Next::Stop, tell);
        assert_eq!((check(), told.load(Ordering::SeqCst)), (Next::Continue, 0));
        write(4);
        assert_eq!((check(), check(), told.load(Ordering::SeqCst)), (Next::Continue, Next::Continue, 1));
        file.as_file().set_len(0).unwrap();
        assert_eq!((check(), told.load(Ordering::SeqCst)), (Next::Stop, 1));
    }

    #[test]
    fn on_version_1_neither_a_look_nor_the_removal_is_a_kill() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let event = Arc::new(counter().unwrap());
        let signal = || assert_eq!(rustix::io::write(&*event, &1_u64.to_ne_bytes()).unwrap(), 8);
        let (told, tell) = telling();
        let mut check = of_signals(Arc::clone(&event), file.path().to_owned(), tell);
        assert_eq!((check(), told.load(Ordering::SeqCst)), (Next::Continue, 0));
        signal();
        assert_eq!((check(), check(), told.load(Ordering::SeqCst)), (Next::Continue, Next::Continue, 1));
        file.close().unwrap();
        signal();
        assert_eq!((check(), told.load(Ordering::SeqCst)), (Next::Stop, 1));
    }

    #[test]
    fn the_cgroup_for_memory_is_found() {
        let text = "3:cpu,cpuacct:/c\n2:memory:/m\n0::/u\n";
        assert_eq!(memory_path(text, false), Some("/m"));
        assert_eq!(memory_path(text, true), Some("/u"));
        assert_eq!(memory_path("1:cpu:/\n", true), None);
    }
}
