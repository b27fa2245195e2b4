//! Which image store a command works with.

use crate::error::Result;
use crate::image::ImageService;
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
        let service = match &self.storage {
            Some(path) => ImageService::with_root(std::path::absolute(path)?),
            None => ImageService::new()?,
        };
        Ok(service.with_limits(Config::load()?.limits))
    }
}
