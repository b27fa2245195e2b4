//! Races: somebody who shares a volume or the image exchanges two names while containers are being made.

use rustix::fs::{CWD, RenameFlags, renameat_with};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

/// How many containers are made against a race, where not said otherwise.
pub const ROUNDS: usize = 60;

/// Somebody who does one thing, without end, until dropped.
pub struct Attacker {
    stop: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Attacker {
    /// Does what `act` does, which tells whether it was done.
    pub fn start(mut act: impl FnMut() -> bool + Send + 'static) -> Self {
        let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&count));
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                if act() {
                    counted.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        Self { stop, count, thread: Some(thread) }
    }

    /// Exchanges what `one` and `other` name.
    pub fn exchange(one: &Path, other: &Path) -> Self {
        let (one, other): (PathBuf, PathBuf) = (one.to_owned(), other.to_owned());
        Self::start(move || renameat_with(CWD, &one, CWD, &other, RenameFlags::EXCHANGE).is_ok())
    }

    /// Puts a link to `target` in the place of `name`.
    pub fn replace(name: &Path, target: &Path) -> Self {
        let (name, target): (PathBuf, PathBuf) = (name.to_owned(), target.to_owned());
        let made = name.with_extension("attack");
        Self::start(move || symlink(&target, &made).is_ok() && std::fs::rename(&made, &name).is_ok())
    }

    /// How often it was done.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }
}

impl Drop for Attacker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
