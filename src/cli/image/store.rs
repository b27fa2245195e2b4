//! `magikrun image verify`, `mount` and `umount`

use super::super::print;
use crate::cli::list::{Format, table};
use crate::error::Result;
use crate::image::store::{Damage, Verify};
use crate::image::{ImageService, mount};
use std::path::PathBuf;

/// Arguments of `verify`.
#[derive(Debug, clap::Args)]
pub struct VerifyArgs {
    /// Unpack layers again where that is needed, and remove damaged blobs, so that the next pull brings them again
    #[arg(long)]
    repair: bool,
    /// Unpack every layer again to compare the content of all files
    #[arg(long)]
    deep: bool,
    /// Form of the answer
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    format: Format,
}

/// Arguments of `mount`.
#[derive(Debug, clap::Args)]
pub struct MountArgs {
    /// Name of an image, or the beginning of its id
    #[arg(value_name = "IMAGE")]
    image: String,
    /// Directory to mount it on
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

/// Arguments of `umount`.
#[derive(Debug, clap::Args)]
pub struct UmountArgs {
    /// Directory that an image is mounted on
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

/// `magikrun image verify`
pub fn verify(service: &ImageService, args: &VerifyArgs) -> Result<()> {
    let damage = service.verify(Verify { repair: args.repair, deep: args.deep })?;
    match args.format {
        Format::Json => print(&serde_json::to_string(&damage)?)?,
        Format::Table if damage.is_empty() => print("no damage")?,
        Format::Table => {
            let repaired = |one: &Damage| if one.repaired { "yes" } else { "no" }.to_owned();
            let rows = damage.iter().map(|one| vec![one.image.clone(), repaired(one), one.fault.clone()]);
            print(table(&["IMAGE", "REPAIRED", "FAULT"], rows)?.trim_end())?;
        }
    }
    match damage.iter().filter(|one| !one.repaired).count() {
        0 => Ok(()),
        left => crate::bail!(DigestMismatch, "the image store is damaged in {left} places"),
    }
}

/// `magikrun image mount`
pub fn mount(service: &ImageService, args: &MountArgs) -> Result<()> {
    let image = service.inspect(&args.image)?;
    mount::mount(service.storage(), &image, &args.directory)
}

/// `magikrun image umount`
pub fn umount(args: &UmountArgs) -> Result<()> {
    mount::umount(&args.directory)
}
