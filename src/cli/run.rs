//! `magikrun run`

use super::container_args::ContainerArgs;
use super::create;
use super::store::{StoreArgs, warn_of_platform};
use crate::error::{Error, ErrorKind, Result};
use crate::image::{BundleBuilder, Image, ImageService, PullOptions, PullPolicy};
use crate::platform::worker;
use crate::runtime::options::{CreateOptions, Host, RunOptions};
use crate::runtime::{krun, lifecycle};

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub(super) create: create::Args,
    /// Return as soon as the container runs
    #[arg(short, long)]
    detach: bool,
    /// Do not delete the container when it has exited
    #[arg(long)]
    keep: bool,
    /// Do not adopt and reap orphaned processes of the container
    #[arg(long)]
    no_subreaper: bool,
    /// Run an image, which is pulled if it is missing, or a module (wasm:FILE) instead of a bundle
    #[arg(long, value_name = "IMAGE", conflicts_with_all = ["bundle", "config"])]
    image: Option<String>,
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    container: ContainerArgs,
    /// Arguments instead of the image's command
    #[arg(value_name = "ARG", trailing_var_arg = true, allow_hyphen_values = true, requires = "image")]
    args: Vec<String>,
}

/// `magikrun run`
pub fn run(host: &Host, args: Args) -> Result<u8> {
    let failed = |e: Error| e.wrap("magikrun run failed");
    let create = args.create.options();
    let options =
        |create| RunOptions { create, detach: args.detach, keep: args.keep, no_subreaper: args.no_subreaper };
    let Some(name) = &args.image else { return lifecycle::run(host, &options(create)).map_err(failed) };
    if args.container.wants_microvm() {
        // Before a bundle is built: another program may have to build it.
        krun::prepare::require_engine(host).map_err(failed)?;
    }
    let service = args.store.service()?;
    let image = image(&service, name).map_err(failed)?;
    warn_of_platform(&image);
    let mut config = args.container.config(&create.id, args.args)?;
    config.memory.get_or_insert(service.limits().default_memory);
    let builder = BundleBuilder::with_storage(service.storage().clone())?;
    let state = std::path::absolute(host.root.path().join(&create.id))?;
    // Until this process ends, or the container is there, the mark says that the bundle is of use.
    let (bundle, _mark) = builder.build_for_container(&image, &config, &state).map_err(failed)?;
    let path = bundle.path().to_owned();
    let create = CreateOptions { bundle: path.clone(), owned_bundle: true, ..create };
    lifecycle::run(host, &options(create)).map_err(failed).inspect_err(|_| {
        if let Err(e) = builder.remove(&path) {
            tracing::warn!("{e}");
        }
    })
}

/// The image, from the store or pulled. That takes threads, which no process may have had that makes a container: so another
/// process does it.
fn image(service: &ImageService, name: &str) -> Result<Image> {
    match service.inspect(name) {
        Err(e) if e.kind() != ErrorKind::Storage => {}
        found => return found,
    }
    let options = PullOptions { policy: PullPolicy::IfMissing, ..PullOptions::default() };
    let pulled =
        worker::run(None, || service.pull_with(name, &options).map(|image| image.name().to_owned()))?;
    service.inspect(&pulled)
}
