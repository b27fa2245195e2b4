//! Looking for damage.

use super::ImageStore;
use crate::error::{Error, Result};
use crate::image::image::Image;
use crate::image::manifest::digest_of;
use crate::storage::blobs::{Digest, Hasher};
use std::collections::BTreeSet;

/// What is wrong with an image.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Damage {
    /// Name of the image.
    pub image: String,
    /// What it is.
    pub fault: String,
}

impl ImageStore {
    /// Reads every blob of every image again, and looks whether its layers are unpacked. With `repair`, what is damaged is
    /// removed, so that the next pull brings it again.
    pub fn verify(&self, repair: bool) -> Result<Vec<Damage>> {
        let mut damage = Vec::new();
        let mut good: BTreeSet<Digest> = BTreeSet::new();
        for record in self.records()? {
            let mut note = |fault: String| damage.push(Damage { image: record.name.clone(), fault });
            let mut blobs = vec![record.target.clone(), record.manifest.clone(), record.id.clone()];
            match Image::load(self, record.clone()) {
                Ok(image) => {
                    let layers = image.manifest().layers().iter();
                    blobs.extend(layers.filter_map(|layer| digest_of(layer).ok()));
                }
                Err(e) => note(e.to_string()),
            }
            for digest in blobs {
                if good.contains(&digest) {
                    continue;
                }
                match self.check_blob(&digest) {
                    Ok(()) => drop(good.insert(digest)),
                    Err(e) => {
                        note(e.to_string());
                        if repair {
                            self.blobs().remove(&digest)?;
                        }
                    }
                }
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
}
