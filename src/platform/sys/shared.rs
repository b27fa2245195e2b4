//! Memory that a process shares with those that it forks.

use super::mapping::Mapping;
use crate::error::{Context as _, Result};
use std::sync::atomic::AtomicU64;

/// Numbers that this process and its children change together.
#[derive(Debug)]
pub struct Counters {
    numbers: Mapping,
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
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let numbers = Mapping::new(count * size_of::<AtomicU64>(), access, libc::MAP_SHARED, None)
            .context(|| "cannot share memory")?;
        Ok(Self { numbers, count })
    }

    /// All of them.
    pub fn all(&self) -> &[AtomicU64] {
        // SAFETY: the mapping is aligned to a page, has room for `count` numbers, began as zeros, and lives as long as `self`.
        unsafe { std::slice::from_raw_parts(self.numbers.address().cast().as_ptr(), self.count) }
    }
}
