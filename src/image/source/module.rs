//! A WebAssembly module or component in a file: an image of one layer, which is the file.

use super::layout::name_after_file;
use super::{Fetched, Source};
use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::image::manifest::digest_of;
use crate::image::reference::Reference;
use crate::limits::MAX_WASM_MODULE_SIZE;
use crate::storage::blobs::{Digest, Hasher};
use oci_spec::image::Descriptor;
use serde_json::json;
use std::fs::File;
use std::io::{Read, Seek as _};
use std::path::{Path, PathBuf};

/// The configuration: nothing is to be said that does not follow from the module.
const CONFIG: &[u8] = b"{}";

/// A module in a file, as the artifact that registries have of such.
#[derive(Debug)]
pub struct WasmModule {
    path: PathBuf,
    file: File,
    name: Reference,
    manifest: Vec<u8>,
}

impl WasmModule {
    /// Opens the file and finds out its digest. That it is a module is seen when it is compiled.
    pub fn open(path: &Path) -> Result<Self> {
        let cannot = || format!("cannot read module '{}'", path.display());
        let mut file = File::open(path).or_kind(ErrorKind::ImagePullFailed, cannot)?;
        let (digest, size) = hash(&mut file).context(cannot)?;
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {
                "mediaType": "application/vnd.wasm.config.v0+json",
                "digest": Digest::of(CONFIG).to_string(),
                "size": CONFIG.len(),
            },
            "layers": [{"mediaType": "application/wasm", "digest": digest.to_string(), "size": size}],
        });
        let name = name_after_file(path, None)?;
        Ok(Self { path: path.to_owned(), file, name, manifest: manifest.to_string().into_bytes() })
    }
}

fn hash(file: &mut File) -> Result<(Digest, u64)> {
    let mut hasher = Hasher::default();
    let size = std::io::copy(&mut file.take(MAX_WASM_MODULE_SIZE + 1), &mut hasher).map_err(Error::from)?;
    if size > MAX_WASM_MODULE_SIZE {
        crate::bail!(ImageTooLarge, "it has more than {MAX_WASM_MODULE_SIZE} bytes");
    }
    Ok((hasher.finish(), size))
}

impl Source for WasmModule {
    fn describe(&self) -> String {
        self.path.display().to_string()
    }

    fn name(&self) -> &Reference {
        &self.name
    }

    fn root(&self) -> Result<Fetched> {
        Ok(Fetched::new(self.manifest.clone()))
    }

    fn manifest(&self, descriptor: &Descriptor) -> Result<Vec<u8>> {
        Err(Error::new(ErrorKind::BlobNotFound, format!("a module has no manifest {}", descriptor.digest())))
    }

    fn blob(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + Send>> {
        if digest_of(descriptor)? == Digest::of(CONFIG) {
            return Ok(Box::new(CONFIG));
        }
        let mut file = self.file.try_clone().map_err(Error::from)?;
        file.rewind().map_err(Error::from)?;
        Ok(Box::new(file))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::manifest::{self, Document};

    #[test]
    fn a_file_is_an_artifact_of_one_layer_and_is_called_after_it() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("Hello_World.wasm");
        std::fs::write(&path, b"\0asm").unwrap();
        let module = WasmModule::open(&path).unwrap();
        assert_eq!(module.name().to_string(), "localhost/hello-world:latest");
        let Document::Manifest(manifest) = manifest::parse(&module.root().unwrap().data).unwrap() else {
            panic!("a manifest")
        };
        assert!(manifest::is_artifact(&manifest));
        let read = |descriptor| {
            let mut data = Vec::new();
            module.blob(descriptor).unwrap().read_to_end(&mut data).unwrap();
            (Digest::of(&data) == digest_of(descriptor).unwrap()).then_some(data)
        };
        assert_eq!(read(&manifest.layers()[0]).unwrap(), b"\0asm");
        assert_eq!(read(&manifest.layers()[0]).unwrap(), b"\0asm", "a second time");
        assert_eq!(read(manifest.config()).unwrap(), CONFIG);
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        for (path, why) in [("/nowhere/x.wasm", "no such file"), ("/", "is a directory")] {
            let e = WasmModule::open(Path::new(path)).unwrap_err();
            assert!(e.message().starts_with(&format!("cannot read module '{path}': ")), "{e}");
            assert!(e.message().contains(why), "{e}");
        }
    }
}
