//! Memory that a process shares with those that it forks.

use crate::error::{Context as _, Result};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

/// Numbers that this process and its children change together.
#[derive(Debug)]
pub struct Counters {
    first: NonNull<AtomicU64>,
    count: usize,
}

// SAFETY: what is shared are atomic numbers, which any thread may change at any time.
unsafe impl Send for Counters {}
// SAFETY: as above.
unsafe impl Sync for Counters {}

impl Counters {
    /// So many numbers (at least one), all 0.
    pub fn new(count: usize) -> Result<Self> {
        let count = count.max(1);
        let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory that exists.
        let address =
            unsafe { libc::mmap(std::ptr::null_mut(), count * size_of::<AtomicU64>(), access, kind, -1, 0) };
        let mapped = if address == libc::MAP_FAILED { None } else { NonNull::new(address.cast()) };
        let first = mapped.ok_or_else(std::io::Error::last_os_error).context(|| "cannot share memory")?;
        Ok(Self { first, count })
    }

    /// All of them.
    pub fn all(&self) -> &[AtomicU64] {
        // SAFETY: the mapping is aligned to a page, has room for `count` numbers, began as zeros, and lives as long as `self`.
        unsafe { std::slice::from_raw_parts(self.first.as_ptr(), self.count) }
    }
}

impl Drop for Counters {
    fn drop(&mut self) {
        // SAFETY: the mapping was made with this length, and nothing borrows from it any more.
        unsafe {
            libc::munmap(self.first.as_ptr().cast(), self.count * size_of::<AtomicU64>());
        }
    }
}
