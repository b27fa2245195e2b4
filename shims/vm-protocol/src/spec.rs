//! The specification of a guest: what `vminit` finds in `/pod/spec.json` and makes of the virtual machine.
//!
//! Paths of mounts of the guest and roots of containers are paths in the guest. The host has checked everything before: the guest
//! refuses what it does not understand, and ends.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Where it is baked in.
pub const PATH: &str = "/pod/spec.json";

/// Version of the format.
pub const SPEC_VERSION: u32 = 1;

/// Longest specification, in bytes (4 MiB): those of 16 containers with their environments.
pub const MAX_SPEC: u64 = 4 << 20;

/// A guest: one container, or several of a pod.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PodSpec {
    /// [`SPEC_VERSION`]; another one is refused.
    pub version: u32,
    /// Name of the host; none: the kernel's.
    #[serde(default)]
    pub hostname: Option<String>,
    /// Domain name.
    #[serde(default)]
    pub domainname: Option<String>,
    /// Mounted in the guest before any container is made, in this order: shares by virtiofs, volumes in memory. Missing
    /// directories are made.
    #[serde(default)]
    pub mounts: Vec<Mount>,
    /// Kernel parameters: names with dots, values.
    #[serde(default)]
    pub sysctl: BTreeMap<String, String>,
    /// Network beside the loopback interface.
    #[serde(default)]
    pub network: Option<Network>,
    /// The containers; one at least. Those with `init` run one after the other before the others are started.
    pub containers: Vec<Container>,
    /// When the virtual machine ends.
    #[serde(default)]
    pub end: End,
}

/// When the virtual machine ends by itself. An init container that fails, and one that cannot be started, always ends it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum End {
    /// With the first container that ends, and its exit code.
    #[default]
    Any,
    /// When all have ended, with the first exit code that is not 0.
    All,
    /// Only when it is asked to.
    Asked,
}

/// A container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Container {
    /// Its name: letters, digits, `_`, `-` and `.`.
    pub name: String,
    /// Directory in the guest with its root file system, as `/containers/NAME`.
    pub root: String,
    /// The root file system cannot be written to.
    #[serde(default)]
    pub read_only: bool,
    /// Mounted in the container, in this order. Destinations are paths in it, and links in it lead nowhere else.
    #[serde(default)]
    pub mounts: Vec<Mount>,
    /// Device nodes beside the usual ones.
    #[serde(default)]
    pub devices: Vec<Device>,
    /// Paths in the container that are covered by nothing.
    #[serde(default)]
    pub masked_paths: Vec<String>,
    /// Paths in the container that cannot be written to.
    #[serde(default)]
    pub readonly_paths: Vec<String>,
    /// Its first process.
    pub process: Process,
    /// Where its standard streams lead to.
    #[serde(default)]
    pub stdio: Stdio,
    /// Its standard input comes by [`crate::message::Request::Input`], where it is not that of the virtual machine.
    #[serde(default)]
    pub stdin: bool,
    /// Name of the container whose pid namespace it shares, instead of having one of its own: only for one that is made while the guest
    /// runs, since version 3 of the protocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid_namespace: Option<String>,
    /// Files of its cgroup v2 and what is written to them, as `memory.max`.
    #[serde(default)]
    pub cgroup: BTreeMap<String, String>,
    /// It must end with 0 before those after it are started.
    #[serde(default)]
    pub init: bool,
    /// It is started by [`crate::message::Request::Start`] only.
    #[serde(default)]
    pub on_request: bool,
}

/// Where the standard streams of a container lead to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Stdio {
    /// To the virtual machine's own: its console if the process has a terminal, else the ports for its standard streams.
    #[default]
    Console,
    /// Output is kept for [`crate::message::Request::Logs`] alone, the last of it.
    Log,
    /// As `Log`, and nothing is lost: a container that writes much waits until somebody follows its output, and for who does.
    Followed,
}

