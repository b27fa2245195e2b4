//! Checks of a container: environment, ports, resources, probes and security.

use super::names::{dns_label, one_of, unique};
use super::{ids, profile, volumes};
use crate::limits::{MAX_IMAGE_REF_LEN, MAX_MEMORY_BYTES};
use crate::pod::manifest::findings::Findings;
use crate::pod::manifest::types::{
    Container, Env, Handler, HttpGet, Lifecycle, PortRef, Probe, Quantity, Resources, Security, Spec,
};
use oci_spec::runtime::Capability;
use std::net::IpAddr;

/// Fields of the pod that variables can hold; besides labels and annotations by key.
const FIELD_PATHS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

/// Those that files can hold.
const METADATA_PATHS: [&str; 3] = ["metadata.name", "metadata.namespace", "metadata.uid"];

/// Resources of a container that variables and files can hold.
const RESOURCE_FIELDS: [&str; 4] = ["limits.cpu", "limits.memory", "requests.cpu", "requests.memory"];

/// Checks a container.
pub fn check(path: &str, container: &Container, spec: &Spec, findings: &mut Findings) {
    dns_label(&format!("{path}.name"), &container.name, findings);
    if container.image.is_empty() {
        findings.error(&format!("{path}.image"), "must be set");
    }
    if container.image.len() > MAX_IMAGE_REF_LEN {
        findings.error(&format!("{path}.image"), format!("is longer than {MAX_IMAGE_REF_LEN} bytes"));
    }
    if container.working_dir.as_ref().is_some_and(|dir| !dir.is_empty() && !dir.starts_with('/')) {
        findings.error(&format!("{path}.workingDir"), "must be an absolute path");
    }
    for (number, env) in container.env.iter().enumerate() {
        variable(&format!("{path}.env[{number}]"), env, spec, findings);
    }
    if container.stdin_once && !container.stdin {
        findings.warn(&format!("{path}.stdinOnce"), "has no effect without stdin");
    }
    ports(path, container, findings);
    resources(&format!("{path}.resources"), &container.resources, findings);
    security(&format!("{path}.securityContext"), &container.security_context, spec, findings);
    lifecycle(&format!("{path}.lifecycle"), &container.lifecycle, container, findings);
    for (name, probe) in [
        ("livenessProbe", &container.liveness_probe),
        ("readinessProbe", &container.readiness_probe),
        ("startupProbe", &container.startup_probe),
    ] {
        if let Some(found) = probe {
            check_probe(&format!("{path}.{name}"), found, name != "readinessProbe", container, findings);
        }
    }
    volumes::mounts(path, container, spec, findings);
}

fn variable(path: &str, env: &Env, spec: &Spec, findings: &mut Findings) {
    use crate::pod::manifest::types::EnvSource;
    if env.name.is_empty() || env.name.contains(['=', '\0']) {
        findings.error(&format!("{path}.name"), format!("'{}' is not a name of a variable", env.name));
    }
    if env.value.as_ref().is_some_and(|value| !value.is_empty()) && env.value_from.is_some() {
        findings.error(path, "may not have both value and valueFrom");
    }
    match &env.value_from {
        Some(EnvSource::FieldRef(field)) => {
            field_path(&format!("{path}.valueFrom.fieldRef.fieldPath"), &field.field_path, false, findings);
        }
        Some(EnvSource::ResourceFieldRef(reference)) => {
            let at = format!("{path}.valueFrom.resourceFieldRef");
            resource_field(&at, reference.container_name.as_deref(), &reference.resource, spec, findings);
        }
        _ => {}
    }
}

/// Checks the path of a field of the pod; `file`: all labels or annotations may be meant.
pub fn field_path(path: &str, value: &str, file: bool, findings: &mut Findings) {
    let keyed =
        ["metadata.labels['", "metadata.annotations['"].iter().any(|prefix| value.starts_with(prefix));
    let whole = matches!(value, "metadata.labels" | "metadata.annotations");
    let known = match (whole, file) {
        (true, file) => file,
        // A file is written before the pod has an address.
        (false, true) => (keyed && value.ends_with("']")) || METADATA_PATHS.contains(&value),
        (false, false) => (keyed && value.ends_with("']")) || FIELD_PATHS.contains(&value),
    };
    if !known {
        findings.error(path, format!("'{value}' is not supported here"));
    }
}

