//! Files and directories of the cgroup file system.

use super::plan::{OnFailure, Setting};
use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::platform::small_file;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long the kernel may take to freeze, to end processes, or to let go of a cgroup.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often something is looked at that the kernel gives no notice of.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// Writes to a file of a cgroup.
pub fn write(path: &Path, value: &str) -> Result<()> {
    let flags = OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::TRUNC;
    rustix::fs::open(path, flags, Mode::empty())
        .and_then(|fd| rustix::io::retry_on_intr(|| rustix::io::write(&fd, value.as_bytes())))
        .context(|| format!("failed to write {value:?}: write {}", path.display()))?;
    Ok(())
}

/// Reads a file of a cgroup without the final newline.
pub fn read(path: &Path) -> Result<String> {
    let mut text = small_file::read(path).context(|| format!("cannot read '{}'", path.display()))?;
    text.truncate(text.trim_end().len());
    Ok(text)
}

/// Opens a cgroup directory.
pub fn open_dir(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
        .context(|| format!("cannot open cgroup '{}'", path.display()))
}

/// Moves a process into a cgroup.
pub fn add(directory: &Path, pid: i32) -> Result<()> {
    let which = || if pid == 0 { "this process".to_owned() } else { format!("process {pid}") };
    write(&directory.join("cgroup.procs"), &pid.to_string())
        .map_err(|e| e.wrap(format!("cannot move {} to cgroup '{}'", which(), directory.display())))
}

/// Makes a cgroup and its missing ancestors below `mount`. `prepare` is called with each directory, from the top, before its
/// child is made and for the last one after.
///
/// Returns whether the last one was made now.
pub fn create(mount: &Path, directory: &Path, mut prepare: impl FnMut(&Path) -> Result<()>) -> Result<bool> {
    let cannot = |path: &Path| format!("cannot make cgroup '{}'", path.display());
    let mut made = false;
    let mut path = mount.to_owned();
    for name in directory.strip_prefix(mount).unwrap_or(Path::new("")).components() {
        prepare(&path)?;
        path.push(name);
        made = match std::fs::create_dir(&path) {
            Ok(()) => true,
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => false,
            Err(e) => return Err(e).context(|| cannot(&path)),
        };
    }
    let prepared = prepare(&path);
    if prepared.is_err() && made {
        // Nobody knows of it yet who could remove it.
        try_remove(&path);
    }
    prepared.map(|()| made)
}

/// Makes settings. Those that limit each other are tried again after the rest.
pub fn apply(settings: &[Setting], directory_of: impl Fn(&Setting) -> Option<PathBuf>) -> Result<()> {
    let mut again = Vec::new();
    for setting in settings {
        if let Err(e) = apply_one(setting, &directory_of) {
            match (setting.on_failure, e.errno()) {
                (OnFailure::IgnoreMissing, Some(libc::ENOENT) | None) => {}
                (OnFailure::RetryLast, Some(libc::EINVAL | libc::EBUSY)) => again.push(setting),
                _ => return Err(e),
            }
        }
    }
    // Last in, first out: what could not be lowered below the others goes after them.
    again.iter().rev().try_for_each(|setting| apply_one(setting, &directory_of))
}

fn apply_one(setting: &Setting, directory_of: &impl Fn(&Setting) -> Option<PathBuf>) -> Result<()> {
    let Some(directory) = directory_of(setting) else {
        crate::bail!(
            NotSupported,
            "cannot set {} to {}: the cgroup controller '{}' is not available",
            setting.file,
            setting.value,
            setting.controller
        );
    };
    write(&directory.join(&setting.file), &setting.value)
}

/// The processes of a cgroup and all below it; none if it does not exist.
pub fn processes(directory: &Path) -> Result<Vec<i32>> {
    let mut pids = Vec::new();
    for path in tree(directory)? {
        match std::fs::read_to_string(path.join("cgroup.procs")) {
            Ok(text) => {
                pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 0));
            }
            // Gone meanwhile; or a threaded cgroup, whose processes its domain lists.
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENODEV | libc::EOPNOTSUPP)) => {}
            Err(e) => return Err(e).context(|| format!("cannot read the processes of '{}'", path.display())),
        }
    }
    Ok(pids)
}

