//! Writing an image as a tar archive of an OCI layout, which podman, skopeo and docker load.

use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::image::image::Image;
use crate::image::manifest::digest_of;
use crate::image::source::REF_NAME;
use crate::image::store::ImageStore;
use crate::storage::blobs::Digest;
use serde_json::json;
use std::collections::BTreeSet;
use std::io::Write;

/// Media type of manifests that do not state theirs.
pub(super) const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";

/// Writes the image with its name. The same image always gives the same bytes.
pub fn archive(store: &ImageStore, image: &Image, to: impl Write) -> Result<()> {
    let cannot = || format!("cannot save image '{}'", image.name());
    let mut builder = tar::Builder::new(to);
    let digest = &image.record().manifest;
    let size = store.blobs().open(digest).and_then(|file| Ok(file.metadata()?.len())).context(cannot)?;
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [{
            "mediaType": media_type(image),
            "digest": digest.to_string(),
            "size": size,
            "annotations": {REF_NAME: image.name(), "io.containerd.image.name": image.name()},
        }],
    });
    let mut written = (|| -> Result<()> {
        add(&mut builder, "oci-layout", json!({"imageLayoutVersion": "1.0.0"}).to_string().as_bytes())?;
        add(&mut builder, "index.json", index.to_string().as_bytes())?;
        for blob in blobs(image)? {
            let file = store.blobs().open(&blob)?;
            let mut header = header(file.metadata()?.len());
            builder.append_data(&mut header, format!("blobs/sha256/{}", blob.hex()), file)?;
        }
        Ok(())
    })();
    if written.is_ok() {
        written = builder.into_inner().and_then(|mut to| to.flush()).map_err(Error::from);
    }
    written.or_kind(ErrorKind::Storage, cannot)
}

/// The media type of the image's manifest.
pub(super) fn media_type(image: &Image) -> String {
    image.manifest().media_type().as_ref().map_or_else(|| MANIFEST_TYPE.to_owned(), ToString::to_string)
}

/// Manifest, configuration and layers, each once.
fn blobs(image: &Image) -> Result<BTreeSet<Digest>> {
    let manifest = image.manifest();
    let mut all: BTreeSet<Digest> =
        manifest.layers().iter().chain([manifest.config()]).map(digest_of).collect::<Result<_>>()?;
    all.insert(image.record().manifest.clone());
    Ok(all)
}

fn header(size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_size(size);
    header.set_mode(0o644);
    header
}

fn add(builder: &mut tar::Builder<impl Write>, name: &str, data: &[u8]) -> Result<()> {
    Ok(builder.append_data(&mut header(data.len() as u64), name, data)?)
}
