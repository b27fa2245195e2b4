//! `magikrun image`: what is done with images. One file a command.

mod archive;
mod list;
mod names;
mod precompile;
mod progress;
mod pull;
mod push;
mod show;
mod store;

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
    /// Show how an image was made
    History(show::HistoryArgs),
    /// Show what is known of an image, as JSON
    Inspect(show::InspectArgs),
    /// List images
    List(list::Args),
    /// Bring an image from an archive into the store
    Load(archive::LoadArgs),
    /// Keep the credentials for a registry
    Login(push::LoginArgs),
    /// Forget the credentials for a registry
    Logout(push::LogoutArgs),
    /// Mount an image read-only on a directory
    Mount(store::MountArgs),
    /// Remove what no image, no bundle and no pull in progress needs
    Prune(names::PruneArgs),
    /// Bring an image into the store
    Pull(pull::Args),
    /// Bring an image from the store to a registry
    Push(push::PushArgs),
    /// Remove images
    Rm(names::RmArgs),
    /// Write an image to an archive
    Save(archive::SaveArgs),
    /// Give an image another name
    Tag(names::TagArgs),
    /// Unmount an image
    Umount(store::UmountArgs),
    /// Look for damage in the store
    Verify(store::VerifyArgs),
}

/// `magikrun image`
pub fn run(args: &Args) -> Result<()> {
    let service = args.store.service()?;
    match &args.command {
        Command::History(args) => show::history(&service, args),
        Command::Inspect(args) => show::inspect(&service, args),
        Command::List(args) => list::run(&service, args),
        Command::Load(args) => archive::load(&service, args),
        Command::Login(args) => push::login(args),
        Command::Logout(args) => push::logout(args),
        Command::Mount(args) => store::mount(&service, args),
        Command::Prune(args) => names::prune(&service, args),
        Command::Pull(args) => pull::run(&service, args),
        Command::Push(args) => push::push(&service, args),
        Command::Rm(args) => names::rm(&service, args),
        Command::Save(args) => archive::save(&service, args),
        Command::Tag(args) => names::tag(&service, args),
        Command::Umount(args) => store::umount(args),
        Command::Verify(args) => store::verify(&service, args),
    }
}
