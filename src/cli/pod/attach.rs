//! `magikrun pod attach`

use super::follow::Follower;
use super::simple::exit_code;
use crate::error::Result;
use crate::pod::PodHost;

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Id or name of the pod
    #[arg(value_name = "POD")]
    pod: String,
}

/// `magikrun pod attach`: the exit code is that of `wait`.
pub fn run(host: &PodHost, args: &Args) -> Result<u8> {
    let mut follower = Follower::default();
    follower.add(host.store.open(&args.pod)?, false);
    follower.skip()?;
    let statuses = follower.until_end(host)?;
    Ok(statuses.iter().map(exit_code).max().unwrap_or(0))
}
