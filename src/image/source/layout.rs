//! The OCI image layout: a directory with `index.json` and `blobs/`.

use super::{Fetched, Source};
use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::image::manifest::{self, Document, digest_of};
use crate::image::reference::{LOCAL_REGISTRY, Reference};
use crate::limits::MAX_MANIFEST_SIZE;
use crate::storage::blobs::Digest;
use oci_spec::image::{Descriptor, ImageIndex};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Annotation that names an image in `index.json`: OCI image specification, "Pre-Defined Annotation Keys".
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The full name that containerd and buildkit write beside the tag.
const CONTAINERD_NAME: &str = "io.containerd.image.name";

/// A directory in the OCI image layout.
#[derive(Debug)]
pub struct OciLayout {
    path: PathBuf,
    name: Reference,
    chosen: Chosen,
}

/// What was chosen from an `index.json`.
#[derive(Debug)]
pub(super) enum Chosen {
    /// One entry.
    Entry(Box<Descriptor>),
    /// All of it: the images are one for several platforms.
    Whole(Vec<u8>),
}

impl OciLayout {
    /// Opens the layout and finds the image `wanted` in it; without a name, the only one.
    pub fn open(path: &Path, wanted: Option<&str>) -> Result<Self> {
        let data = read_limited(&path.join("index.json"))?;
        let (chosen, name) = choose(&data, wanted, path)?;
        Ok(Self { path: path.to_owned(), name, chosen })
    }

    fn file(&self, digest: &Digest) -> Result<File> {
        let path = self.path.join("blobs/sha256").join(digest.hex());
        File::open(&path).or_kind(ErrorKind::BlobNotFound, || format!("cannot open '{}'", path.display()))
    }
}

/// Reads a file that is parsed in memory.
pub(super) fn read_limited(path: &Path) -> Result<Vec<u8>> {
    let cannot = || format!("cannot read '{}'", path.display());
    let file = File::open(path).or_kind(ErrorKind::ImagePullFailed, cannot)?;
    read_to_limit(file).map_err(|e| e.wrap(cannot()))
}

/// Reads at most the size of a manifest.
pub(super) fn read_to_limit(from: impl Read) -> Result<Vec<u8>> {
    let mut data = Vec::new();
    from.take(MAX_MANIFEST_SIZE + 1).read_to_end(&mut data).map_err(Error::from)?;
    if data.len() as u64 > MAX_MANIFEST_SIZE {
        crate::bail!(ImageTooLarge, "it has more than {MAX_MANIFEST_SIZE} bytes");
    }
    Ok(data)
}

/// Finds the image in an `index.json`, and what it is to be called.
pub(super) fn choose(data: &[u8], wanted: Option<&str>, path: &Path) -> Result<(Chosen, Reference)> {
    let fail = |why: String| {
        Error::new(ErrorKind::ImagePullFailed, format!("cannot find an image in '{}': {why}", path.display()))
    };
    let Document::Index(index) = manifest::parse(data)? else {
        return Err(fail("index.json is not an index".to_owned()));
    };
    if let Some(wanted) = wanted {
        let entry = index.manifests().iter().find(|entry| names(entry).any(|name| name == wanted));
        let entry = entry.ok_or_else(|| {
            let there: Vec<&str> = index.manifests().iter().flat_map(names).collect();
            fail(format!("none is called '{wanted}'; there is {}", there.join(", ")))
        })?;
        return Ok((Chosen::Entry(Box::new(entry.clone())), local_name(path, Some(entry), Some(wanted))?));
    }
    match index.manifests().as_slice() {
        [] => Err(fail("the index is empty".to_owned())),
        [entry] => Ok((Chosen::Entry(Box::new(entry.clone())), local_name(path, Some(entry), None)?)),
        entries if one_image(&index) => {
            Ok((Chosen::Whole(data.to_vec()), local_name(path, entries.first(), None)?))
        }
        entries => {
            let there: Vec<&str> = entries.iter().flat_map(names).collect();
            Err(fail(format!("there are several, name one of {}", there.join(", "))))
        }
    }
}

/// True if the entries are one image for several platforms.
fn one_image(index: &ImageIndex) -> bool {
    let entries = index.manifests();
    let first = entries.first().and_then(|entry| names(entry).next());
    entries.iter().all(|entry| entry.platform().is_some() && names(entry).next() == first)
}

