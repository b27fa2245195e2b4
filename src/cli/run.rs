//! `magikrun run`

use super::create;
use crate::error::Result;
use crate::runtime::lifecycle;
use crate::runtime::options::{Host, RunOptions};

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
}

/// `magikrun run`
pub fn run(host: &Host, args: Args) -> Result<u8> {
    let options = RunOptions {
        create: args.create.options(),
        detach: args.detach,
        keep: args.keep,
        no_subreaper: args.no_subreaper,
    };
    lifecycle::run(host, &options).map_err(|e| e.wrap("magikrun run failed"))
}
