//! Ending and removing pods, whole or half-made: by the monitor that gives up, and by whoever comes after one that died.
//! Everything here may be done twice.

use crate::error::Result;
use crate::pod::attachment;
use crate::pod::group;
use crate::pod::record::PodRecord;
use crate::pod::store::{PodStore, containers};
use crate::runtime::delete::delete;
use crate::runtime::options::Host;
use crate::runtime::signal::SIGKILL;
use crate::storage::state_root::StateDir;
use crate::storage::tree;

/// Ends all processes of a pod and removes its containers, cgroups and what lives in memory.
pub fn end(host: &Host, record: &PodRecord) -> Result<()> {
    record.cgroup.kill_all(SIGKILL)?;
    let own = containers(record, host);
    let mut ids = own.root.ids()?;
    ids.extend(own.root.half_made_ids()?);
    for id in ids {
        delete(&own, &id, true)?;
    }
    attachment::remove(&record.running)?;
    record.cgroup.remove()?;
    tree::remove(&record.running)
}

/// Removes everything of a pod whose monitor is gone, or is the caller. Its directory goes last, so that what is interrupted
/// is found again.
pub fn remove(store: &PodStore, host: &Host, record: &PodRecord, dir: &StateDir) -> Result<()> {
    end(host, record)?;
    tree::remove(&record.data)?;
    store.drop_name(&record.namespace, &record.name, &record.id)?;
    store.pods().remove(dir.path())
}

/// Removes what an interrupted command left of a pod; false if somebody is still at work on it.
pub fn leftover(store: &PodStore, host: &Host, id: &str) -> Result<bool> {
    store.retract_uncommitted(id)?;
    let Some((left, _lock)) = store.pods().lock_leftover(id)? else {
        return Ok(store.pods().open_leftover(id)?.is_none() && store.pods().open(id).is_err());
    };
    match PodRecord::load(&left) {
        Ok(Some(record)) => remove(store, host, &record, &left)?,
        // Without a record nothing was made yet.
        _ => store.pods().remove(left.path())?,
    }
    Ok(true)
}

/// Removes what interrupted commands left of all pods; returns their number.
pub fn leftovers(store: &PodStore, host: &Host) -> Result<usize> {
    let mut removed = 0;
    group::leftovers(store, host)?;
    for id in store.pods().half_made_ids()? {
        removed += usize::from(leftover(store, host, &id)?);
    }
    Ok(removed)
}
