//! `magikrun image`: what is done with images. One file a command.

mod list;
mod names;
mod pull;
mod show;

use super::store::StoreArgs;
use crate::error::Result;

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    store: StoreArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
#[command(subcommand_value_name = "COMMAND", subcommand_help_heading = "Commands")]
enum Command {
    /// Show what is known of an image, as JSON
    Inspect(show::InspectArgs),
    /// List images
    List(list::Args),
    /// Remove what no image, no bundle and no pull in progress needs
    Prune(names::PruneArgs),
    /// Bring an image into the store
    Pull(pull::Args),
    /// Remove images
    Rm(names::RmArgs),
}

/// `magikrun image`
pub fn run(args: &Args) -> Result<()> {
    let service = args.store.service()?;
    match &args.command {
        Command::Inspect(args) => show::inspect(&service, args),
        Command::List(args) => list::run(&service, args),
        Command::Prune(args) => names::prune(&service, args),
        Command::Pull(args) => pull::run(&service, args),
        Command::Rm(args) => names::rm(&service, args),
    }
}
