//! `magikrun bundle`

use super::container_args::ContainerArgs;
use super::print;
use super::store::{StoreArgs, warn_of_platform};
use crate::error::Result;
use crate::image::{BundleBuilder, PullOptions, PullPolicy, RootMode};
use std::path::PathBuf;

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    container: ContainerArgs,
    /// Share the image's layers by an overlay, which only this runtime mounts, instead of copying them
    #[arg(long)]
    mount: bool,
    /// Image: a name, which is pulled if it is missing, the beginning of an id, or wasm:FILE for a module
    #[arg(value_name = "IMAGE")]
    image: String,
    /// Directory of the new bundle
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// Arguments instead of the image's command
    #[arg(value_name = "ARG", trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

/// `magikrun bundle`
pub fn run(args: Args) -> Result<()> {
    let service = args.store.service()?;
    let options = PullOptions { policy: PullPolicy::IfMissing, ..PullOptions::default() };
    let image = service.pull_with(&args.image, &options)?;
    warn_of_platform(&image);
    let mut config = args.container.config("", args.args)?;
    config.memory.get_or_insert(service.limits().default_memory);
    config.root = if args.mount { RootMode::Overlay } else { RootMode::Copy };
    let builder = BundleBuilder::with_storage(service.storage().clone())?;
    let bundle = builder.draft(&image, &config)?.write(&args.directory)?;
    print(&bundle.path().display().to_string())
}
