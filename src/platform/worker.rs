//! Work that is done in a child process: apart from our memory, and where a user has no privileges, as root of a user
//! namespace.

use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::platform::sys::clone::{Child, fork};
use crate::platform::sys::fd::close_range;
use crate::platform::sys::security::unshare;
use crate::platform::userns::{IdMappings, become_root, write_mappings};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Signal, WaitId, WaitIdOptions, waitid};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::marker::PhantomData;
use std::os::fd::{AsFd as _, AsRawFd, OwnedFd, RawFd};

/// Longest answer of a worker, in bytes.
const MAX_ANSWER: u64 = 1 << 20;

/// An error on its way from one process to another.
#[derive(Serialize, Deserialize)]
struct Failure {
    kind: ErrorKind,
    message: String,
    errno: Option<i32>,
}

/// A child process that works. Dropped before [`Worker::finish`], it is killed.
#[derive(Debug)]
pub struct Worker<T> {
    child: Option<Child>,
    answer: File,
    result: PhantomData<T>,
}

/// Starts `job` in a child process, as root of a user namespace with `mappings` if there are any. It has no descriptors
/// but the standard ones and those of `keep`, and dies with the thread that started it.
///
/// The job must not write to standard streams or the log: see [`fork`].
pub fn start<T: Serialize + DeserializeOwned>(
    mappings: Option<&IdMappings>,
    keep: &[RawFd],
    job: impl FnOnce() -> Result<T>,
) -> Result<Worker<T>> {
    let (answer, to_answer) = pipe_with(PipeFlags::CLOEXEC)?;
    let (ready, to_ready) = pipe_with(PipeFlags::CLOEXEC)?;
    let (go, to_go) = pipe_with(PipeFlags::CLOEXEC)?;
    let (to_answer, keep) = (File::from(to_answer), keep.to_vec());
    let nested = mappings.is_some();
    let child = fork(move || {
        let done = child_part(nested, &[&to_ready, &go], to_answer.as_raw_fd(), &keep).and_then(|()| job());
        report(done, &to_answer)
    })?;
    let worker = Worker { child: Some(child), answer: answer.into(), result: PhantomData };
    // The parent's copies are gone with the closure; only its own ends are left.
    if let (Some(mappings), Some(child)) = (mappings, &worker.child) {
        let mut byte = [0u8];
        if File::from(ready).read(&mut byte).map_err(Error::from)? == 0 {
            return worker.finish().and_then(|_| Err(Error::from_errno(libc::ECHILD)));
        }
        write_mappings(child.pid, &mappings.uids, &mappings.gids, !rustix::process::geteuid().is_root())?;
    }
    drop(to_go);
    Ok(worker)
}

/// Runs `job` in a child process and waits for its result; see [`start`].
pub fn run<T: Serialize + DeserializeOwned>(
    mappings: Option<&IdMappings>,
    job: impl FnOnce() -> Result<T>,
) -> Result<T> {
    start(mappings, &[], job)?.finish()
}

/// Enters the user namespace and closes what the job does not need.
fn child_part(nested: bool, handshake: &[&OwnedFd; 2], answer: RawFd, keep: &[RawFd]) -> Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    let [ready, go] = handshake;
    let mut kept: Vec<RawFd> = keep.to_vec();
    kept.extend([answer, ready.as_raw_fd(), go.as_raw_fd()]);
    close_all_but(&mut kept)?;
    if nested {
        unshare(libc::CLONE_NEWUSER as u64).context(|| "cannot make a user namespace")?;
        rustix::io::write(ready, b"r")?;
        // The parent's end closes when the ids are mapped, or when it has died.
        rustix::io::retry_on_intr(|| rustix::io::read(go, &mut [0u8]))?;
        become_root()?;
    }
    Ok(())
}

fn close_all_but(keep: &mut Vec<RawFd>) -> Result<()> {
    keep.retain(|fd| *fd > 2);
    keep.sort_unstable();
    let mut next = 3u32;
    for fd in keep.iter().map(|fd| *fd as u32) {
        if fd > next {
            close_range(next, fd - 1)?;
        }
        next = next.max(fd + 1);
    }
    close_range(next, u32::MAX)
}

fn report<T: Serialize>(done: Result<T>, mut to: &File) -> i32 {
    let answer =
        done.map_err(|e| Failure { kind: e.kind(), message: e.message().to_owned(), errno: e.errno() });
    let sent = serde_json::to_vec(&answer).map_err(std::io::Error::from).and_then(|data| to.write_all(&data));
    i32::from(sent.is_err())
}

impl<T: DeserializeOwned> Worker<T> {
    /// Waits for the result.
    pub fn finish(mut self) -> Result<T> {
        let mut data = Vec::new();
        (&self.answer).take(MAX_ANSWER).read_to_end(&mut data).map_err(Error::from)?;
        let how = self.child.take().map(|child| reap(&child)).unwrap_or_default();
        match serde_json::from_slice::<Result<T, Failure>>(&data) {
            Ok(answer) => answer.map_err(|e| Error::from_parts(e.kind, e.message, e.errno)),
            Err(_) => Err(Error::new(ErrorKind::System, format!("the worker process {how}"))),
        }
    }
}

fn reap(child: &Child) -> String {
    match rustix::io::retry_on_intr(|| waitid(WaitId::PidFd(child.pidfd.as_fd()), WaitIdOptions::EXITED)) {
        Ok(Some(status)) => match (status.terminating_signal(), status.exit_status()) {
            (Some(signal), _) => format!("was killed by signal {signal} (out of memory?)"),
            (None, code) => format!("ended without an answer (status {})", code.unwrap_or_default()),
        },
        _ => "is gone".to_owned(),
    }
}

impl<T> Drop for Worker<T> {
    fn drop(&mut self) {
        if let Some(child) = self.child.take() {
            let _ = rustix::process::pidfd_send_signal(&child.pidfd, Signal::KILL);
            reap(&child);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_answers_from_another_process_also_among_threads() {
        let own = std::process::id();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(move || {
                    let pid = run(None, || Ok(std::process::id())).unwrap();
                    assert_ne!(pid, own);
                });
            }
        });
    }

    #[test]
    fn errors_and_deaths_are_told() {
        let e = run::<()>(None, || Err(Error::from_errno(libc::ENOSPC).wrap("cannot write"))).unwrap_err();
        assert_eq!((e.message(), e.errno()), ("cannot write: no space left on device", Some(libc::ENOSPC)));
        let e = run::<()>(None, || {
            rustix::process::kill_process(rustix::process::getpid(), Signal::KILL)?;
            Ok(())
        });
        assert!(e.unwrap_err().message().contains("killed by signal 9"));
    }

    #[test]
    fn a_job_keeps_only_its_descriptors() {
        let file = tempfile::tempfile().unwrap();
        let raw = file.as_raw_fd();
        let open = |keep: &[RawFd]| {
            let seen = move || {
                Ok(std::fs::read_dir("/proc/self/fd")?
                    .filter_map(|e| e.ok()?.file_name().into_string().ok())
                    .collect())
            };
            start::<Vec<String>>(None, keep, seen).unwrap().finish().unwrap()
        };
        assert!(open(&[raw]).contains(&raw.to_string()));
        assert!(open(&[]).len() <= 3 + 1 + 3, "standard ones, the listing, and those of the worker");
    }
}
