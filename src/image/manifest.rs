//! Manifests, indexes and image configurations: untrusted JSON made into checked data.

use crate::error::{Error, ErrorKind, Result};
use crate::image::platform::PlatformSpec;
use crate::limits::{MAX_CONFIG_SIZE, MAX_MANIFEST_SIZE};
use crate::storage::blobs::Digest;
use oci_spec::image::{Descriptor, ImageConfiguration, ImageIndex, ImageManifest, MediaType};
use serde::de::DeserializeOwned;
use serde_json::Value;

/// `mediaType` of an empty configuration: OCI image specification, "Guidance for an Empty Descriptor".
const EMPTY_CONFIG: &str = "application/vnd.oci.empty.v1+json";

/// Media types of manifests and indexes that we read, in the order that we prefer them.
pub const MANIFEST_TYPES: [&str; 4] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];

/// What a digest or a tag can lead to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// Manifests for several platforms.
    Index(Box<ImageIndex>),
    /// One image.
    Manifest(Box<ImageManifest>),
}

fn malformed(what: &str, why: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::ImagePullFailed, format!("malformed {what}: {why}"))
}

/// Parses a manifest or an index. What it is follows from its members, since `mediaType` is often missing; a document that
/// could be read as both is refused.
pub fn parse(data: &[u8]) -> Result<Document> {
    if data.len() as u64 > MAX_MANIFEST_SIZE {
        crate::bail!(ImageTooLarge, "the manifest has more than {MAX_MANIFEST_SIZE} bytes");
    }
    let value: Value = serde_json::from_slice(data).map_err(|e| malformed("manifest", e))?;
    let has = |name: &str| value.get(name).is_some();
    if has("fsLayers") || value.get("schemaVersion").is_some_and(|version| version == 1) {
        crate::bail!(NotSupported, "docker's manifest schema 1 is not supported: push the image again");
    }
    if value.get("schemaVersion").is_none_or(|version| version != 2) {
        return Err(malformed("manifest", "schemaVersion is not 2"));
    }
    match (has("manifests"), has("layers") || has("config")) {
        (true, false) => without_nulls(value, "index").map(|index| Document::Index(Box::new(index))),
        (false, true) => {
            let manifest: ImageManifest = without_nulls(value, "manifest")?;
            check_layers(&manifest)?;
            Ok(Document::Manifest(Box::new(manifest)))
        }
        (true, true) => Err(malformed("manifest", "it is an index and an image at once")),
        (false, false) => Err(malformed("manifest", "it has neither 'manifests' nor 'layers'")),
    }
}

/// Parses an image configuration. Artifacts, as WebAssembly modules, may have an empty one.
pub fn parse_config(data: &[u8], manifest: &ImageManifest) -> Result<ImageConfiguration> {
    if data.len() as u64 > MAX_CONFIG_SIZE {
        crate::bail!(ImageTooLarge, "the image configuration has more than {MAX_CONFIG_SIZE} bytes");
    }
    let mut value: Value = serde_json::from_slice(data).map_err(|e| malformed("image configuration", e))?;
    if is_artifact(manifest) {
        fill_artifact_config(&mut value);
    }
    without_nulls(value, "image configuration")
}

/// True if the configuration is not that of a container image.
pub fn is_artifact(manifest: &ImageManifest) -> bool {
    let kind = manifest.config().media_type().to_string();
    !kind.contains("container.image") && !kind.contains("oci.image.config") || kind == EMPTY_CONFIG
}

/// Gives the configuration of an artifact the members that ours must have.
fn fill_artifact_config(value: &mut Value) {
    let Some(object) = value.as_object_mut() else { return };
    for (name, default) in [
        ("architecture", Value::from("wasm")),
        ("os", Value::from("wasi")),
        ("rootfs", serde_json::json!({"type": "layers", "diff_ids": []})),
    ] {
        if !object.get(name).is_some_and(|member| member.is_string() || member.get("diff_ids").is_some()) {
            object.insert(name.to_owned(), default);
        }
    }
    // Of other types it may have members of our names with another meaning.
    if !object.get("config").is_some_and(Value::is_object) {
        object.remove("config");
    }
    object.remove("history");
}

/// Docker writes `null` for what is not there.
fn without_nulls<T: DeserializeOwned>(mut value: Value, what: &str) -> Result<T> {
    drop_nulls(&mut value);
    serde_json::from_value(value).map_err(|e| malformed(what, e))
}

fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.retain(|_, member| !member.is_null());
            members.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => {
            items.retain(|item| !item.is_null());
            items.iter_mut().for_each(drop_nulls);
        }
        _ => {}
    }
}

fn check_layers(manifest: &ImageManifest) -> Result<()> {
    for layer in manifest.layers() {
        let kind = layer.media_type().to_string();
        if kind.contains("foreign") || kind.contains("nondistributable") {
            crate::bail!(NotSupported, "layer {} is not distributed with the image ({kind})", layer.digest());
        }
        if kind.contains("encrypted") {
            crate::bail!(NotSupported, "layer {} is encrypted ({kind})", layer.digest());
        }
        digest_of(layer)?;
    }
    digest_of(manifest.config()).map(drop)
}

