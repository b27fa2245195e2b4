//! `magikrun pod attach`

use super::follow::Follower;
use super::session::Session;
use super::simple::exit_code;
use crate::error::{Error, ErrorKind, Result};
use crate::platform::stdio;
use crate::pod::{PodHost, operations, protocol};
use std::time::Duration;

/// How long the monitor may take to answer.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Id or name of the pod
    #[arg(value_name = "POD")]
    pod: String,
    /// This container alone, as it writes [default with -i or -t: the first that the pod is for]
    #[arg(short, long, value_name = "CONTAINER")]
    container: Option<String>,
    /// Pass standard input on to the container, whose manifest must say 'stdin: true'
    #[arg(short = 'i', long)]
    stdin: bool,
    /// Expect that the container has a terminal, and warn if not
    #[arg(short, long)]
    tty: bool,
}

/// `magikrun pod attach`: to all containers, and the exit code is that of `wait`; or to one, and it is that of the container.
pub fn run(host: &PodHost, args: &Args) -> Result<u8> {
    if args.container.is_some() || args.stdin || args.tty {
        return one(host, args);
    }
    let mut follower = Follower::default();
    follower.add(host.store.open(&args.pod)?, false);
    follower.skip()?;
    let statuses = follower.until_end(host)?;
    Ok(statuses.iter().map(exit_code).max().unwrap_or(0))
}

fn one(host: &PodHost, args: &Args) -> Result<u8> {
    let pod = host.store.open(&args.pod)?;
    let container = operations::container(&pod, args.container.as_deref())?;
    let name = &pod.record.name;
    let cannot = |e: Error| e.wrap(format!("cannot attach to container '{container}' of pod '{name}'"));
    let attached = protocol::attach(&pod.dir, &container, args.stdin, Some(TIMEOUT)).map_err(cannot)?;
    let gone = || cannot(Error::new(ErrorKind::InvalidState, "the pod does not run"));
    let attached = attached.ok_or_else(gone)?;
    if args.tty && !attached.tty {
        tracing::warn!("container '{container}' has no terminal: its manifest does not say 'tty: true'");
    }
    let session = Session::new(attached)?;
    if session.is_raw() {
        stdio::prompt("If there is no prompt, press enter; ctrl-p ctrl-q ends the session.\r\n");
    }
    session.run().map_err(cannot)
}
