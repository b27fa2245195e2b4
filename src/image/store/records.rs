//! Names of images: one small file each.

use super::{ImageStore, Lease, names};
use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::image::reference::Reference;
use crate::platform::sys::random::unique_id;
use crate::storage::blobs::{Digest, as_text};
use serde::{Deserialize, Serialize};
use std::io::Write as _;
use std::path::PathBuf;

/// Fewest digits of an id that names an image.
const MIN_ID: usize = 4;

/// What a name leads to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageRecord {
    /// The full name.
    pub name: String,
    /// Digest of what the registry has under the name: an index, or the manifest itself.
    #[serde(with = "as_text")]
    pub target: Digest,
    /// Digest of the manifest.
    #[serde(with = "as_text")]
    pub manifest: Digest,
    /// Digest of the configuration: the id of the image.
    #[serde(with = "as_text")]
    pub id: Digest,
    /// Platform that was chosen.
    pub platform: String,
    /// When it was pulled, RFC 3339 in UTC.
    pub pulled: String,
}

impl ImageStore {
    fn record_path(&self, name: &str) -> PathBuf {
        // Names are longer than file names can be, and have slashes.
        self.root().join("images").join(Digest::of(name.as_bytes()).hex())
    }

    /// What a name leads to, if it is known.
    pub fn record(&self, reference: &Reference) -> Result<Option<ImageRecord>> {
        let path = self.record_path(&reference.to_string());
        match std::fs::read(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            data => data
                .map_err(Error::from)
                .and_then(|data| Ok(serde_json::from_slice(&data)?))
                .or_kind(ErrorKind::Storage, || format!("cannot read image record '{}'", path.display()))
                .map(Some),
        }
    }

    /// All names, sorted. Records that cannot be read are reported in the log and left out.
    pub fn records(&self) -> Result<Vec<ImageRecord>> {
        let mut records: Vec<ImageRecord> = Vec::new();
        for name in names(&self.root().join("images"))?.iter().filter(|name| !name.starts_with('.')) {
            let path = self.root().join("images").join(name);
            match std::fs::read(&path)
                .map_err(Error::from)
                .and_then(|data| Ok(serde_json::from_slice(&data)?))
            {
                Ok(record) => records.push(record),
                // Removed meanwhile.
                Err(e) if e.errno() == Some(libc::ENOENT) => {}
                Err(e) => tracing::error!("cannot read image record '{}': {e}", path.display()),
            }
        }
        records.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(records)
    }

    /// Finds an image by its name, or by the first digits of its id or of its manifest's digest.
    pub fn find(&self, text: &str) -> Result<ImageRecord> {
        let by_name = text.parse::<Reference>();
        if let Ok(reference) = &by_name
            && let Some(record) = self.record(reference)?
        {
            return Ok(record);
        }
        let digits = text.strip_prefix("sha256:").unwrap_or(text);
        if digits.len() >= MIN_ID && digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            let records = self.records()?;
            let is_it = |r: &&ImageRecord| {
                [&r.id, &r.manifest, &r.target].iter().any(|digest| digest.hex().starts_with(digits))
            };
            let mut found: Vec<ImageRecord> = records.iter().filter(is_it).cloned().collect();
            if found.iter().any(|record| record.id != found[0].id) {
                crate::bail!(Usage, "'{text}' is the beginning of several ids: give more digits");
            }
            if let Some(record) = found.pop() {
                return Ok(record);
            }
        }
        let name = by_name?;
        Err(Error::new(ErrorKind::ImageNotFound, format!("image '{name}' is not in the store")))
    }

    /// Forgets a name; what it led to goes with the next [`ImageStore::prune`]. False if there was no such name.
    pub fn remove_record(&self, name: &str) -> Result<bool> {
        match std::fs::remove_file(self.record_path(name)) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(e).or_kind(ErrorKind::Storage, || format!("cannot remove image '{name}'")),
        }
    }
}

impl Lease<'_> {
    /// Makes a name lead to an image. What it needs must be in the store.
    pub fn put_record(&self, record: &ImageRecord) -> Result<()> {
        let path = self.store().record_path(&record.name);
        let temporary = self.path().join(unique_id()?.to_string());
        let written = (|| -> Result<()> {
            let mut file = std::fs::File::create_new(&temporary)?;
            file.write_all(&serde_json::to_vec(record)?)?;
            file.sync_all()?;
            Ok(std::fs::rename(&temporary, &path)?)
        })();
        written.or_kind(ErrorKind::Storage, || format!("cannot write the record of image '{}'", record.name))
    }
}
