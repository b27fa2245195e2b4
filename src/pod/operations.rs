//! What is done to pods that exist.

use crate::error::{Error, ErrorKind, Result};
use crate::pod::clean;
use crate::pod::host::PodHost;
use crate::pod::plan::Role;
use crate::pod::protocol::{Ask, ask};
use crate::pod::record::PodStatus;
use crate::pod::store::Pod;

/// Stops a pod: SIGTERM, `grace` seconds (those of the manifest if there are none), SIGKILL. Returns when nothing runs any more.
pub fn stop(host: &PodHost, pod: &str, grace: Option<u32>) -> Result<()> {
    stop_opened(host, &host.store.open(pod)?, grace)
}

fn stop_opened(host: &PodHost, pod: &Pod, grace: Option<u32>) -> Result<()> {
    if pod.status(&host.host)?.phase.is_final() {
        return Ok(());
    }
    let done = ask(&pod.dir, Ask::Stop { grace_seconds: grace }, None)?;
    if done.is_none() && !pod.status(&host.host)?.phase.is_final() {
        // The monitor is about to end, or has been killed: its lock tells.
        drop(pod.dir.lock());
        pod.status(&host.host)?;
    }
    Ok(())
}

/// Removes a pod with its logs and volumes. What still runs is stopped first, with `force` at once.
pub fn delete(host: &PodHost, pod: &str, force: bool) -> Result<()> {
    let mut pod = host.store.open(pod)?;
    stop_opened(host, &pod, force.then_some(0))?;
    let gone = || Error::new(ErrorKind::PodNotFound, format!("pod '{}' does not exist", pod.record.name));
    let lock = match pod.dir.lock() {
        Err(e) if e.kind() == ErrorKind::ContainerNotFound => return Err(gone()),
        lock => lock?,
    };
    if !pod.dir.is_in_place() {
        return Err(gone());
    }
    pod.dir.retract(host.store.pods(), &pod.record.id)?;
    clean::remove(&host.store, &host.host, &pod.record, &pod.dir)?;
    drop(lock);
    Ok(())
}

/// Waits until nothing of a pod runs any more, and returns its last status.
pub fn wait(host: &PodHost, pod: &str) -> Result<PodStatus> {
    let pod = host.store.open(pod)?;
    let status = pod.status(&host.host)?;
    if status.phase.is_final() {
        return Ok(status);
    }
    // The monitor holds the lock as long as it lives.
    drop(pod.dir.lock());
    pod.status(&host.host)
}

/// Name of the container that is meant: the only one or the first of those that the pod is there for, unless one is named.
pub fn container(pod: &Pod, name: Option<&str>) -> Result<String> {
    let containers = &pod.record.containers;
    let found = match name {
        Some(name) => containers.iter().find(|container| container.name == name),
        None => containers.iter().find(|container| container.role == Role::App),
    };
    found.map(|container| container.name.clone()).ok_or_else(|| {
        let what = name.unwrap_or_default();
        Error::new(
            ErrorKind::ContainerNotFound,
            format!("pod '{}' has no container '{what}'", pod.record.name),
        )
    })
}
