//! What a configuration says about its microVM: pure decisions.
//!
//! Annotations come from whoever starts the container; `.krun_vm.json` comes from the image and is never more than a wish.

use super::ports::Ports;
use crate::error::Result;
use crate::limits::{MAX_VCPUS, MAX_VM_MEMORY_MIB};
use oci_spec::runtime::{LinuxMemory, LinuxNamespaceType, LinuxResources, Spec};
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Number of virtual processors.
const CPUS: &str = "krun.cpus";
/// Memory of the guest, in MiB.
const RAM: &str = "krun.ram_mib";
/// Network through passt, or not.
const USE_PASST: &str = "krun.use_passt";
/// Kind of network, our own annotation.
const NETWORK: &str = "org.magikrun.krun.network";
/// Ports that lead to the guest through passt, our own annotation.
const PORTS: &str = "org.magikrun.krun.ports";
/// File or block device of the container that holds the guest's root, our own annotation.
pub const ROOT_DISK: &str = "org.magikrun.krun.root-disk";
/// Annotations of crun for what this backend cannot do.
const REFUSED: [(&str, &str); 3] = [
    ("krun.gpu_flags", "a microVM has no graphics processor"),
    ("krun.nested_virt", "a microVM cannot run virtual machines"),
    ("krun.variant", "there is one kind of microVM"),
];

/// All annotations of this backend: they change how a container is run.
pub const ANNOTATIONS: [&str; 9] =
    [CPUS, RAM, USE_PASST, NETWORK, PORTS, ROOT_DISK, "krun.gpu_flags", "krun.nested_virt", "krun.variant"];

/// Least memory of a guest, in MiB: its kernel and first process need about half of it.
pub const MIN_RAM_MIB: u32 = 64;
/// Memory that the monitor needs beside the guest's, in MiB; it counts under the same limit of the cgroup.
pub const OVERHEAD_MIB: u32 = 64;
/// Memory of a guest whose container has no limit, in MiB: what crun gives. The host lends what the guest touches.
const DEFAULT_RAM_MIB: u32 = 1024;

/// The network of a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// An interface, whose packets passt turns into connections in the container's network namespace.
    Passt,
    /// The guest's sockets are made by the monitor, in the container's network namespace.
    Tsi,
    /// The loopback interface alone.
    None,
}

impl FromStr for Network {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "passt" => Ok(Self::Passt),
            "tsi" => Ok(Self::Tsi),
            "none" => Ok(Self::None),
            _ => Err("must be passt, tsi or none"),
        }
    }
}

/// What an image wishes, in `/.krun_vm.json`.
#[derive(Debug, Default, Clone, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Wish {
    /// Number of virtual processors.
    pub cpus: Option<u64>,
    /// Memory, in MiB.
    pub ram_mib: Option<u64>,
}

/// Everything that is decided about a microVM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Number of virtual processors.
    pub cpus: u8,
    /// Memory of the guest, in MiB.
    pub ram_mib: u32,
    /// Network.
    pub network: Network,
    /// What of it leads to the guest.
    pub ports: Ports,
    /// The disk with the guest's root, a path in the container; none: the container's root is shared.
    pub root_disk: Option<PathBuf>,
}

impl Settings {
    /// Reads a configuration; `host_cpus` is how many processors the host has.
    pub fn new(spec: &Spec, wish: &Wish, host_cpus: usize) -> Result<Self> {
        let annotation = |name: &str| {
            spec.annotations()
                .as_ref()
                .and_then(|all| all.get(name))
                .map(String::as_str)
                .filter(|v| !v.is_empty())
        };
        for (name, why) in REFUSED {
            if annotation(name).is_some_and(|value| !matches!(value, "0" | "false" | "krun")) {
                crate::bail!(NotSupported, "annotations: {name} is not supported: {why}");
            }
        }
        let none = LinuxResources::default();
        let resources = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref()).unwrap_or(&none);
        Ok(Self {
            cpus: match parse(CPUS, annotation(CPUS), 1, u64::from(MAX_VCPUS))? {
                Some(cpus) => cpus as u8,
                None => cpus(resources, wish, host_cpus),
            },
            ram_mib: ram(
                resources,
                wish,
                parse(RAM, annotation(RAM), u64::from(MIN_RAM_MIB), u64::from(MAX_VM_MEMORY_MIB))?,
            )?,
            network: network(spec, annotation(NETWORK), annotation(USE_PASST))?,
            ports: match annotation(PORTS) {
                Some(text) => text
                    .parse()
                    .or_else(|why| crate::bail!(InvalidBundle, "annotations: {PORTS}: '{text}' {why}"))?,
                None => Ports::default(),
            },
            root_disk: annotation(ROOT_DISK).map(root_disk).transpose()?,
        })
    }
}

