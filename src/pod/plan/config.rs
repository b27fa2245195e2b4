//! The configuration of a container, as the runtime specification has it: a pure function of the plan and of what the
//! running sandbox is.

use super::env::expand;
use super::{ContainerPlan, EnvValue, PodPlan, SubPath};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Version of the runtime specification that the configuration follows.
const OCI_VERSION: &str = "1.2.0";
/// Size of the pod's shared memory, in bytes: 64 MiB, as everywhere.
pub const SHM_SIZE: u64 = 64 << 20;

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
    /// What to mount for each mount of the plan, by volume and path in it.
    pub sources: BTreeMap<(String, String), String>,
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
        "terminal": false,
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
    all
}

fn mounts(pod: &PodPlan, container: &ContainerPlan, facts: &Facts, env: &[(String, String)]) -> Vec<Value> {
    let plain = ["nosuid", "noexec", "nodev"];
    let access = if container.privileged { "rw" } else { "ro" };
    let mut all = vec![
        json!({"destination": "/proc", "type": "proc", "source": "proc", "options": plain}),
        json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
            "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]}),
        json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts",
            "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]}),
        json!({"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": plain}),
        json!({"destination": "/sys", "type": "sysfs", "source": "sysfs",
            "options": ["nosuid", "noexec", "nodev", access]}),
        json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
            "options": ["nosuid", "noexec", "nodev", "relatime", access]}),
        bind("/dev/shm", facts.shm.as_deref().unwrap_or("/dev/shm"), &["bind", "nosuid", "noexec", "nodev"]),
    ];
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
        let key = (mount.volume.clone(), sub_path(mount.sub_path.as_ref(), env));
        let Some(source) = facts.sources.get(&key) else { continue };
        let mut options = vec!["rbind", if mount.from_host { "rslave" } else { "rprivate" }];
        if mount.recursive_read_only {
            options.push("rro");
        }
        options.push(if mount.read_only || is_read_only(pod, &mount.volume) { "ro" } else { "rw" });
        all.push(bind(&mount.target, source, &options));
    }
    all
}

fn bind(target: &str, source: &str, options: &[&str]) -> Value {
    json!({"destination": target, "type": "bind", "source": source, "options": options})
}

fn is_read_only(pod: &PodPlan, name: &str) -> bool {
    use super::VolumeKind;
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
        "cgroupsPath": format!("{}/{}", pod.cgroup, container.name),
        "namespaces": namespaces,
        "resources": resources,
    });
    if container.privileged {
        linux["devices"] = json!(facts.devices);
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