/// Checks a reference to a resource of a container.
pub fn resource_field(
    path: &str,
    container: Option<&str>,
    resource: &str,
    spec: &Spec,
    findings: &mut Findings,
) {
    one_of(&format!("{path}.resource"), resource, &RESOURCE_FIELDS, findings);
    if let Some(name) = container
        && !spec.containers.iter().chain(&spec.init_containers).any(|c| c.name == name)
    {
        findings.error(&format!("{path}.containerName"), format!("there is no container '{name}'"));
    }
}

fn ports(path: &str, container: &Container, findings: &mut Findings) {
    let names = container.ports.iter().enumerate().filter_map(|(number, port)| {
        port.name.as_ref().map(|name| (format!("{path}.ports[{number}].name"), name.clone()))
    });
    unique(names, findings);
    for (number, port) in container.ports.iter().enumerate() {
        let at = format!("{path}.ports[{number}]");
        if port.container_port == 0 {
            findings.error(&format!("{at}.containerPort"), "must be 1 to 65535");
        }
        if let Some(protocol) = &port.protocol {
            one_of(&format!("{at}.protocol"), protocol, &["TCP", "UDP"], findings);
        }
        if let Some(ip) = port.host_ip.as_ref().filter(|ip| !ip.is_empty())
            && ip.parse::<IpAddr>().is_err()
        {
            findings.error(&format!("{at}.hostIP"), format!("'{ip}' is not an IP address"));
        }
        if let Some(name) = &port.name {
            dns_label(&format!("{at}.name"), name, findings);
        }
    }
}

/// Checks limits and requests.
pub fn resources(path: &str, resources: &Resources, findings: &mut Findings) {
    let lists = [("limits", &resources.limits), ("requests", &resources.requests)];
    for (list, name, quantity) in
        lists.iter().flat_map(|(list, map)| map.iter().map(move |(name, quantity)| (list, name, quantity)))
    {
        let at = format!("{path}.{list}.{name}");
        if quantity.value().is_none() {
            findings.error(&at, format!("'{}' is not a quantity", quantity.0));
        }
        match name.as_str() {
            "cpu" => {}
            "memory" if quantity.value().is_some_and(|bytes| bytes > MAX_MEMORY_BYTES) => {
                findings.error(&at, format!("is more than {MAX_MEMORY_BYTES} bytes"));
            }
            "memory" => {}
            "ephemeral-storage" => findings.warn(&at, "has no effect: disk space is not limited"),
            name if name.starts_with("hugepages-") => {}
            _ => findings.error(&at, "not supported: there are no resource drivers"),
        }
    }
    for (name, request) in &resources.requests {
        if let Some(limit) = resources.limits.get(name)
            && request.milli() > limit.milli()
        {
            findings.error(&format!("{path}.requests.{name}"), "is more than the limit");
        }
        // There are as many as there are: one that is not limited would not be counted.
        if name.starts_with("hugepages-")
            && resources.limits.get(name).map(Quantity::milli) != Some(request.milli())
        {
            findings.error(&format!("{path}.requests.{name}"), "must be the same as the limit");
        }
    }
}

fn security(path: &str, security: &Security, spec: &Spec, findings: &mut Findings) {
    profile(&format!("{path}.seccompProfile"), security.seccomp_profile.as_ref(), findings);
    profile(&format!("{path}.appArmorProfile"), security.app_armor_profile.as_ref(), findings);
    if let Some(kind) = &security.proc_mount {
        one_of(&format!("{path}.procMount"), kind, &["Default", "Unmasked"], findings);
    }
    if security.privileged && security.allow_privilege_escalation == Some(false) {
        findings.error(&format!("{path}.allowPrivilegeEscalation"), "cannot be false with privileged");
    }
    ids(path, &[("runAsUser", security.run_as_user), ("runAsGroup", security.run_as_group)], findings);
    let user = security.run_as_user.or(spec.security_context.run_as_user);
    let non_root = security.run_as_non_root.or(spec.security_context.run_as_non_root);
    if security.run_as_user.is_some() && user == Some(0) && non_root == Some(true) {
        findings.error(&format!("{path}.runAsUser"), "is 0, and runAsNonRoot is true");
    }
    for (list, names) in [("add", &security.capabilities.add), ("drop", &security.capabilities.drop)] {
        for (number, name) in names.iter().enumerate() {
            if name != "ALL" && capability(name).is_none() {
                findings.error(
                    &format!("{path}.capabilities.{list}[{number}]"),
                    format!("unknown capability '{name}'"),
                );
            }
        }
    }
}

