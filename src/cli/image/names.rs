//! `magikrun image rm`, `tag` and `prune`

use super::super::print;
use super::list::human_size;
use crate::cli::list::Format;
use crate::error::Result;
use crate::image::ImageService;

/// Arguments of `rm`.
#[derive(Debug, clap::Args)]
pub struct RmArgs {
    /// Names of images, or the beginning of their ids
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<String>,
    /// Only forget the names; `prune` removes what they led to
    #[arg(long)]
    no_prune: bool,
}

/// Arguments of `tag`.
#[derive(Debug, clap::Args)]
pub struct TagArgs {
    /// Name of an image, or the beginning of its id
    #[arg(value_name = "IMAGE")]
    image: String,
    /// The other name
    #[arg(value_name = "NAME")]
    name: String,
}

/// Arguments of `prune`.
#[derive(Debug, clap::Args)]
pub struct PruneArgs {
    /// Form of the answer
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    format: Format,
}

/// `magikrun image rm`
pub fn rm(service: &ImageService, args: &RmArgs) -> Result<()> {
    for name in &args.images {
        for removed in service.remove(name)? {
            print(&removed)?;
        }
    }
    if !args.no_prune {
        service.prune()?;
    }
    Ok(())
}

/// `magikrun image tag`
pub fn tag(service: &ImageService, args: &TagArgs) -> Result<()> {
    print(&service.tag(&args.image, &args.name)?)
}

/// `magikrun image prune`
pub fn prune(service: &ImageService, args: &PruneArgs) -> Result<()> {
    let pruned = service.prune()?;
    match args.format {
        Format::Json => print(&serde_json::to_string(&pruned)?),
        Format::Table => print(&format!(
            "removed {} blobs and {} layers: {}",
            pruned.blobs,
            pruned.layers,
            human_size(pruned.bytes)
        )),
    }
}
