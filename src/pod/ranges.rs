//! Ids of the host that pods have for their own: where they come from, and which are free.

use crate::error::Result;
use crate::platform::userns::lent_to;
use crate::pod::plan::users::{IDS_OF_A_POD, free_range};
use crate::pod::record::PodRecord;
use crate::pod::store::PodStore;
use crate::storage::config::PodConfig;
use crate::storage::state_root::StateDir;

/// Users of subuid(5) and subgid(5) whose ids are for pods: ours, and the one that podman's and CRI-O's packages make.
const OWNERS: [&str; 2] = ["magikrun", "containers"];

/// Gives a pod ids that no other pod has, and writes its record with them.
pub fn take(store: &PodStore, config: &PodConfig, record: &mut PodRecord, dir: &StateDir) -> Result<()> {
    let given = given(config)?;
    // Whoever reads the records of others meanwhile must find this one's.
    let _lock = store.lock_names()?;
    let taken = store.ranges()?;
    let Some(range) = free_range(&given, &taken) else {
        crate::bail!(
            NotSupported,
            "spec.hostUsers: all user ids that are meant for pods are taken, by {} pods",
            taken.len()
        );
    };
    record.ids = Some(range);
    record.save(dir)
}

/// All ids for pods: (first, count).
fn given(config: &PodConfig) -> Result<Vec<(u32, u32)>> {
    if let (Some(first), Some(count)) = (config.first_id, config.ids) {
        return Ok(vec![(first, count)]);
    }
    for owner in OWNERS {
        let groups = lent_to("/etc/subgid", owner);
        // The same number stands for a user and for a group of the pod.
        let both = lent_to("/etc/subuid", owner).into_iter().filter(|range| groups.contains(range));
        let usable: Vec<(u32, u32)> = both.filter(|(_, count)| *count >= IDS_OF_A_POD).collect();
        if !usable.is_empty() {
            return Ok(usable);
        }
    }
    crate::bail!(
        NotSupported,
        "spec.hostUsers: there are no user ids for pods: set pods.first_id and pods.ids in the configuration, or give the \
         user 'magikrun' the same {IDS_OF_A_POD} ids for each pod in /etc/subuid and /etc/subgid"
    )
}
