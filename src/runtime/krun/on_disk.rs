//! A guest whose root is on a disk, and not the share: pure decisions.
//!
//! The share has the container's mounts all the same, and the guest binds them from there.

use super::engine::{DISK, ROOTFS};
use super::guest::{ROOT, mount};
use crate::error::Result;
use oci_spec::runtime as oci;
use std::path::Path;
use vm_protocol::spec::{Mount, PodSpec};

/// Where the guest mounts the share.
const SHARE: &str = "/run/share";

/// Moves the root of the only container of a guest to the disk, which the container has at this path: the guest does not see its image.
pub fn change(guest: &mut PodSpec, spec: &oci::Spec, disk: &Path) -> Result<()> {
    for share in guest.mounts.iter_mut().filter(|mount| mount.source == ROOTFS) {
        SHARE.clone_into(&mut share.destination);
    }
    // What is on it is known when it was opened.
    guest.mounts.push(Mount { destination: ROOT.to_owned(), source: DISK.to_owned(), ..Mount::default() });
    let is_shown = |mount: &&oci::Mount| ![Path::new("/"), disk].contains(&mount.destination().as_path());
    let mounts = spec.mounts().iter().flatten().filter(is_shown);
    let mounts = mounts.map(|wanted| Ok(mount(wanted)?.unwrap_or_else(|| from_share(wanted))));
    let mounts = mounts.collect::<Result<Vec<_>>>()?;
    for container in &mut guest.containers {
        container.mounts.clone_from(&mounts);
    }
    Ok(())
}

fn from_share(wanted: &oci::Mount) -> Mount {
    let path = wanted.destination().display().to_string();
    Mount {
        destination: path.clone(),
        kind: "bind".to_owned(),
        source: path,
        // The container's own root may lead to where it is mounted by links.
        within: Some(SHARE.to_owned()),
        options: vec!["rbind".to_owned()],
    }
}

/// Says which file system the disk holds.
pub fn describe(guest: &mut PodSpec, kind: &str, read_only: bool) {
    for disk in guest.mounts.iter_mut().filter(|mount| mount.source == DISK) {
        kind.clone_into(&mut disk.kind);
        disk.options = if read_only { vec!["ro".to_owned()] } else { Vec::new() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::krun::guest::spec;
    use crate::runtime::krun::ports::Ports;
    use crate::runtime::krun::settings::{Network, Settings};
    use serde_json::json;

    #[test]
    fn volumes_come_from_the_share_in_the_order_of_the_configuration() {
        let config = json!({
            "ociVersion": "1.0.0", "process": {"args": ["sh"], "cwd": "/", "user": {"uid": 0, "gid": 0}},
            "mounts": [
                {"destination": "/", "type": "overlay", "source": "overlay"},
                {"destination": "/disk.img", "type": "bind", "source": "/image", "options": ["bind"]},
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/data", "type": "bind", "source": "/somewhere", "options": ["bind", "ro"]},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]},
                {"destination": "tmp", "type": "tmpfs", "source": "tmpfs"},
            ],
        });
        let config: oci::Spec = serde_json::from_value(config).unwrap();
        let root_disk = Some("/disk.img".into());
        let settings =
            Settings { cpus: 1, ram_mib: 128, network: Network::None, ports: Ports::default(), root_disk };
        let mut guest = spec(&config, &settings).unwrap();
        describe(&mut guest, "ext4", true);
        let of = |mounts: &[Mount]| -> Vec<[String; 3]> {
            mounts.iter().map(|m| [&m.source, &m.kind, &m.destination].map(Clone::clone)).collect()
        };
        assert_eq!(of(&guest.mounts), [[ROOTFS, "virtiofs", SHARE], [DISK, "ext4", ROOT]]);
        assert_eq!(guest.mounts[1].options, ["ro"]);
        let expected = [
            ["proc", "proc", "/proc"],
            ["/data", "bind", "/data"],
            ["tmpfs", "tmpfs", "/dev"],
            ["tmp", "bind", "tmp"],
        ];
        let mounts = &guest.containers[0].mounts;
        assert_eq!(of(mounts), expected);
        let mut bound = mounts.iter().filter(|mount| mount.kind == "bind");
        assert!(bound.all(|mount| mount.within.as_deref() == Some(SHARE)), "{mounts:?}");
    }
}
