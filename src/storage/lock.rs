//! The exclusive lock of a file in the state root.

use crate::error::{Context as _, ErrorKind, Result};
use rustix::fs::{FlockOperation, Mode, OFlags, flock, openat};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

const CANNOT_LOCK: &str = "cannot lock the state directory";

/// Opens a file that is locked; `create` says whether it is made.
pub(super) fn open(dir: BorrowedFd<'_>, name: &str, create: OFlags) -> Result<OwnedFd> {
    let flags = OFlags::RDWR | create | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(dir, name, flags, Mode::RUSR | Mode::WUSR)
        .or_kind(ErrorKind::Storage, || format!("cannot open '{name}' in the state directory"))
}

/// Holds the exclusive lock of a container until dropped.
///
/// The lock belongs to the open file description, which children of a fork share: dropping it unlocks for all.
#[derive(Debug)]
pub struct Lock(OwnedFd);

impl AsFd for Lock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Lock {
    /// Waits until nobody else holds the lock of a file.
    pub(super) fn wait(file: OwnedFd) -> Result<Self> {
        rustix::io::retry_on_intr(|| flock(&file, FlockOperation::LockExclusive))
            .or_kind(ErrorKind::Storage, || CANNOT_LOCK)?;
        Ok(Self(file))
    }

    /// Takes the lock of a file if nobody has it.
    pub(super) fn take(file: OwnedFd) -> Result<Option<Self>> {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Self(file))),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(e) => Err(e).or_kind(ErrorKind::Storage, || CANNOT_LOCK),
        }
    }

    /// Leaves the lock to a child that has the same open file: it is held until the last copy of the descriptor is closed.
    pub fn leave_to_child(self) {
        use std::os::fd::AsRawFd as _;
        let number = self.0.as_raw_fd();
        std::mem::forget(self);
        let _ = nix::unistd::close(number);
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = flock(&self.0, FlockOperation::Unlock);
    }
}
