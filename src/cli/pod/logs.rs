//! `magikrun pod logs`

use super::follow::{Changes, write_entry};
use crate::error::Result;
use crate::pod::logs::{Entry, LogReader};
use crate::pod::{PodHost, operations};
use std::collections::VecDeque;
use std::time::Duration;
use time::OffsetDateTime;

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Id or name of the pod
    #[arg(value_name = "POD")]
    pod: String,
    /// Container [default: the first that the pod is for]
    #[arg(value_name = "CONTAINER")]
    container: Option<String>,
    /// Go on until the pod has ended
    #[arg(short, long)]
    follow: bool,
    /// Show only so many lines from the end
    #[arg(long, value_name = "LINES")]
    tail: Option<usize>,
    /// Show only what is not older than this, as in 10m
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    since: Option<Duration>,
    /// Show the time of each line
    #[arg(long)]
    timestamps: bool,
}

/// `magikrun pod logs`
pub fn run(host: &PodHost, args: &Args) -> Result<()> {
    let pod = host.store.open(&args.pod)?;
    let container = operations::container(&pod, args.container.as_deref())?;
    let mut log = LogReader::open(&pod, &container);
    let oldest = args.since.map(|since| OffsetDateTime::now_utc() - since);
    let wanted = |entry: &Entry| oldest.is_none_or(|oldest| entry.moment().is_some_and(|at| at >= oldest));
    let show = |entry: &Entry| {
        let prefix = if args.timestamps { format!("{} ", entry.time) } else { String::new() };
        write_entry(entry, &prefix)
    };
    let mut last = VecDeque::new();
    while let Some(entry) = log.next_entry()? {
        if !wanted(&entry) {
            continue;
        }
        match args.tail {
            None => show(&entry)?,
            Some(lines) => {
                last.push_back(entry);
                if last.len() > lines {
                    last.pop_front();
                }
            }
        }
    }
    last.iter().try_for_each(show)?;
    if !args.follow {
        return Ok(());
    }
    let changes = Changes::new()?;
    changes.watch(&pod.record.data.join("logs"))?;
    changes.watch(pod.dir.path())?;
    loop {
        let ended = pod.status(&host.host)?.phase.is_final();
        while let Some(entry) = log.next_entry()? {
            show(&entry)?;
        }
        if ended {
            return Ok(());
        }
        changes.wait();
    }
}
