//! Images made by the tests: OCI layouts out of archives that are written entry by entry.

use super::bundle::busybox_rootfs;
use magikrun::storage::blobs::Digest;
use serde_json::{Value, json};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

/// An archive that becomes a layer.
pub struct Layer(tar::Builder<Vec<u8>>);

impl Default for Layer {
    fn default() -> Self {
        Self::new()
    }
}

impl Layer {
    /// An empty archive.
    pub fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    /// A busybox root file system.
    pub fn busybox() -> Self {
        let root = tempfile::tempdir().expect("a temporary folder");
        busybox_rootfs(root.path());
        let mut layer = Self::new();
        layer.0.follow_symlinks(false);
        layer.0.append_dir_all(".", root.path()).expect("the root file system is archived");
        layer
    }

    /// An entry with this name, exactly as it is given, which `change` makes what it is to be.
    #[must_use]
    pub fn entry(mut self, name: &str, content: &[u8], change: impl FnOnce(&mut tar::Header)) -> Self {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000_000_000);
        let field = &mut header.as_old_mut().name;
        assert!(name.len() <= field.len(), "a name that fits a header");
        field[..name.len()].copy_from_slice(name.as_bytes());
        change(&mut header);
        header.set_cksum();
        self.0.append(&header, content).expect("an entry");
        self
    }

    /// A file.
    #[must_use]
    pub fn file(self, name: &str, content: &str) -> Self {
        self.entry(name, content.as_bytes(), |_| {})
    }

    /// A directory.
    #[must_use]
    pub fn dir(self, name: &str, mode: u32) -> Self {
        self.entry(name, b"", |header| {
            header.set_entry_type(tar::EntryType::Directory);
            header.set_mode(mode);
        })
    }

    /// A symbolic link.
    #[must_use]
    pub fn symlink(self, name: &str, target: &str) -> Self {
        self.link(name, target, tar::EntryType::Symlink)
    }

    /// A hard link.
    #[must_use]
    pub fn hardlink(self, name: &str, target: &str) -> Self {
        self.link(name, target, tar::EntryType::Link)
    }

    fn link(self, name: &str, target: &str, kind: tar::EntryType) -> Self {
        self.entry(name, b"", |header| {
            header.set_entry_type(kind);
            header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
        })
    }

    /// The extended header of the entry that follows.
    #[must_use]
    pub fn pax(mut self, records: &[(&str, &[u8])]) -> Self {
        self.0.append_pax_extensions(records.iter().copied()).expect("an extended header");
        self
    }

    /// The archive.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0.into_inner().expect("the archive")
    }
}

/// How a layer is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip.
    Gzip,
    /// zstd.
    Zstd,
}

impl Compression {
    /// Compresses.
    pub fn apply(self, data: &[u8]) -> Vec<u8> {
        match self {
            Self::None => data.to_vec(),
            Self::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                encoder.write_all(data).expect("compressed data");
                encoder.finish().expect("compressed data")
            }
            Self::Zstd => zstd::encode_all(data, 1).expect("compressed data"),
        }
    }

    fn media_type(self) -> &'static str {
        match self {
            Self::None => "application/vnd.oci.image.layer.v1.tar",
            Self::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
            Self::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
        }
    }
}

/// A directory in the OCI image layout.
pub struct Layout {
    path: PathBuf,
    entries: Vec<Value>,
}

impl Layout {
    /// An empty layout at `path`.
    pub fn new(path: &Path) -> Self {
        fs::create_dir_all(path.join("blobs/sha256")).expect("the folder of the layout");
        fs::write(path.join("oci-layout"), json!({"imageLayoutVersion": "1.0.0"}).to_string())
            .expect("a file");
        let layout = Self { path: path.to_owned(), entries: Vec::new() };
        layout.save();
        layout
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The argument that names an image in it.
    pub fn image(&self, tag: &str) -> String {
        format!("oci:{}:{tag}", self.path.display())
    }

    /// Stores a blob. Answers its descriptor.
    pub fn blob(&self, media_type: &str, data: &[u8]) -> Value {
        let digest = Digest::of(data);
        fs::write(self.path.join("blobs/sha256").join(digest.hex()), data).expect("a blob");
        json!({"mediaType": media_type, "digest": digest.to_string(), "size": data.len()})
    }

    /// Adds an image with these archives as its layers and `settings` as the `config` of its configuration.
    pub fn add(
        &mut self,
        tag: &str,
        layers: &[Vec<u8>],
        compression: Compression,
        settings: &Value,
    ) -> &mut Self {
        let diff_ids: Vec<String> = layers.iter().map(|layer| Digest::of(layer).to_string()).collect();
        let blobs: Vec<Value> = layers
            .iter()
            .map(|layer| self.blob(compression.media_type(), &compression.apply(layer)))
            .collect();
        self.add_raw(tag, &blobs, &diff_ids, settings)
    }

    /// Adds an image with these descriptors and digests, whether they are right or not.
    pub fn add_raw(
        &mut self,
        tag: &str,
        layers: &[Value],
        diff_ids: &[String],
        settings: &Value,
    ) -> &mut Self {
        let config = json!({"architecture": "amd64", "os": "linux", "config": settings,
            "rootfs": {"type": "layers", "diff_ids": diff_ids}});
        let config = self.blob("application/vnd.oci.image.config.v1+json", config.to_string().as_bytes());
        let manifest = json!({"schemaVersion": 2, "config": config, "layers": layers});
        self.add_manifest(tag, manifest.to_string().as_bytes())
    }

    /// Adds a manifest, whatever it is.
    pub fn add_manifest(&mut self, tag: &str, manifest: &[u8]) -> &mut Self {
        let mut entry = self.blob("application/vnd.oci.image.manifest.v1+json", manifest);
        entry["annotations"] = json!({"org.opencontainers.image.ref.name": tag});
        self.entries.push(entry);
        self.save();
        self
    }

    fn save(&self) {
        let index = json!({"schemaVersion": 2, "manifests": self.entries});
        fs::write(self.path.join("index.json"), index.to_string()).expect("the index");
    }
}
