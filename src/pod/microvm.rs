//! A pod in one microVM: the container around the machine, and what its guest is made of. Pure functions of the plan and of the
//! containers' configurations.
//!
//! The host mounts all that is not of a kernel: below the root of the container around the machine, each container's root with its
//! volumes has a directory, and so has each volume. The guest sees that as one share, and binds the volumes from there into the
//! containers: what two of them share is one file to its kernel, so sockets, FIFOs and locks work between them.

use crate::error::{Context as _, Result};
use crate::pod::around::{self, CONTAINERS, bind, root};
use crate::pod::plan::config::OCI_VERSION;
use crate::pod::plan::{Input, PodPlan, VmPlan};
use crate::runtime::cgroups::v2_files;
use crate::runtime::krun::engine::ROOTFS;
use crate::runtime::krun::guest::{self, Given};
use crate::runtime::krun::pod::{share_memory, shared_memory};
use oci_spec::runtime as oci;
use serde_json::{Value, json};
use std::path::PathBuf;
use vm_protocol::spec::{Container, End, Mount, PodSpec, SPEC_VERSION, Stdio};

/// Id of the container around the machine, the only one in the pod's own state root.
pub const VM: &str = "vm";

/// Below the root of that container: the volumes.
const VOLUMES: &str = "/volumes";
/// Where the guest mounts that root.
const SHARE: &str = "/run/pod";
/// Where the guest has the volumes.
const GUEST_VOLUMES: &str = "/run/volumes";

/// A container with its configuration as a native one would have it.
#[derive(Debug)]
pub struct Member<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its bundle.
    pub bundle: PathBuf,
    /// Its configuration.
    pub config: &'a Value,
    /// What of volumes it mounts.
    pub mounts: Vec<VolumeMount>,
}

/// A mount of a volume in a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeMount {
    /// Name of the volume.
    pub volume: String,
    /// Path below the volume, without links; empty for all of it.
    pub below: String,
    /// Where in the container.
    pub target: String,
    /// Cannot be written to.
    pub read_only: bool,
}

/// A volume on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// Where it is.
    pub place: PathBuf,
    /// It is a directory, and no single file.
    pub directory: bool,
    /// No container writes to it.
    pub read_only: bool,
}

