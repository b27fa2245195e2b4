//! The configuration of a container, as the runtime specification has it: a pure function of the plan and of what the
//! running sandbox is.

use super::env::expand;
use super::users::{IdRange, Users};
use super::{ContainerPlan, EnvValue, MountPlan, Network, PodPlan, Propagation, SubPath, VolumeKind};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Version of the runtime specification that the configuration follows.
pub const OCI_VERSION: &str = "1.2.0";
/// Number of the group `tty`.
pub const TTY_GROUP: u32 = 5;
/// Size of the pod's shared memory, in bytes: 64 MiB, as everywhere.
pub const SHM_SIZE: u64 = 64 << 20;

/// What tells sources of mounts apart: the volume, the path in it, and whether mounts are passed on to the host.
pub type SourceKey = (String, String, bool);

/// The key of a mount, whose path in the volume is `sub`.
pub fn source_key(mount: &MountPlan, sub: &str) -> SourceKey {
    (mount.volume.clone(), sub.to_owned(), mount.propagation == Propagation::Both)
}

/// What is known once the sandbox runs.
#[derive(Debug, Default)]
pub struct Facts {
    /// Paths of the namespaces that all containers share, by the specification's name of their kind.
    pub namespaces: Vec<(&'static str, String)>,
    /// The pod's address.
    pub pod_ip: String,
    /// The host's address.
    pub host_ip: String,
    /// Directory with the files `hosts`, `hostname` and `resolv.conf`.
    pub etc: String,
    /// Directory of the pod's shared memory; none for that of the host.
    pub shm: Option<String>,
    /// What to mount for each mount of the plan.
    pub sources: BTreeMap<SourceKey, String>,
    /// The ids of the host that the pod has for its own.
    pub ids: Option<IdRange>,
    /// The pod has a group with the number of `tty`, which terminals belong to.
    pub has_tty_group: bool,
    /// Devices of the host, `linux.devices` of the specification, for privileged containers.
    pub devices: Vec<Value>,
}

/// Environment of a container with all values known.
pub fn environment(container: &ContainerPlan, facts: &Facts) -> Vec<(String, String)> {
    let mut known: Vec<(String, String)> = Vec::new();
    for variable in &container.env {
        let value = match &variable.value {
            EnvValue::Text(text) => text.clone(),
            EnvValue::Template(template) => expand(template, &known),
            EnvValue::PodIp => facts.pod_ip.clone(),
            EnvValue::HostIp => facts.host_ip.clone(),
        };
        known.push((variable.name.clone(), value));
    }
    known
}

/// The path of a mount below its volume, with variables replaced; empty for the whole volume.
pub fn sub_path(path: Option<&SubPath>, env: &[(String, String)]) -> String {
    match path {
        None => String::new(),
        Some(SubPath::Text(text)) => text.clone(),
        Some(SubPath::Template(template)) => expand(template, env),
    }
}

/// The configuration of a container. `root` is its root file system, relative to the bundle.
pub fn spec(pod: &PodPlan, container: &ContainerPlan, facts: &Facts, root: &str) -> Value {
    let env = environment(container, facts);
    let args: Vec<String> = container.args.iter().map(|arg| expand(arg, &env)).collect();
    let pairs: Vec<String> = env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let capabilities = &container.capabilities;
    let mut process = json!({
        "terminal": container.tty,
        "user": {"uid": container.uid, "gid": container.gid, "additionalGids": container.groups},
        "args": args,
        "env": pairs,
        "cwd": container.cwd,
        "capabilities": {
            "bounding": capabilities, "effective": capabilities, "permitted": capabilities,
        },
        "noNewPrivileges": container.no_new_privileges,
    });
    if !container.apparmor.is_empty() {
        process["apparmorProfile"] = json!(container.apparmor);
    }
    if !container.selinux.is_empty() {
        process["selinuxLabel"] = json!(container.selinux);
    }
    let mut spec = json!({
        "ociVersion": OCI_VERSION,
        "process": process,
        "root": {"path": root, "readonly": container.read_only_root},
        "mounts": mounts(pod, container, facts, &env),
        "annotations": annotations(pod, container),
        "linux": linux(pod, container, facts),
    });
    if !container.selinux.is_empty() {
        spec["linux"]["mountLabel"] = json!(container.selinux);
    }
    spec
}

fn annotations(pod: &PodPlan, container: &ContainerPlan) -> Map<String, Value> {
    let mut all = Map::new();
    all.insert("io.kubernetes.pod.uid".to_owned(), json!(pod.id));
    all.insert("io.kubernetes.pod.name".to_owned(), json!(pod.metadata.name));
    all.insert("io.kubernetes.pod.namespace".to_owned(), json!(pod.metadata.namespace()));
    all.insert("io.kubernetes.container.name".to_owned(), json!(container.name));
    if let Some(backend) = &container.backend {
        all.insert("org.magikrun.backend".to_owned(), json!(backend));
    }
    all.extend(container.settings.iter().map(|(name, value)| (name.clone(), json!(value))));
    all
}

fn mounts(pod: &PodPlan, container: &ContainerPlan, facts: &Facts, env: &[(String, String)]) -> Vec<Value> {
    let mut all = file_systems(pod, container, facts);
    for name in ["hosts", "hostname", "resolv.conf"] {
        let target = format!("/etc/{name}");
        if !container.mounts.iter().any(|mount| mount.target == target) {
            all.push(bind(&target, &format!("{}/{name}", facts.etc), &["bind", "nosuid", "nodev"]));
        }
    }
    // Parents before children, whatever the order in the manifest.
    let mut volumes: Vec<_> = container.mounts.iter().collect();
    volumes.sort_by_key(|mount| mount.target.matches('/').count());
    for mount in volumes {
        let key = source_key(mount, &sub_path(mount.sub_path.as_ref(), env));
        let Some(source) = facts.sources.get(&key) else { continue };
        let propagation = match mount.propagation {
            Propagation::None => "rprivate",
            Propagation::FromHost => "rslave",
            Propagation::Both => "rshared",
        };
        let mut options = vec!["rbind", propagation];
        if mount.recursive_read_only {
            options.push("rro");
        }
        options.push(if mount.read_only || is_read_only(pod, &mount.volume) { "ro" } else { "rw" });
        let mut value = bind(&mount.target, source, &options);
        if outlives(pod, &mount.volume) {
            map_ids(&mut value, facts.ids);
        }
        all.push(value);
    }
    all
}

/// What every container has: `/proc`, `/dev` and `/sys`. In a user namespace the kernel mounts what shows a namespace only where
/// that belongs to it; what shows the host's is bound.
fn file_systems(pod: &PodPlan, container: &ContainerPlan, facts: &Facts) -> Vec<Value> {
    let plain = ["nosuid", "noexec", "nodev"];
    let access = if container.privileged { "rw" } else { "ro" };
    let nested = pod.users != Users::Host;
    let mut pts = vec!["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"];
    if facts.has_tty_group {
        pts.push("gid=5");
    }
    let mut all = vec![
        json!({"destination": "/proc", "type": "proc", "source": "proc", "options": plain}),
        json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
            "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]}),
        json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": pts}),
    ];
    all.push(if nested && pod.host_ipc {
        bind("/dev/mqueue", "/dev/mqueue", &["bind", "nosuid", "noexec", "nodev"])
    } else {
        json!({"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": plain})
    });
    all.push(if nested && pod.network == Network::Host {
        bind("/sys", "/sys", &["rbind", "nosuid", "noexec", "nodev", "ro"])
    } else {
        json!({"destination": "/sys", "type": "sysfs", "source": "sysfs",
            "options": ["nosuid", "noexec", "nodev", access]})
    });
    // A user may have no cgroup to show.
    if !pod.users.is_of_user() {
        all.push(json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
            "options": ["nosuid", "noexec", "nodev", "relatime", access]}));
    }
    let shm = facts.shm.as_deref().unwrap_or("/dev/shm");
    all.push(bind("/dev/shm", shm, &["bind", "nosuid", "noexec", "nodev"]));
    all
}

