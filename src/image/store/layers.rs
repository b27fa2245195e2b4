//! Unpacked layers, shared by all images and containers that have them.

use super::{ImageStore, names};
use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::image::extract::Unpacked;
use crate::platform::sys::random::unique_id;
use crate::storage::blobs::Digest;
use crate::storage::tree;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use std::path::{Path, PathBuf};

/// Name of the description in a layer's directory.
const DESCRIPTION: &str = "layer.json";
/// Name of the mark of a layer that may not be on the disk yet: it holds the id of the boot in which it was unpacked. In another
/// boot the layer may have lost its content in a crash; whether it has is seen from its files, and then the mark is removed.
const UNSYNCED: &str = "unsynced";
/// Name of the unpacked files in a layer's directory.
const FILES: &str = "fs";

/// An unpacked layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// Digest of the archive without compression.
    pub diff_id: Digest,
    /// Directory with its files.
    pub path: PathBuf,
}

fn boot_id() -> Result<String> {
    crate::platform::small_file::read("/proc/sys/kernel/random/boot_id")
}

/// Requires that an archive was the one that was expected.
pub(super) fn expect(unpacked: &Unpacked, expected: &Digest) -> Result<()> {
    if unpacked.diff_id == *expected {
        return Ok(());
    }
    let found = &unpacked.diff_id;
    Err(Error::new(
        ErrorKind::DigestMismatch,
        format!("the archive has the digest {found}, and should have {expected}"),
    ))
}

/// Writes what a layer's directory has beside the files.
fn describe(directory: &Path, unpacked: &Unpacked) -> std::io::Result<()> {
    std::fs::write(directory.join(DESCRIPTION), serde_json::to_vec(unpacked)?)?;
    std::fs::write(directory.join(UNSYNCED), boot_id().unwrap_or_default())
}

impl ImageStore {
    fn layer_directory(&self, diff_id: &Digest) -> PathBuf {
        self.root().join("layers").join(diff_id.hex())
    }

    /// Where the files of a layer are, or would be.
    pub fn layer_path(&self, diff_id: &Digest) -> PathBuf {
        self.layer_directory(diff_id).join(FILES)
    }

    /// The layer, if it is there and whole.
    pub fn layer(&self, diff_id: &Digest) -> Result<Option<Layer>> {
        let directory = self.layer_directory(diff_id);
        let whole = match std::fs::read_to_string(directory.join(UNSYNCED)) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => directory.join(FILES).is_dir(),
            marked => marked? == boot_id()? || self.has_survived(diff_id),
        };
        Ok(whole.then(|| Layer { diff_id: diff_id.clone(), path: directory.join(FILES) }))
    }

    /// True if a layer that another boot has unpacked is as it was. File systems write the content of a file before its size, and
    /// what is done to one file in order; so names, sizes and times, which are set last, tell.
    fn has_survived(&self, diff_id: &Digest) -> bool {
        let noted = self.layer_description(diff_id).ok().and_then(|layer| layer.tree);
        let survived = noted.is_some() && self.look(&self.layer_path(diff_id), false).ok() == noted;
        if survived {
            let _ = std::fs::remove_file(self.layer_directory(diff_id).join(UNSYNCED));
        }
        survived
    }

    /// What is known of an unpacked layer.
    pub fn layer_description(&self, diff_id: &Digest) -> Result<Unpacked> {
        let path = self.layer_directory(diff_id).join(DESCRIPTION);
        std::fs::read(&path)
            .map_err(Error::from)
            .and_then(|data| Ok(serde_json::from_slice(&data)?))
            .or_kind(ErrorKind::Storage, || format!("cannot read '{}'", path.display()))
    }

    /// The digests of all layers.
    pub fn layer_ids(&self) -> Result<Vec<Digest>> {
        let names = names(&self.root().join("layers"))?;
        Ok(names.iter().filter_map(|name| format!("sha256:{name}").parse().ok()).collect())
    }

    /// Makes the directory in which a layer is unpacked, inside of `work`. Answers it and the one for the files.
    pub(super) fn new_layer(work: &Path, diff_id: &Digest) -> Result<(PathBuf, PathBuf)> {
        let directory = work.join(format!("{}.{}", diff_id.hex(), unique_id()?));
        let files = directory.join(FILES);
        super::make_directory(&directory)?;
        std::fs::create_dir(&files)
            .and_then(|()| {
                use std::os::unix::fs::PermissionsExt as _;
                // What the root of an image has that does not mention it.
                std::fs::set_permissions(&files, std::fs::Permissions::from_mode(0o755))
            })
            .or_kind(ErrorKind::Storage, || format!("cannot make directory '{}'", files.display()))?;
        Ok((directory, files))
    }

    /// Makes an unpacked layer visible. If another was faster, this one is removed.
    pub(super) fn publish_layer(&self, directory: &Path, unpacked: &Unpacked) -> Result<Layer> {
        let diff_id = &unpacked.diff_id;
        let cannot = || format!("cannot publish layer {diff_id}");
        describe(directory, unpacked).or_kind(ErrorKind::Storage, cannot)?;
        let to = self.layer_directory(diff_id);
        loop {
            match renameat_with(CWD, directory, CWD, &to, RenameFlags::NOREPLACE) {
                Err(rustix::io::Errno::EXIST) if self.layer(diff_id)?.is_some() => {
                    tree::remove(directory)?;
                    break;
                }
                // A leftover of a crash.
                Err(rustix::io::Errno::EXIST) => self.discard_layer(diff_id)?,
                renamed => break renamed.or_kind(ErrorKind::Storage, cannot)?,
            }
        }
        Ok(Layer { diff_id: diff_id.clone(), path: to.join(FILES) })
    }

    /// Puts an unpacked layer, if it is what it was to be, in the place of one that is damaged. Nobody finds it missing meanwhile.
    pub(super) fn replace_layer(
        &self,
        directory: &Path,
        expected: &Digest,
        unpacked: &Unpacked,
    ) -> Result<()> {
        let cannot = || format!("cannot replace layer {expected}");
        expect(unpacked, expected)?;
        describe(directory, unpacked).or_kind(ErrorKind::Storage, cannot)?;
        let to = self.layer_directory(expected);
        match renameat_with(CWD, directory, CWD, &to, RenameFlags::EXCHANGE) {
            Err(rustix::io::Errno::NOENT) => self.publish_layer(directory, unpacked).map(drop),
            exchanged => {
                exchanged.or_kind(ErrorKind::Storage, cannot)?;
                tree::remove(directory)
            }
        }
    }

    /// Takes a layer out of sight and removes it.
    pub(super) fn discard_layer(&self, diff_id: &Digest) -> Result<()> {
        self.retract_layer(diff_id)?.map_or(Ok(()), |path| tree::remove(&path))
    }

    /// Takes a layer out of sight. Answers where it is now, to be removed.
    pub(super) fn retract_layer(&self, diff_id: &Digest) -> Result<Option<PathBuf>> {
        let away = self.root().join("work").join(format!(".{}", unique_id()?));
        match std::fs::rename(self.layer_directory(diff_id), &away) {
            Ok(()) => Ok(Some(away)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e).or_kind(ErrorKind::Storage, || format!("cannot remove layer {diff_id}")),
        }
    }
}
