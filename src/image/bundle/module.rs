//! The WebAssembly module of an image: where it is, and what follows from that for a bundle.

use super::config::OciContainerConfig;
use super::{MODULE, WASM, view};
use crate::error::{Error, ErrorKind, Result};
use crate::image::image::Image;
use crate::image::manifest::digest_of;
use crate::image::store::ImageStore;
use std::fs::File;
use std::path::{Path, PathBuf};

/// Where a module is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Module {
    /// The blob of an artifact.
    Blob(PathBuf),
    /// In the root file system, as the entrypoint says.
    InRoot(PathBuf),
}

/// The module of a WebAssembly image, and the settings that follow from it.
pub fn choose(image: &Image, config: &mut OciContainerConfig) -> Result<Option<Module>> {
    if let Some(layer) = image.module() {
        config.backend.get_or_insert_with(|| WASM.to_owned());
        let given = config.command.take().or(image.settings().entrypoint().clone());
        // The module takes the place of the program; what names a program is its own name.
        let mut command = given.unwrap_or_else(|| vec![format!("/{MODULE}")]);
        if let Some(first) = command.first_mut() {
            *first = format!("/{MODULE}");
        }
        config.command = Some(command);
        return digest_of(layer).map(|digest| Some(Module::Blob(digest.hex().into())));
    }
    if image.is_wasm() {
        config.backend.get_or_insert_with(|| WASM.to_owned());
    }
    if config.backend.as_deref() != Some(WASM) {
        return Ok(None);
    }
    let first = config.command.as_ref().and_then(|words| words.first()).cloned();
    let first = first.or_else(|| program(image)).unwrap_or_else(|| MODULE.to_owned());
    Ok(Some(Module::InRoot(PathBuf::from(first.trim_start_matches('/')))))
}

/// The program that the image names.
fn program(image: &Image) -> Option<String> {
    let settings = image.settings();
    let words = settings.entrypoint().as_ref().or(settings.cmd().as_ref())?;
    words.first().cloned()
}

/// Opens the module of a WebAssembly image in the store: that of an artifact, or the program of an image for the platform
/// `wasi/wasm`. None for other images, and where the program is not where its name says.
pub fn open_module(store: &ImageStore, image: &Image) -> Result<Option<File>> {
    if let Some(layer) = image.module() {
        return store.blobs().open(&digest_of(layer)?).map(Some);
    }
    let Some(program) = program(image).filter(|_| image.is_wasm()) else { return Ok(None) };
    let directory = image.settings().working_dir().clone().unwrap_or_default();
    let path = Path::new("/").join(directory).join(program);
    let relative = path.strip_prefix("/").unwrap_or(&path);
    let text = |part: Option<&Path>| {
        part.and_then(Path::to_str)
            .map(str::to_owned)
            .ok_or_else(|| Error::new(ErrorKind::InvalidBundle, "the module has no name"))
    };
    let directory = match text(relative.parent())? {
        none if none.is_empty() => ".".to_owned(),
        directory => directory,
    };
    view::open_file(image.layers(), &directory, &text(relative.file_name().map(Path::new))?)
}