/// Has a mount show the files of the host's ids with the pod's.
pub fn map_ids(mount: &mut Value, ids: Option<IdRange>) {
    if let Some(mapping) = ids.and_then(|ids| ids.mapping().ok()) {
        (mount["uidMappings"], mount["gidMappings"]) = (json!([mapping]), json!([mapping]));
    }
}

/// True for a volume whose files have the host's ids, since it is there without the pod too.
fn outlives(pod: &PodPlan, name: &str) -> bool {
    let mut volumes = pod.volumes.iter().filter(|volume| volume.name == name);
    volumes.any(|volume| matches!(volume.source, VolumeKind::Host { .. } | VolumeKind::Claim { .. }))
}

fn bind(target: &str, source: &str, options: &[&str]) -> Value {
    json!({"destination": target, "type": "bind", "source": source, "options": options})
}

/// True for a volume that no container may write to.
pub fn is_read_only(pod: &PodPlan, name: &str) -> bool {
    pod.volumes.iter().filter(|volume| volume.name == name).any(|volume| {
        matches!(volume.source, VolumeKind::Files(_) | VolumeKind::Claim { read_only: true, .. })
    })
}

fn linux(pod: &PodPlan, container: &ContainerPlan, facts: &Facts) -> Value {
    let mut namespaces = vec![json!({"type": "mount"}), json!({"type": "cgroup"})];
    if !pod.share_pid && !pod.host_pid {
        namespaces.push(json!({"type": "pid"}));
    }
    namespaces.extend(facts.namespaces.iter().map(|(kind, path)| json!({"type": kind, "path": path})));
    let mut resources = container.resources.clone();
    resources["devices"] = json!([{"allow": container.privileged, "access": "rwm"}]);
    let mut linux = json!({
        "cgroupsPath": pod.cgroup.path_of(&container.name),
        "namespaces": namespaces,
        "resources": resources,
    });
    if container.privileged {
        linux["devices"] = json!(facts.devices);
    }
    if container.mounts.iter().any(|mount| mount.propagation == Propagation::Both) {
        linux["rootfsPropagation"] = json!("rshared");
    }
    if container.masked {
        linux["maskedPaths"] = json!([
            "/proc/acpi",
            "/proc/asound",
            "/proc/interrupts",
            "/proc/kcore",
            "/proc/keys",
            "/proc/latency_stats",
            "/proc/sched_debug",
            "/proc/scsi",
            "/proc/timer_list",
            "/proc/timer_stats",
            "/sys/devices/virtual/powercap",
            "/sys/firmware",
        ]);
        linux["readonlyPaths"] =
            json!(["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]);
    }
    if let Some(seccomp) = &container.seccomp {
        linux["seccomp"] = seccomp.clone();
    }
    linux
}
