//! What `docker save` writes: a tar archive with `manifest.json`, from which an OCI manifest is made.

use super::archive::{Range, TarFile};
use super::layout::{name_after_file, read_to_limit};
use super::{Fetched, Source};
use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::image::manifest::digest_of;
use crate::image::reference::Reference;
use crate::storage::blobs::{Digest, Hasher};
use oci_spec::image::Descriptor;
use serde::Deserialize;
use serde_json::json;
use std::collections::HashMap;
use std::io::Read;
use std::path::Path;

/// One image in `manifest.json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Item {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

/// An archive of `docker save` or `podman save`.
#[derive(Debug)]
pub struct DockerArchive {
    tar: TarFile,
    name: Reference,
    manifest: Vec<u8>,
    /// Where in the archive each blob is.
    members: HashMap<Digest, String>,
}

impl DockerArchive {
    /// Opens the archive and finds the image `wanted` in it; without a name, the only one.
    pub fn open(path: &Path, wanted: Option<&str>) -> Result<Self> {
        let tar = TarFile::open(path)?;
        let cannot = || format!("cannot read '{}'", path.display());
        let items: Vec<Item> = serde_json::from_slice(&tar.small_member("manifest.json")?)
            .or_kind(ErrorKind::ImagePullFailed, cannot)?;
        let (item, name) = choose(&items, wanted, path)?;
        let mut members = HashMap::new();
        let mut describe = |member: &str, kind: &str| -> Result<_> {
            let (digest, size) = hash(tar.member(member)?).context(cannot)?;
            members.insert(digest.clone(), member.to_owned());
            Ok(json!({"mediaType": kind, "digest": digest.to_string(), "size": size}))
        };
        let config = describe(&item.config, "application/vnd.oci.image.config.v1+json")?;
        let layers = item.layers.iter().flatten();
        let layers: Vec<_> = layers
            .map(|layer| describe(layer, "application/vnd.oci.image.layer.v1.tar"))
            .collect::<Result<_>>()?;
        let manifest = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config, "layers": layers});
        Ok(Self { name, manifest: manifest.to_string().into_bytes(), members, tar })
    }
}

fn choose<'a>(items: &'a [Item], wanted: Option<&str>, path: &Path) -> Result<(&'a Item, Reference)> {
    let fail = |why: String| {
        Error::new(ErrorKind::ImagePullFailed, format!("cannot find an image in '{}': {why}", path.display()))
    };
    let tags = |item: &'a Item| item.repo_tags.iter().flatten();
    if let Some(wanted) = wanted {
        let wanted: Reference = wanted.parse()?;
        let is_it = |tag: &String| tag.parse::<Reference>().is_ok_and(|name| name == wanted);
        let item = items.iter().find(|item| tags(item).any(is_it));
        return item
            .map(|item| (item, wanted.clone()))
            .ok_or_else(|| fail(format!("none is called '{wanted}'")));
    }
    match items {
        [] => Err(fail("manifest.json is empty".to_owned())),
        [item] => {
            let named = tags(item).find_map(|tag| tag.parse().ok());
            Ok((item, named.map_or_else(|| name_after_file(path, None), Ok)?))
        }
        items => {
            let there: Vec<&str> = items.iter().flat_map(tags).map(String::as_str).collect();
            Err(fail(format!("there are several, name one of {}", there.join(", "))))
        }
    }
}

fn hash(mut content: Range) -> Result<(Digest, u64)> {
    let size = content.len();
    let mut hasher = Hasher::default();
    std::io::copy(&mut content, &mut hasher).map_err(Error::from)?;
    Ok((hasher.finish(), size))
}

impl DockerArchive {
    fn member(&self, descriptor: &Descriptor) -> Result<Range> {
        let digest = digest_of(descriptor)?;
        let name = self.members.get(&digest);
        let name = name.ok_or_else(|| Error::new(ErrorKind::BlobNotFound, format!("no blob {digest}")))?;
        self.tar.member(name)
    }
}

impl Source for DockerArchive {
    fn describe(&self) -> String {
        self.tar.path().display().to_string()
    }

    fn name(&self) -> &Reference {
        &self.name
    }

    fn root(&self) -> Result<Fetched> {
        Ok(Fetched::new(self.manifest.clone()))
    }

    fn manifest(&self, descriptor: &Descriptor) -> Result<Vec<u8>> {
        read_to_limit(self.member(descriptor)?)
    }

    fn blob(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + Send>> {
        Ok(Box::new(self.member(descriptor)?))
    }
}