fn root_disk(text: &str) -> Result<PathBuf> {
    if !Path::new(text).is_absolute() || text.contains('\0') {
        crate::bail!(
            InvalidBundle,
            "annotations: {ROOT_DISK}: '{}' is no absolute path",
            text.escape_debug()
        );
    }
    Ok(text.into())
}

fn parse(name: &str, value: Option<&str>, least: u64, most: u64) -> Result<Option<u64>> {
    let Some(text) = value else { return Ok(None) };
    match text.parse() {
        Ok(number) if (least..=most).contains(&number) => Ok(Some(number)),
        _ => crate::bail!(InvalidBundle, "annotations: {name}: '{text}' is no number from {least} to {most}"),
    }
}

/// As many as the image wishes, but no more than the cgroup's quota and set of processors let run at once.
fn cpus(resources: &LinuxResources, wish: &Wish, host_cpus: usize) -> u8 {
    let cpu = resources.cpu().as_ref();
    let quota = cpu.and_then(|cpu| {
        let quota = u64::try_from(cpu.quota()?).ok().filter(|quota| *quota > 0)?;
        Some(quota.div_ceil(cpu.period().filter(|period| *period > 0).unwrap_or(100_000)))
    });
    let set = cpu.and_then(|cpu| cpu.cpus().as_deref()).and_then(count);
    let most = [Some(host_cpus as u64), Some(u64::from(MAX_VCPUS)), quota, set]
        .into_iter()
        .flatten()
        .min()
        .unwrap_or(1);
    wish.cpus.unwrap_or(most).clamp(1, most.max(1)) as u8
}

/// How many processors a list such as `0-2,7` names.
fn count(list: &str) -> Option<u64> {
    let ranges = list.split(',').map(str::trim).filter(|range| !range.is_empty());
    let sizes = ranges.map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some(last.parse::<u64>().ok()?.checked_sub(first.parse().ok()?)? + 1)
    });
    sizes.sum::<Option<u64>>().filter(|count| *count > 0)
}

fn ram(resources: &LinuxResources, wish: &Wish, annotation: Option<u64>) -> Result<u32> {
    let limit = resources.memory().as_ref().and_then(LinuxMemory::limit).filter(|limit| *limit > 0);
    let room = limit.map(|bytes| (bytes as u64 >> 20).saturating_sub(u64::from(OVERHEAD_MIB)));
    if let Some(room) = room.filter(|room| *room < u64::from(MIN_RAM_MIB)) {
        crate::bail!(
            InvalidBundle,
            "linux.resources.memory.limit leaves {room} MiB for a microVM, which needs {MIN_RAM_MIB} MiB and {OVERHEAD_MIB} MiB for its monitor"
        );
    }
    match (annotation, room) {
        (Some(wanted), Some(room)) if wanted > room => crate::bail!(
            InvalidBundle,
            "annotations: {RAM}: {wanted} MiB do not fit in linux.resources.memory.limit, which leaves {room} MiB beside the {OVERHEAD_MIB} MiB of the monitor"
        ),
        (Some(wanted), _) => Ok(wanted as u32),
        (None, room) => {
            let most = room.unwrap_or(u64::MAX).min(u64::from(MAX_VM_MEMORY_MIB));
            let wanted = wish.ram_mib.or(room).unwrap_or(u64::from(DEFAULT_RAM_MIB));
            Ok(wanted.clamp(u64::from(MIN_RAM_MIB), most) as u32)
        }
    }
}

