//! `magikrun events`

use super::print;
use crate::error::{Error, ErrorKind, Result};
use crate::runtime::container::{Container, Status};
use crate::runtime::events::{Wakeup, Watch};
use crate::runtime::lifecycle;
use crate::runtime::options::Host;
use serde_json::json;
use std::time::{Duration, Instant};

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Id of the container
    #[arg(value_name = "CONTAINER-ID")]
    id: String,
    /// Time between two reports, as in 5s or 500ms
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = humantime::parse_duration)]
    interval: Duration,
    /// Report once and exit
    #[arg(long)]
    stats: bool,
}

/// `magikrun events`
pub fn run(host: &Host, args: &Args) -> Result<()> {
    if args.interval.is_zero() {
        return Err(Error::new(ErrorKind::Usage, "duration interval must be greater than 0"));
    }
    if args.stats {
        return print_stats(host, &args.id);
    }
    let container = Container::open(host, &args.id)?;
    if container.status()? == Status::Stopped {
        crate::bail!(InvalidState, "container with id {} is not running", args.id);
    }
    let mut watch = Watch::new(&container)?;
    let mut next = Instant::now() + args.interval;
    loop {
        match watch.wait(next)? {
            Wakeup::Ended => return Ok(()),
            Wakeup::OutOfMemory => print(&json!({"type": "oom", "id": args.id}).to_string())?,
            Wakeup::Time => {
                next += args.interval;
                match print_stats(host, &args.id) {
                    Err(e) if matches!(e.kind(), ErrorKind::ContainerNotFound | ErrorKind::InvalidState) => {
                        return Ok(());
                    }
                    printed => printed?,
                }
            }
        }
    }
}

fn print_stats(host: &Host, id: &str) -> Result<()> {
    let stats = lifecycle::stats(host, id)?;
    print(&json!({"type": "stats", "id": id, "data": stats}).to_string())
}
