//! What may be believed: files and directories that nobody but the user of this process could have written.

use crate::error::{Context as _, Result};
use std::os::fd::AsFd;

/// Requires that a file or directory belongs to the user of this process, and that nobody else can write to it.
pub fn require_own(fd: impl AsFd, what: &str) -> Result<()> {
    let stat = rustix::fs::fstat(fd).context(|| format!("cannot look at {what}"))?;
    let own = stat.st_uid == rustix::process::geteuid().as_raw();
    if !own || stat.st_mode & 0o022 != 0 {
        crate::bail!(Storage, "cannot trust {what}: others than its user can write to it");
    }
    Ok(())
}
