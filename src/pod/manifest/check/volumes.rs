//! Checks of volumes and of their mounts.

use super::container::{field_path, resource_field};
use super::names::{dns_label, dns_subdomain, inner_path, one_of, unique};
use super::too_many_volumes;
use crate::pod::manifest::findings::Findings;
use crate::pod::manifest::types::{
    Container, DataVolume, DownwardVolume, EmptyDir, HostPath, Mount, Projection, Spec, VolumeSource,
};

/// Kinds of paths on the host, and what must be there.
const HOST_PATH_TYPES: [&str; 8] =
    ["", "DirectoryOrCreate", "Directory", "FileOrCreate", "File", "Socket", "CharDevice", "BlockDevice"];

/// Highest file mode: permissions with set-id and sticky bits.
const MAX_MODE: u32 = 0o7777;

/// Checks the volumes of a pod.
pub fn check(spec: &Spec, findings: &mut Findings) {
    too_many_volumes(spec.volumes.len(), findings);
    let names =
        spec.volumes.iter().enumerate().map(|(n, v)| (format!("spec.volumes[{n}].name"), v.name.clone()));
    unique(names, findings);
    for (number, volume) in spec.volumes.iter().enumerate() {
        let path = format!("spec.volumes[{number}]");
        dns_label(&format!("{path}.name"), &volume.name, findings);
        match &volume.source {
            None => {}
            Some(VolumeSource::EmptyDir(dir)) => empty_dir(&format!("{path}.emptyDir"), dir, findings),
            Some(VolumeSource::HostPath(host)) => host_path(&format!("{path}.hostPath"), host, findings),
            Some(VolumeSource::ConfigMap(data)) => data_volume(&format!("{path}.configMap"), data, findings),
            Some(VolumeSource::Secret(data)) => data_volume(&format!("{path}.secret"), data, findings),
            Some(VolumeSource::DownwardApi(files)) => {
                downward(&format!("{path}.downwardAPI"), files, spec, findings);
            }
            Some(VolumeSource::Image(image)) if image.reference.is_empty() => {
                findings.error(&format!("{path}.image.reference"), "must be set");
            }
            Some(VolumeSource::Image(_)) => {}
            Some(VolumeSource::PersistentVolumeClaim(claim)) => {
                let at = format!("{path}.persistentVolumeClaim.claimName");
                dns_subdomain(&at, &claim.claim_name, findings);
            }
            Some(VolumeSource::Projected(projected)) => {
                mode(&format!("{path}.projected.defaultMode"), projected.default_mode, findings);
                for (index, source) in projected.sources.iter().enumerate() {
                    let at = format!("{path}.projected.sources[{index}]");
                    match source {
                        Projection::ConfigMap(data) | Projection::Secret(data) => {
                            data_volume(&at, data, findings);
                        }
                        Projection::DownwardApi(files) => downward(&at, files, spec, findings),
                    }
                }
            }
        }
    }
}

fn empty_dir(path: &str, dir: &EmptyDir, findings: &mut Findings) {
    one_of(&format!("{path}.medium"), &dir.medium, &["", "Memory"], findings);
    mode(&format!("{path}.mode"), dir.mode, findings);
    if let Some(size) = &dir.size_limit {
        if size.value().is_none() {
            findings.error(&format!("{path}.sizeLimit"), format!("'{}' is not a quantity", size.0));
        } else if dir.medium.is_empty() {
            findings
                .warn(&format!("{path}.sizeLimit"), "has no effect on a disk: only medium Memory is limited");
        }
    }
}

fn host_path(path: &str, host: &HostPath, findings: &mut Findings) {
    one_of(&format!("{path}.type"), &host.kind, &HOST_PATH_TYPES, findings);
    if !host.path.starts_with('/') || host.path.split('/').any(|part| part == "..") {
        findings.error(&format!("{path}.path"), "must be an absolute path without '..'");
    }
}

fn mode(path: &str, mode: Option<u32>, findings: &mut Findings) {
    if mode.is_some_and(|mode| mode > MAX_MODE) {
        findings.error(path, "is more than 07777 (a mode in JSON is a decimal number)");
    }
}

fn data_volume(path: &str, data: &DataVolume, findings: &mut Findings) {
    mode(&format!("{path}.defaultMode"), data.default_mode, findings);
    for (number, item) in data.items.iter().flatten().enumerate() {
        let at = format!("{path}.items[{number}]");
        file(&format!("{at}.path"), &item.path, findings);
        mode(&format!("{at}.mode"), item.mode, findings);
    }
}

