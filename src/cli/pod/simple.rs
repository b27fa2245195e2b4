//! The commands that take little more than a pod.

use crate::cli::print;
use crate::error::Result;
use crate::pod::{PodHost, PodPhase, leftovers, operations};
use std::time::Duration;

/// Arguments of a command that takes a pod.
#[derive(Debug, clap::Args)]
pub struct PodArgs {
    /// Id or name of the pod, or NAMESPACE/NAME
    #[arg(value_name = "POD")]
    pod: String,
}

/// Arguments of `stop`.
#[derive(Debug, clap::Args)]
pub struct StopArgs {
    /// Ids or names of the pods
    #[arg(value_name = "POD", required = true)]
    pods: Vec<String>,
    /// Time between SIGTERM and SIGKILL, as in 10s [default: that of the manifest]
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    grace: Option<Duration>,
}

/// Arguments of `delete`.
#[derive(Debug, clap::Args)]
pub struct DeleteArgs {
    /// Ids or names of the pods
    #[arg(value_name = "POD", required = true)]
    pods: Vec<String>,
    /// Kill what runs, at once
    #[arg(short, long)]
    force: bool,
}

/// `magikrun pod stop`
pub fn stop(host: &PodHost, args: &StopArgs) -> Result<()> {
    // A part of a second is time too.
    let grace = args.grace.map(|grace| u32::try_from(grace.as_secs_f64().ceil() as u64).unwrap_or(u32::MAX));
    each(&args.pods, "stop", |pod| operations::stop(host, pod, grace))
}

/// `magikrun pod delete`
pub fn delete(host: &PodHost, args: &DeleteArgs) -> Result<()> {
    each(&args.pods, "delete", |pod| operations::delete(host, pod, args.force))
}

/// Does it to every pod; the first error is returned after the others have had their turn.
fn each(pods: &[String], verb: &str, job: impl Fn(&str) -> Result<()>) -> Result<()> {
    let mut first = Ok(());
    for pod in pods {
        let done = job(pod).map_err(|e| e.wrap(format!("cannot {verb} pod '{pod}'")));
        first = first.and(done);
    }
    first
}

/// `magikrun pod wait`: 0 if the pod has ended well, or was stopped; else the exit code of the container that failed.
pub fn wait(host: &PodHost, args: &PodArgs) -> Result<u8> {
    let status = operations::wait(host, &args.pod)?;
    print(&format!("{:?}", status.phase))?;
    Ok(exit_code(&status))
}

/// What the end of a pod is to a shell.
pub fn exit_code(status: &crate::pod::PodStatus) -> u8 {
    if status.phase != PodPhase::Failed {
        return 0;
    }
    status.containers.iter().filter_map(|container| container.exit_code).find(|code| *code != 0).unwrap_or(1)
}

/// `magikrun pod gc`
pub fn gc(host: &PodHost) -> Result<()> {
    let mut ended = leftovers(&host.store, &host.host)?;
    for pod in host.store.all()? {
        let before = crate::pod::PodStatus::load(&pod.dir)?;
        let after = pod.status(&host.host)?;
        ended += usize::from(before.phase != after.phase);
    }
    print(&ended.to_string())
}
