//! Reaping: one thread waits for every child of this process, and tells whoever asked.
//!
//! The server is the subreaper of everything below it. The first process of a container is made by the runtime, becomes our
//! child when the runtime ends, and may be dead before the runtime has told its pid. So the ends of unknown processes are kept
//! for as long as somebody may still claim them.

use crate::bootstrap::TUNABLES;
use crate::error::{Context as _, Result};
use crate::ffi;
use rustix::process::{
    Resource, Rlimit, WaitId, WaitIdOptions, WaitOptions, WaitStatus, getrlimit, setrlimit,
};
use std::collections::HashMap;
use std::process::{Child, Command};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

/// Exit status of a process that a signal ended: this and the signal's number.
const SIGNAL_BASE: i32 = 128;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// The exit status, or 128 and the signal.
    pub status: u32,
    /// When it was reaped.
    pub at: SystemTime,
}

impl Exit {
    /// The end of a process, now.
    pub fn now(status: u32) -> Self {
        Self { status, at: SystemTime::now() }
    }

    fn from_wait(status: WaitStatus) -> Self {
        let signal = status.terminating_signal().map(|signal| SIGNAL_BASE + signal);
        let status = signal.or_else(|| status.exit_status()).unwrap_or(255);
        Self::now(u32::try_from(status).unwrap_or(255))
    }
}

type Handler = Box<dyn FnOnce(Exit) + Send>;

#[derive(Default)]
struct Table {
    /// Who wants to know of which process.
    handlers: HashMap<i32, Handler>,
    /// Processes that ended while there were births.
    unclaimed: HashMap<i32, Exit>,
    /// Operations under way after which a pid is claimed.
    births: usize,
    /// Children started so far, so that the thread looks again.
    spawned: u64,
}

/// The one place where children are started, and waited for.
#[derive(Default)]
pub struct Reaper {
    table: Mutex<Table>,
    changed: Condvar,
    /// How many descriptors children may have, where this process may have more.
    descriptors: Option<Rlimit>,
}

/// While it exists, ends of unknown processes are kept for [`Reaper::claim`].
pub struct Birth(Arc<Reaper>);

impl Drop for Birth {
    fn drop(&mut self) {
        let mut table = self.0.lock();
        table.births -= 1;
        if table.births == 0 {
            table.unclaimed.clear();
        }
    }
}

impl Reaper {
    /// Makes this process the subreaper, and starts the thread.
    pub fn start() -> Result<Arc<Self>> {
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
            .context(|| "cannot become the subreaper")?;
        let reaper = Arc::new(Self { descriptors: raise_descriptors(), ..Self::default() });
        let own = Arc::clone(&reaper);
        std::thread::Builder::new()
            .name("reaper".to_owned())
            .spawn(move || own.run())
            .context(|| "cannot start a thread")?;
        Ok(reaper)
    }

    /// The one for all tests, which are threads of one process.
    #[cfg(test)]
    pub fn shared() -> Arc<Self> {
        static SHARED: std::sync::OnceLock<Arc<Reaper>> = std::sync::OnceLock::new();
        let start = || {
            // As a service manager starts us.
            let maximum = getrlimit(Resource::Nofile).maximum;
            setrlimit(Resource::Nofile, Rlimit { current: Some(1000), maximum }).unwrap();
            Self::start().unwrap()
        };
        Arc::clone(SHARED.get_or_init(start))
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        let mut seen = 0;
        loop {
            match rustix::process::waitid(WaitId::All, WaitIdOptions::EXITED | WaitIdOptions::NOWAIT) {
                Ok(Some(_)) => self.reap(),
                Err(rustix::io::Errno::CHILD) => {
                    // Without children there are no orphans either: wait until one is started.
                    let table = self.lock();
                    let table = self.changed.wait_while(table, |table| table.spawned == seen);
                    seen = table.unwrap_or_else(PoisonError::into_inner).spawned;
                }
                Ok(None) | Err(_) => {}
            }
        }
    }

