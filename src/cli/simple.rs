//! Commands whose only argument is a container id: start, state, pause, resume.

use super::print;
use crate::error::Result;
use crate::runtime::container::Container;
use crate::runtime::lifecycle;
use crate::runtime::options::Host;

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Id of the container
    #[arg(value_name = "CONTAINER-ID")]
    id: String,
}

/// `magikrun start`
pub fn start(host: &Host, args: &Args) -> Result<()> {
    lifecycle::start(host, &args.id)
}

/// `magikrun state`
pub fn state(host: &Host, args: &Args) -> Result<()> {
    let state = Container::open(host, &args.id)?.state()?;
    print(&serde_json::to_string_pretty(&state)?)
}

/// `magikrun pause`
pub fn pause(host: &Host, args: &Args) -> Result<()> {
    lifecycle::pause(host, &args.id)
}

/// `magikrun resume`
pub fn resume(host: &Host, args: &Args) -> Result<()> {
    lifecycle::resume(host, &args.id)
}
