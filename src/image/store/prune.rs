//! Removing what nothing needs any more.

use super::{ImageStore, names};
use crate::error::Result;
use crate::image::manifest::{self, Document, digest_of};
use crate::storage::blobs::Digest;
use crate::storage::tree;
use std::collections::HashSet;
use std::io::Read as _;

/// What was removed.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Pruned {
    /// Number of blobs.
    pub blobs: usize,
    /// Number of unpacked layers.
    pub layers: usize,
    /// Bytes that blobs had, and the content of files in layers.
    pub bytes: u64,
}

impl ImageStore {
    /// Removes blobs and layers that no name, no bundle and no work in progress needs. Pulls and containers go on meanwhile:
    /// what they need is asked of them while the store is locked, for as long as it takes to move things out of sight.
    pub fn prune(&self) -> Result<Pruned> {
        self.prepare()?;
        self.clean_work()?;
        let mut pruned = Pruned::default();
        let away = {
            let _exclusive = self.lock_exclusive()?;
            let needed = self.needed()?;
            for digest in self.blobs().digests()?.iter().filter(|digest| !needed.contains(digest)) {
                pruned.bytes += std::fs::metadata(self.blobs().path(digest)).map_or(0, |m| m.len());
                self.blobs().remove(digest)?;
                pruned.blobs += 1;
            }
            let mut away = Vec::new();
            for diff_id in self.layer_ids()?.iter().filter(|diff_id| !needed.contains(diff_id)) {
                pruned.bytes += self.layer_description(diff_id).map_or(0, |layer| layer.size);
                pruned.layers += 1;
                away.extend(self.retract_layer(diff_id)?);
            }
            away
        };
        away.iter().try_for_each(|path| tree::remove(path))?;
        Ok(pruned)
    }

    /// The digests of everything that is needed. Call with the store locked exclusively.
    fn needed(&self) -> Result<HashSet<Digest>> {
        let mut needed: HashSet<Digest> = self.leased()?.into_iter().collect();
        needed.extend(self.used_by_bundles()?);
        needed.extend(self.mounted());
        for record in self.records()? {
            needed.extend([record.target.clone(), record.id.clone()]);
            self.add_manifest(&record.manifest, &mut needed);
            // The configuration lists what the layers unpack to.
            let config: serde_json::Value =
                self.read(&record.id).and_then(|data| serde_json::from_slice(&data).ok()).unwrap_or_default();
            let ids = config["rootfs"]["diff_ids"].as_array().into_iter().flatten();
            needed.extend(ids.filter_map(|id| id.as_str()?.parse::<Digest>().ok()));
        }
        Ok(needed)
    }

    fn add_manifest(&self, digest: &Digest, needed: &mut HashSet<Digest>) {
        needed.insert(digest.clone());
        let data = self.read(digest).unwrap_or_default();
        if let Ok(Document::Manifest(manifest)) = manifest::parse(&data) {
            let blobs = manifest.layers().iter().chain([manifest.config()]);
            needed.extend(blobs.filter_map(|blob| digest_of(blob).ok()));
        }
    }

    fn read(&self, digest: &Digest) -> Option<Vec<u8>> {
        let mut data = Vec::new();
        self.blobs().open(digest).ok()?.read_to_end(&mut data).ok()?;
        Some(data)
    }

    /// Names in the store's directory of work, for tests of what is left behind.
    pub fn work_in_progress(&self) -> Result<Vec<String>> {
        names(&self.root().join("work"))
    }
}