/// The configuration of the container around the machine.
pub fn configuration(
    plan: &PodPlan,
    vm: &VmPlan,
    namespaces: &[(&'static str, String)],
    members: &[Member<'_>],
    volumes: &[Volume],
) -> Result<Value> {
    let mut mounts = Vec::new();
    for member in members {
        // The guest itself mounts what shows its kernel.
        let of_host = |mount: &oci::Mount| Ok(guest::mount(mount)?.is_none());
        mounts.extend(around::mounts(member.name, &member.bundle, member.config, of_host)?);
    }
    mounts.extend(volumes.iter().map(|volume| {
        let access = if volume.read_only { "ro" } else { "rw" };
        bind(&format!("{VOLUMES}/{}", volume.name), &volume.place.display().to_string(), access)
    }));
    let own = ["mount", "cgroup", "pid"].map(|kind| json!({"type": kind}));
    let joined = namespaces.iter().map(|(kind, path)| json!({"type": kind, "path": path}));
    let mut resources = vm.resources.clone();
    resources["devices"] = json!([{"allow": false, "access": "rwm"}]);
    let mut annotations = json!(vm.annotations);
    annotations["org.magikrun.backend"] = json!("krun");
    annotations["io.kubernetes.pod.uid"] = json!(plan.id);
    annotations["io.kubernetes.pod.name"] = json!(plan.metadata.name);
    annotations["io.kubernetes.pod.namespace"] = json!(plan.metadata.namespace());
    Ok(json!({
        "ociVersion": OCI_VERSION,
        // Nothing of it is executed: the machine takes its place.
        "process": {"terminal": false, "user": {"uid": 0, "gid": 0}, "args": ["vminit"], "cwd": "/"},
        "root": {"path": "rootfs", "readonly": true},
        "mounts": mounts,
        "annotations": annotations,
        "linux": {
            "cgroupsPath": plan.cgroup.path_of(VM),
            "namespaces": own.into_iter().chain(joined).collect::<Vec<_>>(),
            "resources": resources,
        },
    }))
}

/// What runs in the guest.
pub fn given(plan: &PodPlan, vm: &VmPlan, members: &[Member<'_>], volumes: &[Volume]) -> Result<Given> {
    let containers = members
        .iter()
        .map(|member| container(plan, member).context(|| format!("container '{}'", member.name)));
    let mut mounts = vec![
        Mount {
            destination: SHARE.to_owned(),
            kind: "virtiofs".to_owned(),
            source: ROOTFS.to_owned(),
            ..Mount::default()
        },
        guest_bind(CONTAINERS, &format!("{SHARE}{CONTAINERS}"), false),
        shared_memory(),
    ];
    mounts.extend(volumes.iter().map(|volume| {
        // Into the volume: the guest's kernel makes a file system of each that is one on the host, when it is first walked
        // into. It must be this one for all containers.
        let inside = if volume.directory { "/." } else { "" };
        let source = format!("{SHARE}{VOLUMES}/{}{inside}", volume.name);
        guest_bind(&format!("{GUEST_VOLUMES}/{}", volume.name), &source, volume.read_only)
    }));
    let spec = PodSpec {
        version: SPEC_VERSION,
        hostname: Some(plan.hostname.clone()),
        mounts,
        sysctl: vm.sysctls.iter().cloned().collect(),
        containers: containers.collect::<Result<_>>()?,
        // The monitor says what the end of a container means.
        end: End::Asked,
        ..PodSpec::default()
    };
    Ok(Given { spec })
}

fn container(plan: &PodPlan, member: &Member<'_>) -> Result<Container> {
    let config: oci::Spec = serde_json::from_value(member.config.clone())?;
    let planned = plan.containers.iter().find(|c| c.name == member.name);
    let resources = planned.map(|c| c.resources.clone());
    let resources: oci::LinuxResources = serde_json::from_value(resources.unwrap_or_else(|| json!({})))?;
    let mut container = guest::container(&config, member.name, &root(member.name))?;
    share_memory(&mut container);
    container.mounts.extend(member.mounts.iter().map(|mount| {
        let source = format!("{GUEST_VOLUMES}/{}/{}", mount.volume, mount.below);
        guest_bind(&mount.target, source.trim_end_matches('/'), mount.read_only)
    }));
    let stdin = planned.is_some_and(|planned| planned.input != Input::None);
    let cgroup = v2_files(&resources)?;
    Ok(Container { cgroup, stdio: Stdio::Followed, stdin, on_request: true, ..container })
}

fn guest_bind(destination: &str, source: &str, read_only: bool) -> Mount {
    let mut options = vec!["rbind".to_owned()];
    options.extend(read_only.then(|| "ro".to_owned()));
    let (destination, source) = (destination.to_owned(), source.to_owned());
    Mount { destination, kind: "bind".to_owned(), source, options, ..Mount::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::PodSpec as Manifest;
    use crate::pod::plan::config::{Facts, spec};
    use crate::pod::plan::{Context, ImageFacts, plan};
    use std::collections::BTreeMap;

    fn planned(extra: &str) -> PodPlan {
        let manifest = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: web, annotations: {{krun.cpus: '1'}}}}\nspec: {{runtimeClassName: microvm, \
             containers: [{{name: a, image: i, command: [x], resources: {{limits: {{memory: 64Mi, cpu: 500m}}}}, \
             volumeMounts: [{{name: v, mountPath: /data}}, {{name: f, mountPath: /etc/x, subPath: s/t}}]}}], \
             volumes: [{{name: v}}, {{name: f, emptyDir: {{}}}}]{extra}}}\n"
        );
        let images = BTreeMap::from([("i".to_owned(), ImageFacts::default())]);
        let context = Context {
            id: "id".to_owned(),
            cgroup_parent: "/m".to_owned(),
            images,
            cpus: 4,
            ..Context::default()
        };
        plan(&Manifest::from_yaml(manifest).unwrap(), &context).unwrap()
    }

    fn volume(name: &str) -> Volume {
        Volume {
            name: name.to_owned(),
            place: format!("/host/{name}").into(),
            directory: true,
            read_only: name == "f",
        }
    }

    fn mount(volume: &str, below: &str, target: &str) -> VolumeMount {
        let own = |text: &str| text.to_owned();
        VolumeMount { volume: own(volume), below: own(below), target: own(target), read_only: false }
    }

    #[test]
    fn the_host_mounts_roots_and_volumes_and_the_guest_what_shows_a_kernel() {
        let plan = planned("");
        let vm = plan.vm.clone().unwrap();
        let facts = Facts {
            etc: "/etc-of-pod".to_owned(),
            sources: BTreeMap::from([
                (("v".to_owned(), String::new(), false), "/host/v".to_owned()),
                (("f".to_owned(), "s/t".to_owned(), false), "/proc/self/fd/9".to_owned()),
            ]),
            ..Facts::default()
        };
        let mut config = spec(&plan, &plan.containers[0], &facts, "rootfs");
        config["mounts"]
            .as_array_mut()
            .unwrap()
            .insert(0, json!({"destination": "/", "type": "overlay", "source": "overlay"}));
        let mounts = vec![mount("v", "", "/data"), mount("f", "s/t", "/etc/x")];
        let members = [Member { name: "a", bundle: "/b".into(), config: &config, mounts }];
        let volumes = [volume("v"), volume("f")];
        let around = configuration(&plan, &vm, &[("network", "/n".to_owned())], &members, &volumes).unwrap();
        let destinations: Vec<_> =
            around["mounts"].as_array().unwrap().iter().map(|m| m["destination"].as_str().unwrap()).collect();
        assert_eq!(
            destinations,
            [
                "/containers/a",
                "/containers/a/etc/hosts",
                "/containers/a/etc/hostname",
                "/containers/a/etc/resolv.conf",
                "/containers/a/data",
                "/containers/a/etc/x",
                "/volumes/v",
                "/volumes/f"
            ]
        );
        assert_eq!(around["mounts"][7]["options"][2], "ro");
        assert_eq!(around["linux"]["cgroupsPath"], "/m/id/vm");
        let parsed = crate::runtime::spec::parse(around.to_string().as_bytes(), "config").unwrap();
        crate::runtime::validate::validate(&parsed, crate::runtime::kernel_security::KernelSecurity::probe)
            .unwrap();
        let guest = given(&plan, &vm, &members, &volumes).unwrap().spec;
        let text = serde_json::to_vec(&guest).unwrap();
        assert_eq!(PodSpec::parse(&text).unwrap(), guest);
        let sources: Vec<_> = guest.mounts.iter().map(|m| m.source.as_str()).collect();
        assert_eq!(
            sources,
            ["rootfs", "/run/pod/containers", "tmpfs", "/run/pod/volumes/v/.", "/run/pod/volumes/f/."]
        );
        let a = &guest.containers[0];
        assert_eq!((a.root.as_str(), a.stdio, a.on_request), ("/containers/a", Stdio::Followed, true));
        assert_eq!(a.cgroup["memory.max"], (64 << 20).to_string());
        assert_eq!(a.cgroup["cpu.max"], "50000 100000");
        let bound: Vec<_> = a
            .mounts
            .iter()
            .filter(|m| m.kind == "bind")
            .map(|m| (m.destination.as_str(), m.source.as_str()))
            .collect();
        assert_eq!(
            bound,
            [("/dev/shm", "/run/shm"), ("/data", "/run/volumes/v"), ("/etc/x", "/run/volumes/f/s/t")]
        );
        assert!(a.mounts.iter().any(|m| m.kind == "proc"));
    }

    #[test]
    fn the_machine_is_as_large_as_its_containers_together() {
        let limits = |extra: &str| planned(extra).vm.unwrap().resources;
        assert_eq!(limits("")["memory"]["limit"], (64 + 64 + 64) << 20);
        assert_eq!(limits("")["cpu"]["quota"], 50_000);
        let init =
            ", initContainers: [{name: i, image: i, command: [x], resources: {limits: {memory: 1Gi}}}]";
        assert_eq!(limits(init)["memory"]["limit"], (1024 + 64 + 64) << 20);
        assert!(limits(init)["cpu"]["quota"].is_null());
        assert_eq!(limits(", resources: {limits: {memory: 512Mi}}")["memory"]["limit"], 512 << 20);
    }
}
