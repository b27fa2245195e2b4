//! Bringing an image from the store to a registry.

use crate::error::{Context as _, Result};
use crate::image::image::Image;
use crate::image::manifest::digest_of;
use crate::image::progress::Progress;
use crate::image::reference::Reference;
use crate::image::save::media_type;
use crate::image::source::Target;
use crate::image::store::ImageStore;
use crate::storage::config::Registries;
use std::io::Read;

/// Counts what is read for the progress.
struct Counted<'a, R> {
    inner: R,
    progress: &'a dyn Progress,
    digest: &'a crate::storage::blobs::Digest,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.progress.advanced(self.digest, read as u64);
        Ok(read)
    }
}

/// Pushes the image under this name: blobs that the registry does not have, then the manifest.
pub fn push(
    store: &ImageStore,
    image: &Image,
    to: &Reference,
    registries: &Registries,
    progress: &dyn Progress,
) -> Result<()> {
    let target = Target::open(to, registries)?;
    let manifest = image.manifest();
    let mut done = Vec::new();
    for descriptor in manifest.layers().iter().chain([manifest.config()]) {
        let digest = digest_of(descriptor)?;
        if done.contains(&digest) {
            continue;
        }
        let cannot = || format!("cannot push '{to}': blob {digest}");
        if target.has(&digest).context(cannot)? {
            progress.exists(&digest);
        } else {
            progress.started(&digest, descriptor.size());
            let inner = store.blobs().open(&digest).context(cannot)?;
            let mut content = Counted { inner, progress, digest: &digest };
            target.put_blob(&digest, descriptor.size(), &mut content).context(cannot)?;
            progress.finished(&digest);
        }
        done.push(digest);
    }
    let mut data = Vec::new();
    let cannot = || format!("cannot push '{to}'");
    store.blobs().open(&image.record().manifest)?.read_to_end(&mut data).context(cannot)?;
    target.put_manifest(&data, &media_type(image)).context(cannot)
}
