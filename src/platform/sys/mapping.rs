//! Memory that the kernel maps: mmap(2).

use std::io::{Error, Result};
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::ptr::NonNull;

/// A mapping at an address of the kernel's choice, which is gone with this.
#[derive(Debug)]
pub(super) struct Mapping {
    address: NonNull<libc::c_void>,
    length: usize,
}

impl Mapping {
    /// Maps so many bytes (at least one), of a file or of nothing, with this `PROT_*` access and these `MAP_*` flags; never over what is
    /// mapped already.
    pub(super) fn new(length: usize, access: i32, flags: i32, file: Option<BorrowedFd<'_>>) -> Result<Self> {
        let (flags, file) = match file {
            Some(file) => (flags, file.as_raw_fd()),
            None => (flags | libc::MAP_ANONYMOUS, -1),
        };
        // SAFETY: without MAP_FIXED a new mapping touches no memory that exists.
        let address =
            unsafe { libc::mmap(std::ptr::null_mut(), length, access, flags & !libc::MAP_FIXED, file, 0) };
        let mapped = if address == libc::MAP_FAILED { None } else { NonNull::new(address) };
        mapped.map(|address| Self { address, length }).ok_or_else(Error::last_os_error)
    }

    /// Where it begins: at a page.
    pub(super) fn address(&self) -> NonNull<libc::c_void> {
        self.address
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping was made with this length, and whoever borrows from it does not outlive it.
        unsafe {
            libc::munmap(self.address.as_ptr(), self.length);
        }
    }
}
