//! Looking for damage, and mending it.

use super::{ImageRecord, ImageStore, Lease, privileged};
use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::image::extract::{self, Rules, Share, Unpacked, fingerprint};
use crate::image::image::{self, Archive};
use crate::image::manifest::digest_of;
use crate::platform::worker;
use crate::storage::blobs::{Digest, Hasher};
use crate::storage::config::Limits;
use crate::storage::tree::{self, open_directory};
use std::collections::BTreeSet;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

/// What is wrong with an image.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Damage {
    /// Name of the image.
    pub image: String,
    /// What it is.
    pub fault: String,
    /// True if it has been mended; otherwise the next pull does that.
    pub repaired: bool,
}

/// How to look for damage.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Verify {
    /// Mend what can be, and remove what cannot, so that the next pull brings it again.
    pub repair: bool,
    /// Unpack every layer again, and compare the content of all files.
    pub deep: bool,
}

/// What was looked at already: images share blobs and layers.
#[derive(Default)]
struct Seen {
    good: BTreeSet<Digest>,
    layers: BTreeSet<Digest>,
}

impl ImageStore {
    /// Reads every blob of every image again, and looks whether its unpacked layers are there and as they were.
    pub fn verify(&self, how: Verify, limits: &Limits) -> Result<Vec<Damage>> {
        let (mut damage, mut seen) = (Vec::new(), Seen::default());
        let lease = self.lease()?;
        for record in self.records()? {
            let mut note = |fault: String, repaired| {
                damage.push(Damage { image: record.name.clone(), fault, repaired });
            };
            let mut blobs = vec![record.target.clone(), record.manifest.clone(), record.id.clone()];
            let documents = image::documents(self, &record);
            let archives = match &documents {
                Ok((manifest, config)) => {
                    blobs.extend(manifest.layers().iter().filter_map(|layer| digest_of(layer).ok()));
                    image::archives(manifest, config).unwrap_or_else(|e| {
                        note(e.to_string(), false);
                        Vec::new()
                    })
                }
                Err(_) => Vec::new(),
            };
            blobs.retain(|digest| !seen.good.contains(digest));
            for digest in blobs {
                match self.check_blob(&digest) {
                    Ok(()) => drop(seen.good.insert(digest)),
                    Err(e) => {
                        note(e.to_string(), false);
                        if how.repair {
                            self.blobs().remove(&digest)?;
                        }
                    }
                }
            }
            for archive in archives.iter().filter(|archive| seen.layers.insert(archive.diff_id.clone())) {
                let Err(e) = self.check_layer(&lease, archive, how, limits) else { continue };
                let repaired = how.repair && self.repair_layer(&lease, archive, limits)?;
                note(e.to_string(), repaired);
            }
            if let Err(e) = documents {
                note(e.to_string(), false);
            }
        }
        Ok(damage)
    }

    fn check_blob(&self, digest: &Digest) -> Result<()> {
        let mut file = self.blobs().open(digest)?;
        let mut hasher = Hasher::default();
        std::io::copy(&mut file, &mut hasher).map_err(Error::from)?;
        let found = hasher.finish();
        if found != *digest {
            crate::bail!(DigestMismatch, "blob {digest} has the digest {found}");
        }
        Ok(())
    }

    /// Compares an unpacked layer with what was noted when it was unpacked, or with what its archive unpacks to.
    fn check_layer(&self, lease: &Lease<'_>, archive: &Archive, how: Verify, limits: &Limits) -> Result<()> {
        let diff_id = &archive.diff_id;
        let layer = self.layer(diff_id)?.ok_or_else(|| image::not_unpacked(&archive.blob))?;
        let damaged = || {
            let fault =
                format!("layer {} has other files than its archive: {}", archive.blob, layer.path.display());
            Err(Error::new(ErrorKind::DigestMismatch, fault))
        };
        let noted = self.layer_description(diff_id)?.tree;
        if noted.is_some_and(|noted| self.look(&layer.path, false).is_ok_and(|found| found != noted)) {
            return damaged();
        }
        // Without a good blob there is nothing to compare with, and that is told already.
        if !how.deep || self.check_blob(&archive.blob).is_err() {
            return Ok(());
        }
        let (directory, files, _) = self.unpack_again(lease, archive, limits)?;
        let same = self.look(&layer.path, true)? == self.look(&files, true)?;
        tree::remove(&directory)?;
        if same { Ok(()) } else { damaged() }
    }

    /// The digest of what a layer's directory looks like.
    pub(super) fn look(&self, files: &Path, content: bool) -> Result<Digest> {
        let found = worker::run(self.mappings().as_ref(), || {
            let root = open_directory(rustix::fs::CWD, files.as_os_str().as_encoded_bytes())?;
            Ok(fingerprint(root.as_fd(), content)?.to_string())
        });
        found.context(|| format!("cannot read layer '{}'", files.display()))?.parse()
    }

    fn unpack_again(
        &self,
        lease: &Lease<'_>,
        archive: &Archive,
        limits: &Limits,
    ) -> Result<(PathBuf, PathBuf, Unpacked)> {
        let (directory, files) = lease.new_layer(&archive.diff_id)?;
        let share = Share::of(limits.max_rootfs_size, 1)?.remove(0);
        let rules = Rules { limits: limits.clone(), share, rootless: !privileged() };
        let input = self.blobs().open(&archive.blob)?.into();
        let unpacked = extract::start(input, &files, &rules, self.mappings().as_ref())?.finish()?;
        Ok((directory, files, unpacked))
    }

    /// Unpacks a layer again from its blob. False if that is not there: the layer is removed then.
    fn repair_layer(&self, lease: &Lease<'_>, archive: &Archive, limits: &Limits) -> Result<bool> {
        let _one = self.lock_item(&archive.blob)?;
        if self.check_blob(&archive.blob).is_err() {
            self.discard_layer(&archive.diff_id)?;
            return Ok(false);
        }
        let (directory, _, unpacked) = self.unpack_again(lease, archive, limits)?;
        self.replace_layer(&directory, &archive.diff_id, &unpacked)?;
        Ok(true)
    }

    /// Unpacks again what an image lacks of its layers, as far as their blobs are there.
    pub fn restore(&self, record: &ImageRecord, limits: &Limits) -> Result<()> {
        let (manifest, config) = image::documents(self, record)?;
        let lease = self.lease()?;
        for archive in image::archives(&manifest, &config)? {
            lease.need([&archive.blob, &archive.diff_id])?;
            if self.layer(&archive.diff_id)?.is_none() {
                self.repair_layer(&lease, &archive, limits)?;
            }
        }
        Ok(())
    }
}
