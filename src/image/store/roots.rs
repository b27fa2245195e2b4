//! Bundles that use layers. The store knows of each by a link to it; a link whose bundle is gone means nothing.

use super::building::{self, Building};
use super::{ImageStore, make_directory, names};
use crate::error::{Context as _, ErrorKind, Result};
use crate::platform::sys::random::unique_id;
use crate::storage::blobs::Digest;
use crate::storage::tree;
use std::path::{Path, PathBuf};

impl ImageStore {
    /// Remembers that the bundle at `bundle`, an absolute path, uses layers. Call with the store locked shared, until its
    /// configuration names them.
    pub fn register_bundle(&self, bundle: &Path) -> Result<()> {
        if bundle.parent() == Some(&self.root().join("bundles")) {
            // One of our own: it is known by where it is.
            return Ok(());
        }
        let link = self.root().join("bundles").join(unique_id()?.to_string());
        std::os::unix::fs::symlink(bundle, &link)
            .or_kind(ErrorKind::Storage, || format!("cannot register bundle '{}'", bundle.display()))
    }

    /// A new directory for a bundle of our own, and its mark.
    pub fn new_bundle(&self) -> Result<(PathBuf, Building)> {
        // While this is held nobody takes a directory whose mark is not locked yet for a dead one.
        let _shared = self.lock_shared()?;
        let path = self.root().join("bundles").join(unique_id()?.to_string());
        make_directory(&path)?;
        let building = Building::begin(&path).inspect_err(|_| drop(std::fs::remove_dir(&path)))?;
        Ok((path, building))
    }

    /// Removes bundles of our own of which nobody will make use.
    pub(super) fn clean_bundles(&self) -> Result<()> {
        let all = names(&self.root().join("bundles"))?;
        let own = |path: &PathBuf| std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir());
        let empty = |path: &Path| std::fs::read_dir(path).is_ok_and(|mut all| all.next().is_none());
        let paths = all.iter().map(|name| self.root().join("bundles").join(name)).filter(own);
        let unfinished: Vec<PathBuf> =
            paths.filter(|path| building::is_marked(path) || empty(path)).collect();
        if unfinished.is_empty() {
            return Ok(());
        }
        // To ask whether a mark is locked is to lock it for a moment, in which nobody may begin to make the bundle.
        let _exclusive = self.lock_exclusive()?;
        let dead = |path: &&PathBuf| building::is_dead(path) || empty(path);
        unfinished.iter().filter(dead).try_for_each(|path| tree::remove(path))
    }

    /// An empty directory, for overlays that need one layer more.
    pub fn empty_directory(&self) -> Result<PathBuf> {
        let path = self.root().join("empty");
        make_directory(&path)?;
        Ok(path)
    }

    /// The bundles that use layers and still exist. Links to those that do not are removed.
    pub fn bundles(&self) -> Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        for name in names(&self.root().join("bundles"))? {
            let path = self.root().join("bundles").join(&name);
            match std::fs::read_link(&path) {
                Ok(target) if target.is_dir() => found.push(target),
                Ok(_) => {
                    let _ = std::fs::remove_file(&path);
                }
                Err(_) => found.push(path),
            }
        }
        Ok(found)
    }

    /// Layers that bundles use.
    pub(super) fn used_by_bundles(&self) -> Result<Vec<Digest>> {
        let bundles = self.bundles()?.into_iter();
        let configs =
            bundles.map(|bundle| std::fs::read_to_string(bundle.join("config.json")).unwrap_or_default());
        Ok(configs.flat_map(|config| self.mentioned(&config)).collect())
    }

    /// Layers that are mounted on the host.
    pub(super) fn mounted(&self) -> Vec<Digest> {
        self.mentioned(&std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default())
    }

    /// Layers whose paths are in a text: whatever mentions a layer keeps it, no need to know how.
    fn mentioned(&self, text: &str) -> Vec<Digest> {
        let marker = format!("{}/", self.root().join("layers").display());
        let digits = text.match_indices(&marker).map(|(at, _)| text[at + marker.len()..].chars().take(64));
        digits.filter_map(|digits| format!("sha256:{}", digits.collect::<String>()).parse().ok()).collect()
    }
}
