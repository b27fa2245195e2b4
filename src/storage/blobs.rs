//! Content by digest: every blob is a file that is named after the SHA-256 of what is in it.

use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::platform::sys::fd::start_writing;
use crate::platform::sys::random::unique_id;
use sha2::{Digest as _, Sha256};
use std::fmt;
use std::fs::File;
use std::io::{Read, Write as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Bytes that are read at once.
const CHUNK: usize = 128 << 10;
/// Bytes after which the kernel is asked to write to the disk, so that little is left to wait for at the end (8 MiB).
const WRITE_AHEAD: u64 = 8 << 20;

/// A SHA-256 digest, as in `sha256:9f86d0...`: always 64 lower-case hexadecimal digits, so that it is safe in a path.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(String);

impl Digest {
    /// The digest of `data`.
    pub fn of(data: &[u8]) -> Self {
        Self(hex(&Sha256::digest(data)))
    }

    /// The hexadecimal digits alone.
    pub fn hex(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.0)
    }
}

impl FromStr for Digest {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let digits = text.strip_prefix("sha256:").unwrap_or_default();
        let is_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if digits.len() == 64 && digits.bytes().all(is_hex) {
            Ok(Self(digits.to_owned()))
        } else {
            Err(Error::new(ErrorKind::DigestMismatch, format!("invalid digest {text:?}")))
        }
    }
}

/// A digest in a file, as its text: for `#[serde(with)]`.
pub mod as_text {
    use super::Digest;
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    /// Writes it.
    pub fn serialize<S: Serializer>(digest: &Digest, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(digest)
    }

    /// Reads it.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Digest, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

/// The same for a digest that may be missing.
pub mod as_optional_text {
    use super::Digest;
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    /// Writes it.
    pub fn serialize<S: Serializer>(digest: &Option<Digest>, to: S) -> Result<S::Ok, S::Error> {
        match digest {
            Some(digest) => to.collect_str(digest),
            None => to.serialize_none(),
        }
    }

    /// Reads it.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Digest>, D::Error> {
        Option::<String>::deserialize(from)?.map(|text| text.parse().map_err(D::Error::custom)).transpose()
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A store of blobs below `ROOT/sha256/AB/ABCD...`.
///
/// ```
/// use magikrun::storage::blobs::{BlobStore, Digest};
/// use magikrun::{ErrorKind, limits::MAX_CONFIG_SIZE};
///
/// # let directory = tempfile::tempdir()?;
/// let store = BlobStore::new(directory.path());
/// let digest = Digest::of(b"content");
/// store.put(&digest, &b"content"[..], MAX_CONFIG_SIZE)?;
/// assert!(store.contains(&digest));
/// let e = store.put(&digest, &b"another"[..], MAX_CONFIG_SIZE).unwrap_err();
/// assert_eq!(e.kind(), ErrorKind::DigestMismatch);
/// # Ok::<(), magikrun::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct BlobStore {
    root: PathBuf,
}

impl BlobStore {
    /// The store at `root`; nothing is touched until a blob is put.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Where a blob is, or would be.
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.root.join("sha256").join(&digest.hex()[..2]).join(digest.hex())
    }

    /// True if the blob is there.
    pub fn contains(&self, digest: &Digest) -> bool {
        self.path(digest).is_file()
    }

    /// Opens a blob. Fails with [`ErrorKind::BlobNotFound`] when it is not there.
    pub fn open(&self, digest: &Digest) -> Result<File> {
        File::open(self.path(digest)).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => Error::new(ErrorKind::BlobNotFound, format!("no blob {digest}")),
            _ => Error::from(e).wrap(format!("cannot open blob {digest}")).with_kind(ErrorKind::Storage),
        })
    }

    /// Stores what `content` yields, at most `limit` bytes, if it has the digest. Nobody ever sees a part of it, and two
    /// that store the same at once both succeed.
    ///
    /// Fails with [`ErrorKind::DigestMismatch`] when the content is another, and with [`ErrorKind::ImageTooLarge`] when
    /// there is more of it.
    pub fn put(&self, digest: &Digest, mut content: impl Read, limit: u64) -> Result<u64> {
        let mut writer = self.writer(digest, limit, None)?;
        let mut buffer = vec![0u8; CHUNK];
        loop {
            match content.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => writer.write(&buffer[..read])?,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e).context(|| format!("cannot store blob {digest}")),
            }
        }
        writer.publish()
    }

    /// Starts to store a blob piece by piece. What is written is kept in `scratch`, or beside the blob, until it is published.
    pub fn writer(&self, digest: &Digest, limit: u64, scratch: Option<&Path>) -> Result<BlobWriter> {
        let path = self.path(digest);
        let directory = path.parent().unwrap_or(&self.root);
        let temporary = std::fs::create_dir_all(directory)
            .and_then(|()| Temporary::create(scratch.unwrap_or(directory), digest))
            .or_kind(ErrorKind::Storage, || format!("cannot store blob {digest}"))?;
        Ok(BlobWriter {
            digest: digest.clone(),
            path,
            temporary,
            hasher: Hasher::default(),
            length: 0,
            started: 0,
            limit,
        })
    }

    /// The digests of all blobs.
    pub fn digests(&self) -> Result<Vec<Digest>> {
        let mut found = Vec::new();
        for directory in names(&self.root.join("sha256"))? {
            for name in names(&self.root.join("sha256").join(directory))? {
                found.extend(format!("sha256:{name}").parse::<Digest>());
            }
        }
        Ok(found)
    }

    /// Removes a blob; one that is not there is no error.
    pub fn remove(&self, digest: &Digest) -> Result<()> {
        match std::fs::remove_file(self.path(digest)) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(e).or_kind(ErrorKind::Storage, || format!("cannot remove blob {digest}"))
            }
            _ => Ok(()),
        }
    }
}