/// The digest of a descriptor, if it is one that we can verify.
pub fn digest_of(descriptor: &Descriptor) -> Result<Digest> {
    let text = descriptor.digest().to_string();
    text.parse().map_err(|_| {
        Error::new(ErrorKind::NotSupported, format!("digest '{text}' is not supported: only sha256 is"))
    })
}

/// True if the layer is a tar archive, whatever compresses it.
pub fn is_archive(layer: &Descriptor) -> bool {
    match layer.media_type() {
        MediaType::ImageLayer | MediaType::ImageLayerGzip | MediaType::ImageLayerZstd => true,
        other => {
            let kind = other.to_string();
            kind.starts_with("application/vnd.docker.image.rootfs.diff") || kind.contains(".tar")
        }
    }
}

/// Chooses from an index what fits the wanted platform best.
pub fn select<'a>(index: &'a ImageIndex, wanted: &PlatformSpec) -> Result<&'a Descriptor> {
    let ranked = index.manifests().iter().filter_map(|descriptor| {
        let rank = match descriptor.platform() {
            Some(platform) => wanted.rank(&PlatformSpec::of(platform))?,
            // An index of one image need not name its platform.
            None if index.manifests().len() == 1 => 0,
            None => return None,
        };
        Some((rank, descriptor))
    });
    ranked.min_by_key(|(rank, _)| *rank).map(|(_, descriptor)| descriptor).ok_or_else(|| {
        let mut there: Vec<String> = index
            .manifests()
            .iter()
            .filter_map(|descriptor| descriptor.platform().as_ref().map(|p| PlatformSpec::of(p).to_string()))
            .filter(|platform| !platform.starts_with("unknown/"))
            .collect();
        there.sort();
        let there = if there.is_empty() { "none".to_owned() } else { there.join(", ") };
        Error::new(ErrorKind::ImagePullFailed, format!("no image for {wanted}; there is {there}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const D: &str = "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

    fn descriptor(kind: &str) -> Value {
        json!({"mediaType": kind, "digest": D, "size": 4})
    }

    fn manifest(layer: &str) -> Value {
        json!({"schemaVersion": 2, "config": descriptor("application/vnd.oci.image.config.v1+json"),
            "layers": [descriptor(layer)]})
    }

    #[test]
    fn documents_are_told_apart_without_a_media_type() {
        let layer = "application/vnd.oci.image.layer.v1.tar+gzip";
        let parsed = parse(manifest(layer).to_string().as_bytes()).unwrap();
        assert!(matches!(parsed, Document::Manifest(_)));
        let index = json!({"schemaVersion": 2, "manifests": []});
        assert!(matches!(parse(index.to_string().as_bytes()).unwrap(), Document::Index(_)));
        let mut both = manifest(layer);
        both["manifests"] = json!([]);
        for (wrong, why) in [
            (both, "an index and an image at once"),
            (json!({"schemaVersion": 2}), "neither"),
            (json!({"schemaVersion": 1, "fsLayers": []}), "schema 1"),
            (json!({"layers": []}), "schemaVersion"),
            (json!([]), "schemaVersion"),
            (manifest("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"), "not distributed"),
            (manifest("application/vnd.oci.image.layer.v1.tar+gzip+encrypted"), "encrypted"),
        ] {
            let e = parse(wrong.to_string().as_bytes()).expect_err(why);
            assert!(e.message().contains(why), "{e}");
        }
        let huge = format!("{{\"schemaVersion\": 2, \"x\": \"{}\"}}", "x".repeat(1 << 20));
        assert_eq!(parse(huge.as_bytes()).unwrap_err().kind(), ErrorKind::ImageTooLarge);
    }

    #[test]
    fn nulls_of_docker_are_nothing() {
        let data = json!({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [D]},
            "history": null, "config": {"Cmd": null, "Entrypoint": ["/a"], "Volumes": null, "ExposedPorts": {"80/tcp": {}},
            "Env": ["A=1"], "Labels": null, "Healthcheck": {"Test": ["NONE"]}}});
        let Document::Manifest(manifest) =
            parse(manifest("application/vnd.oci.image.layer.v1.tar").to_string().as_bytes()).unwrap()
        else {
            panic!("a manifest")
        };
        let config = parse_config(data.to_string().as_bytes(), &manifest).unwrap();
        let process = config.config().as_ref().unwrap();
        assert_eq!(process.entrypoint().as_ref().unwrap(), &["/a"]);
        assert_eq!(process.exposed_ports().as_ref().unwrap(), &["80/tcp"]);
        assert!(process.cmd().is_none() && process.volumes().is_none());
    }

    #[test]
    fn a_configuration_of_an_artifact_may_be_empty() {
        let mut module = manifest("application/wasm");
        module["config"]["mediaType"] = json!("application/vnd.wasm.config.v0+json");
        let Document::Manifest(manifest) = parse(module.to_string().as_bytes()).unwrap() else {
            panic!("a manifest")
        };
        assert!(is_artifact(&manifest) && !is_archive(&manifest.layers()[0]));
        let config = parse_config(b"{}", &manifest).unwrap();
        assert_eq!(config.architecture().to_string(), "wasm");
    }
}
