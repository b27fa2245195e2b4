//! What a pod in a microVM cannot have: it shares no kernel with the host.

use super::super::findings::Findings;
use super::super::types::{Container, HostPath, PodSecurity, Profile, Security, Spec, VolumeSource};
use std::path::Path;

/// The runtime class of such pods.
pub const MICROVM: &str = "microvm";

/// Directories of the kernel, which is another one in the guest.
const KERNEL_PATHS: [&str; 3] = ["/proc", "/sys", "/dev"];
/// Types of paths of the host that only work on the host's kernel.
const KERNEL_TYPES: [&str; 3] = ["Socket", "CharDevice", "BlockDevice"];

/// Checks a pod if it is to be in a microVM.
pub fn check(spec: &Spec, findings: &mut Findings) {
    if spec.runtime_class_name.as_deref() != Some(MICROVM) {
        return;
    }
    for (name, set) in [
        ("hostNetwork", spec.host_network),
        ("hostPID", spec.host_pid),
        ("hostIPC", spec.host_ipc),
        ("shareProcessNamespace", spec.share_process_namespace),
    ] {
        if set {
            refuse(&format!("spec.{name}"), findings);
        }
    }
    if spec.host_users == Some(false) {
        refuse("spec.hostUsers", findings);
    }
    pod_security(&spec.security_context, findings);
    for (number, volume) in spec.volumes.iter().enumerate() {
        if let Some(VolumeSource::HostPath(host)) = &volume.source {
            host_path(&format!("spec.volumes[{number}].hostPath"), host, findings);
        }
    }
    for (list, containers) in [("initContainers", &spec.init_containers), ("containers", &spec.containers)] {
        for (number, container) in containers.iter().enumerate() {
            check_container(&format!("spec.{list}[{number}]"), container, findings);
        }
    }
}

fn refuse(path: &str, findings: &mut Findings) {
    findings.error(path, "not supported in a microVM");
}

fn check_container(path: &str, container: &Container, findings: &mut Findings) {
    security(&format!("{path}.securityContext"), &container.security_context, findings);
    for name in container.resources.limits.keys().filter(|name| name.starts_with("hugepages-")) {
        refuse(&format!("{path}.resources.limits.{name}"), findings);
    }
    for (number, mount) in container.volume_mounts.iter().enumerate() {
        let at = format!("{path}.volumeMounts[{number}]");
        if is_of_kernel(&mount.mount_path) {
            refuse(&format!("{at}.mountPath"), findings);
        }
        if mount.mount_propagation.as_deref().is_some_and(|propagation| propagation != "None") {
            refuse(&format!("{at}.mountPropagation"), findings);
        }
    }
}

fn is_of_kernel(path: &str) -> bool {
    KERNEL_PATHS.iter().any(|kernel| Path::new(path).starts_with(kernel))
}

fn host_path(path: &str, host: &HostPath, findings: &mut Findings) {
    if is_of_kernel(&host.path) {
        refuse(&format!("{path}.path"), findings);
    }
    if KERNEL_TYPES.contains(&host.kind.as_str()) {
        refuse(&format!("{path}.type"), findings);
    }
}

fn pod_security(security: &PodSecurity, findings: &mut Findings) {
    let path = "spec.securityContext";
    confinement(path, security.seccomp_profile.as_ref(), security.app_armor_profile.as_ref(), findings);
    if security.se_linux_options.is_some() {
        refuse(&format!("{path}.seLinuxOptions"), findings);
    }
}

fn security(path: &str, security: &Security, findings: &mut Findings) {
    confinement(path, security.seccomp_profile.as_ref(), security.app_armor_profile.as_ref(), findings);
    for (name, set) in
        [("privileged", security.privileged), ("seLinuxOptions", security.se_linux_options.is_some())]
    {
        if set {
            refuse(&format!("{path}.{name}"), findings);
        }
    }
}

/// A guest has no filters of system calls. What is confined by default is confined by the machine instead.
fn confinement(path: &str, seccomp: Option<&Profile>, app_armor: Option<&Profile>, findings: &mut Findings) {
    match seccomp.map(|profile| profile.kind.as_str()) {
        Some("Localhost") => refuse(&format!("{path}.seccompProfile"), findings),
        Some("RuntimeDefault") => {
            findings.warn(
                &format!("{path}.seccompProfile"),
                "has no effect in a microVM, which has a kernel of its own",
            );
        }
        _ => {}
    }
    if app_armor.is_some_and(|profile| profile.kind == "Localhost") {
        refuse(&format!("{path}.appArmorProfile"), findings);
    }
}
