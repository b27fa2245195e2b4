//! The configuration of a container made from an image: pure data in, pure data out.

use super::config::OciContainerConfig;
use super::users::Identity;
use crate::error::{Error, ErrorKind, Result};
use crate::limits::{DEFAULT_MEMORY_BYTES, MAX_MEMORY_BYTES};
use crate::platform::confinement::Profile;
use crate::platform::userns::IdMappings;
use oci_spec::image::Config;
use oci_spec::runtime::{LinuxIdMapping, Spec};
use serde_json::{Value, json};

/// `PATH` of images that set none.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Version of the runtime specification that the configuration follows.
const OCI_VERSION: &str = "1.2.0";
/// Capabilities of a container: those that podman gives.
const CAPABILITIES: [&str; 11] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_NET_BIND_SERVICE",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];
/// Most processes unless told otherwise: what podman allows.
const DEFAULT_PIDS: i64 = 2048;
/// Period of the processor limit, in microseconds: the kernel's default.
const CPU_PERIOD: u64 = 100_000;
/// Annotation with the signal that ends the container: OCI image specification, "Conversion to OCI Runtime Configuration".
const STOP_SIGNAL: &str = "org.opencontainers.image.stopSignal";
/// Annotation that selects the backend.
const BACKEND: &str = "org.magikrun.backend";

/// What the configuration follows from beside the container's own settings.
pub struct Origin<'a> {
    /// How the image wants to be run.
    pub settings: &'a Config,
    /// Who its process is.
    pub identity: &'a Identity,
    /// Mappings of its user namespace, without privileges.
    pub mappings: Option<&'a IdMappings>,
    /// Its seccomp profile.
    pub seccomp: Option<Profile>,
}

/// Makes the configuration. Its root is the directory `rootfs` of the bundle.
pub fn make(container: &OciContainerConfig, origin: &Origin<'_>) -> Result<Spec> {
    let mut spec = json!({
        "ociVersion": OCI_VERSION,
        "process": process(container, origin)?,
        "root": {"path": "rootfs", "readonly": container.read_only},
        "mounts": mounts(container, origin.mappings),
        "linux": linux(container, origin)?,
        "annotations": annotations(container, origin.settings),
    });
    let hostname = container.hostname.as_ref().unwrap_or(&container.name);
    if !hostname.is_empty() {
        spec["hostname"] = json!(hostname);
    }
    let spec: Spec = serde_json::from_value(spec).map_err(|e| {
        Error::new(ErrorKind::BundleBuildFailed, format!("cannot make the configuration: {e}"))
    })?;
    Ok(with_mounts(spec, container))
}

fn with_mounts(mut spec: Spec, container: &OciContainerConfig) -> Spec {
    let mut mounts = spec.mounts().clone().unwrap_or_default();
    mounts.extend(container.mounts.iter().cloned());
    spec.set_mounts(Some(mounts));
    spec
}

fn process(container: &OciContainerConfig, origin: &Origin<'_>) -> Result<Value> {
    let settings = origin.settings;
    let cwd = container.working_dir.as_ref().or(settings.working_dir().as_ref());
    let identity = origin.identity;
    Ok(json!({
        "terminal": container.terminal,
        "user": {"uid": identity.uid, "gid": identity.gid, "additionalGids": identity.additional_gids},
        "args": arguments(container, settings)?,
        "env": environment(container, settings),
        "cwd": cwd.filter(|cwd| !cwd.is_empty()).map_or("/", String::as_str),
        "capabilities": {"bounding": CAPABILITIES, "effective": CAPABILITIES, "permitted": CAPABILITIES},
        "noNewPrivileges": false,
    }))
}

