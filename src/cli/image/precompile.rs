//! Compiling the module of an image as soon as it is in the store, so that its first start is as fast as any.

use super::list::human_size;
use crate::error::{Context as _, Error, Result};
use crate::image::{Image, ImageService, open_module};
use crate::runtime::wasm::linked::linked;
use crate::storage::config::Config;
use std::io::Read as _;

/// From this size on a person may wonder what takes so long, in bytes (1 MiB).
const BIG: u64 = 1 << 20;

/// Compiles the module of an image, if it is one of WebAssembly, into the store of compiled code. That it cannot be compiled
/// is no fault of the transfer: it is a warning here, and an error when a container is created. `note` hears of a big one.
pub fn precompile(service: &ImageService, image: &Image, note: impl Fn(&str)) {
    if let Err(e) = compile(service, image, note) {
        tracing::warn!("{e}");
    }
}

fn compile(service: &ImageService, image: &Image, note: impl Fn(&str)) -> Result<()> {
    let Some(file) = open_module(service.storage(), image)? else { return Ok(()) };
    let limits = Config::load()?.wasm;
    let cannot = || format!("cannot read the module of image '{}'", image.name());
    let size = file.metadata().map_err(Error::from).context(cannot)?.len();
    if size >= BIG {
        note(&format!("compiling a module of {}", human_size(size)));
    }
    let mut bytes = Vec::new();
    file.take(limits.max_module_size.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(Error::from)
        .context(cannot)?;
    (linked()?.precompile)(&limits, &bytes, image.name()).map(drop)
}
