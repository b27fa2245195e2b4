//! Pods of Kubernetes whose containers share one microVM: what the annotations of containerd and CRI-O say, and what follows from it.
//! Pure decisions.
//!
//! The machine is that of the container which holds the pod's namespaces, the sandbox.

use super::guest::{ROOT, container};
use super::settings::{MIN_RAM_MIB, OVERHEAD_MIB, ROOT_DISK};
use crate::error::{Error, ErrorKind, Result};
use crate::runtime::cgroups::v2_files;
use oci_spec::runtime::{LinuxCpuBuilder, LinuxMemoryBuilder, LinuxResources, Spec};
use std::collections::BTreeMap;
use vm_protocol::spec::{Container, Mount, Stdio};

/// Annotations that say what a container is in its pod, each with the one that names the sandbox.
const KINDS: [(&str, &str); 2] = [
    ("io.kubernetes.cri.container-type", "io.kubernetes.cri.sandbox-id"),
    ("io.kubernetes.cri-o.ContainerType", "io.kubernetes.cri-o.SandboxID"),
];
/// Annotations of containerd on the sandbox: memory of the pod's containers together, in bytes, and their processor time.
const MEMORY: &str = "io.kubernetes.cri.sandbox-memory";
const QUOTA: &str = "io.kubernetes.cri.sandbox-cpu-quota";
const PERIOD: &str = "io.kubernetes.cri.sandbox-cpu-period";
/// Directory of the monitor's view in which the roots of the containers to come are mounted. It hides the devices of the monitor.
pub const PLACE: &str = "/dev";
/// Where the guest has the memory that the containers share.
pub const SHARED_MEMORY: &str = "/run/shm";
/// Its size, in bytes: that of a sandbox's own.
const SHARED_MEMORY_SIZE: u64 = 64 << 20;
/// Controllers whose limits mean something in a guest: sets of processors and devices are those of the host.
const CONTROLLERS: [&str; 3] = ["cpu.", "memory.", "pids."];

/// What a container is in its pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part<'a> {
    /// It is in none, or by itself.
    Alone,
    /// It holds the namespaces.
    Sandbox,
    /// One of those beside a sandbox.
    Member {
        /// Id of the sandbox.
        sandbox: &'a str,
    },
}

fn annotation<'a>(spec: &'a Spec, name: &str) -> Option<&'a str> {
    spec.annotations().as_ref()?.get(name).map(String::as_str).filter(|value| !value.is_empty())
}

/// What a container is in its pod.
pub fn part(spec: &Spec) -> Part<'_> {
    KINDS
        .iter()
        .find_map(|(kind, id)| match (annotation(spec, kind)?, annotation(spec, id)) {
            ("sandbox", _) => Some(Part::Sandbox),
            ("container", Some(sandbox)) => Some(Part::Member { sandbox }),
            _ => None,
        })
        .unwrap_or(Part::Alone)
}

/// Whether a sandbox that asks for a microVM is one for its containers. Where they have disks each needs a machine of its own.
pub fn is_shared(spec: &Spec) -> bool {
    annotation(spec, ROOT_DISK).is_none()
}

/// What a sandbox is sized by: its containers together, the guest's kernel, and the monitor. None where nothing is said.
pub fn resources(spec: &Spec) -> Result<Option<LinuxResources>> {
    let number = |name: &str| match annotation(spec, name).map(str::parse::<i64>) {
        None => Ok(None),
        Some(Ok(number)) => Ok(Some(number).filter(|number| *number > 0)),
        Some(Err(_)) => crate::bail!(InvalidBundle, "annotations: {name} is no number"),
    };
    let (memory, quota, period) = (number(MEMORY)?, number(QUOTA)?, number(PERIOD)?);
    let mut resources = LinuxResources::default();
    let built = |e: oci_spec::OciSpecError| Error::new(ErrorKind::InvalidBundle, e.to_string());
    if let Some(bytes) = memory {
        let own = i64::from(MIN_RAM_MIB + OVERHEAD_MIB) << 20;
        let limit = LinuxMemoryBuilder::default().limit(bytes.saturating_add(own));
        resources.set_memory(Some(limit.build().map_err(built)?));
    }
    if let Some(quota) = quota {
        let cpu = LinuxCpuBuilder::default().quota(quota).period(period.map_or(100_000, i64::cast_unsigned));
        resources.set_cpu(Some(cpu.build().map_err(built)?));
    }
    Ok((memory.is_some() || quota.is_some()).then_some(resources))
}