/// `command` replaces entrypoint and command of the image, `args` its command only: as Kubernetes has it.
fn arguments(container: &OciContainerConfig, settings: &Config) -> Result<Vec<String>> {
    let image = |part: &Option<Vec<String>>| part.clone().unwrap_or_default();
    let mut arguments = match &container.command {
        Some(command) => command.clone(),
        None => image(settings.entrypoint()),
    };
    match (&container.args, &container.command) {
        (Some(args), _) => arguments.extend(args.iter().cloned()),
        (None, None) => arguments.extend(image(settings.cmd())),
        (None, Some(_)) => {}
    }
    if arguments.is_empty() {
        crate::bail!(BundleBuildFailed, "the image has no command: name one");
    }
    Ok(arguments)
}

/// The image's variables, and ours over them.
fn environment(container: &OciContainerConfig, settings: &Config) -> Vec<String> {
    let mut all: Vec<String> = vec![PATH.to_owned()];
    if container.terminal {
        all.push("TERM=xterm".to_owned());
    }
    for pair in settings.env().iter().flatten().chain(&container.env) {
        let name = pair.split('=').next().unwrap_or_default();
        match all.iter_mut().find(|known| known.split('=').next() == Some(name)) {
            Some(known) => known.clone_from(pair),
            None => all.push(pair.clone()),
        }
    }
    all
}