/// The directory and all below it, parents first; empty if it does not exist.
fn tree(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut all = vec![directory.to_owned()];
    let mut at = 0;
    while at < all.len() {
        let entries = match std::fs::read_dir(&all[at]) {
            Ok(entries) => entries,
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENODEV)) => {
                all.remove(at);
                continue;
            }
            Err(e) => return Err(e).context(|| format!("cannot read cgroup '{}'", all[at].display())),
        };
        let below = entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path());
        all.extend(below);
        at += 1;
    }
    Ok(all)
}

/// Sends SIGKILL to every process of a cgroup and returns when they are gone.
pub fn kill_and_wait(directory: &Path) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let pids = processes(directory)?;
        if pids.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            crate::bail!(Timeout, "processes {pids:?} in cgroup '{}' do not end", directory.display());
        }
        // The whole cgroup at once where the kernel can (Linux 5.14): no process can fork itself out of it.
        let at_once = write(&directory.join("cgroup.kill"), "1").is_ok();
        let pidfds = pids.iter().filter_map(|pid| pidfd_open(Pid::from_raw(*pid)?, PidfdFlags::empty()).ok());
        for pidfd in pidfds.collect::<Vec<_>>() {
            if !at_once {
                let _ = rustix::process::pidfd_send_signal(&pidfd, rustix::process::Signal::KILL);
            }
            let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
            let _ = poll(&mut fds, Some(&timespec(deadline.saturating_duration_since(Instant::now()))));
        }
    }
}

/// Removes a cgroup that has no processes and nothing below it; true if it is gone.
pub fn try_remove(directory: &Path) -> bool {
    matches!(rustix::fs::rmdir(directory), Ok(()) | Err(Errno::NOENT))
}

/// Removes a cgroup and all below it.
pub fn remove(directory: &Path) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    // Nearly always it is one directory without processes.
    loop {
        match rustix::fs::rmdir(directory) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::BUSY) if Instant::now() < deadline => {}
            Err(e) => return Err(e).context(|| format!("cannot remove cgroup '{}'", directory.display())),
        }
        let below = tree(directory)?;
        let removed = below.iter().skip(1).rev().filter(|path| rustix::fs::rmdir(*path).is_ok()).count();
        if removed + 1 < below.len() || below.len() == 1 {
            kill_and_wait(directory)?;
            wait_unpopulated(directory);
        }
    }
}

/// A process that has just died still belongs to its cgroup for a moment. v2 gives notice when the last is gone.
fn wait_unpopulated(directory: &Path) {
    let events = directory.join("cgroup.events");
    if let Ok(file) = std::fs::File::open(&events)
        && let Ok(text) = std::fs::read_to_string(&events)
        && text.contains("populated 1")
    {
        let mut fds = [PollFd::new(&file, PollFlags::PRI)];
        let _ = poll(&mut fds, Some(&timespec(LOOK_AGAIN * 10)));
        return;
    }
    pause();
}

/// Waits until `done`, looked at again and again, and with `events` whenever that file changes.
pub fn wait_until(what: &str, events: Option<&Path>, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let file = events.and_then(|path| std::fs::File::open(path).ok());
    loop {
        if let Some(file) = &file {
            // poll(2) tells of changes since the last read.
            let _ = rustix::io::pread(file, &mut [0u8; 64][..], 0);
        }
        if done()? {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(Error::new(ErrorKind::Timeout, format!("{what} takes too long")));
        }
        match &file {
            Some(file) => {
                let _ = poll(&mut [PollFd::new(file, PollFlags::PRI)], Some(&timespec(LOOK_AGAIN * 10)));
            }
            None => pause(),
        }
    }
}

fn pause() {
    let _ = poll(&mut [], Some(&timespec(LOOK_AGAIN)));
}

fn timespec(duration: Duration) -> Timespec {
    Timespec { tv_sec: duration.as_secs() as i64, tv_nsec: i64::from(duration.subsec_nanos()) }
}
