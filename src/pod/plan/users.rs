//! Whose user and group ids a pod has.

use crate::error::Result;
use crate::platform::userns::IdMappings;
use oci_spec::runtime::{LinuxIdMapping, LinuxIdMappingBuilder};
use serde::{Deserialize, Serialize};

/// How many ids a pod with ids of its own has: as many as Kubernetes gives, enough for `nobody` and all below.
pub const IDS_OF_A_POD: u32 = 1 << 16;

/// Whose user and group ids a pod has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Users {
    /// Those of the host.
    #[default]
    Host,
    /// Those of a user without privileges over the host, so many; the monitor is in the user's namespace already.
    OfUser {
        /// Number of ids.
        ids: u32,
    },
    /// Its own: [`IDS_OF_A_POD`] of the host that nobody else has, from the pod's record.
    Own,
}

impl Users {
    /// How many there are; none for all of the host.
    pub fn count(self) -> Option<u32> {
        match self {
            Self::Host => None,
            Self::OfUser { ids } => Some(ids),
            Self::Own => Some(IDS_OF_A_POD),
        }
    }

    /// True without privileges over the host.
    pub fn is_of_user(self) -> bool {
        matches!(self, Self::OfUser { .. })
    }
}

/// The ids of the host that a pod has for its own: [`IDS_OF_A_POD`] of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdRange {
    /// What root of the pod is on the host, as a user and as a group.
    pub first: u32,
}

impl IdRange {
    /// What an id of the pod is on the host.
    pub fn on_host(self, id: u32) -> u32 {
        self.first.saturating_add(id)
    }

    /// The mapping of the pod's ids to the host's.
    pub fn mapping(self) -> Result<LinuxIdMapping> {
        let mapping = LinuxIdMappingBuilder::default().container_id(0u32).host_id(self.first);
        mapping.size(IDS_OF_A_POD).build().map_err(|e| {
            crate::error::Error::new(crate::error::ErrorKind::System, format!("cannot map ids: {e}"))
        })
    }

    /// The mappings of the pod's user namespace.
    pub fn mappings(self) -> Result<IdMappings> {
        Ok(IdMappings { uids: vec![self.mapping()?], gids: vec![self.mapping()?] })
    }
}

/// The first range of those that are given (first id, count) of which no part is taken.
pub fn free_range(given: &[(u32, u32)], taken: &[IdRange]) -> Option<IdRange> {
    let mut candidates = given.iter().flat_map(|(first, count)| {
        (0..count / IDS_OF_A_POD).filter_map(|number| first.checked_add(number * IDS_OF_A_POD))
    });
    let is_free = |first: &u32| taken.iter().all(|other| other.first.abs_diff(*first) >= IDS_OF_A_POD);
    candidates.find(is_free).map(|first| IdRange { first })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_do_not_overlap_and_come_to_an_end() {
        let given = [(100, 10), (200_000, 2 * IDS_OF_A_POD + 5)];
        let mut taken = Vec::new();
        while let Some(range) = free_range(&given, &taken) {
            taken.push(range);
        }
        assert_eq!(taken, [IdRange { first: 200_000 }, IdRange { first: 200_000 + IDS_OF_A_POD }]);
        // Ranges of an older configuration are elsewhere.
        assert_eq!(free_range(&given, &[IdRange { first: 200_001 }]), None);
        assert_eq!(IdRange { first: 5 }.on_host(7), 12);
    }
}