fn mounts(container: &OciContainerConfig, mappings: Option<&IdMappings>) -> Value {
    let flags = ["nosuid", "noexec", "nodev"];
    let mut pts = vec!["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"];
    // The group tty, where it is mapped.
    if mappings.is_none_or(|mappings| mappings.gids.iter().map(LinuxIdMapping::size).sum::<u32>() > 5) {
        pts.push("gid=5");
    }
    let mut mounts = vec![
        json!({"destination": "/proc", "type": "proc", "source": "proc", "options": flags}),
        json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
            "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]}),
        json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": pts}),
        json!({"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
            "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]}),
        json!({"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": flags}),
    ];
    // A sysfs shows the network namespace that it is mounted in, and so belongs to whoever owns that.
    if mappings.is_some() && container.host_network {
        mounts.push(json!({"destination": "/sys", "type": "none", "source": "/sys",
            "options": ["rbind", "nosuid", "noexec", "nodev", "ro"]}));
    } else {
        mounts.push(json!({"destination": "/sys", "type": "sysfs", "source": "sysfs",
            "options": ["nosuid", "noexec", "nodev", "ro"]}));
    }
    if mappings.is_none() {
        mounts.push(json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
            "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]}));
    }
    if container.host_network {
        for file in ["/etc/resolv.conf", "/etc/hosts"] {
            mounts.push(
                json!({"destination": file, "type": "bind", "source": file, "options": ["bind", "ro"]}),
            );
        }
    }
    Value::Array(mounts)
}

fn linux(container: &OciContainerConfig, origin: &Origin<'_>) -> Result<Value> {
    let mut namespaces = vec!["pid", "ipc", "uts", "mount"];
    if !container.host_network {
        namespaces.push("network");
    }
    let mut linux = json!({
        "maskedPaths": ["/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys",
            "/proc/latency_stats", "/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats",
            "/sys/devices/virtual/powercap", "/sys/firmware"],
        "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
    });
    if let Some(profile) = &origin.seccomp {
        linux["seccomp"] = profile.resolve(&CAPABILITIES);
    }
    if let Some(mappings) = origin.mappings {
        namespaces.push("user");
        linux["uidMappings"] = json!(mappings.uids);
        linux["gidMappings"] = json!(mappings.gids);
    } else {
        namespaces.push("cgroup");
        linux["resources"] = resources(container)?;
    }
    let namespaces: Vec<Value> = namespaces.into_iter().map(|kind| json!({"type": kind})).collect();
    linux["namespaces"] = Value::Array(namespaces);
    Ok(linux)
}

fn resources(container: &OciContainerConfig) -> Result<Value> {
    let memory = container.memory.unwrap_or(DEFAULT_MEMORY_BYTES);
    if memory > MAX_MEMORY_BYTES {
        crate::bail!(
            BundleBuildFailed,
            "a memory limit of {memory} bytes is more than {MAX_MEMORY_BYTES}, the most for a bundle that is built"
        );
    }
    let mut resources = json!({
        "devices": [{"allow": false, "access": "rwm"}],
        "pids": {"limit": container.pids.unwrap_or(DEFAULT_PIDS)},
    });
    if memory > 0 {
        resources["memory"] = json!({"limit": memory});
    }
    if let Some(cpus) = container.cpus {
        if !(cpus > 0.0 && cpus.is_finite()) {
            crate::bail!(BundleBuildFailed, "{cpus} processors are no limit");
        }
        let quota = (cpus * CPU_PERIOD as f64).round() as i64;
        resources["cpu"] = json!({"quota": quota, "period": CPU_PERIOD});
    }
    Ok(resources)
}

fn annotations(container: &OciContainerConfig, settings: &Config) -> Value {
    let mut all = serde_json::Map::new();
    if let Some(signal) = settings.stop_signal() {
        all.insert(STOP_SIGNAL.to_owned(), json!(signal));
    }
    if let Some(backend) = &container.backend {
        all.insert(BACKEND.to_owned(), json!(backend));
    }
    for (name, value) in &container.annotations {
        all.insert(name.clone(), json!(value));
    }
    Value::Object(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::image::ConfigBuilder;

    fn settings() -> Config {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        ConfigBuilder::default()
            .entrypoint(words(&["/entry"]))
            .cmd(words(&["one"]))
            .env(words(&["A=1", "PATH=/x"]))
            .working_dir("/w")
            .stop_signal("SIGUSR1")
            .build()
            .unwrap()
    }

    fn spec(container: &OciContainerConfig, mappings: Option<&IdMappings>) -> Result<Value> {
        let (settings, identity) = (settings(), Identity::default());
        let spec =
            make(container, &Origin { settings: &settings, identity: &identity, mappings, seccomp: None })?;
        Ok(serde_json::to_value(spec).unwrap())
    }

    #[test]
    fn what_is_not_set_comes_from_the_image() {
        let spec = spec(&OciContainerConfig { name: "n".to_owned(), ..OciContainerConfig::default() }, None)
            .unwrap();
        assert_eq!(spec["process"]["args"], json!(["/entry", "one"]));
        assert_eq!(spec["process"]["env"], json!(["PATH=/x", "A=1"]));
        assert_eq!(spec["process"]["cwd"], "/w");
        assert_eq!(spec["hostname"], "n");
        assert_eq!(spec["annotations"][STOP_SIGNAL], "SIGUSR1");
        assert_eq!(spec["linux"]["resources"]["memory"]["limit"], DEFAULT_MEMORY_BYTES);
    }

    #[test]
    fn settings_replace_what_kubernetes_says_they_replace() {
        let some = |word: &str| Some(vec![word.to_owned()]);
        let args = |command, args| {
            let container = OciContainerConfig { command, args, ..OciContainerConfig::default() };
            spec(&container, None).unwrap()["process"]["args"].clone()
        };
        assert_eq!(args(some("c"), None), json!(["c"]));
        assert_eq!(args(None, some("a")), json!(["/entry", "a"]));
        assert_eq!(args(some("c"), some("a")), json!(["c", "a"]));
    }

    #[test]
    fn limits_have_a_most_and_the_user_none() {
        let much = OciContainerConfig { memory: Some(MAX_MEMORY_BYTES + 1), ..OciContainerConfig::default() };
        assert_eq!(spec(&much, None).unwrap_err().kind(), ErrorKind::BundleBuildFailed);
        let none = OciContainerConfig { memory: Some(0), cpus: Some(1.5), ..OciContainerConfig::default() };
        let resources = spec(&none, None).unwrap()["linux"]["resources"].clone();
        assert!(resources.get("memory").is_none());
        assert_eq!(resources["cpu"]["quota"], 150_000);
        let rootless = spec(&none, Some(&IdMappings::of_user())).unwrap();
        assert!(rootless["linux"].get("resources").is_none());
        assert!(rootless["linux"]["uidMappings"].is_array());
    }
}
