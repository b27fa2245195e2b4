//! Small files of the kernel, read with as few system calls as there can be.

use crate::error::{Error, Result};
use rustix::fs::{Mode, OFlags};
use std::path::Path;

/// Bytes that are enough for the files of procfs and cgroups that are read this way.
const BUFFER: usize = 4096;

/// Reads a file of procfs, sysfs or the cgroup file system as text.
///
/// Such a file has no size that could be asked for, and nearly always comes with one read(2).
pub fn read(path: impl AsRef<Path>) -> Result<String> {
    let file = rustix::fs::open(path.as_ref(), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut text = Vec::new();
    let mut buffer = [0u8; BUFFER];
    loop {
        let length = rustix::io::retry_on_intr(|| rustix::io::read(&file, &mut buffer))?;
        text.extend_from_slice(&buffer[..length]);
        // The kernel fills the buffer, or has reached the end. A record that did not fit in what was left comes next.
        if length == 0 || (text.len() == length && length < BUFFER / 2) {
            break;
        }
    }
    String::from_utf8(text).map_err(|_| Error::from_errno(libc::EILSEQ))
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
