//! `magikrun image pull`

use super::super::print;
use super::precompile::precompile;
use super::progress::Bars;
use crate::cli::list::Format;
use crate::error::Result;
use crate::image::progress::Progress as _;
use crate::image::{ImageService, PullOptions, PullPolicy};

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to pull: a name, or oci:PATH[:NAME], oci-archive:PATH[:NAME], docker-archive:PATH[:NAME], wasm:FILE
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<String>,
    /// For another machine than this one
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<String>,
    /// When to ask the registry: always, missing, never
    #[arg(long, value_name = "WHEN", default_value = "always")]
    policy: Policy,
    /// Transfer this many blobs at the same time [default: as many as are useful]
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    parallel: usize,
    /// Print the id only
    #[arg(short, long)]
    quiet: bool,
    /// Form of the answer
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Policy {
    Always,
    Missing,
    Never,
}

impl From<Policy> for PullPolicy {
    fn from(policy: Policy) -> Self {
        match policy {
            Policy::Always => Self::Always,
            Policy::Missing => Self::IfMissing,
            Policy::Never => Self::Never,
        }
    }
}

/// `magikrun image pull`
pub fn run(service: &ImageService, args: &Args) -> Result<()> {
    let platform = args.platform.as_deref().map(str::parse).transpose()?;
    let bars = Bars::new(args.quiet || args.format == Format::Json);
    for name in &args.images {
        let options = PullOptions {
            policy: args.policy.into(),
            platform: platform.clone(),
            parallel: args.parallel,
            progress: Some(&bars),
            secrets: &[],
        };
        let image = service.pull_with(name, &options)?;
        precompile(service, &image, |text| bars.note(text));
        match args.format {
            Format::Json => print(&serde_json::to_string(image.record())?)?,
            Format::Table if args.quiet => print(&image.id().to_string())?,
            Format::Table => print(&format!("{} {}", image.name(), image.id()))?,
        }
    }
    Ok(())
}