fn names(entry: &Descriptor) -> impl Iterator<Item = &str> {
    let value = |key: &str| entry.annotations().as_ref().and_then(|all| all.get(key)).map(String::as_str);
    [value(REF_NAME), value(CONTAINERD_NAME)].into_iter().flatten()
}

/// A full name in the annotations is the image's name; otherwise it is called after the file, with what is in the annotation
/// as its tag.
fn local_name(path: &Path, entry: Option<&Descriptor>, wanted: Option<&str>) -> Result<Reference> {
    let annotated: Vec<&str> = entry.map(|entry| names(entry).collect()).unwrap_or_default();
    let full = annotated.iter().rev().chain(wanted.iter()).find(|name| name.contains('/'));
    if let Some(Ok(reference)) = full.map(|name| name.parse::<Reference>()) {
        return Ok(reference);
    }
    let tag = wanted.or(annotated.first().copied());
    name_after_file(path, tag)
}

/// `localhost/FILE:TAG`, with what no name can have left out.
pub(super) fn name_after_file(path: &Path, tag: Option<&str>) -> Result<Reference> {
    let stem = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    let stem = [".tar", ".wasm", ".wat"].iter().find_map(|end| stem.strip_suffix(end)).unwrap_or(&stem);
    let words: Vec<&str> = stem
        .split(|c: char| !c.is_ascii_lowercase() && !c.is_ascii_digit())
        .filter(|w| !w.is_empty())
        .collect();
    let stem = if words.is_empty() { "image".to_owned() } else { words.join("-") };
    let name = format!("{LOCAL_REGISTRY}/{stem}");
    match tag.map(|tag| format!("{name}:{tag}").parse()) {
        Some(Ok(reference)) => Ok(reference),
        _ => name.parse(),
    }
}

impl Chosen {
    /// The manifest or index, read by its descriptor.
    pub(super) fn root(&self, read: impl FnOnce(&Descriptor) -> Result<Vec<u8>>) -> Result<Fetched> {
        match self {
            Self::Whole(data) => Ok(Fetched::new(data.clone())),
            Self::Entry(entry) => {
                let fetched = Fetched::new(read(entry)?);
                let expected = digest_of(entry)?;
                if fetched.digest != expected {
                    crate::bail!(DigestMismatch, "manifest {expected} has the digest {}", fetched.digest);
                }
                Ok(fetched)
            }
        }
    }
}

impl Source for OciLayout {
    fn describe(&self) -> String {
        self.path.display().to_string()
    }

    fn name(&self) -> &Reference {
        &self.name
    }

    fn root(&self) -> Result<Fetched> {
        self.chosen.root(|entry| self.manifest(entry))
    }

    fn manifest(&self, descriptor: &Descriptor) -> Result<Vec<u8>> {
        let digest = digest_of(descriptor)?;
        read_to_limit(self.file(&digest)?).map_err(|e| e.wrap(format!("cannot read manifest {digest}")))
    }

    fn blob(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + Send>> {
        Ok(Box::new(self.file(&digest_of(descriptor)?)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const D: &str = "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

    fn index(names: &[&str]) -> Vec<u8> {
        let entry = |name: &&str| {
            json!({"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": D,
            "size": 4, "annotations": {REF_NAME: name}})
        };
        let entries: Vec<_> = names.iter().map(entry).collect();
        json!({"schemaVersion": 2, "manifests": entries}).to_string().into_bytes()
    }

    #[test]
    fn images_are_found_by_name_and_called_after_it() {
        let path = Path::new("/tmp/My Layout.tar");
        let name =
            |names: &[&str], wanted| choose(&index(names), wanted, path).map(|found| found.1.to_string());
        assert_eq!(name(&["1.0"], None).unwrap(), "localhost/my-layout:1.0");
        assert_eq!(name(&["1.0", "2.0"], Some("2.0")).unwrap(), "localhost/my-layout:2.0");
        assert_eq!(name(&["r.example/a:1"], None).unwrap(), "r.example/a:1");
        assert!(name(&["1.0", "2.0"], None).unwrap_err().message().contains("name one of 1.0, 2.0"));
        assert!(name(&["1.0"], Some("3")).unwrap_err().message().contains("there is 1.0"));
        assert!(name(&[], None).is_err());
    }
}
