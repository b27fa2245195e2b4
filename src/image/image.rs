//! An image in the store.

use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::image::manifest::{self, Document, digest_of, is_archive};
use crate::image::store::{ImageRecord, ImageStore, Layer};
use crate::limits::MAX_MANIFEST_SIZE;
use crate::storage::blobs::Digest;
use oci_spec::image::{Config, Descriptor, ImageConfiguration, ImageManifest};
use std::io::Read as _;

/// An image that is in the store with all its layers.
#[derive(Debug, Clone)]
pub struct Image {
    record: ImageRecord,
    manifest: ImageManifest,
    config: ImageConfiguration,
    layers: Vec<Layer>,
}

impl Image {
    /// Reads the image that a name leads to.
    ///
    /// Fails with [`ErrorKind::BlobNotFound`] when something of it is missing, as after a crash: pull it again.
    pub fn load(store: &ImageStore, record: ImageRecord) -> Result<Self> {
        let cannot = || format!("cannot read image '{}'", record.name);
        let (manifest, config) = documents(store, &record)?;
        let layers = layers(store, &manifest, &config).context(cannot)?;
        Ok(Self { record, manifest, config, layers })
    }

    /// What its name leads to.
    pub fn record(&self) -> &ImageRecord {
        &self.record
    }

    /// Its full name.
    pub fn name(&self) -> &str {
        &self.record.name
    }

    /// Digest of its configuration, by which docker and podman know it.
    pub fn id(&self) -> &Digest {
        &self.record.id
    }

    /// Its manifest.
    pub fn manifest(&self) -> &ImageManifest {
        &self.manifest
    }

    /// Its configuration: platform, history and [`Image::settings`].
    pub fn config(&self) -> &ImageConfiguration {
        &self.config
    }

    /// How it wants to be run: entrypoint, command, environment, user, volumes, ports, stop signal.
    pub fn settings(&self) -> Config {
        self.config.config().clone().unwrap_or_default()
    }

    /// Its unpacked layers, the lowest first. None for an artifact.
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// Its layer with a WebAssembly module, if it is an artifact with one.
    pub fn module(&self) -> Option<&Descriptor> {
        self.manifest.layers().iter().find(|layer| {
            let kind = layer.media_type().to_string();
            !is_archive(layer) && kind.contains("wasm") && !kind.contains("config")
        })
    }

    /// True if it is made to be run as WebAssembly: an artifact with a module, or of an architecture that says so.
    pub fn is_wasm(&self) -> bool {
        self.module().is_some() || self.config.architecture().to_string() == "wasm"
    }

    /// Makes sure that its layers are still there. What follows from that holds while the store is locked.
    pub fn check(&self, store: &ImageStore) -> Result<()> {
        self.layers.iter().try_for_each(|layer| match store.layer(&layer.diff_id)? {
            Some(_) => Ok(()),
            None => crate::bail!(BlobNotFound, "a layer of image '{}' was removed", self.name()),
        })
    }

    /// Bytes of its unpacked files.
    pub fn unpacked_size(&self, store: &ImageStore) -> Result<u64> {
        let mut seen: Vec<&Digest> = self.layers.iter().map(|layer| &layer.diff_id).collect();
        seen.sort();
        seen.dedup();
        seen.into_iter().map(|diff_id| store.layer_description(diff_id).map(|layer| layer.size)).sum()
    }
}

/// Reads a blob that is parsed in memory, and verifies it.
fn small_blob(store: &ImageStore, digest: &Digest) -> Result<Vec<u8>> {
    let mut data = Vec::new();
    store.blobs().open(digest)?.take(MAX_MANIFEST_SIZE + 1).read_to_end(&mut data).map_err(Error::from)?;
    if Digest::of(&data) != *digest {
        crate::bail!(DigestMismatch, "blob {digest} is damaged");
    }
    Ok(data)
}

/// The manifest and the configuration of an image, whether its layers are there or not.
pub(super) fn documents(
    store: &ImageStore,
    record: &ImageRecord,
) -> Result<(ImageManifest, ImageConfiguration)> {
    let cannot = || format!("cannot read image '{}'", record.name);
    let manifest = match manifest::parse(&small_blob(store, &record.manifest).context(cannot)?)? {
        Document::Manifest(manifest) => *manifest,
        Document::Index(_) => crate::bail!(Storage, "the manifest of image '{}' is an index", record.name),
    };
    let data = small_blob(store, &record.id).context(cannot)?;
    let config = manifest::parse_config(&data, &manifest).context(cannot)?;
    Ok((manifest, config))
}

/// A layer that is unpacked to be used.
pub(super) struct Archive {
    /// Digest of the blob.
    pub(super) blob: Digest,
    /// Digest of the archive without compression.
    pub(super) diff_id: Digest,
}

/// The archives of an image, the lowest first. None for an artifact.
pub(super) fn archives(manifest: &ImageManifest, config: &ImageConfiguration) -> Result<Vec<Archive>> {
    let mut diff_ids = config.rootfs().diff_ids().iter();
    let archives =
        manifest.layers().iter().filter(|layer| is_archive(layer) && !manifest::is_artifact(manifest));
    archives
        .map(|descriptor| {
            let blob = digest_of(descriptor)?;
            let diff_id = diff_ids.next().ok_or_else(|| not_unpacked(&blob))?.parse()?;
            Ok(Archive { blob, diff_id })
        })
        .collect()
}

/// Without its layers an image is not whole.
pub(super) fn not_unpacked(blob: &Digest) -> Error {
    Error::new(ErrorKind::BlobNotFound, format!("layer {blob} is not unpacked"))
}

fn layers(store: &ImageStore, manifest: &ImageManifest, config: &ImageConfiguration) -> Result<Vec<Layer>> {
    let layer = |archive: &Archive| store.layer(&archive.diff_id)?.ok_or_else(|| not_unpacked(&archive.blob));
    archives(manifest, config)?.iter().map(layer).collect()
}
