//! `magikrun kill`

use super::signals;
use crate::error::Result;
use crate::runtime::lifecycle;
use crate::runtime::options::Host;

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Id of the container
    #[arg(value_name = "CONTAINER-ID")]
    id: String,
    /// Signal to send, by name or number
    #[arg(value_name = "SIGNAL", default_value = "SIGTERM")]
    signal: String,
    /// Send it to all processes of the container
    #[arg(short, long, hide = true)]
    all: bool,
    /// Take the id as a regular expression, and send it to all containers that match
    #[arg(long)]
    regex: bool,
}

/// `magikrun kill`
pub fn run(host: &Host, args: &Args) -> Result<()> {
    let signal = signals::parse(&args.signal)?;
    if !args.regex {
        return lifecycle::kill(host, &args.id, signal, args.all);
    }
    matching(host, &args.id)?.iter().try_for_each(|id| lifecycle::kill(host, id, signal, args.all))
}

/// The ids that a regular expression matches anywhere.
pub fn matching(host: &Host, pattern: &str) -> Result<Vec<String>> {
    let pattern = regex_lite::Regex::new(pattern).map_err(|e| {
        let message = format!("invalid regular expression '{pattern}': {e}");
        crate::error::Error::new(crate::error::ErrorKind::Usage, message)
    })?;
    let mut ids = host.root.ids()?;
    ids.retain(|id| pattern.is_match(id));
    Ok(ids)
}
