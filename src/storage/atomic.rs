//! Files that are either entirely there or not there.

use crate::error::{Context as _, Error, ErrorKind, Result};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, linkat, openat, renameat, unlinkat};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd, AsRawFd as _};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

/// Keeps the temporary files of several threads apart.
static WRITES: AtomicU32 = AtomicU32::new(0);

/// Writes `data` to `name` below `dir` by way of a temporary file and a rename, so that a reader sees the old
/// content or the new one and never a part. The file has mode 0600.
///
/// The state directory lives on a tmpfs that a crash of the machine empties, so nothing is synced.
pub fn write_at(dir: impl AsFd, name: &str, data: &[u8]) -> Result<()> {
    let dir = dir.as_fd();
    let number = WRITES.fetch_add(1, Ordering::Relaxed);
    let temporary = format!("{name}~{}-{number}", rustix::process::getpid().as_raw_pid());
    let written = (|| -> Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat(dir, &temporary, flags, Mode::RUSR | Mode::WUSR)?;
        File::from(fd).write_all(data)?;
        renameat(dir, &temporary, dir, name)?;
        Ok(())
    })();
    if written.is_err() {
        let _ = unlinkat(dir, &temporary, AtFlags::empty());
    }
    written.or_kind(ErrorKind::Storage, || format!("cannot write '{name}' in the state directory"))
}

/// Writes `data` to the file at `path`; a file that is there is replaced. Interrupted at any moment, this leaves nothing but
/// the whole file or none, except on file systems that [`write_nameless`] does not know.
pub fn write(path: &Path, data: &[u8]) -> Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().ok_or_else(|| Error::from_errno(libc::EISDIR))?;
    let dir = openat(CWD, parent, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    match write_nameless(&dir, name, Mode::from_raw_mode(0o666), data) {
        Err(e) if matches!(e.errno(), Some(libc::EOPNOTSUPP | libc::EISDIR)) => write_by_rename(path, data),
        written => written,
    }
}

/// Writes `data` to `name` below `dir`; a file that is there is replaced. The file has no name before its content is
/// complete. Fails with `EOPNOTSUPP` or `EISDIR` where the file system has no such files.
pub fn write_nameless(dir: impl AsFd, name: impl AsRef<OsStr>, mode: Mode, data: &[u8]) -> Result<()> {
    let (dir, name) = (dir.as_fd(), name.as_ref());
    let file = File::from(openat(dir, ".", OFlags::WRONLY | OFlags::TMPFILE | OFlags::CLOEXEC, mode)?);
    (&file).write_all(data)?;
    let nameless = format!("/proc/self/fd/{}", file.as_raw_fd());
    loop {
        match unlinkat(dir, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(e) => return Err(e.into()),
        }
        match linkat(CWD, &nameless, dir, name, AtFlags::SYMLINK_FOLLOW) {
            // Somebody has made one in the meantime.
            Err(Errno::EXIST) => {}
            linked => return Ok(linked?),
        }
    }
}

fn write_by_rename(path: &Path, data: &[u8]) -> Result<()> {
    let mut temporary = OsString::from(".");
    temporary.push(path.file_name().unwrap_or_default());
    let temporary = path.with_file_name(temporary);
    let written = std::fs::write(&temporary, data).and_then(|()| std::fs::rename(&temporary, path));
    if written.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    Ok(written?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_written_whole_and_replaced_and_nothing_else_is_left() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("pid");
        for write in [write, write_by_rename] {
            for data in ["1234", "5"] {
                write(&path, data.as_bytes()).unwrap();
                assert_eq!(std::fs::read_to_string(&path).unwrap(), data);
            }
            assert_eq!(std::fs::read_dir(tmp.path()).unwrap().count(), 1);
        }
        assert!(write(&tmp.path().join("absent/pid"), b"1").is_err());
    }
}
