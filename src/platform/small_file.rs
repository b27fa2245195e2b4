//! Small files of the kernel, read with as few system calls as there can be.

use crate::error::{Error, Result};
use rustix::fs::{Mode, OFlags};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;

/// Bytes that are enough for the files of procfs and cgroups that are read this way.
const BUFFER: usize = 4096;

/// Reads a file of procfs, sysfs or the cgroup file system as text.
///
/// Such a file has no size that could be asked for, and nearly always comes with one read(2).
pub fn read(path: impl AsRef<Path>) -> Result<String> {
    let file = rustix::fs::open(path.as_ref(), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    String::from_utf8(read_open(file.as_fd())?).map_err(|_| Error::from_errno(libc::EILSEQ))
}

/// Reads an open file to its end. One read(2) is all that a small file takes.
pub fn read_open(file: BorrowedFd<'_>) -> Result<Vec<u8>> {
    let mut data = Vec::new();
    let mut buffer = [0u8; BUFFER];
    loop {
        let length = rustix::io::retry_on_intr(|| rustix::io::read(file, &mut buffer))?;
        data.extend_from_slice(&buffer[..length]);
        // Files of the kernel come in whole records, so a buffer that is not half full was the end.
        if length < BUFFER / 2 {
            return Ok(data);
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn short_and_long_files_are_read_to_their_end() {
        assert!(super::read("/proc/self/stat").unwrap().ends_with('\n'));
        let all = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert_eq!(super::read("/proc/self/mountinfo").unwrap(), all);
        let error = super::read("/proc/self/nothing").unwrap_err();
        assert_eq!(error.errno(), Some(libc::ENOENT));
    }
}
