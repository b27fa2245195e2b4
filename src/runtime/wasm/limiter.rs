//! What a running program may use of memory, tables and instances.

use super::settings::Limits;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use wasmtime::ResourceLimiter;

/// Size of a page of memory, in bytes: the WebAssembly specification.
pub const PAGE: u64 = 64 << 10;

/// Memory that the engine itself needs, in bytes, and which so is not the module's where the container has a limit. Measured
/// are 2 MB; what is above them is for the buffers of files and sockets.
const ENGINE: u64 = 8 << 20;

/// Size of an element of a table in the engine, in bytes: a pointer.
const ELEMENT: u64 = size_of::<usize>() as u64;

/// The memory of all instances of a program.
#[derive(Debug, Clone)]
pub struct Memory(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    pages: u64,
    container: Container,
    used: AtomicU64,
}

/// What the container of a program may have of memory.
#[derive(Debug)]
pub enum Container {
    /// As much as there is.
    Unlimited,
    /// What its cgroup says: `memory.max` or `memory.limit_in_bytes`. It is read when memory grows, so that an update of the
    /// container takes effect.
    Cgroup(File),
    /// So many bytes: it shares a process and a cgroup with others.
    Bytes(u64),
}

impl From<Option<File>> for Container {
    fn from(cgroup: Option<File>) -> Self {
        cgroup.map_or(Self::Unlimited, Self::Cgroup)
    }
}

impl From<Option<u64>> for Container {
    fn from(bytes: Option<u64>) -> Self {
        bytes.map_or(Self::Unlimited, Self::Bytes)
    }
}

impl Container {
    /// Most bytes, if they are limited.
    fn most(&self) -> Option<u64> {
        match self {
            Self::Unlimited => None,
            Self::Bytes(bytes) => Some(*bytes),
            Self::Cgroup(file) => {
                let mut text = [0u8; 32];
                let length = file.read_at(&mut text, 0).ok()?;
                // "max", and the number of cgroup v1 that means it, are no limit.
                std::str::from_utf8(&text[..length]).ok()?.trim().parse().ok()
            }
        }
    }
}

impl Memory {
    /// At most `pages` for a program, and no more than its container may have.
    pub fn new(pages: u64, container: impl Into<Container>) -> Self {
        Self(Arc::new(Shared { pages, container: container.into(), used: AtomicU64::new(0) }))
    }

    /// Bytes in use.
    pub fn used(&self) -> u64 {
        self.0.used.load(Ordering::Relaxed)
    }

    /// Most bytes.
    fn most(&self) -> u64 {
        let pages = self.0.pages.saturating_mul(PAGE);
        self.0.container.most().map_or(pages, |bytes| pages.min(for_module(bytes)))
    }

    /// Takes `bytes` more, or tells how many would be in use and how many may be.
    fn take(&self, bytes: u64) -> Result<(), (u64, u64)> {
        let most = self.most();
        let take = |used: u64| used.checked_add(bytes).filter(|used| *used <= most);
        let taken = self.0.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        taken.map(drop).map_err(|used| (used.saturating_add(bytes), most))
    }
}

/// Keeps one instance within its limits.
#[derive(Debug)]
pub struct Limiter {
    limits: Limits,
    memory: Memory,
    own: u64,
    /// Elements of all tables.
    elements: u64,
    /// How many bytes were asked for when there was no more memory, and how many there were.
    pub denied: Option<(u64, u64)>,
}

impl Limiter {
    /// A limiter for a new instance.
    pub fn new(limits: Limits, memory: Memory) -> Self {
        Self { limits, memory, own: 0, elements: 0, denied: None }
    }

    /// Takes `bytes` more, or notes that they were denied.
    fn take(&mut self, bytes: u64) -> bool {
        match self.memory.take(bytes) {
            Ok(()) => self.own += bytes,
            Err(denied) => {
                self.denied = Some(denied);
                return false;
            }
        }
        true
    }
}

