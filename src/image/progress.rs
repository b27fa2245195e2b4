//! How far a pull is.

use crate::storage::blobs::Digest;

/// Hears how a pull advances; called from several threads.
pub trait Progress: Sync {
    /// A blob of `size` bytes is being read.
    fn started(&self, _blob: &Digest, _size: u64) {}
    /// `bytes` more of it have been read.
    fn advanced(&self, _blob: &Digest, _bytes: u64) {}
    /// It is complete, and unpacked if it is a layer.
    fn finished(&self, _blob: &Digest) {}
    /// It was there already.
    fn exists(&self, _blob: &Digest) {}
    /// Something that a person may want to know.
    fn note(&self, _message: &str) {}
}

/// Nobody listens.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {}
