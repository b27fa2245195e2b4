//! Directories with everything in them.

use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::platform::userns::IdMappings;
use crate::platform::worker;
use std::path::Path;

/// Removes a directory with everything in it, also what belongs to ids that are lent to this user; one that is not there is
/// no error.
pub fn remove(path: &Path) -> Result<()> {
    let remove = |path: &Path| match std::fs::remove_dir_all(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::from(e)),
        _ => Ok(()),
    };
    let removed = match remove(path) {
        // As root of a user namespace that has those ids.
        Err(_) if !rustix::process::geteuid().is_root() => {
            worker::run(Some(&IdMappings::of_user()), || remove(path))
        }
        removed => removed,
    };
    removed.or_kind(ErrorKind::Storage, || format!("cannot remove '{}'", path.display()))
}