impl Drop for Limiter {
    fn drop(&mut self) {
        self.memory.0.used.fetch_sub(self.own, Ordering::Relaxed);
    }
}

/// What of a container's memory the module can have: all but what the engine needs, and at least half.
fn for_module(container: u64) -> u64 {
    container.saturating_sub(ENGINE).max(container / 2)
}

impl ResourceLimiter for Limiter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(self.take(desired.saturating_sub(current) as u64))
    }

    fn memory_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        tracing::debug!("memory could not grow: {error:#}");
        Ok(())
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let most = self.limits.table_elements;
        // There can be many tables. What they have together beyond one of the largest size is limited as memory is.
        let all = self.elements.saturating_add(desired.saturating_sub(current) as u64);
        let more = all.saturating_sub(most) - self.elements.saturating_sub(most);
        let granted = desired as u64 <= most && (more == 0 || self.take(more.saturating_mul(ELEMENT)));
        if granted {
            self.elements = all;
        }
        Ok(granted)
    }

    fn instances(&self) -> usize {
        self.limits.instances as usize
    }

    fn tables(&self) -> usize {
        self.limits.instances as usize
    }

    fn memories(&self) -> usize {
        self.limits.instances as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::config::WasmLimits;

    fn limits(pages: u64) -> Limits {
        Limits { memory_pages: pages, ..Limits::of(&WasmLimits::default()) }
    }

    #[test]
    fn the_engine_has_its_share_of_a_containers_memory() {
        assert_eq!(for_module(64 << 20), 56 << 20);
        assert_eq!(for_module(10 << 20), 5 << 20);
        assert_eq!(for_module(0), 0);
        assert_eq!(Memory::new(10_000, Some(64u64 << 20)).most(), 56 << 20);
    }

    #[test]
    fn all_memories_together_are_limited_and_an_update_is_seen() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("memory.max");
        std::fs::write(&path, "max\n").unwrap();
        let memory = Memory::new(1000, Some(File::open(&path).unwrap()));
        let mut limiter = Limiter::new(limits(1000), memory.clone());
        let page = PAGE as usize;
        assert!(limiter.memory_growing(0, 600 * page, None).unwrap());
        assert!(!limiter.memory_growing(0, 401 * page, None).unwrap());
        assert_eq!(limiter.denied, Some((1001 * PAGE, 1000 * PAGE)));
        assert!(limiter.memory_growing(0, 100 * page, None).unwrap());
        std::fs::write(&path, format!("{}\n", 20 << 20)).unwrap();
        assert!(!limiter.memory_growing(600 * page, 601 * page, None).unwrap());
        std::fs::write(&path, format!("{}\n", 80 << 20)).unwrap();
        assert!(limiter.memory_growing(600 * page, 601 * page, None).unwrap());
        std::fs::write(&path, "max\n").unwrap();
        assert!(!Limiter::new(limits(1000), memory.clone()).memory_growing(0, 400 * page, None).unwrap());
        drop(limiter);
        assert!(Limiter::new(limits(1000), memory).memory_growing(0, 1000 * page, None).unwrap());
    }

    #[test]
    fn tables_are_limited() {
        let mut limiter =
            Limiter::new(Limits { table_elements: 10, ..limits(1) }, Memory::new(1, Container::Unlimited));
        assert!(limiter.table_growing(0, 10, None).unwrap());
        assert!(!limiter.table_growing(10, 11, None).unwrap());
        assert_eq!(limiter.denied, None);
        // Many of them are memory.
        let page = PAGE / ELEMENT;
        let limits = Limits { table_elements: page, ..limits(2) };
        let mut limiter = Limiter::new(limits, Memory::new(2, Container::Unlimited));
        let mut grow = |elements: u64| limiter.table_growing(0, elements as usize, None).unwrap();
        assert!(grow(page) && grow(page) && grow(page) && !grow(1));
        assert_eq!(limiter.denied, Some((2 * PAGE + ELEMENT, 2 * PAGE)));
    }
}
