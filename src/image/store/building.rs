//! The mark of a bundle that is being made: whoever makes it holds a lock on the mark, so that what a dead process has left is
//! known as that.

use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::storage::tree;
use crate::storage::trust::require_own;
use rustix::fs::{FlockOperation, flock};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// Name of the mark in the bundle.
const MARK: &str = ".magikrun-building";
/// Name of a link, beside the mark, to the state of the container that the bundle is for.
const OWNER: &str = ".magikrun-owner";
/// Everything that a bundle can have while it is being made.
const CONTENT: [&str; 5] = ["config.json", "rootfs", "upper", "work", OWNER];

/// A bundle that is being made by this process. Unless it is finished, it counts as half-made when the process has ended.
#[derive(Debug)]
pub struct Building {
    bundle: PathBuf,
    _lock: File,
}

impl Building {
    /// Begins to make a bundle in the existing directory `bundle`, which must be empty. What another process, which has died, was
    /// making there is removed.
    pub fn begin(bundle: &Path) -> Result<Self> {
        let cannot = || format!("cannot mark bundle '{}'", bundle.display());
        let mark = bundle.join(MARK);
        let others = |names: &[String]| names.iter().any(|name| name != MARK);
        let before = super::names(bundle)?;
        // A bundle that is whole must never get a mark, or it would count as half-made.
        if others(&before) && !before.iter().any(|name| name == MARK) {
            crate::bail!(BundleBuildFailed, "it is not empty");
        }
        let lock = OpenOptions::new().append(true).create(true).mode(0o600).open(&mark);
        let lock = lock.or_kind(ErrorKind::Storage, cannot)?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|_| {
            Error::new(ErrorKind::Storage, format!("{}: another process is making it", cannot()))
        })?;
        require_own(&lock, &format!("mark '{}'", mark.display()))?;
        let building = Self { bundle: bundle.to_owned(), _lock: lock };
        if others(&before) {
            building.clear()?;
        }
        if others(&super::names(bundle)?) {
            crate::bail!(BundleBuildFailed, "it is not empty");
        }
        Ok(building)
    }

    /// Binds the bundle to the container whose state is, or is going to be, in the directory `state`: it is of no use without
    /// that. Such a bundle is never finished.
    pub fn for_container(&self, state: &Path) -> Result<()> {
        std::os::unix::fs::symlink(state, self.bundle.join(OWNER))
            .or_kind(ErrorKind::Storage, || format!("cannot mark bundle '{}'", self.bundle.display()))
    }

    /// The bundle is whole.
    pub fn finish(self) -> Result<()> {
        std::fs::remove_file(self.bundle.join(MARK))
            .or_kind(ErrorKind::Storage, || format!("cannot finish bundle '{}'", self.bundle.display()))
    }

    /// Gives up: what was made is removed.
    pub fn abandon(self) {
        if let Err(e) = self.clear() {
            tracing::warn!("{e}");
        }
        let _ = std::fs::remove_file(self.bundle.join(MARK));
    }

    fn clear(&self) -> Result<()> {
        CONTENT.iter().try_for_each(|name| tree::remove(&self.bundle.join(name)))
    }
}

/// True for a bundle that is not finished, and may never be.
pub(super) fn is_marked(bundle: &Path) -> bool {
    bundle.join(MARK).exists()
}

/// True for a bundle of which nobody will ever make use: it is not finished, its maker is dead, and so is its container. Call with
/// the store locked exclusively.
pub(super) fn is_dead(bundle: &Path) -> bool {
    let Ok(mark) = File::open(bundle.join(MARK)) else { return false };
    if flock(&mark, FlockOperation::NonBlockingLockExclusive).is_err() {
        return false;
    }
    let Ok(state) = std::fs::read_link(bundle.join(OWNER)) else { return true };
    // As long as it is being created or deleted, the state has another name.
    let mut half_made = state.clone().into_os_string();
    half_made.push("~");
    !state.exists() && !Path::new(&half_made).exists()
}