fn downward(path: &str, files: &DownwardVolume, spec: &Spec, findings: &mut Findings) {
    mode(&format!("{path}.defaultMode"), files.default_mode, findings);
    for (number, item) in files.items.iter().enumerate() {
        let at = format!("{path}.items[{number}]");
        file(&format!("{at}.path"), &item.path, findings);
        mode(&format!("{at}.mode"), item.mode, findings);
        match (&item.field_ref, &item.resource_field_ref) {
            (Some(field), None) => {
                field_path(&format!("{at}.fieldRef.fieldPath"), &field.field_path, true, findings);
            }
            (None, Some(reference)) => {
                let at = format!("{at}.resourceFieldRef");
                if reference.container_name.is_none() {
                    findings.error(&format!("{at}.containerName"), "must be set in a volume");
                }
                resource_field(&at, reference.container_name.as_deref(), &reference.resource, spec, findings);
            }
            _ => findings.error(&at, "needs exactly one of fieldRef and resourceFieldRef"),
        }
    }
}

fn file(path: &str, value: &str, findings: &mut Findings) {
    if value.is_empty() || value == "." || value.ends_with('/') {
        findings.error(path, format!("'{value}' is not the path of a file"));
    }
    inner_path(path, value, findings);
}

/// Checks the mounts of a container.
pub fn mounts(path: &str, container: &Container, spec: &Spec, findings: &mut Findings) {
    let places = container.volume_mounts.iter().enumerate();
    unique(
        places.map(|(n, m)| (format!("{path}.volumeMounts[{n}].mountPath"), m.mount_path.clone())),
        findings,
    );
    for (number, mount) in container.volume_mounts.iter().enumerate() {
        let at = format!("{path}.volumeMounts[{number}]");
        check_mount(&at, mount, spec, findings);
        propagation(&format!("{at}.mountPropagation"), mount, container, spec, findings);
    }
}

fn propagation(path: &str, mount: &Mount, container: &Container, spec: &Spec, findings: &mut Findings) {
    let wanted = mount.mount_propagation.as_deref().unwrap_or("None");
    one_of(path, wanted, &["None", "HostToContainer", "Bidirectional"], findings);
    if wanted != "None"
        && mount.recursive_read_only.as_deref().is_some_and(|recursive| recursive != "Disabled")
    {
        findings.error(path, "must be None with recursiveReadOnly");
    }
    if wanted != "Bidirectional" {
        return;
    }
    let volume = spec.volumes.iter().find(|volume| volume.name == mount.name);
    let of_host = volume.is_none_or(|volume| matches!(volume.source, Some(VolumeSource::HostPath(_))));
    if !container.security_context.privileged {
        findings.error(path, "Bidirectional is for privileged containers only");
    }
    if !of_host {
        findings.error(path, "Bidirectional is for hostPath volumes only: others end with the pod");
    }
    if spec.host_users == Some(false) {
        findings.error(path, "cannot be Bidirectional when hostUsers is false");
    }
}

fn check_mount(path: &str, mount: &Mount, spec: &Spec, findings: &mut Findings) {
    if !spec.volumes.iter().any(|volume| volume.name == mount.name) {
        findings.error(&format!("{path}.name"), format!("there is no volume '{}'", mount.name));
    }
    if !mount.mount_path.starts_with('/') || mount.mount_path.contains([':', '\0']) || mount.mount_path == "/"
    {
        findings.error(
            &format!("{path}.mountPath"),
            format!("'{}' must be an absolute path without ':'", mount.mount_path),
        );
    }
    if let Some(sub) = &mount.sub_path {
        inner_path(&format!("{path}.subPath"), sub, findings);
        if mount.sub_path_expr.is_some() {
            findings.error(&format!("{path}.subPathExpr"), "may not be set with subPath");
        }
    }
    if let Some(recursive) = &mount.recursive_read_only {
        one_of(
            &format!("{path}.recursiveReadOnly"),
            recursive,
            &["Disabled", "IfPossible", "Enabled"],
            findings,
        );
        if recursive != "Disabled" && !mount.read_only {
            findings.error(&format!("{path}.recursiveReadOnly"), "needs readOnly");
        }
    }
}
