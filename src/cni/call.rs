//! What a plugin is told: its environment and its configuration. Pure functions.

use super::network::{Network, has_capability};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The capability of plugins that make ports of the host lead to a namespace.
pub(super) const PORT_MAPPINGS: &str = "portMappings";
/// The first version whose plugins can check, and are told at the end what they had answered at the beginning.
const FIRST_WITH_CHECK: &str = "0.4.0";

/// What a plugin is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    /// Connect.
    Add,
    /// See whether all is as it was made.
    Check,
    /// Take everything back.
    Del,
}

impl Verb {
    /// As the specification has it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Check => "CHECK",
            Self::Del => "DEL",
        }
    }
}

/// A port of the host that leads to the namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortMapping {
    /// Port of the host.
    pub host_port: u16,
    /// Port in the namespace.
    pub container_port: u16,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// Address of the host; all of them where there is none.
    #[serde(rename = "hostIP", default, skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<String>,
}

impl Network {
    /// True if the plugins can be asked to check, and take the result of an earlier call when they take everything back.
    pub(super) fn can_check(&self) -> bool {
        // The known versions are in order as text.
        self.version.as_str() >= FIRST_WITH_CHECK
    }
}

/// The configuration that a plugin reads from its standard input.
pub(super) fn configuration(
    network: &Network,
    plugin: &Map<String, Value>,
    ports: &[PortMapping],
    previous: Option<&Value>,
) -> Value {
    let mut all = plugin.clone();
    all.remove("capabilities");
    all.insert("name".to_owned(), Value::from(network.name.as_str()));
    all.insert("cniVersion".to_owned(), Value::from(network.version.as_str()));
    if has_capability(plugin, PORT_MAPPINGS) && !ports.is_empty() {
        let ports = serde_json::to_value(ports).unwrap_or_default();
        all.insert("runtimeConfig".to_owned(), serde_json::json!({ PORT_MAPPINGS: ports }));
    }
    if let Some(previous) = previous {
        all.insert("prevResult".to_owned(), previous.clone());
    }
    Value::Object(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn network(version: &str) -> Network {
        Network {
            name: "n".to_owned(),
            version: version.to_owned(),
            disable_check: false,
            plugins: Vec::new(),
            directories: Vec::new(),
        }
    }

    #[test]
    fn a_plugin_gets_the_name_the_version_the_last_result_and_only_what_it_can_use() {
        let plugin =
            json!({"type": "portmap", "capabilities": {"portMappings": true, "dns": true}, "snat": true});
        let plugin = plugin.as_object().unwrap();
        let port =
            PortMapping { host_port: 8080, container_port: 80, protocol: "tcp".to_owned(), host_ip: None };
        let told =
            configuration(&network("1.0.0"), plugin, std::slice::from_ref(&port), Some(&json!({"ips": []})));
        let mapping = json!({"hostPort": 8080, "containerPort": 80, "protocol": "tcp"});
        assert_eq!(
            told,
            json!({"type": "portmap", "snat": true, "name": "n", "cniVersion": "1.0.0",
                   "runtimeConfig": {"portMappings": [mapping]}, "prevResult": {"ips": []}})
        );
        let bridge = json!({"type": "bridge"});
        let told = configuration(&network("1.0.0"), bridge.as_object().unwrap(), &[port], None);
        assert_eq!(told, json!({"type": "bridge", "name": "n", "cniVersion": "1.0.0"}));
        assert!(network("0.4.0").can_check() && !network("0.3.1").can_check());
    }
}