/// A capability by its name, with or without `CAP_`.
pub fn capability(name: &str) -> Option<Capability> {
    let name = name.to_uppercase();
    let name = name.strip_prefix("CAP_").unwrap_or(&name);
    serde_json::from_value(format!("CAP_{name}").into()).ok()
}

fn lifecycle(path: &str, lifecycle: &Lifecycle, container: &Container, findings: &mut Findings) {
    for (name, handler) in [("postStart", &lifecycle.post_start), ("preStop", &lifecycle.pre_stop)] {
        if let Some(found) = handler {
            check_handler(&format!("{path}.{name}"), found, container, findings);
        }
    }
    if let Some(name) = &lifecycle.stop_signal
        && name.parse::<nix::sys::signal::Signal>().is_err()
    {
        findings.error(&format!("{path}.stopSignal"), format!("unknown signal '{name}'"));
    }
}

fn check_probe(
    path: &str,
    probe: &Probe,
    only_one_success: bool,
    container: &Container,
    findings: &mut Findings,
) {
    check_handler(path, &probe.handler, container, findings);
    if matches!(probe.handler, Handler::Sleep(_)) {
        findings.error(path, "a probe cannot sleep");
    }
    for (name, value) in [
        ("failureThreshold", probe.failure_threshold),
        ("periodSeconds", probe.period_seconds),
        ("successThreshold", probe.success_threshold),
        ("terminationGracePeriodSeconds", probe.termination_grace_period_seconds),
        ("timeoutSeconds", probe.timeout_seconds),
    ] {
        if value == Some(0) {
            findings.error(&format!("{path}.{name}"), "must be at least 1");
        }
    }
    if !only_one_success && probe.termination_grace_period_seconds.is_some() {
        findings.error(&format!("{path}.terminationGracePeriodSeconds"), "a readiness probe ends nothing");
    }
    if only_one_success && probe.success_threshold.is_some_and(|n| n > 1) {
        findings.error(&format!("{path}.successThreshold"), "must be 1");
    }
}

fn check_handler(path: &str, handler: &Handler, container: &Container, findings: &mut Findings) {
    match handler {
        Handler::Exec(exec) if exec.command.is_empty() => {
            findings.error(&format!("{path}.exec.command"), "must not be empty");
        }
        Handler::HttpGet(get) => http(&format!("{path}.httpGet"), get, container, findings),
        Handler::TcpSocket(tcp) => port(&format!("{path}.tcpSocket.port"), &tcp.port, container, findings),
        Handler::Grpc(grpc) if grpc.port == 0 => {
            findings.error(&format!("{path}.grpc.port"), "must be 1 to 65535");
        }
        Handler::Exec(_) | Handler::Sleep(_) | Handler::Grpc(_) => {}
    }
}

fn http(path: &str, get: &HttpGet, container: &Container, findings: &mut Findings) {
    port(&format!("{path}.port"), &get.port, container, findings);
    if let Some(scheme) = &get.scheme {
        one_of(&format!("{path}.scheme"), scheme, &["HTTP", "HTTPS"], findings);
    }
    let headers = get.http_headers.iter().flat_map(|header| [&header.name, &header.value]);
    let texts = headers.chain(&get.path).chain(&get.host);
    if texts.into_iter().any(|text| text.contains(|c: char| c.is_control())) {
        findings.error(path, "path, host and headers must not have control characters");
    }
}

fn port(path: &str, port: &PortRef, container: &Container, findings: &mut Findings) {
    match port {
        PortRef::Number(0) => findings.error(path, "must be 1 to 65535"),
        PortRef::Number(_) => {}
        PortRef::Name(name) => {
            if !container.ports.iter().any(|port| port.name.as_ref() == Some(name)) {
                findings.error(path, format!("the container has no port '{name}'"));
            }
        }
    }
}