/// Memory that is mounted in the guest for all containers of a pod.
pub fn shared_memory() -> Mount {
    let size = format!("size={SHARED_MEMORY_SIZE}");
    Mount {
        destination: SHARED_MEMORY.to_owned(),
        kind: "tmpfs".to_owned(),
        source: "tmpfs".to_owned(),
        options: ["nosuid", "nodev", "mode=1777", &size].map(str::to_owned).to_vec(),
        ..Mount::default()
    }
}

/// Gives a container that memory in the place of its own.
pub fn share_memory(container: &mut Container) {
    for mount in container.mounts.iter_mut().filter(|mount| mount.destination == "/dev/shm") {
        "bind".clone_into(&mut mount.kind);
        SHARED_MEMORY.clone_into(&mut mount.source);
        mount.options = vec!["rbind".to_owned()];
    }
}

/// The limits that hold in the guest.
pub fn limits(resources: &LinuxResources) -> Result<BTreeMap<String, String>> {
    let mut files = v2_files(resources)?;
    files.retain(|file, _| CONTROLLERS.iter().any(|controller| file.starts_with(controller)));
    Ok(files)
}

/// A container of a pod as the guest makes it. `directory` is where its root is mounted, in [`PLACE`].
pub fn member(spec: &Spec, id: &str, directory: &str) -> Result<Container> {
    let mut member = container(spec, id, &format!("{ROOT}{PLACE}/{directory}"))?;
    let resources = spec.linux().as_ref().and_then(|linux| linux.resources().clone()).unwrap_or_default();
    member.cgroup = limits(&resources)?;
    // Its streams are those of the connection that it lives with.
    (member.stdio, member.stdin) = (Stdio::Log, true);
    share_memory(&mut member);
    member.check().map_err(|e| Error::new(ErrorKind::InvalidBundle, e))?;
    Ok(member)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn spec(annotations: Value) -> Spec {
        let config = json!({"ociVersion": "1.0.0", "annotations": annotations,
            "process": {"args": ["sh"], "cwd": "/", "user": {"uid": 0, "gid": 0}},
            "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev/shm", "type": "bind", "source": "/pod/shm", "options": ["rbind"]}],
            "linux": {"resources": {"memory": {"limit": 64 << 20}, "cpu": {"quota": 5000, "period": 10000, "cpus": "3"}}}});
        serde_json::from_value(config).unwrap()
    }

    #[test]
    fn containerd_and_cri_o_tell_the_sandbox_from_its_containers() {
        for (kind, id) in KINDS {
            assert_eq!(part(&spec(json!({kind: "sandbox", id: "p"}))), Part::Sandbox);
            assert_eq!(part(&spec(json!({kind: "container", id: "p"}))), Part::Member { sandbox: "p" });
            for alone in [json!({kind: "container"}), json!({kind: "other", id: "p"}), json!({id: "p"})] {
                assert_eq!(part(&spec(alone)), Part::Alone);
            }
        }
        assert!(is_shared(&spec(json!({}))) && !is_shared(&spec(json!({ROOT_DISK: "/disk"}))));
    }

    #[test]
    fn the_machine_of_a_pod_has_room_for_its_containers_and_the_kernel() {
        let sized = |annotations| resources(&spec(annotations));
        assert_eq!(sized(json!({MEMORY: "0", QUOTA: "-1"})).unwrap(), None);
        let all = sized(json!({MEMORY: (256_u64 << 20).to_string(), QUOTA: "150000", PERIOD: "100000"}));
        let all = all.unwrap().unwrap();
        assert_eq!(all.memory().as_ref().unwrap().limit(), Some((256 + 64 + 64) << 20));
        assert_eq!(all.cpu().as_ref().unwrap().quota(), Some(150_000));
        sized(json!({MEMORY: "much"})).unwrap_err();
    }

    #[test]
    fn a_container_is_made_of_its_configuration_where_its_root_is_mounted() {
        let made = member(&spec(json!({})), "app", "d").unwrap();
        assert_eq!((made.root.as_str(), made.stdin), ("/containers/main/dev/d", true));
        assert_eq!(made.mounts[1].kind, "bind");
        assert_eq!(made.mounts[1].source, shared_memory().destination);
        // Processors are those of the guest.
        assert_eq!(made.cgroup["cpu.max"], "5000 10000");
        assert!(made.cgroup.contains_key("memory.max") && !made.cgroup.contains_key("cpuset.cpus"));
        member(&spec(json!({})), "no name", "d").unwrap_err();
    }
}
