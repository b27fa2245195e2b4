//! What the values of a manifest must be, beyond their types: the rules of Kubernetes, and our limits.

mod container;
mod microvm;
mod names;
mod references;
mod volumes;

pub use microvm::{MICROVM, check as microvm};
pub(super) use names::{data_key, dns_subdomain};
pub(super) use references::references;

use super::findings::Findings;
use super::modules;
use super::types::{Container, Metadata, PodSecurity, Profile, RestartPolicy, Spec};
use crate::limits::{MAX_POD_CONTAINERS, MAX_POD_VOLUMES};
use names::{dns_label, one_of, unique};
use std::net::IpAddr;

/// Runtime classes: which backend isolates the pod.
pub const RUNTIME_CLASSES: [&str; 3] = ["native", "wasm", MICROVM];

/// The highest id that Kubernetes takes.
const MAX_ID: u32 = i32::MAX.unsigned_abs();

/// Kernel parameters that have a value of their own in each pod, by the namespace that holds them.
const IPC_SYSCTLS: [&str; 4] = ["kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue."];

/// Checks a pod.
pub fn pod(metadata: &Metadata, spec: &Spec, findings: &mut Findings) {
    dns_subdomain("metadata.name", &metadata.name, findings);
    dns_label("metadata.namespace", metadata.namespace(), findings);
    containers(spec, findings);
    volumes::check(spec, findings);
    names(spec, findings);
    namespaces(spec, findings);
    network(spec, findings);
    microvm(spec, findings);
    modules::check(metadata, spec, findings);
    pod_security(&spec.security_context, spec.host_network, findings);
    container::resources("spec.resources", &spec.resources, findings);
    if spec.restart_policy == Some(RestartPolicy::Always) {
        findings.warn(
            "spec.restartPolicy",
            "pods are replaced, not repaired: the exit of a container ends the pod",
        );
    }
    if spec.restart_policy == Some(RestartPolicy::OnFailure) {
        findings
            .warn("spec.restartPolicy", "pods are replaced, not repaired: a failed container fails the pod");
    }
    if spec.active_deadline_seconds == Some(0) {
        findings.error("spec.activeDeadlineSeconds", "must be at least 1");
    }
    if spec.os.as_ref().is_some_and(|os| os.name != "linux") {
        findings.error("spec.os.name", "only linux is supported");
    }
}

fn containers(spec: &Spec, findings: &mut Findings) {
    let all = spec.containers.len() + spec.init_containers.len();
    if spec.containers.is_empty() {
        findings.error("spec.containers", "must not be empty");
    }
    if all > MAX_POD_CONTAINERS {
        findings.error("spec.containers", format!("{all} containers are more than {MAX_POD_CONTAINERS}"));
    }
    let lists = [("initContainers", &spec.init_containers), ("containers", &spec.containers)];
    let with_paths = || {
        lists.iter().flat_map(|(list, containers)| {
            containers.iter().enumerate().map(move |(number, c)| (format!("spec.{list}[{number}]"), c))
        })
    };
    unique(with_paths().map(|(path, c)| (format!("{path}.name"), c.name.clone())), findings);
    for (path, container) in with_paths() {
        container::check(&path, container, spec, findings);
    }
    for (number, container) in spec.init_containers.iter().enumerate() {
        init_container(&format!("spec.initContainers[{number}]"), container, findings);
    }
    for (number, container) in spec.containers.iter().enumerate() {
        if container.restart_policy.is_some() {
            let path = format!("spec.containers[{number}].restartPolicy");
            findings.error(&path, "not supported: only init containers with Always, which are sidecars");
        }
    }
    host_ports(spec, findings);
}

fn init_container(path: &str, container: &Container, findings: &mut Findings) {
    match container.restart_policy {
        Some(RestartPolicy::Always) => return,
        None => {}
        Some(_) => findings.error(&format!("{path}.restartPolicy"), "must be Always, which makes a sidecar"),
    }
    if container.stdin {
        // It would wait for ever.
        findings.error(&format!("{path}.stdin"), "not supported: nobody can attach before the pod runs");
    }
    let probes = [
        ("livenessProbe", container.liveness_probe.is_some()),
        ("readinessProbe", container.readiness_probe.is_some()),
        ("startupProbe", container.startup_probe.is_some()),
        ("lifecycle", container.lifecycle.post_start.is_some() || container.lifecycle.pre_stop.is_some()),
    ];
    for (name, _) in probes.iter().filter(|(_, set)| *set) {
        findings.error(&format!("{path}.{name}"), "may only be set for a sidecar: restartPolicy Always");
    }
}

/// No two containers of the pod may ask for the same port of the host.
fn host_ports(spec: &Spec, findings: &mut Findings) {
    let mut seen = Vec::new();
    for (number, container) in spec.containers.iter().enumerate() {
        for (index, port) in container.ports.iter().enumerate() {
            let Some(host_port) = port.host_port.filter(|port| *port != 0) else { continue };
            let wanted = (port.host_ip.clone(), host_port, port.protocol.clone());
            let path = format!("spec.containers[{number}].ports[{index}].hostPort");
            if seen.contains(&wanted) {
                findings.error(&path, format!("port {host_port} of the host is asked for twice"));
            }
            if spec.host_network && host_port != port.container_port {
                findings.error(&path, "must be the containerPort when hostNetwork is true");
            }
            seen.push(wanted);
        }
    }
}

