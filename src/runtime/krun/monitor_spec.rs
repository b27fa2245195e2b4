//! The configuration of the container around the monitor, from that of the container: a pure change.
//!
//! What concerns the program (its user, capabilities, limits, kernel parameters) is done in the guest. The monitor is root of the
//! container with what it needs to serve files as the guest's users ask for them, and to run a virtual machine.

use crate::error::{Error, ErrorKind, Result};
use oci_spec::runtime::{
    Capability, Linux, LinuxCapabilitiesBuilder, LinuxDeviceBuilder, LinuxDeviceCgroupBuilder,
    LinuxDeviceType, LinuxNamespace, LinuxNamespaceType, Mount, MountBuilder, Spec, User,
};
use std::path::Path;

/// Major and minor number of the hypervisor's device.
const KVM: (i64, i64) = (10, 232);
/// What it takes to make, change and give away files as any user of the guest.
const CAPABILITIES: [Capability; 9] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Mknod,
    Capability::Setfcap,
    Capability::Setgid,
    Capability::Setuid,
    Capability::NetBindService,
];

/// Changes a configuration to that of the monitor's container. With `on_disk` that has nothing of the program but its mounts.
pub fn change(spec: &mut Spec, on_disk: bool) -> Result<()> {
    let mut linux = without_parameters(spec)?;
    add_device(&mut linux).map_err(|e| Error::new(ErrorKind::InvalidBundle, e.to_string()))?;
    spec.set_linux(Some(linux));
    change_process(spec)?;
    if on_disk && let Some(process) = spec.process_mut() {
        process.set_cwd("/".into());
    }
    add_mounts(spec)
}

/// Changes a configuration to that of the process which stands for a container in the microVM of its pod. Its capabilities are for what is
/// done before that runs: finding it, and its directory.
pub fn change_member(spec: &mut Spec) -> Result<()> {
    let linux = without_parameters(spec)?;
    spec.set_linux(Some(linux));
    change_process(spec)?;
    add_mounts(spec)
}

/// What the configuration says of Linux, without the kernel parameters, which are those of the guest's kernel.
fn without_parameters(spec: &Spec) -> Result<Linux> {
    let mut linux = spec.linux().clone().unwrap_or_default();
    let own_mounts = |n: &LinuxNamespace| n.typ() == LinuxNamespaceType::Mount && n.path().is_none();
    if !linux.namespaces().iter().flatten().any(own_mounts) {
        crate::bail!(InvalidBundle, "a microVM needs a mount namespace of its own");
    }
    linux.set_sysctl(None);
    Ok(linux)
}

/// Makes the process one of root that can reach every file.
fn change_process(spec: &mut Spec) -> Result<()> {
    let mut process = spec.process().clone().unwrap_or_default();
    process.set_user(User::default());
    process.set_rlimits(None);
    process.set_no_new_privileges(Some(true));
    let set = CAPABILITIES.into_iter().collect::<std::collections::HashSet<_>>();
    let capabilities = LinuxCapabilitiesBuilder::default()
        .bounding(set.clone())
        .effective(set.clone())
        .permitted(set)
        .inheritable(std::collections::HashSet::new())
        .ambient(std::collections::HashSet::new())
        .build()
        .map_err(|e| Error::new(ErrorKind::InvalidBundle, e.to_string()))?;
    process.set_capabilities(Some(capabilities));
    spec.set_process(Some(process));
    Ok(())
}

fn add_device(linux: &mut Linux) -> oci_spec::Result<()> {
    let (major, minor) = KVM;
    let mut devices = linux.devices().clone().unwrap_or_default();
    devices.retain(|device| device.path() != Path::new("/dev/kvm"));
    devices.push(
        LinuxDeviceBuilder::default()
            .path("/dev/kvm")
            .typ(LinuxDeviceType::C)
            .major(major)
            .minor(minor)
            .file_mode(0o600_u32)
            .build()?,
    );
    linux.set_devices(Some(devices));
    let mut resources = linux.resources().clone().unwrap_or_default();
    // Without a rule for it the hypervisor is denied, as every device is.
    let mut rules = resources.devices().clone().unwrap_or_default();
    rules.push(
        LinuxDeviceCgroupBuilder::default()
            .allow(true)
            .typ(LinuxDeviceType::C)
            .major(major)
            .minor(minor)
            .access("rwm")
            .build()?,
    );
    resources.set_devices(Some(rules));
    linux.set_resources(Some(resources));
    Ok(())
}

/// The monitor needs procfs, and a place for its devices that is not the image's.
fn add_mounts(spec: &mut Spec) -> Result<()> {
    let mut mounts = spec.mounts().clone().unwrap_or_default();
    for (path, kind) in [("/proc", "proc"), ("/dev", "tmpfs")] {
        if mounts.iter().any(|mount: &Mount| mount.destination() == Path::new(path)) {
            continue;
        }
        let mount = MountBuilder::default()
            .destination(path)
            .typ(kind)
            .source(kind)
            .options(["nosuid", "noexec"].map(str::to_owned).to_vec())
            .build()
            .map_err(|e| Error::new(ErrorKind::InvalidBundle, e.to_string()))?;
        mounts.push(mount);
    }
    spec.set_mounts(Some(mounts));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_monitor_is_root_with_little_more_than_files_and_the_hypervisor() {
        let config = json!({"ociVersion": "1.0.0",
            "process": {"args": ["sh"], "cwd": "/srv", "user": {"uid": 7, "gid": 8},
                "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 1, "hard": 2}]},
            "linux": {"namespaces": [{"type": "mount"}], "sysctl": {"net.x": "1"},
                "resources": {"devices": [{"allow": false, "access": "rwm"}]}}});
        let mut spec: Spec = serde_json::from_value(config).unwrap();
        change(&mut spec, false).unwrap();
        let process = spec.process().as_ref().unwrap();
        assert_eq!((process.user().uid(), process.no_new_privileges()), (0, Some(true)));
        assert_eq!(process.cwd(), Path::new("/srv"));
        assert!(process.rlimits().is_none());
        let capabilities = process.capabilities().as_ref().unwrap().effective().as_ref().unwrap();
        assert!(!capabilities.contains(&Capability::SysAdmin) && capabilities.contains(&Capability::Setuid));
        let linux = spec.linux().as_ref().unwrap();
        assert!(linux.sysctl().is_none());
        let rules = linux.resources().as_ref().unwrap().devices().as_ref().unwrap();
        assert_eq!((rules.len(), rules[1].allow(), rules[1].minor()), (2, true, Some(232)));
        let mounts: Vec<_> =
            spec.mounts().iter().flatten().map(|m| m.destination().display().to_string()).collect();
        assert_eq!(mounts, ["/proc", "/dev"]);
        // The hypervisor has its rule also where the configuration has none.
        spec.set_linux(Some(serde_json::from_value(json!({"namespaces": [{"type": "mount"}]})).unwrap()));
        change(&mut spec, true).unwrap();
        assert_eq!(spec.process().as_ref().unwrap().cwd(), Path::new("/"));
        let resources = spec.linux().as_ref().unwrap().resources().as_ref().unwrap();
        assert_eq!(resources.devices().as_ref().unwrap()[0].minor(), Some(232));
        spec.set_linux(Some(serde_json::from_value(json!({"namespaces": [{"type": "pid"}]})).unwrap()));
        change(&mut spec, false).unwrap_err();
    }
}