    /// Reaps a child, if it is still there: one that could not execute its program is reaped by who started it, who has the lock until then.
    fn reap(&self) {
        let mut table = self.lock();
        let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) else { return };
        let (pid, exit) = (pid.as_raw_nonzero().get(), Exit::from_wait(status));
        let handler = table.handlers.remove(&pid);
        if handler.is_none() && table.births > 0 {
            table.unclaimed.insert(pid, exit);
        }
        drop(table);
        if let Some(handler) = handler {
            handler(exit);
        }
    }

    /// Starts a command in `/`; how it ends comes through the channel. Do not wait for the child by other means.
    pub fn spawn(&self, command: &mut Command) -> std::io::Result<(Child, Receiver<Exit>)> {
        let (sender, receiver) = sync_channel(1);
        // What is meant for this process only.
        command.current_dir("/").env_remove(TUNABLES.0).env_remove("NOTIFY_SOCKET");
        if let Some(limit) = &self.descriptors {
            ffi::set_limit(command, Resource::Nofile, *limit);
        }
        // The lock keeps the thread from telling of the child's end before anybody is listening, and from reaping it before that is done
        // here, where its program cannot be executed.
        let mut table = self.lock();
        let child = command.spawn()?;
        let handler = Box::new(move |exit| {
            // Whoever waited may be gone.
            let _ = sender.send(exit);
        });
        table.handlers.insert(child.id().cast_signed(), handler);
        table.spawned += 1;
        drop(table);
        self.changed.notify_all();
        Ok((child, receiver))
    }

    /// Announces that a process will be claimed that is not made by [`Reaper::spawn`].
    pub fn birth(self: &Arc<Self>) -> Birth {
        self.lock().births += 1;
        Birth(Arc::clone(self))
    }

    /// Calls `handler` when process `pid` ends, or at once when it has ended since the birth was announced.
    pub fn claim(&self, _birth: &Birth, pid: i32, handler: impl FnOnce(Exit) + Send + 'static) {
        let mut table = self.lock();
        match table.unclaimed.remove(&pid) {
            None => drop(table.handlers.insert(pid, Box::new(handler))),
            Some(exit) => {
                drop(table);
                handler(exit);
            }
        }
    }
}

/// Lets this process have as many descriptors as it may: a process of a container takes ten, and service managers allow 1,024 at first, for
/// the sake of programs that use select(2). Answers what children are to have, if that is less.
fn raise_descriptors() -> Option<Rlimit> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return None;
    }
    let raised = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    raised.inspect_err(|e| log::warn!("cannot raise the limit of descriptors: {e}")).is_ok().then_some(limit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::CommandExt as _;

    #[test]
    fn programs_that_cannot_be_executed_are_errors() {
        let reaper = Reaper::shared();
        let user = rustix::process::getuid().as_raw();
        for _ in 0..300 {
            // With a user the library forks, as it always does where it is static, and waits for the child itself.
            let mut command = Command::new("/nowhere");
            let error = reaper.spawn(command.uid(user)).unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
        }
    }

    #[test]
    fn commands_and_orphans_are_reaped_and_told_of() {
        let reaper = Reaper::shared();
        let limit = getrlimit(Resource::Nofile);
        assert_eq!(limit.current, limit.maximum);
        let mut command = Command::new("sh");
        command.args(["-c", "test $(ulimit -n) = 1000 && test $(ulimit -H -n) != 1000"]);
        let (_child, end) = reaper.spawn(&mut command).unwrap();
        assert_eq!(end.recv().unwrap().status, 0);
        let (_child, end) = reaper.spawn(Command::new("sh").args(["-c", "exit 3"])).unwrap();
        assert_eq!(end.recv().unwrap().status, 3);
        // The shell leaves a process behind, which becomes our child, and is dead before it is claimed. A shell that lived longer would
        // wait for it itself.
        let birth = reaper.birth();
        let mut command = Command::new("sh");
        command.args(["-c", "(sleep 0.1; exit 7) >/dev/null & echo $!"]).stdout(std::process::Stdio::piped());
        let (child, end) = reaper.spawn(&mut command).unwrap();
        let text = std::io::read_to_string(child.stdout.unwrap()).unwrap();
        end.recv().unwrap();
        let orphan: i32 = text.trim().parse().unwrap();
        while std::path::Path::new(&format!("/proc/{orphan}")).exists() {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        let (sender, receiver) = sync_channel(1);
        reaper.claim(&birth, orphan, move |exit| sender.send(exit).unwrap());
        assert_eq!(receiver.recv().unwrap().status, 7);
    }
}