fn names(spec: &Spec, findings: &mut Findings) {
    for (path, name) in [("spec.hostname", &spec.hostname), ("spec.subdomain", &spec.subdomain)] {
        if let Some(name) = name.as_ref().filter(|name| !name.is_empty()) {
            dns_label(path, name, findings);
        }
    }
    if let Some(name) = &spec.hostname_override {
        dns_subdomain("spec.hostnameOverride", name, findings);
        if name.len() > 64 {
            findings.error("spec.hostnameOverride", "is longer than the kernel's limit of 64");
        }
    }
    if let Some(class) = &spec.runtime_class_name {
        one_of("spec.runtimeClassName", class, &RUNTIME_CLASSES, findings);
    }
    for (number, alias) in spec.host_aliases.iter().enumerate() {
        let path = format!("spec.hostAliases[{number}]");
        if alias.ip.parse::<IpAddr>().is_err() {
            findings.error(&format!("{path}.ip"), format!("'{}' is not an IP address", alias.ip));
        }
        for (index, name) in alias.hostnames.iter().enumerate() {
            dns_subdomain(&format!("{path}.hostnames[{index}]"), name, findings);
        }
    }
}

fn namespaces(spec: &Spec, findings: &mut Findings) {
    if spec.host_pid && spec.share_process_namespace {
        findings.error("spec.shareProcessNamespace", "cannot be true with hostPID");
    }
    if spec.host_users == Some(false) {
        let host =
            [("hostNetwork", spec.host_network), ("hostPID", spec.host_pid), ("hostIPC", spec.host_ipc)];
        for (name, _) in host.iter().filter(|(_, is_host)| *is_host) {
            findings.error(&format!("spec.{name}"), "cannot be true when hostUsers is false");
        }
    }
}

fn network(spec: &Spec, findings: &mut Findings) {
    let policy = spec.dns_policy.as_deref().unwrap_or("ClusterFirst");
    one_of(
        "spec.dnsPolicy",
        policy,
        &["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"],
        findings,
    );
    let dns = &spec.dns_config;
    if policy == "None" && dns.nameservers.is_empty() {
        findings.error("spec.dnsConfig.nameservers", "must not be empty when dnsPolicy is None");
    }
    for (number, server) in dns.nameservers.iter().enumerate() {
        if server.parse::<IpAddr>().is_err() {
            findings.error(
                &format!("spec.dnsConfig.nameservers[{number}]"),
                format!("'{server}' is not an IP address"),
            );
        }
    }
    let words = dns.searches.iter().chain(dns.options.iter().map(|option| &option.name));
    let values = dns.options.iter().filter_map(|option| option.value.as_ref());
    if words
        .chain(values)
        .any(|word| word.is_empty() || word.contains(|c: char| c.is_whitespace() || c.is_control()))
    {
        findings.error("spec.dnsConfig", "searches and options must be words");
    }
}

/// Ids are those that Kubernetes takes; -1 would mean "leave it as it is" to the kernel.
fn ids(path: &str, ids: &[(&str, Option<u32>)], findings: &mut Findings) {
    for (name, id) in ids {
        if id.is_some_and(|id| id > MAX_ID) {
            findings.error(&format!("{path}.{name}"), format!("must be between 0 and {MAX_ID}"));
        }
    }
}

fn pod_security(security: &PodSecurity, host_network: bool, findings: &mut Findings) {
    let path = "spec.securityContext";
    profile(&format!("{path}.seccompProfile"), security.seccomp_profile.as_ref(), findings);
    profile(&format!("{path}.appArmorProfile"), security.app_armor_profile.as_ref(), findings);
    if security.run_as_non_root == Some(true) && security.run_as_user == Some(0) {
        findings.error(&format!("{path}.runAsUser"), "is 0, and runAsNonRoot is true");
    }
    let groups = security.supplemental_groups.iter().map(|group| ("supplementalGroups", Some(*group)));
    let own = [
        ("runAsUser", security.run_as_user),
        ("runAsGroup", security.run_as_group),
        ("fsGroup", security.fs_group),
    ];
    ids(path, &own.into_iter().chain(groups).collect::<Vec<_>>(), findings);
    if let Some(policy) = &security.supplemental_groups_policy {
        one_of(&format!("{path}.supplementalGroupsPolicy"), policy, &["Merge", "Strict"], findings);
    }
    for (number, sysctl) in security.sysctls.iter().enumerate() {
        let name = sysctl.name.replace('/', ".");
        let at = format!("{path}.sysctls[{number}].name");
        let net = name.starts_with("net.");
        if net && host_network {
            findings.error(&at, format!("'{name}' would change the host's network"));
        } else if !net && !IPC_SYSCTLS.iter().any(|prefix| name.starts_with(prefix)) {
            findings.error(&at, format!("'{name}' has no value of its own in a pod"));
        }
    }
}

/// Checks a seccomp or AppArmor profile.
fn profile(path: &str, profile: Option<&Profile>, findings: &mut Findings) {
    let Some(profile) = profile else { return };
    one_of(&format!("{path}.type"), &profile.kind, &["RuntimeDefault", "Unconfined", "Localhost"], findings);
    if profile.kind == "RuntimeDefault" && path.ends_with("appArmorProfile") {
        findings
            .error(path, "not supported: there is no default AppArmor profile; use Localhost or Unconfined");
    }
    let has_name = profile.localhost_profile.as_ref().is_some_and(|name| !name.is_empty());
    if has_name != (profile.kind == "Localhost") {
        findings.error(&format!("{path}.localhostProfile"), "must be set for type Localhost, and only then");
    }
}

fn too_many_volumes(count: usize, findings: &mut Findings) {
    if count > MAX_POD_VOLUMES {
        findings.error("spec.volumes", format!("{count} volumes are more than {MAX_POD_VOLUMES}"));
    }
}
