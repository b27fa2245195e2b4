//! `magikrun delete`

use super::kill::matching;
use crate::error::Result;
use crate::runtime::lifecycle;
use crate::runtime::options::Host;

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Id of the container
    #[arg(value_name = "CONTAINER-ID")]
    id: String,
    /// Kill the container first if it still runs; a container that does not exist is no error
    #[arg(short, long)]
    force: bool,
    /// Take the id as a regular expression, and delete all containers that match
    #[arg(long)]
    regex: bool,
}

/// `magikrun delete`
pub fn run(host: &Host, args: &Args) -> Result<()> {
    if !args.regex {
        return lifecycle::delete(host, &args.id, args.force);
    }
    matching(host, &args.id)?.iter().try_for_each(|id| lifecycle::delete(host, id, args.force))
}
