//! The specification of a guest, from the configuration of its container: a pure decision.
//!
//! Most mounts are made on the host, in the container's root, which the guest sees as one virtiofs share. Those that show a kernel are
//! made by the guest, of its own kernel; what of the host's kernel a configuration binds into the container is refused by name.

use super::engine::ROOTFS;
use super::on_disk;
use super::settings::{Network, Settings};
use crate::error::{Error, ErrorKind, Result};
use crate::runtime::guest_exec::guest_process;
use oci_spec::runtime as oci;
use std::path::Path;
use vm_protocol::message::Target;
use vm_protocol::spec::{Container, End, Mount, Network as GuestNetwork, PodSpec, SPEC_VERSION, Stdio};

/// Name of the container in the guest.
pub const NAME: &str = "main";
/// Where the guest mounts the container's root.
pub const ROOT: &str = "/containers/main";
/// Address of the guest behind passt, with the length of its prefix; its gateway and the addresses are those that pasta and QEMU use.
const ADDRESS: &str = "10.0.2.15/24";
/// Gateway of the guest behind passt.
pub const GATEWAY: &str = "10.0.2.2";
/// Directories of the kernel, which is another one in the guest.
const KERNEL_PATHS: [&str; 3] = ["/proc", "/sys", "/dev"];

/// The container's first process in the guest, for signals.
pub fn target() -> Target {
    Target::Container(NAME.to_owned())
}

/// Address of the guest without its prefix.
pub fn address() -> &'static str {
    ADDRESS.split('/').next().unwrap_or(ADDRESS)
}

/// A guest that is not that of the container's own program: several containers of a pod.
#[derive(Debug, Clone, Default)]
pub struct Given {
    /// Its specification; the network is added.
    pub spec: PodSpec,
}

impl Given {
    /// The specification with what is decided about the machine.
    pub fn complete(&self, settings: &Settings) -> PodSpec {
        PodSpec { network: (settings.network == Network::Passt).then(network), ..self.spec.clone() }
    }
}

/// The specification of the guest of a container.
pub fn spec(spec: &oci::Spec, settings: &Settings) -> Result<PodSpec> {
    let linux = spec.linux().clone().unwrap_or_default();
    let name = |name: &Option<String>| name.clone().filter(|name| !name.is_empty());
    let mut guest = PodSpec {
        version: SPEC_VERSION,
        hostname: name(spec.hostname()),
        domainname: name(spec.domainname()),
        mounts: vec![Mount {
            destination: ROOT.to_owned(),
            kind: "virtiofs".to_owned(),
            source: ROOTFS.to_owned(),
            ..Mount::default()
        }],
        sysctl: linux.sysctl().iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect(),
        network: (settings.network == Network::Passt).then(network),
        containers: vec![container(spec, NAME, ROOT)?],
        end: End::Any,
    };
    if let Some(disk) = &settings.root_disk {
        on_disk::change(&mut guest, spec, disk)?;
    }
    Ok(guest)
}

/// A container in a guest, from its configuration: `root` is its root there, which the host has made.
pub fn container(spec: &oci::Spec, name: &str, root: &str) -> Result<Container> {
    let process = spec.process().as_ref().ok_or_else(|| invalid("process must be specified".to_owned()))?;
    let linux = spec.linux().clone().unwrap_or_default();
    let mounts = spec.mounts().iter().flatten().map(mount).collect::<Result<Vec<_>>>()?;
    Ok(Container {
        name: name.to_owned(),
        root: root.to_owned(),
        read_only: spec.root().as_ref().and_then(oci::Root::readonly).unwrap_or(false),
        mounts: mounts.into_iter().flatten().collect(),
        masked_paths: linux.masked_paths().clone().unwrap_or_default(),
        readonly_paths: linux.readonly_paths().clone().unwrap_or_default(),
        process: guest_process(process)?,
        stdio: Stdio::Console,
        ..Container::default()
    })
}

fn network() -> GuestNetwork {
    GuestNetwork {
        interface: "eth0".to_owned(),
        addresses: vec![ADDRESS.to_owned()],
        gateways: vec![GATEWAY.to_owned()],
        ..GuestNetwork::default()
    }
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::InvalidBundle, message)
}

