//! Where images come from: one interface over registries, layouts, archives and modules.

mod archive;
mod docker;
mod layout;
mod module;
mod registry;

pub use archive::OciArchive;
pub use docker::DockerArchive;
pub use layout::{OciLayout, REF_NAME};
pub use module::WasmModule;
pub use registry::{Registry, Secret, Target, auth_files, check_login};

use crate::error::Result;
use crate::image::reference::Reference;
use crate::storage::blobs::Digest;
use oci_spec::image::Descriptor;
use std::io::Read;

/// A manifest or an index as it came, not yet trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// The very bytes.
    pub data: Vec<u8>,
    /// Their digest.
    pub digest: Digest,
}

impl Fetched {
    /// Computes the digest.
    pub fn new(data: Vec<u8>) -> Self {
        Self { digest: Digest::of(&data), data }
    }
}

/// What an image can be read from.
pub trait Source: Send + Sync {
    /// What it is called in messages.
    fn describe(&self) -> String;

    /// The name that the image gets in the store.
    fn name(&self) -> &Reference;

    /// The manifest or index that the name leads to.
    fn root(&self) -> Result<Fetched>;

    /// The digest that [`Source::root`] would have, if that can be told without reading it.
    fn digest(&self) -> Result<Option<Digest>> {
        Ok(None)
    }

    /// The manifest with this descriptor. The caller verifies it.
    fn manifest(&self, descriptor: &Descriptor) -> Result<Vec<u8>>;

    /// The content of a blob, not yet verified.
    fn blob(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + Send>>;
}
