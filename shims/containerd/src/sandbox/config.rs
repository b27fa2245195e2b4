//! The configuration of the container that stands for a pod: it holds the namespaces, and does nothing.

use super::pod::{Pod, Resources};
use serde_json::{Map, Value, json};
use std::path::Path;

/// The program in the container.
const PROGRAM: &str = "/sandbox";
/// The root file system in the bundle. Not `rootfs`, which containerd does not remove unless it is empty.
pub const ROOT: &str = "root";
/// Who nobody is: the process needs no rights.
const NOBODY: u32 = 65534;

/// The configuration for `program`, which is this one; `network` is the path of the pod's network namespace.
pub fn config(id: &str, pod: &Pod, network: &str, program: &Path) -> Value {
    let mut config = json!({
        "ociVersion": "1.0.2",
        "root": {"path": ROOT, "readonly": true},
        "process": {
            "args": [PROGRAM, super::pause::ARGUMENT],
            "cwd": "/",
            "user": {"uid": NOBODY, "gid": NOBODY},
            "noNewPrivileges": true,
            "capabilities": {},
        },
        "mounts": [{
            "destination": PROGRAM,
            "type": "bind",
            "source": program,
            "options": ["bind", "ro", "nosuid", "nodev"],
        }],
        "annotations": annotations(id, pod),
        "linux": {
            "namespaces": namespaces(pod, network),
            "sysctl": pod.sysctls,
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
        },
    });
    if !pod.node.network && !pod.hostname.is_empty() {
        config["hostname"] = pod.hostname.clone().into();
    }
    if let Some(path) = cgroup(&pod.cgroup_parent, id) {
        config["linux"]["cgroupsPath"] = path.into();
    }
    config
}

/// In containerd's words for a sandbox that it makes itself. Those of the pod are not among them: which of them mean something is said in
/// containerd's configuration, which is not known here.
fn annotations(id: &str, pod: &Pod) -> Map<String, Value> {
    let Resources { memory, quota, period } = pod.resources;
    let limits = [("memory", memory), ("cpu-quota", quota), ("cpu-period", period)];
    let limits = limits.into_iter().filter(|(_, limit)| *limit != 0);
    let limits = limits.map(|(name, limit)| (format!("sandbox-{name}"), limit.to_string()));
    let kind = [("container-type", "sandbox"), ("sandbox-id", id)];
    let kind = kind.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let all = kind.into_iter().chain(limits);
    all.map(|(name, value)| (format!("io.kubernetes.cri.{name}"), value.into())).collect()
}

fn namespaces(pod: &Pod, network: &str) -> Vec<Value> {
    let own = [("mount", true), ("pid", !pod.node.pid), ("ipc", !pod.node.ipc), ("uts", !pod.node.network)];
    let own = own.into_iter().filter(|(_, is_own)| *is_own).map(|(kind, _)| json!({"type": kind}));
    let network = (!pod.node.network).then(|| {
        let mut namespace = Map::from_iter([("type".to_owned(), json!("network"))]);
        if !network.is_empty() {
            namespace.insert("path".to_owned(), json!(network));
        }
        Value::Object(namespace)
    });
    own.chain(network).collect()
}

/// The path of the cgroup, in systemd's form below a slice, as the CRI makes those of a pod's containers.
fn cgroup(parent: &str, id: &str) -> Option<String> {
    if parent.is_empty() {
        return None;
    }
    let last = parent.rsplit('/').next().unwrap_or_default();
    Some(if last.ends_with(".slice") {
        format!("{last}:cri-containerd:{id}")
    } else {
        format!("{}/{id}", parent.trim_end_matches('/'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::pod::NodeNamespaces;

    fn kinds(node: NodeNamespaces) -> Vec<String> {
        let pod = Pod { node, hostname: "web".to_owned(), ..Pod::default() };
        let config = config("p", &pod, "/run/netns/n", Path::new("/shim"));
        assert_eq!(config.get("hostname").is_some(), !node.network);
        let kind = |namespace: &Value| namespace["type"].as_str().unwrap().to_owned();
        config["linux"]["namespaces"].as_array().unwrap().iter().map(kind).collect()
    }

    #[test]
    fn a_pod_has_the_namespaces_that_are_not_the_nodes() {
        assert_eq!(kinds(NodeNamespaces::default()), ["mount", "pid", "ipc", "uts", "network"]);
        assert_eq!(kinds(NodeNamespaces { network: true, pid: true, ipc: true }), ["mount"]);
        assert_eq!(
            kinds(NodeNamespaces { network: true, ..NodeNamespaces::default() }),
            ["mount", "pid", "ipc"]
        );
        let config = config("p", &Pod::default(), "/run/netns/n", Path::new("/shim"));
        assert_eq!(config["linux"]["namespaces"][4]["path"], "/run/netns/n");
    }

    #[test]
    fn what_the_containers_of_a_pod_may_use_together_is_said() {
        let of = |resources| annotations("p", &Pod { resources, ..Pod::default() });
        let limited = of(Resources { memory: 7, quota: -1, period: 10 });
        assert_eq!(limited["io.kubernetes.cri.sandbox-memory"], "7");
        assert_eq!(limited["io.kubernetes.cri.sandbox-cpu-quota"], "-1");
        assert_eq!(limited["io.kubernetes.cri.sandbox-cpu-period"], "10");
        let said: Vec<_> = of(Resources::default()).into_iter().map(|(name, _)| name).collect();
        assert_eq!(said, ["io.kubernetes.cri.container-type", "io.kubernetes.cri.sandbox-id"]);
    }

    #[test]
    fn the_cgroup_is_below_that_of_the_pod() {
        assert_eq!(cgroup("/kubepods/pod1/", "p").as_deref(), Some("/kubepods/pod1/p"));
        assert_eq!(cgroup("/a.slice/a-b.slice", "p").as_deref(), Some("a-b.slice:cri-containerd:p"));
        assert_eq!(cgroup("", "p"), None);
    }
}
