//! Unpacking a layer: an archive made by a stranger becomes a directory, and nothing else is touched.
//!
//! Names are checked as data first (`names`), then everything is done on descriptors: a path is resolved once, by the
//! kernel, below the root of the layer (`tree`). All of it happens in a child process that has no other root
//! (`sandbox`).

mod archive;
mod budget;
mod fingerprint;
mod input;
mod names;
mod pax;
mod sandbox;
mod sparse;
mod tree;

pub(super) use archive::has_right_checksum;
pub use budget::Share;
pub use fingerprint::fingerprint;
pub(super) use pax::Extensions;
pub use sandbox::{Extraction, start};

use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::storage::blobs::Digest;
use crate::storage::config::Limits;
use archive::{Archive, Entry, Kind};
use input::Input;
use names::Name;
use serde::{Deserialize, Serialize};
use std::io::Read;
use std::os::fd::OwnedFd;
use tree::Tree;

/// What a layer turned out to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Unpacked {
    /// Digest of the archive without compression.
    #[serde(with = "crate::storage::blobs::as_text")]
    pub diff_id: Digest,
    /// Bytes of file content.
    pub size: u64,
    /// Entries of the archive.
    pub entries: u64,
    /// What its directory looks like: see [`fingerprint`]. Layers that older versions have unpacked have none.
    #[serde(
        default,
        with = "crate::storage::blobs::as_optional_text",
        skip_serializing_if = "Option::is_none"
    )]
    pub tree: Option<Digest>,
    /// Device nodes that could not be made without privileges.
    #[serde(default)]
    pub skipped_devices: u64,
}

/// How to unpack.
#[derive(Debug, Clone)]
pub struct Rules {
    /// Limits of the layer.
    pub limits: Limits,
    /// What it may unpack to.
    pub share: Share,
    /// Unpacking without privileges over the host: devices cannot be made, and ids that are not mapped belong to root.
    pub rootless: bool,
}

/// Unpacks the archive that `input` yields, compressed or not, into the empty directory `root`.
///
/// Every error names the entry. What was made until then is left for the caller to remove.
pub fn extract(input: impl Read, root: OwnedFd, rules: &Rules) -> Result<Unpacked> {
    let mut archive = Archive::new(Input::new(input, &rules.limits)?);
    let mut tree = Tree::new(root, rules.rootless);
    let mut counts = Counts::default();
    while let Some(entry) = archive.next()? {
        counts.add(&entry, rules).and_then(|()| place(&mut tree, &mut archive, &entry)).map_err(|e| {
            let name = String::from_utf8_lossy(&entry.path).escape_default().to_string();
            e.wrap(format!("entry '{name}'"))
        })?;
        archive.skip_rest()?;
    }
    tree.finish()?;
    let (diff_id, _) = archive.into_input().drain()?;
    Ok(Unpacked {
        diff_id,
        tree: Some(fingerprint(tree.root(), false)?),
        size: counts.size,
        entries: counts.entries,
        skipped_devices: tree.skipped_devices(),
    })
}

/// Reads an archive as [`extract`] does, without making anything: for tests with inputs of any kind.
#[cfg(feature = "testing")]
pub fn read_through(input: impl Read, limits: &Limits) -> Result<Digest> {
    let mut archive = Archive::new(Input::new(input, limits)?);
    let rules = Rules {
        limits: limits.clone(),
        share: Share::of(limits.max_rootfs_size, 1)?.remove(0),
        rootless: true,
    };
    let mut counts = Counts::default();
    while let Some(entry) = archive.next()? {
        counts.add(&entry, &rules)?;
        names::classify(&entry.path)?;
        names::classify(&entry.link)?;
        archive.skip_rest()?;
    }
    Ok(archive.into_input().drain()?.0)
}

#[derive(Default)]
struct Counts {
    entries: u64,
    size: u64,
}

impl Counts {
    fn add(&mut self, entry: &Entry, rules: &Rules) -> Result<()> {
        let limits = &rules.limits;
        self.entries += 1;
        if self.entries > limits.max_files_per_layer as u64 {
            crate::bail!(
                ImageTooLarge,
                "the layer has more than {} entries (limits.max_files_per_layer)",
                limits.max_files_per_layer
            );
        }
        if entry.size > limits.max_rootfs_size {
            crate::bail!(
                ImageTooLarge,
                "it has {} bytes, more than {} (limits.max_rootfs_size)",
                entry.size,
                limits.max_rootfs_size
            );
        }
        rules.share.take(entry.cost())?;
        self.size = self.size.saturating_add(entry.stored);
        Ok(())
    }
}

fn place(tree: &mut Tree, archive: &mut Archive<'_>, entry: &Entry) -> Result<()> {
    match names::classify(&entry.path)? {
        Name::Root if entry.kind == Kind::Directory => tree.root_metadata(entry),
        Name::Root => Err(Error::new(ErrorKind::PathTraversal, "it would replace the root directory")),
        Name::Ignored => Ok(()),
        Name::Opaque { parent } => tree.opaque(&parent),
        Name::Whiteout { parent, name } => tree.whiteout(&parent, name),
        Name::Plain { parent, name } => match entry.kind {
            Kind::File => {
                let file = tree.create_file(&parent, name)?;
                archive.content(entry, &file).context(|| "cannot write its content")?;
                tree.finish_file(&file, entry)
            }
            Kind::Directory => tree.directory(&parent, name, entry),
            Kind::Symlink => tree.symlink(&parent, name, entry),
            Kind::Hardlink => {
                let target = names::classify(&entry.link).map_err(|e| e.wrap("its hard link"))?;
                let Name::Plain { parent: from, name: source } = target else {
                    crate::bail!(PathTraversal, "its hard link leads to no file of the layer");
                };
                tree.hardlink(&from, source, &parent, name)
            }
            Kind::Char | Kind::Block | Kind::Fifo => tree.node(&parent, name, entry),
        },
    }
}