/// What the guest mounts for a mount of the configuration; nothing where the host does.
pub fn mount(mount: &oci::Mount) -> Result<Option<Mount>> {
    let destination = mount.destination();
    let kind = mount.typ().as_deref().unwrap_or_default();
    let options = mount.options().clone().unwrap_or_default();
    let bind = kind == "bind" || options.iter().any(|option| option == "bind" || option == "rbind");
    let in_kernel = KERNEL_PATHS.iter().any(|path| destination.starts_with(path));
    let kind = match kind {
        _ if bind && destination == Path::new("/dev/shm") => "tmpfs",
        _ if bind && in_kernel => {
            let path = destination.display();
            crate::bail!(
                NotSupported,
                "mounts: '{path}' cannot be bound into a microVM, which has a kernel and devices of its own"
            );
        }
        "proc" | "sysfs" | "devpts" | "mqueue" => kind,
        "tmpfs" if in_kernel => kind,
        "cgroup" | "cgroup2" => "cgroup2",
        _ => return Ok(None),
    };
    let own = |option: &&String| !bind && *option != "rprivate" && *option != "private";
    Ok(Some(Mount {
        destination: destination.display().to_string(),
        kind: kind.to_owned(),
        source: kind.to_owned(),
        options: options.iter().filter(own).cloned().collect(),
        ..Mount::default()
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::krun::ports::Ports;
    use serde_json::{Value, json};

    fn guest(change: impl FnOnce(&mut Value)) -> Result<PodSpec> {
        let mut config = json!({
            "ociVersion": "1.0.0", "hostname": "h", "root": {"path": "rootfs", "readonly": true},
            "process": {"args": ["sh"], "cwd": "/", "terminal": true, "user": {"uid": 7, "gid": 8},
                "capabilities": {"bounding": ["CAP_CHOWN", "CAP_KILL"]},
                "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 1, "hard": 2}]},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
                {"destination": "/dev/shm", "type": "bind", "source": "/somewhere", "options": ["rbind"]},
                {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro"]},
                {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue"},
                {"destination": "/data", "type": "bind", "source": "/data", "options": ["bind"]},
                {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"},
            ],
            "linux": {"sysctl": {"net.ipv4.ip_forward": "1"}},
        });
        change(&mut config);
        let config: oci::Spec = serde_json::from_value(config).unwrap();
        let network = Network::Passt;
        spec(&config, &Settings { cpus: 1, ram_mib: 128, network, ports: Ports::default(), root_disk: None })
    }

    #[test]
    fn the_guest_mounts_what_shows_a_kernel_and_the_host_the_rest() {
        let guest = guest(|_| {}).unwrap();
        let mounts: Vec<_> =
            guest.containers[0].mounts.iter().map(|m| (m.destination.as_str(), m.kind.as_str())).collect();
        assert_eq!(
            mounts,
            [
                ("/proc", "proc"),
                ("/dev", "tmpfs"),
                ("/dev/shm", "tmpfs"),
                ("/sys/fs/cgroup", "cgroup2"),
                ("/dev/mqueue", "mqueue")
            ]
        );
        assert_eq!(guest.containers[0].mounts[1].options, ["nosuid", "mode=755"]);
        assert!(guest.containers[0].mounts[2].options.is_empty());
        assert!(guest.containers[0].read_only);
        let process = &guest.containers[0].process;
        assert_eq!((process.uid, process.gid, process.capabilities.bounding), (7, 8, 1 | 1 << 5));
        assert_eq!(process.rlimits[0].kind, "RLIMIT_NOFILE");
        let text = serde_json::to_vec(&guest).unwrap();
        assert_eq!(PodSpec::parse(&text).unwrap(), guest);
    }

    #[test]
    fn the_hosts_kernel_is_not_bound_into_a_guest() {
        for path in ["/proc", "/sys", "/dev/sda", "/dev/net/tun"] {
            let bound = json!([{"destination": path, "type": "bind", "source": path, "options": ["bind"]}]);
            let e = guest(|config| config["mounts"] = bound).unwrap_err();
            assert!(e.message().contains(path), "{e}");
        }
    }
}
