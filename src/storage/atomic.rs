//! Files that are either entirely there or not there.

use crate::error::{Context as _, ErrorKind, Result};
use rustix::fs::{AtFlags, Mode, OFlags, openat, renameat, unlinkat};
use std::io::Write as _;
use std::os::fd::AsFd;

/// Writes `data` to `name` below `dir` by way of a temporary file and a rename, so that a reader sees the old
/// content or the new one and never a part. The file has mode 0600.
///
/// The state directory lives on a tmpfs that a crash of the machine empties, so nothing is synced.
pub fn write_at(dir: impl AsFd, name: &str, data: &[u8]) -> Result<()> {
    let dir = dir.as_fd();
    let temporary = format!("{name}~{}", rustix::process::getpid().as_raw_pid());
    let written = (|| -> Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat(dir, &temporary, flags, Mode::RUSR | Mode::WUSR)?;
        std::fs::File::from(fd).write_all(data)?;
        renameat(dir, &temporary, dir, name)?;
        Ok(())
    })();
    if written.is_err() {
        let _ = unlinkat(dir, &temporary, AtFlags::empty());
    }
    written.or_kind(ErrorKind::Storage, || format!("cannot write '{name}' in the state directory"))
}
