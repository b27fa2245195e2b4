//! The supported part of the Kubernetes types, with the names of that API. Fields without a comment mean what they mean there.
#![allow(missing_docs, reason = "the names are those of the Kubernetes API, which documents them")]

mod volumes;

use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;

pub use volumes::*;

/// Names and values.
pub type Strings = BTreeMap<String, String>;

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Metadata {
    pub name: String,
    pub namespace: Option<String>,
    pub labels: Strings,
    pub annotations: Strings,
}

impl Metadata {
    /// The namespace; `default` when there is none.
    pub fn namespace(&self) -> &str {
        self.namespace.as_deref().filter(|name| !name.is_empty()).unwrap_or("default")
    }
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Spec {
    pub active_deadline_seconds: Option<u32>,
    pub containers: Vec<Container>,
    pub dns_config: DnsConfig,
    pub dns_policy: Option<String>,
    pub host_aliases: Vec<HostAlias>,
    #[serde(rename = "hostIPC")]
    pub host_ipc: bool,
    pub host_network: bool,
    #[serde(rename = "hostPID")]
    pub host_pid: bool,
    pub host_users: Option<bool>,
    pub hostname: Option<String>,
    pub hostname_override: Option<String>,
    pub image_pull_secrets: Vec<Reference>,
    pub init_containers: Vec<Container>,
    pub os: Option<Os>,
    pub resources: Resources,
    pub restart_policy: Option<RestartPolicy>,
    pub runtime_class_name: Option<String>,
    pub security_context: PodSecurity,
    pub share_process_namespace: bool,
    pub subdomain: Option<String>,
    pub termination_grace_period_seconds: Option<u32>,
    pub volumes: Vec<Volume>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RestartPolicy {
    Always,
    OnFailure,
    Never,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Reference {
    pub name: String,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Os {
    pub name: String,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DnsConfig {
    pub nameservers: Vec<String>,
    pub options: Vec<DnsOption>,
    pub searches: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DnsOption {
    pub name: String,
    pub value: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HostAlias {
    pub hostnames: Vec<String>,
    pub ip: String,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Container {
    pub args: Vec<String>,
    pub command: Vec<String>,
    pub env: Vec<Env>,
    pub env_from: Vec<EnvFrom>,
    pub image: String,
    pub image_pull_policy: Option<PullPolicy>,
    pub lifecycle: Lifecycle,
    pub liveness_probe: Option<Probe>,
    pub name: String,
    pub ports: Vec<Port>,
    pub readiness_probe: Option<Probe>,
    pub resources: Resources,
    pub restart_policy: Option<RestartPolicy>,
    pub security_context: Security,
    pub startup_probe: Option<Probe>,
    pub stdin: bool,
    pub stdin_once: bool,
    pub tty: bool,
    pub volume_mounts: Vec<Mount>,
    pub working_dir: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PullPolicy {
    Always,
    IfNotPresent,
    Never,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Env {
    pub name: String,
    pub value: Option<String>,
    pub value_from: Option<EnvSource>,
}

/// Exactly one of these.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum EnvSource {
    ConfigMapKeyRef(KeyRef),
    SecretKeyRef(KeyRef),
    FieldRef(FieldRef),
    ResourceFieldRef(ResourceRef),
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KeyRef {
    pub key: String,
    pub name: String,
    pub optional: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct FieldRef {
    pub field_path: String,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ResourceRef {
    pub container_name: Option<String>,
    pub divisor: Option<Quantity>,
    pub resource: String,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct EnvFrom {
    pub config_map_ref: Option<OptionalRef>,
    pub prefix: String,
    pub secret_ref: Option<OptionalRef>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OptionalRef {
    pub name: String,
    pub optional: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Lifecycle {
    pub post_start: Option<Handler>,
    pub pre_stop: Option<Handler>,
    pub stop_signal: Option<String>,
}

/// What a probe or a hook does: exactly one of these.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Handler {
    Exec(ExecAction),
    HttpGet(HttpGet),
    TcpSocket(TcpSocket),
    Grpc(GrpcAction),
    Sleep(Sleep),
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExecAction {
    pub command: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpGet {
    pub host: Option<String>,
    #[serde(default)]
    pub http_headers: Vec<HttpHeader>,
    pub path: Option<String>,
    pub port: PortRef,
    pub scheme: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpHeader {
    pub name: String,
    pub value: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TcpSocket {
    pub host: Option<String>,
    pub port: PortRef,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GrpcAction {
    pub port: u16,
    pub service: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sleep {
    pub seconds: u32,
}

/// A port by number, or by the name of a port of the same container.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum PortRef {
    Number(u16),
    Name(String),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Probe {
    #[serde(flatten)]
    pub handler: Handler,
    #[serde(default)]
    pub failure_threshold: Option<u32>,
    #[serde(default)]
    pub initial_delay_seconds: u32,
    #[serde(default)]
    pub period_seconds: Option<u32>,
    #[serde(default)]
    pub success_threshold: Option<u32>,
    #[serde(default)]
    pub termination_grace_period_seconds: Option<u32>,
    #[serde(default)]
    pub timeout_seconds: Option<u32>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Port {
    pub container_port: u16,
    #[serde(rename = "hostIP")]
    pub host_ip: Option<String>,
    pub host_port: Option<u16>,
    pub name: Option<String>,
    pub protocol: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Resources {
    pub limits: BTreeMap<String, Quantity>,
    pub requests: BTreeMap<String, Quantity>,
}

/// A quantity as it stands in the manifest: a string, or a number that YAML made of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Quantity(pub String);

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match serde_json::Value::deserialize(deserializer)? {
            serde_json::Value::String(text) => Ok(Self(text)),
            serde_json::Value::Number(number) => Ok(Self(number.to_string())),
            other => Err(serde::de::Error::custom(format!("{other} is not a quantity"))),
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Security {
    pub allow_privilege_escalation: Option<bool>,
    pub app_armor_profile: Option<Profile>,
    pub capabilities: Capabilities,
    pub privileged: bool,
    pub proc_mount: Option<String>,
    pub read_only_root_filesystem: bool,
    pub run_as_group: Option<u32>,
    pub run_as_non_root: Option<bool>,
    pub run_as_user: Option<u32>,
    pub se_linux_options: Option<SeLinux>,
    pub seccomp_profile: Option<Profile>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct PodSecurity {
    pub app_armor_profile: Option<Profile>,
    pub fs_group: Option<u32>,
    pub run_as_group: Option<u32>,
    pub run_as_non_root: Option<bool>,
    pub run_as_user: Option<u32>,
    pub se_linux_options: Option<SeLinux>,
    pub seccomp_profile: Option<Profile>,
    pub supplemental_groups: Vec<u32>,
    pub supplemental_groups_policy: Option<String>,
    pub sysctls: Vec<Sysctl>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Capabilities {
    pub add: Vec<String>,
    pub drop: Vec<String>,
}

/// A seccomp or AppArmor profile.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Profile {
    pub localhost_profile: Option<String>,
    #[serde(rename = "type")]
    pub kind: String,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SeLinux {
    pub level: Option<String>,
    pub role: Option<String>,
    #[serde(rename = "type")]
    pub kind: Option<String>,
    pub user: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sysctl {
    pub name: String,
    pub value: String,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Mount {
    pub mount_path: String,
    pub mount_propagation: Option<String>,
    pub name: String,
    pub read_only: bool,
    pub recursive_read_only: Option<String>,
    pub sub_path: Option<String>,
    pub sub_path_expr: Option<String>,
}

/// The documents of the manifest that are not pods.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(super) struct DataObject {
    pub api_version: String,
    pub kind: String,
    pub metadata: Metadata,
    pub data: Strings,
    pub binary_data: Strings,
    pub string_data: Strings,
    pub immutable: bool,
    #[serde(rename = "type")]
    pub secret_type: String,
}
