//! Which image store a command works with.

use crate::error::Result;
use crate::image::platform::PlatformSpec;
use crate::image::store::{STORE_VARIABLE, default_root};
use crate::image::{Image, ImageService};
use crate::storage::config::Config;
use std::path::PathBuf;

/// Arguments.
#[derive(Debug, Clone, Default, clap::Args)]
#[group(skip)]
pub struct StoreArgs {
    /// Directory of the image store [default: $MAGIKRUN_STORAGE, /var/lib/magikrun for root, ~/.magikrun]
    #[arg(long, value_name = "DIR", global = true)]
    storage: Option<PathBuf>,
}

impl StoreArgs {
    /// The images there, with the operator's limits.
    pub fn service(&self) -> Result<ImageService> {
        let config = Config::load()?;
        let service = match &self.storage {
            Some(path) => ImageService::with_root(std::path::absolute(path)?),
            None => ImageService::with_root(image_store(&config)?),
        };
        let registries = config.registries();
        Ok(service.with_limits(config.limits).with_registries(registries))
    }
}

/// Warns of an image for another machine: its programs cannot run but by an interpreter of the host.
pub fn warn_of_platform(image: &Image) {
    let platform = &image.record().platform;
    if !platform.parse().is_ok_and(|it| PlatformSpec::host().rank(&it).is_some()) {
        tracing::warn!("image '{}' is for {platform}, which this machine is not", image.name());
    }
}

/// The store if the command line names none: the environment's, the operator's, or the usual one.
pub fn image_store(config: &Config) -> Result<PathBuf> {
    let named = std::env::var_os(STORE_VARIABLE).is_some_and(|path| !path.is_empty());
    match &config.stores.images {
        Some(path) if !named => Ok(path.clone()),
        _ => default_root(),
    }
}
