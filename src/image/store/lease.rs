//! Work in progress: what a process adds to the store is not for others to clean, as long as the process lives.

use super::layers::expect;
use super::{ImageStore, Layer, make_directory, names};
use crate::error::{Context as _, ErrorKind, Result};
use crate::image::extract::Unpacked;
use crate::platform::sys::random::unique_id;
use crate::storage::blobs::Digest;
use crate::storage::tree;
use rustix::fs::{FlockOperation, flock};
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// Name of the locked file.
const LOCK: &str = "lock";
/// Name of the list of digests that must stay.
const NEEDED: &str = "needed";

/// A directory for half-made things and a list of digests that must stay, both until dropped.
#[derive(Debug)]
pub struct Lease<'a> {
    store: &'a ImageStore,
    path: PathBuf,
    needed: Mutex<File>,
    _lock: File,
}

impl ImageStore {
    /// Begins to add to the store. Removes what processes that died have left.
    pub fn lease(&self) -> Result<Lease<'_>> {
        self.prepare()?;
        let lease = self.new_lease()?;
        self.clean_work()?;
        Ok(lease)
    }

    fn new_lease(&self) -> Result<Lease<'_>> {
        // While this is held nobody takes a directory without a lock for a dead one.
        let _shared = self.lock_shared()?;
        let path = self.root().join("work").join(unique_id()?.to_string());
        make_directory(&path)?;
        let cannot = || format!("cannot make '{}'", path.display());
        let lock = File::create_new(path.join(LOCK)).or_kind(ErrorKind::Storage, cannot)?;
        // Whoever looks whether we are alive may have it for a moment.
        rustix::io::retry_on_intr(|| flock(&lock, FlockOperation::LockExclusive))
            .or_kind(ErrorKind::Storage, cannot)?;
        let needed = File::create_new(path.join(NEEDED)).or_kind(ErrorKind::Storage, cannot)?;
        Ok(Lease { store: self, path, needed: Mutex::new(needed), _lock: lock })
    }

    /// Removes what processes that died were working on.
    pub fn clean_work(&self) -> Result<()> {
        for name in names(&self.root().join("work"))? {
            let path = self.root().join("work").join(&name);
            // A name with a dot is being removed already, maybe by nobody any more.
            if name.starts_with('.') || self.is_dead(&path)? {
                tree::remove(&path)?;
            }
        }
        self.clean_bundles()
    }

    fn is_dead(&self, path: &Path) -> Result<bool> {
        if !is_free(path) {
            return Ok(false);
        }
        // One that is being made is not locked yet either; whoever makes it holds the lock of the store.
        let _exclusive = self.lock_exclusive()?;
        Ok(is_free(path))
    }

    /// Digests that work in progress needs. Call with the store locked exclusively.
    pub(super) fn leased(&self) -> Result<Vec<Digest>> {
        let mut digests = Vec::new();
        for name in names(&self.root().join("work"))? {
            let list = self.root().join("work").join(name).join(NEEDED);
            let text = std::fs::read_to_string(list).unwrap_or_default();
            digests.extend(text.lines().filter_map(|line| line.parse::<Digest>().ok()));
        }
        Ok(digests)
    }
}

/// True if nobody has locked a lease.
fn is_free(path: &Path) -> bool {
    File::open(path.join(LOCK))
        .map_or(true, |lock| flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok())
}

impl Lease<'_> {
    /// Where half-made files are kept.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn store(&self) -> &ImageStore {
        self.store
    }

    /// Stores a small blob.
    pub fn put(&self, digest: &Digest, data: &[u8]) -> Result<()> {
        let mut writer = self.store.blobs().writer(digest, data.len() as u64, Some(&self.path))?;
        writer.write(data)?;
        writer.publish().map(drop)
    }

    /// Keeps these blobs and layers from being cleaned, whether they are there already or come later. Call before asking
    /// whether they are.
    pub fn need<'d>(&self, digests: impl IntoIterator<Item = &'d Digest>) -> Result<()> {
        let _shared = self.store.lock_shared()?;
        let lines: Vec<String> = digests.into_iter().map(Digest::to_string).collect();
        let mut file = self.needed.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        file.write_all((lines.join("\n") + "\n").as_bytes())
            .or_kind(ErrorKind::Storage, || format!("cannot write '{}'", self.path.join(NEEDED).display()))
    }

    /// Makes an empty directory in which a layer is unpacked. Answers it and the one for the files.
    pub fn new_layer(&self, diff_id: &Digest) -> Result<(PathBuf, PathBuf)> {
        ImageStore::new_layer(&self.path, diff_id)
    }

    /// Makes an unpacked layer visible, if it is what it was to be.
    pub fn publish_layer(&self, directory: &Path, expected: &Digest, unpacked: &Unpacked) -> Result<Layer> {
        expect(unpacked, expected)?;
        self.store.publish_layer(directory, unpacked)
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        if let Err(e) = tree::remove(&self.path) {
            tracing::warn!("{e}");
        }
    }
}
