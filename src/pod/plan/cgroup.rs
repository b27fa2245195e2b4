//! Names of a pod's cgroups, as `cgroupsPath` of the runtime specification has them: pure functions.

use serde::{Deserialize, Serialize};

/// What the scopes of pods are named by, before the pod and the container.
const SCOPE_PREFIX: &str = "magikrun";
/// systemd's name for the root of all slices.
const ROOT_SLICE: &str = "-.slice";

/// The cgroup of a pod, with those of its containers below.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PodCgroup {
    /// A directory with one for each container. Relative to where we are without privileges.
    Directory(String),
    /// A slice of systemd with a scope for each container.
    Slice {
        /// The slice that it is in.
        parent: String,
        /// Id of the pod.
        id: String,
    },
}

impl PodCgroup {
    /// The directory for a pod below another.
    pub fn directory(parent: &str, id: &str) -> Self {
        Self::Directory(format!("{}/{id}", parent.trim_end_matches('/')))
    }

    /// The slice for a pod in another.
    pub fn slice(parent: &str, id: &str) -> Self {
        Self::Slice { parent: parent.to_owned(), id: id.to_owned() }
    }

    /// Path of the pod's own.
    pub fn path(&self) -> String {
        match self {
            Self::Directory(path) => path.clone(),
            Self::Slice { parent, id } => format!("{parent}::{}", slice_name(parent, id)),
        }
    }

    /// Path of that of a container. Names of scopes are unique in the whole system, so that of the pod is in them.
    pub fn path_of(&self, container: &str) -> String {
        match self {
            Self::Directory(path) => format!("{path}/{container}"),
            Self::Slice { parent, id } => {
                format!("{}:{SCOPE_PREFIX}:{id}-{container}", slice_name(parent, id))
            }
        }
    }
}

/// As the kubelet names it: `-` separates slices, so the id has `_` for it.
fn slice_name(parent: &str, id: &str) -> String {
    let id = id.replace('-', "_");
    match parent.strip_suffix(".slice") {
        Some(parent) if parent != "-" => format!("{parent}-pod{id}.slice"),
        _ => format!("pod{id}.slice"),
    }
}

/// True for a slice that pods can be in.
pub fn is_slice(name: &str) -> bool {
    let valid = |c: char| c.is_ascii_alphanumeric() || "-_.\\".contains(c);
    let parts = name.strip_suffix(".slice").map(|parts| parts.split('-').all(|part| !part.is_empty()));
    name == ROOT_SLICE || (parts == Some(true) && name.chars().all(valid))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_a_directory_or_a_slice_with_its_containers_below() {
        let directory = PodCgroup::directory("/magikrun/", "0-1");
        assert_eq!([directory.path(), directory.path_of("a")], ["/magikrun/0-1", "/magikrun/0-1/a"]);
        let slice = PodCgroup::slice("kubepods-burstable.slice", "0-1");
        assert_eq!(
            [slice.path(), slice.path_of("a")],
            [
                "kubepods-burstable.slice::kubepods-burstable-pod0_1.slice",
                "kubepods-burstable-pod0_1.slice:magikrun:0-1-a"
            ]
        );
        assert_eq!(PodCgroup::slice("-.slice", "0-1").path(), "-.slice::pod0_1.slice");
    }

    #[test]
    fn slices_are_told_from_other_names() {
        assert!(["-.slice", "a.slice", "a-b_1.slice"].into_iter().all(is_slice));
        assert!(
            ["", ".slice", "a", "/a.slice", "a--b.slice", "a:b.slice", "-a.slice"]
                .iter()
                .all(|n| !is_slice(n))
        );
    }
}
