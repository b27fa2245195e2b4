//! `magikrun image save` and `load`

use super::super::print;
use super::precompile::precompile;
use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::image::{ImageService, save};
use crate::platform::stdio;
use crate::platform::sys::random::unique_id;
use std::fs::File;
use std::io::{BufWriter, IsTerminal as _};
use std::path::PathBuf;

/// Arguments of `save`.
#[derive(Debug, clap::Args)]
pub struct SaveArgs {
    /// Name of an image, or the beginning of its id
    #[arg(value_name = "IMAGE")]
    image: String,
    /// File to write [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Arguments of `load`.
#[derive(Debug, clap::Args)]
pub struct LoadArgs {
    /// File to read [default: standard input]
    #[arg(short, long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Image to load, if the archive has several
    #[arg(value_name = "NAME")]
    name: Option<String>,
}

/// `magikrun image save`
pub fn save(service: &ImageService, args: &SaveArgs) -> Result<()> {
    let image = service.inspect(&args.image)?;
    let Some(path) = &args.output else {
        let output = std::io::stdout();
        if output.is_terminal() {
            return Err(Error::new(ErrorKind::Usage, "an archive is not for a terminal: use --output"));
        }
        return save::archive(service.storage(), &image, output.lock());
    };
    let temporary = path.with_file_name(format!(".{}.part", unique_id()?));
    let cannot = || format!("cannot write '{}'", path.display());
    let written = File::create_new(&temporary).or_kind(ErrorKind::Storage, cannot).and_then(|file| {
        save::archive(service.storage(), &image, BufWriter::new(file))?;
        std::fs::rename(&temporary, path).or_kind(ErrorKind::Storage, cannot)
    });
    if written.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    written
}

/// `magikrun image load`
pub fn load(service: &ImageService, args: &LoadArgs) -> Result<()> {
    let name = args.name.as_deref();
    let image = if let Some(path) = &args.input {
        service.load(path, name)?
    } else {
        // An archive is read in any order, which standard input cannot be.
        let lease = service.storage().lease()?;
        let path = lease.path().join("archive");
        let mut file = File::create_new(&path).context(|| "cannot keep the archive")?;
        std::io::copy(&mut std::io::stdin().lock(), &mut file).context(|| "cannot read standard input")?;
        service.load(&path, name)?
    };
    precompile(service, &image, |text| stdio::tell(text));
    print(&format!("{} {}", image.name(), image.id()))
}
