//! `magikrun image verify`, `mount` and `umount`

use super::super::print;
use crate::cli::list::{Format, table};
use crate::error::{Error, ErrorKind, Result};
use crate::image::{ImageService, mount};
use std::path::PathBuf;

/// Arguments of `verify`.
#[derive(Debug, clap::Args)]
pub struct VerifyArgs {
    /// Remove what is damaged, so that the next pull brings it again
    #[arg(long)]
    repair: bool,
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
    let damage = service.storage().verify(args.repair)?;
    match args.format {
        Format::Json => print(&serde_json::to_string(&damage)?)?,
        Format::Table if damage.is_empty() => print("no damage")?,
        Format::Table => {
            let rows = damage.iter().map(|one| vec![one.image.clone(), one.fault.clone()]);
            print(table(&["IMAGE", "FAULT"], rows)?.trim_end())?;
        }
    }
    if damage.is_empty() {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::DigestMismatch,
        format!("the image store is damaged in {} places", damage.len()),
    ))
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