/// Names in a directory, which need not exist.
fn names(directory: &Path) -> Result<Vec<String>> {
    let cannot = || format!("cannot read '{}'", directory.display());
    let entries = match std::fs::read_dir(directory) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.or_kind(ErrorKind::Storage, cannot)?,
    };
    entries
        .map(|entry| {
            Ok(entry.or_kind(ErrorKind::Storage, cannot)?.file_name().to_string_lossy().into_owned())
        })
        .collect()
}

/// Computes the digest of what is written to it.
#[derive(Debug, Clone, Default)]
pub struct Hasher(Sha256);

impl Hasher {
    /// Adds more of the content.
    pub fn update(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    /// The digest of everything.
    pub fn finish(self) -> Digest {
        Digest(hex(&self.0.finalize()))
    }
}

impl std::io::Write for Hasher {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        self.update(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A blob that is being stored. Dropped without [`BlobWriter::publish`] nothing is left of it.
#[derive(Debug)]
pub struct BlobWriter {
    digest: Digest,
    path: PathBuf,
    temporary: Temporary,
    hasher: Hasher,
    length: u64,
    /// Bytes whose way to the disk has begun.
    started: u64,
    limit: u64,
}

impl BlobWriter {
    /// Adds more of the content.
    pub fn write(&mut self, data: &[u8]) -> Result<()> {
        self.length += data.len() as u64;
        if self.length > self.limit {
            crate::bail!(ImageTooLarge, "blob {} has more than {} bytes", self.digest, self.limit);
        }
        self.hasher.update(data);
        self.temporary
            .file
            .write_all(data)
            .or_kind(ErrorKind::Storage, || format!("cannot store blob {}", self.digest))?;
        if self.length - self.started >= WRITE_AHEAD {
            start_writing(&self.temporary.file, self.started, self.length - self.started);
            self.started = self.length;
        }
        Ok(())
    }

    /// Bytes so far.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Compares the digest, without publishing.
    pub fn verify(&self) -> Result<()> {
        let found = self.hasher.clone().finish();
        if found != self.digest {
            crate::bail!(DigestMismatch, "the content of blob {} has the digest {found}", self.digest);
        }
        Ok(())
    }

    /// Verifies the content and makes the blob visible. Answers its length.
    pub fn publish(self) -> Result<u64> {
        self.verify()?;
        self.temporary
            .file
            .sync_all()
            .and_then(|()| self.temporary.publish(&self.path))
            .or_kind(ErrorKind::Storage, || format!("cannot store blob {}", self.digest))?;
        Ok(self.length)
    }
}

/// A file that goes away unless it is published.
#[derive(Debug)]
struct Temporary {
    file: File,
    path: PathBuf,
}

impl Temporary {
    fn create(directory: &Path, digest: &Digest) -> std::io::Result<Self> {
        let name = format!(".{}.{}", digest.hex(), unique_id()?);
        let path = directory.join(name);
        Ok(Self { file: File::create_new(&path)?, path })
    }

    fn publish(mut self, path: &Path) -> std::io::Result<()> {
        std::fs::rename(&self.path, path)?;
        self.path = PathBuf::new();
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.path.as_os_str().is_empty() {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, BlobStore) {
        let tmp = tempfile::tempdir().unwrap();
        let store = BlobStore::new(tmp.path().join("blobs"));
        (tmp, store)
    }

    #[test]
    fn a_blob_is_stored_under_its_digest() {
        let (_tmp, store) = store();
        let digest: Digest =
            "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08".parse().unwrap();
        assert_eq!(digest, Digest::of(b"test"));
        assert_eq!(store.open(&digest).unwrap_err().kind(), ErrorKind::BlobNotFound);
        assert_eq!(store.put(&digest, &b"test"[..], 100).unwrap(), 4);
        assert!(store.path(&digest).ends_with(format!("sha256/9f/{}", digest.hex())));
        assert_eq!(std::io::read_to_string(store.open(&digest).unwrap()).unwrap(), "test");
        store.remove(&digest).unwrap();
        store.remove(&digest).unwrap();
        assert!(!store.contains(&digest));
    }

    #[test]
    fn wrong_or_too_much_content_leaves_nothing() {
        let (tmp, store) = store();
        let digest = Digest::of(b"test");
        assert_eq!(store.put(&digest, &b"evil"[..], 100).unwrap_err().kind(), ErrorKind::DigestMismatch);
        assert_eq!(store.put(&digest, &b"test"[..], 3).unwrap_err().kind(), ErrorKind::ImageTooLarge);
        let directory = store.path(&digest);
        assert_eq!(std::fs::read_dir(directory.parent().unwrap()).unwrap().count(), 0);
        drop(tmp);
    }

    #[test]
    fn a_digest_is_hexadecimal_and_nothing_else() {
        for wrong in
            ["", "sha256:", "sha512:00", "sha256:../../etc/passwd", &format!("sha256:{}", "G".repeat(64))]
        {
            assert!(wrong.parse::<Digest>().is_err(), "{wrong}");
        }
    }
}
