//! The state root as a list of containers.

use crate::error::{Context as _, ErrorKind, Result};
use crate::platform::small_file;
use rustix::fs::{AtFlags, Mode, OFlags, openat};
use rustix::io::Errno;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

/// The state root, open to read of many containers without opening the directory of each: a third of the system calls.
#[derive(Debug)]
pub struct Overview {
    root: OwnedFd,
    ids: Vec<String>,
}

impl Overview {
    /// The overview of an open state root that has these containers.
    pub(super) fn new(root: OwnedFd, ids: Vec<String>) -> Self {
        Self { root, ids }
    }

    /// The ids of all containers, sorted.
    pub fn ids(&self) -> &[String] {
        &self.ids
    }

    /// [`Overview::ids`], when nothing else is asked.
    pub(super) fn into_ids(self) -> Vec<String> {
        self.ids
    }

    /// Reads the file `name` of a container; `None` when either does not exist.
    pub fn read(&self, id: &str, name: &str) -> Result<Option<Vec<u8>>> {
        read_at(self.root.as_fd(), &format!("{id}/{name}"), || format!("cannot read '{name}' of '{id}'"))
    }

    /// True if the container has a file `name`.
    pub fn has(&self, id: &str, name: &str) -> bool {
        has_at(self.root.as_fd(), &format!("{id}/{name}"))
    }
}

/// Reads the file `name` below `dir`; `None` when it does not exist.
pub(super) fn read_at(
    dir: BorrowedFd<'_>,
    name: &str,
    cannot: impl Fn() -> String,
) -> Result<Option<Vec<u8>>> {
    match openat(dir, name, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty()) {
        Ok(fd) => small_file::read_open(fd.as_fd()).or_kind(ErrorKind::Storage, cannot).map(Some),
        Err(Errno::NOENT) => Ok(None),
        Err(e) => Err(e).or_kind(ErrorKind::Storage, cannot),
    }
}

/// True if there is a file `name` below `dir`.
pub(super) fn has_at(dir: BorrowedFd<'_>, name: &str) -> bool {
    rustix::fs::accessat(dir, name, rustix::fs::Access::EXISTS, AtFlags::empty()).is_ok()
}
