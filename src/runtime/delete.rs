//! Removing a container, whole or half-made.

use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::runtime::container::{CONFIG, Container, Status};
use crate::runtime::hooks::Hooks;
use crate::runtime::krun::member::Membership;
use crate::runtime::options::Host;
use crate::runtime::record::Record;
use crate::runtime::signal::kill_and_wait;
use crate::runtime::{spec, state};
use crate::storage::state_root::StateDir;
use crate::storage::tree;
use oci_spec::runtime::Spec;
use std::path::PathBuf;

/// Removes a container. See [`crate::runtime::lifecycle::delete`].
pub fn delete(host: &Host, id: &str, force: bool) -> Result<()> {
    let (mut container, lock) = match Container::open_locked(host, id) {
        Ok(locked) => locked,
        Err(e) if e.kind() == ErrorKind::ContainerNotFound => return delete_leftover(host, id, force, e),
        // A damaged record says nothing of what there is to remove; only force may remove the rest.
        Err(e) if force && is_damaged(&e) => return remove_damaged(host, id),
        Err(e) => return Err(e),
    };
    if !container.dir.is_in_place() {
        // Another deleter was here first, and may not have come to its end.
        drop(lock);
        return delete(host, id, force);
    }
    match container.status()? {
        Status::Stopped => {}
        Status::Created => kill_and_wait(&container.record)?,
        _ if force => kill_and_wait(&container.record)?,
        status => {
            crate::bail!(
                InvalidState,
                "cannot delete container {id} that is not stopped: {status} (kill it first, or use --force)"
            )
        }
    }
    destroy(host, &mut container)?;
    drop(lock);
    Ok(())
}

fn delete_leftover(host: &Host, id: &str, force: bool, not_found: Error) -> Result<()> {
    let Some(left) = host.root.open_leftover(id)? else { return if force { Ok(()) } else { Err(not_found) } };
    // A free lock tells that nobody is making or deleting it any more. By force, that is waited for: the lock of a create that
    // was killed is free once its child is dead too.
    let lock = match left.try_lock()? {
        None if !force => return Err(not_found),
        None => match left.lock() {
            Err(e) if e.kind() == ErrorKind::ContainerNotFound => return host.root.remove_unlocked(id),
            lock => lock?,
        },
        Some(lock) => lock,
    };
    if host.root.open(id).is_ok() {
        // It was finished meanwhile.
        drop(lock);
        return delete(host, id, force);
    }
    clean_leftover(&left)?;
    host.root.remove(left.path())
}

/// True if a record is there and says nothing. One that cannot be read just now does: forgotten, its processes would stay.
fn is_damaged(e: &Error) -> bool {
    e.kind() == ErrorKind::Storage && e.errno().is_none()
}

fn remove_damaged(host: &Host, id: &str) -> Result<()> {
    let dir = host.root.open(id)?;
    tracing::warn!("container {id} has a damaged record: its cgroup and processes, if any, are not known");
    host.root.remove(dir.path())
}

/// Removes everything of a container whose first process is dead.
///
/// The container is retracted first: from then on it does not exist for others, and if this is interrupted, the rest is a
/// leftover that the next command cleans up.
fn destroy(host: &Host, container: &mut Container) -> Result<()> {
    let record = &container.record;
    let spec = if record.poststop { Some(read_spec(&container.dir)?) } else { None };
    container.dir.retract(&host.root, &record.id)?;
    release(record)?;
    host.root.remove(container.dir.path())?;
    if let Some(spec) = spec {
        let state = state::for_hooks(record, 0, Status::Stopped);
        Hooks::new(&spec).run_poststop(&state);
    }
    Ok(())
}

fn read_spec(dir: &StateDir) -> Result<Spec> {
    let data = dir
        .read(CONFIG)?
        .ok_or_else(|| Error::new(ErrorKind::Storage, "the container's configuration is missing"))?;
    spec::parse(&data, CONFIG)
}

/// Ends the processes that are left and removes the cgroups, the resctrl groups, what a pod's microVM has of it, and the bundle if that
/// has no other use.
fn release(record: &Record) -> Result<()> {
    record.membership.as_ref().map_or(Ok(()), Membership::end)?;
    record.cgroup.remove()?;
    remove_resctrl(&record.intel_rdt)?;
    if record.owned_bundle { tree::remove(&record.bundle) } else { Ok(()) }
}

/// Cleans up what an interrupted operation left; the directory itself stays.
pub fn clean_leftover(left: &StateDir) -> Result<()> {
    let record = match Record::load(left) {
        Ok(Some(record)) => record,
        // Without a record nothing was made yet.
        Ok(None) => return Ok(()),
        Err(e) if is_damaged(&e) => return Ok(()),
        Err(e) => return Err(e),
    };
    kill_and_wait(&record)?;
    release(&record)
}

/// Removes groups of the resctrl file system.
pub fn remove_resctrl(directories: &[PathBuf]) -> Result<()> {
    for directory in directories.iter().rev() {
        match std::fs::remove_dir(directory) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(e).context(|| format!("cannot remove '{}'", directory.display()));
            }
            _ => {}
        }
    }
    Ok(())
}
