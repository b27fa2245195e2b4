//! Which fields of a manifest are supported, harmless or refused, by the names of the Kubernetes API.
//!
//! A test holds these tables against the list of all fields of that API.

mod volumes;

pub(super) use volumes::{CLAIM, CONFIG_MAP, SECRET, VOLUME};

/// What is done with a field.
pub(super) enum Rule {
    /// Supported: a plain value, or a list or map of plain values.
    Value,
    /// Supported: an object of this type.
    Object(&'static Type),
    /// Supported: a list of objects of this type.
    List(&'static Type),
    /// Left out with a warning: it has no effect on one host.
    Harmless(&'static str),
    /// An error: leaving it out would change what runs, or how safely.
    Refused(&'static str),
}

use Rule::{Harmless, List, Object, Refused, Value as Plain};

/// A type of the Kubernetes API.
pub(super) struct Type {
    /// Its name there.
    pub(super) name: &'static str,
    /// All its fields.
    pub(super) fields: &'static [(&'static str, Rule)],
}

const NO_SCHEDULER: &str = "there is one host and nothing to schedule";
const NO_SERVER: &str = "there is no API server";
const WINDOWS: &str = "only Linux containers are run";

pub(super) const POD: Type = Type {
    name: "Pod",
    fields: &[
        ("apiVersion", Plain),
        ("kind", Plain),
        ("metadata", Object(&METADATA)),
        ("spec", Object(&POD_SPEC)),
        ("status", Harmless("the status is an output")),
    ],
};

const METADATA: Type = Type {
    name: "ObjectMeta",
    fields: &[
        ("annotations", Plain),
        ("creationTimestamp", Harmless(NO_SERVER)),
        ("deletionGracePeriodSeconds", Harmless(NO_SERVER)),
        ("deletionTimestamp", Harmless(NO_SERVER)),
        ("finalizers", Harmless(NO_SERVER)),
        ("generateName", Refused("give the pod a name")),
        ("generation", Harmless(NO_SERVER)),
        ("labels", Plain),
        ("managedFields", Harmless(NO_SERVER)),
        ("name", Plain),
        ("namespace", Plain),
        ("ownerReferences", Harmless(NO_SERVER)),
        ("resourceVersion", Harmless(NO_SERVER)),
        ("selfLink", Harmless(NO_SERVER)),
        ("uid", Harmless("every run has an id of its own")),
    ],
};

const POD_SPEC: Type = Type {
    name: "PodSpec",
    fields: &[
        ("activeDeadlineSeconds", Plain),
        ("affinity", Harmless(NO_SCHEDULER)),
        ("automountServiceAccountToken", Harmless("there are no service accounts")),
        ("containers", List(&CONTAINER)),
        ("dnsConfig", Object(&DNS_CONFIG)),
        ("dnsPolicy", Plain),
        ("enableServiceLinks", Harmless("there are no services")),
        ("ephemeralContainers", Refused("a pod does not change; use 'magikrun pod exec'")),
        ("evictionResponders", Harmless("nothing evicts pods")),
        ("hostAliases", List(&HOST_ALIAS)),
        ("hostIPC", Plain),
        ("hostNetwork", Plain),
        ("hostPID", Plain),
        ("hostUsers", Plain),
        ("hostname", Plain),
        ("hostnameOverride", Plain),
        ("imagePullSecrets", List(&LOCAL_REFERENCE)),
        ("initContainers", List(&CONTAINER)),
        ("nodeName", Harmless(NO_SCHEDULER)),
        ("nodeSelector", Harmless(NO_SCHEDULER)),
        ("os", Object(&OS)),
        ("overhead", Harmless(NO_SCHEDULER)),
        ("preemptionPolicy", Harmless(NO_SCHEDULER)),
        ("priority", Harmless(NO_SCHEDULER)),
        ("priorityClassName", Harmless(NO_SCHEDULER)),
        ("readinessGates", Harmless("nothing sets conditions from outside")),
        ("resourceClaims", Refused("there are no resource drivers")),
        ("resources", Object(&RESOURCES)),
        ("restartPolicy", Plain),
        ("runtimeClassName", Plain),
        ("schedulerName", Harmless(NO_SCHEDULER)),
        ("schedulingGates", Refused("a gated pod must not start")),
        ("schedulingGroup", Harmless(NO_SCHEDULER)),
        ("securityContext", Object(&POD_SECURITY)),
        ("serviceAccount", Harmless("there are no service accounts")),
        ("serviceAccountName", Harmless("there are no service accounts")),
        ("setHostnameAsFQDN", Refused("there is no cluster domain")),
        ("shareProcessNamespace", Plain),
        ("subdomain", Plain),
        ("terminationGracePeriodSeconds", Plain),
        ("tolerations", Harmless(NO_SCHEDULER)),
        ("topologySpreadConstraints", Harmless(NO_SCHEDULER)),
        ("volumes", List(&VOLUME)),
    ],
};

const CONTAINER: Type = Type {
    name: "Container",
    fields: &[
        ("args", Plain),
        ("command", Plain),
        ("env", List(&ENV)),
        ("envFrom", List(&ENV_FROM)),
        ("image", Plain),
        ("imagePullPolicy", Plain),
        ("lifecycle", Object(&LIFECYCLE)),
        ("livenessProbe", Object(&PROBE)),
        ("name", Plain),
        ("ports", List(&PORT)),
        ("readinessProbe", Object(&PROBE)),
        ("resizePolicy", Harmless("a pod does not change")),
        ("resources", Object(&RESOURCES)),
        ("restartPolicy", Plain),
        ("restartPolicyRules", Refused("pods are replaced, not repaired")),
        ("securityContext", Object(&SECURITY)),
        ("startupProbe", Object(&PROBE)),
        ("stdin", Plain),
        ("stdinOnce", Plain),
        ("terminationMessagePath", Harmless("termination messages are not collected")),
        ("terminationMessagePolicy", Harmless("termination messages are not collected")),
        ("tty", Plain),
        ("volumeDevices", Refused("raw block volumes are not supported")),
        ("volumeMounts", List(&MOUNT)),
        ("workingDir", Plain),
    ],
};

const ENV: Type =
    Type { name: "EnvVar", fields: &[("name", Plain), ("value", Plain), ("valueFrom", Object(&ENV_SOURCE))] };

const ENV_SOURCE: Type = Type {
    name: "EnvVarSource",
    fields: &[
        ("configMapKeyRef", Object(&CONFIG_MAP_KEY)),
        ("fieldRef", Object(&FIELD_REF)),
        ("fileKeyRef", Refused("variables from files of volumes are not supported")),
        ("resourceFieldRef", Object(&RESOURCE_REF)),
        ("secretKeyRef", Object(&SECRET_KEY)),
    ],
};

const CONFIG_MAP_KEY: Type =
    Type { name: "ConfigMapKeySelector", fields: &[("key", Plain), ("name", Plain), ("optional", Plain)] };

const SECRET_KEY: Type =
    Type { name: "SecretKeySelector", fields: &[("key", Plain), ("name", Plain), ("optional", Plain)] };

const FIELD_REF: Type = Type {
    name: "ObjectFieldSelector",
    fields: &[("apiVersion", Harmless("there is one version")), ("fieldPath", Plain)],
};

const RESOURCE_REF: Type = Type {
    name: "ResourceFieldSelector",
    fields: &[("containerName", Plain), ("divisor", Plain), ("resource", Plain)],
};

const ENV_FROM: Type = Type {
    name: "EnvFromSource",
    fields: &[
        ("configMapRef", Object(&CONFIG_MAP_REF)),
        ("prefix", Plain),
        ("secretRef", Object(&SECRET_REF)),
    ],
};

const CONFIG_MAP_REF: Type =
    Type { name: "ConfigMapEnvSource", fields: &[("name", Plain), ("optional", Plain)] };

const SECRET_REF: Type = Type { name: "SecretEnvSource", fields: &[("name", Plain), ("optional", Plain)] };

const LIFECYCLE: Type = Type {
    name: "Lifecycle",
    fields: &[("postStart", Object(&HANDLER)), ("preStop", Object(&HANDLER)), ("stopSignal", Plain)],
};

const HANDLER: Type = Type {
    name: "LifecycleHandler",
    fields: &[
        ("exec", Object(&EXEC)),
        ("httpGet", Object(&HTTP_GET)),
        ("sleep", Object(&SLEEP)),
        ("tcpSocket", Refused("Kubernetes does not run these either; use exec or httpGet")),
    ],
};

const PROBE: Type = Type {
    name: "Probe",
    fields: &[
        ("exec", Object(&EXEC)),
        ("failureThreshold", Plain),
        ("grpc", Object(&GRPC)),
        ("httpGet", Object(&HTTP_GET)),
        ("initialDelaySeconds", Plain),
        ("periodSeconds", Plain),
        ("successThreshold", Plain),
        ("tcpSocket", Object(&TCP_SOCKET)),
        ("terminationGracePeriodSeconds", Plain),
        ("timeoutSeconds", Plain),
    ],
};

const EXEC: Type = Type { name: "ExecAction", fields: &[("command", Plain)] };

const HTTP_GET: Type = Type {
    name: "HTTPGetAction",
    fields: &[
        ("host", Plain),
        ("httpHeaders", List(&HEADER)),
        ("path", Plain),
        ("port", Plain),
        ("protocol", Refused("probes speak HTTP/1.1")),
        ("scheme", Plain),
    ],
};

const HEADER: Type = Type { name: "HTTPHeader", fields: &[("name", Plain), ("value", Plain)] };

const TCP_SOCKET: Type = Type { name: "TCPSocketAction", fields: &[("host", Plain), ("port", Plain)] };

const GRPC: Type = Type {
    name: "GRPCAction",
    fields: &[("mode", Refused("probes speak gRPC without TLS")), ("port", Plain), ("service", Plain)],
};

const SLEEP: Type = Type { name: "SleepAction", fields: &[("seconds", Plain)] };

const PORT: Type = Type {
    name: "ContainerPort",
    fields: &[
        ("containerPort", Plain),
        ("hostIP", Plain),
        ("hostPort", Plain),
        ("name", Plain),
        ("protocol", Plain),
    ],
};

const RESOURCES: Type = Type {
    name: "ResourceRequirements",
    fields: &[("claims", Refused("there are no resource drivers")), ("limits", Plain), ("requests", Plain)],
};

const SECURITY: Type = Type {
    name: "SecurityContext",
    fields: &[
        ("allowPrivilegeEscalation", Plain),
        ("appArmorProfile", Object(&APPARMOR)),
        ("capabilities", Object(&CAPABILITIES)),
        ("privileged", Plain),
        ("procMount", Plain),
        ("readOnlyRootFilesystem", Plain),
        ("runAsGroup", Plain),
        ("runAsNonRoot", Plain),
        ("runAsUser", Plain),
        ("seLinuxOptions", Object(&SELINUX)),
        ("seccompProfile", Object(&SECCOMP)),
        ("windowsOptions", Refused(WINDOWS)),
    ],
};

const POD_SECURITY: Type = Type {
    name: "PodSecurityContext",
    fields: &[
        ("appArmorProfile", Object(&APPARMOR)),
        ("fsGroup", Plain),
        ("fsGroupChangePolicy", Harmless("a new volume has its group from the start")),
        ("runAsGroup", Plain),
        ("runAsNonRoot", Plain),
        ("runAsUser", Plain),
        ("seLinuxChangePolicy", Harmless("volumes are not relabelled")),
        ("seLinuxOptions", Object(&SELINUX)),
        ("seccompProfile", Object(&SECCOMP)),
        ("supplementalGroups", Plain),
        ("supplementalGroupsPolicy", Plain),
        ("sysctls", List(&SYSCTL)),
        ("windowsOptions", Refused(WINDOWS)),
    ],
};

const CAPABILITIES: Type = Type { name: "Capabilities", fields: &[("add", Plain), ("drop", Plain)] };

const SECCOMP: Type =
    Type { name: "SeccompProfile", fields: &[("localhostProfile", Plain), ("type", Plain)] };

const APPARMOR: Type =
    Type { name: "AppArmorProfile", fields: &[("localhostProfile", Plain), ("type", Plain)] };

const SELINUX: Type = Type {
    name: "SELinuxOptions",
    fields: &[("level", Plain), ("role", Plain), ("type", Plain), ("user", Plain)],
};

const SYSCTL: Type = Type { name: "Sysctl", fields: &[("name", Plain), ("value", Plain)] };

const MOUNT: Type = Type {
    name: "VolumeMount",
    fields: &[
        ("bindMountOptions", Refused("not supported")),
        ("mountPath", Plain),
        ("mountPropagation", Plain),
        ("name", Plain),
        ("readOnly", Plain),
        ("recursiveReadOnly", Plain),
        ("subPath", Plain),
        ("subPathExpr", Plain),
    ],
};

const DNS_CONFIG: Type = Type {
    name: "PodDNSConfig",
    fields: &[("nameservers", Plain), ("options", List(&DNS_OPTION)), ("searches", Plain)],
};

const DNS_OPTION: Type = Type { name: "PodDNSConfigOption", fields: &[("name", Plain), ("value", Plain)] };

const HOST_ALIAS: Type = Type { name: "HostAlias", fields: &[("hostnames", Plain), ("ip", Plain)] };

const LOCAL_REFERENCE: Type = Type { name: "LocalObjectReference", fields: &[("name", Plain)] };

const OS: Type = Type { name: "PodOS", fields: &[("name", Plain)] };

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, BTreeSet};

    fn collect(table: &'static Type, found: &mut BTreeMap<&'static str, BTreeSet<&'static str>>) {
        let names = table.fields.iter().map(|(name, _)| *name).collect();
        if found.insert(table.name, names).is_some() {
            return;
        }
        for (_, rule) in table.fields {
            if let Object(inner) | List(inner) = rule {
                collect(inner, found);
            }
        }
    }

    #[test]
    fn every_field_of_the_kubernetes_api_is_supported_harmless_or_refused_by_name() {
        let text = include_str!("../../../tests/data/kubernetes_fields.txt");
        let mut theirs: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (name, field) = line.split_once('.').unwrap();
            theirs.entry(name).or_default().insert(field);
        }
        let mut ours = BTreeMap::new();
        for table in [&POD, &CONFIG_MAP, &SECRET, &CLAIM] {
            collect(table, &mut ours);
        }
        ours.remove("Pod");
        assert!(ours.contains_key("PodSpec") && ours.contains_key("Container"));
        for (name, fields) in &ours {
            assert_eq!(Some(fields), theirs.get(name), "{name}");
        }
    }
}