/// A mount.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Mount {
    /// Where.
    pub destination: String,
    /// File system, or `bind`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Tag of a virtiofs share, or for `bind` a path in the guest.
    #[serde(default)]
    pub source: String,
    /// For `bind`: the directory in the guest that `source` is a path in. Links on its way are followed and lead nowhere out of it;
    /// without such a directory they are refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within: Option<String>,
    /// Options as mount(8) has them.
    #[serde(default)]
    pub options: Vec<String>,
}

/// A device node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Device {
    /// Path in the container.
    pub path: String,
    /// `c`, `b` or `p`.
    #[serde(rename = "type")]
    pub kind: char,
    /// Major number.
    #[serde(default)]
    pub major: u32,
    /// Minor number.
    #[serde(default)]
    pub minor: u32,
    /// Permissions.
    pub mode: u32,
    /// Owner.
    #[serde(default)]
    pub uid: u32,
    /// Group.
    #[serde(default)]
    pub gid: u32,
}

/// A process: what the host has made of an OCI process object.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Process {
    /// Program and arguments; one at least.
    pub args: Vec<String>,
    /// Environment, `NAME=VALUE`.
    #[serde(default)]
    pub env: Vec<String>,
    /// Working directory in the container.
    pub cwd: String,
    /// User id.
    #[serde(default)]
    pub uid: u32,
    /// Group id.
    #[serde(default)]
    pub gid: u32,
    /// Additional group ids.
    #[serde(default)]
    pub groups: Vec<u32>,
    /// File mode creation mask.
    #[serde(default)]
    pub umask: Option<u32>,
    /// Capabilities.
    #[serde(default)]
    pub capabilities: Capabilities,
    /// It can never gain privileges.
    #[serde(default)]
    pub no_new_privileges: bool,
    /// Limits.
    #[serde(default)]
    pub rlimits: Vec<Rlimit>,
    /// Adjustment of how likely it is ended when memory is short.
    #[serde(default)]
    pub oom_score_adj: Option<i32>,
    /// It has a terminal.
    #[serde(default)]
    pub terminal: bool,
    /// Size of the terminal.
    #[serde(default)]
    pub size: Option<Size>,
}

/// Capability sets as bit masks; bit n is capability number n of capabilities(7).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Capabilities {
    /// Bounding set.
    pub bounding: u64,
    /// Effective set.
    pub effective: u64,
    /// Permitted set.
    pub permitted: u64,
    /// Inheritable set.
    pub inheritable: u64,
    /// Ambient set.
    pub ambient: u64,
}

/// A resource limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rlimit {
    /// Name as `RLIMIT_NOFILE`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Soft limit; `u64::MAX` for none.
    pub soft: u64,
    /// Hard limit; `u64::MAX` for none.
    pub hard: u64,
}

/// Size of a terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    /// Columns.
    pub columns: u16,
    /// Rows.
    pub rows: u16,
}

/// The guest's network. Everything is set statically.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Network {
    /// Interface, as `eth0`.
    pub interface: String,
    /// Addresses with prefix lengths, IPv4 and IPv6, as `192.0.2.2/24`.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// Gateways of the default routes, at most one of IPv4 and one of IPv6.
    #[serde(default)]
    pub gateways: Vec<String>,
    /// Largest packet, in bytes; none: the interface's own.
    #[serde(default)]
    pub mtu: Option<u32>,
    /// Contents of `/etc/resolv.conf` for containers that mount none; none: theirs stays.
    #[serde(default)]
    pub resolv_conf: Option<String>,
    /// Contents of `/etc/hosts` for containers that mount none; none: theirs stays.
    #[serde(default)]
    pub hosts: Option<String>,
}

