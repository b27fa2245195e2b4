//! Files that are in memory where somebody reads them, and only there.

use super::mapping::Mapping;
use crate::error::{Context as _, Error, ErrorKind, Result};
use std::fs::File;
use std::mem::ManuallyDrop;
use std::os::fd::AsFd as _;

/// Maps a file that nobody changes, for good: its pages are those that the kernel has of it anyway, and each comes when it is read. A
/// process that reads beyond the end of a file that was made shorter meanwhile is killed, as by a shared library.
pub fn for_good(file: &File) -> Result<&'static [u8]> {
    let cannot = || "cannot map a file into memory";
    let size = file.metadata().context(cannot)?.len();
    let size = usize::try_from(size).map_err(|e| Error::new(ErrorKind::System, e.to_string()))?;
    if size == 0 {
        return Ok(&[]);
    }
    let mapping =
        Mapping::new(size, libc::PROT_READ, libc::MAP_PRIVATE, Some(file.as_fd())).context(cannot)?;
    let address = ManuallyDrop::new(mapping).address();
    // SAFETY: the mapping has this length, is never unmapped, and cannot be written to; the file is a program's, which is replaced by
    // another file and not changed.
    Ok(unsafe { std::slice::from_raw_parts(address.cast().as_ptr(), size) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn a_mapped_file_is_what_the_file_is() {
        let mut file = tempfile::tempfile().unwrap();
        assert_eq!(for_good(&file).unwrap(), b"");
        file.write_all(b"text").unwrap();
        let mapped = for_good(&file).unwrap();
        drop(file);
        assert_eq!(mapped, b"text");
        let directory = File::open("/").unwrap();
        assert!(for_good(&directory).unwrap_err().message().starts_with("cannot map"));
    }
}