fn network(spec: &Spec, ours: Option<&str>, use_passt: Option<&str>) -> Result<Network> {
    let namespaces =
        spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref()).into_iter().flatten();
    let own = namespaces.into_iter().any(|namespace| namespace.typ() == LinuxNamespaceType::Network);
    let by_default = if own { Network::Passt } else { Network::Tsi };
    match (ours, use_passt) {
        (Some(text), _) => {
            text.parse().or_else(|why| crate::bail!(InvalidBundle, "annotations: {NETWORK}: '{text}' {why}"))
        }
        (None, None) => Ok(by_default),
        (None, Some("1" | "true")) => Ok(Network::Passt),
        (None, Some("0" | "false")) => Ok(Network::Tsi),
        (None, Some(text)) => {
            crate::bail!(InvalidBundle, "annotations: {USE_PASST}: '{text}' is neither 0 nor 1")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn settings(annotations: Value, resources: Value, wish: Wish) -> Result<Settings> {
        let spec = json!({"ociVersion": "1.0.0", "annotations": annotations, "linux": {
            "namespaces": [{"type": "network"}], "resources": resources}});
        Settings::new(&serde_json::from_value(spec).unwrap(), &wish, 16)
    }

    fn wish(cpus: u64, ram_mib: u64) -> Wish {
        Wish { cpus: Some(cpus), ram_mib: Some(ram_mib) }
    }

    #[test]
    fn the_limits_of_the_cgroup_size_the_machine() {
        let none = || Wish::default();
        let size =
            |resources, wish| settings(json!({}), resources, wish).map(|s| (s.cpus, s.ram_mib)).unwrap();
        assert_eq!(size(json!({}), none()), (8, 1024));
        let limited = json!({"cpu": {"quota": 150_000, "period": 100_000}, "memory": {"limit": 512 << 20}});
        assert_eq!(size(limited.clone(), none()), (2, 448));
        assert_eq!(size(json!({"cpu": {"cpus": "0,2-3"}, "memory": {"limit": -1}}), none()), (3, 1024));
        assert_eq!(size(json!({"memory": {"limit": 64_u64 << 30}}), none()), (8, 4096));
        // An image gets what it wishes within them, and no more.
        assert_eq!(size(limited.clone(), wish(1, 100)), (1, 100));
        assert_eq!(size(limited, wish(1000, 1 << 40)), (2, 448));
        assert_eq!(size(json!({}), wish(0, 0)), (1, MIN_RAM_MIB));
    }

    #[test]
    fn annotations_say_exactly_what_the_machine_has() {
        let with = |cpus: &str, ram: &str| settings(json!({CPUS: cpus, RAM: ram}), json!({}), wish(1, 1));
        let exact = with("3", "300").unwrap();
        assert_eq!((exact.cpus, exact.ram_mib), (3, 300));
        for (cpus, ram) in [("0", "300"), ("9", "300"), ("x", "300"), ("1", "4097"), ("1", "63"), ("1", "-1")]
        {
            with(cpus, ram).unwrap_err();
        }
        let limit = json!({"memory": {"limit": 256 << 20}});
        let e = settings(json!({RAM: "200"}), limit, Wish::default()).unwrap_err();
        assert!(e.message().contains("leaves 192 MiB"), "{e}");
        let e = settings(json!({}), json!({"memory": {"limit": 100 << 20}}), Wish::default()).unwrap_err();
        assert!(e.message().contains("leaves 36 MiB"), "{e}");
    }

    #[test]
    fn what_a_microvm_cannot_do_is_refused_by_name() {
        for (name, _) in REFUSED {
            let e = settings(json!({name: "1"}), json!({}), Wish::default()).unwrap_err();
            assert!(e.message().contains(name), "{e}");
            settings(json!({name: "0"}), json!({}), Wish::default()).unwrap();
        }
    }

    #[test]
    fn a_network_namespace_of_its_own_gets_passt_and_annotations_choose() {
        let of = |annotations| settings(annotations, json!({}), Wish::default()).map(|s| s.network);
        assert_eq!(of(json!({})).unwrap(), Network::Passt);
        assert_eq!(of(json!({USE_PASST: "0"})).unwrap(), Network::Tsi);
        assert_eq!(of(json!({USE_PASST: "1", NETWORK: "none"})).unwrap(), Network::None);
        of(json!({USE_PASST: "perhaps"})).unwrap_err();
        of(json!({NETWORK: "bridge"})).unwrap_err();
        let e = of(json!({PORTS: "http"})).unwrap_err();
        assert!(e.message().contains("'http' must be"), "{e}");
        of(json!({ROOT_DISK: "disk.img"})).unwrap_err();
        let host = json!({"ociVersion": "1.0.0", "linux": {}});
        let host = Settings::new(&serde_json::from_value(host).unwrap(), &Wish::default(), 1).unwrap();
        assert_eq!(host.network, Network::Tsi);
    }
}