impl PodSpec {
    /// Parses a specification and checks what concerns all of it.
    pub fn parse(data: &[u8]) -> Result<Self, String> {
        let spec: Self = serde_json::from_slice(data).map_err(|e| e.to_string())?;
        if spec.version != SPEC_VERSION {
            return Err(format!("it has version {}, this program reads {SPEC_VERSION}", spec.version));
        }
        if spec.containers.is_empty() {
            return Err("it has no container".to_owned());
        }
        for (index, container) in spec.containers.iter().enumerate() {
            container.check()?;
            if container.pid_namespace.is_some() {
                return Err(format!(
                    "container '{}' cannot share pids: it is made with the guest",
                    container.name
                ));
            }
            if spec.containers[..index].iter().any(|other| other.name == container.name) {
                return Err(format!("two containers have the name '{}'", container.name));
            }
        }
        Ok(spec)
    }
}

/// Checks the names of files of a cgroup.
pub fn check_cgroup(files: &BTreeMap<String, String>) -> Result<(), String> {
    match files.keys().find(|file| file.contains('/') || !file.contains('.')) {
        Some(file) => Err(format!("'{}' is no file of a cgroup", file.escape_debug())),
        None => Ok(()),
    }
}

impl Container {
    /// Checks what nothing could be made of.
    pub fn check(&self) -> Result<(), String> {
        let name = &self.name;
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '+');
        if name.is_empty() || name.len() > 128 || name.starts_with('.') || !name.chars().all(allowed) {
            return Err(format!("'{}' is no name of a container", name.escape_debug()));
        }
        if !self.root.starts_with('/') {
            return Err(format!("the root of container '{name}' is no absolute path"));
        }
        check_cgroup(&self.cgroup)?;
        self.process.check().map_err(|e| format!("container '{name}': {e}"))
    }
}

impl Process {
    /// Checks what no program could be executed with.
    pub fn check(&self) -> Result<(), String> {
        if self.args.is_empty() {
            return Err("process args cannot be empty".to_owned());
        }
        if !self.cwd.starts_with('/') {
            return Err("the working directory is no absolute path".to_owned());
        }
        if self.args.iter().chain(&self.env).any(|text| text.contains('\0')) {
            return Err("an argument or a variable contains a nul byte".to_owned());
        }
        if let Some(pair) = self.env.iter().find(|pair| pair.find('=').is_none_or(|at| at == 0)) {
            return Err(format!("invalid environment variable '{}'", pair.escape_debug()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn spec(change: impl FnOnce(&mut Value)) -> Result<PodSpec, String> {
        let mut spec = json!({
            "version": SPEC_VERSION,
            "containers": [{"name": "app", "root": "/containers/app", "process": {"args": ["sh"], "cwd": "/"}}],
        });
        change(&mut spec);
        PodSpec::parse(spec.to_string().as_bytes())
    }

    #[test]
    fn what_is_left_out_has_a_default_and_what_is_unknown_is_refused() {
        let parsed = spec(|_| {}).unwrap();
        assert_eq!(parsed.end, End::Any);
        assert_eq!(parsed.containers[0].stdio, Stdio::Console);
        let wrong: [fn(&mut Value); 9] = [
            |spec| spec["version"] = json!(2),
            |spec| spec["containers"] = json!([]),
            |spec| spec["surprise"] = json!(1),
            |spec| spec["containers"][0]["name"] = json!("../x"),
            |spec| spec["containers"][0]["root"] = json!("x"),
            |spec| spec["containers"][0]["process"]["args"] = json!([]),
            |spec| spec["containers"][0]["process"]["env"] = json!(["=x"]),
            |spec| spec["containers"][0]["pidNamespace"] = json!("other"),
            |spec| spec["containers"][0]["cgroup"] = json!({"../memory.max": "1"}),
        ];
        for change in wrong {
            spec(change).unwrap_err();
        }
        let twice = spec(|spec| {
            let first = spec["containers"][0].clone();
            spec["containers"].as_array_mut().unwrap().push(first);
        });
        assert!(twice.unwrap_err().contains("'app'"));
    }
}
