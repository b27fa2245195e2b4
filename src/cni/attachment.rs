//! A network namespace that is connected to a network.

use super::call::{PortMapping, Verb, configuration};
use super::network::Network;
use super::plugin::execute;
use crate::error::Result;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// File system of namespaces: `NSFS_MAGIC` of linux/magic.h.
const NSFS_MAGIC: u64 = 0x6e73_6673;

/// Where plugins find the programs of the host that they execute, such as iptables.
const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Everything that connects a namespace, and that is needed to take it back: kept from before the first plugin is called.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// The network.
    pub network: Network,
    /// Id of the container that the namespace belongs to.
    pub container: String,
    /// The network namespace: a mount of it, which keeps it until everything is taken back.
    pub namespace: PathBuf,
    /// Name of the interface in the namespace.
    pub interface: String,
    /// What plugins may know of the container: `CNI_ARGS`.
    pub arguments: Vec<(String, String)>,
    /// Ports of the host that lead to the namespace.
    pub ports: Vec<PortMapping>,
    /// What the plugins have answered, once they have.
    pub result: Option<Value>,
}

impl Attachment {
    /// Calls the plugins one after the other; the first failure ends it, and [`Attachment::del`] takes back what they did.
    /// `started` is called with the process id of each before it does anything.
    pub fn add(&mut self, started: &dyn Fn(i32) -> Result<()>) -> Result<()> {
        let mut previous = None;
        for plugin in &self.network.plugins {
            previous = Some(self.call(Verb::Add, plugin, previous.as_ref(), started)?);
        }
        self.result = previous;
        Ok(())
    }

    /// Asks the plugins whether all is as they made it. Nothing happens where they cannot tell.
    pub fn check(&self) -> Result<()> {
        if !self.network.can_check() || self.network.disable_check || self.result.is_none() {
            return Ok(());
        }
        for plugin in &self.network.plugins {
            self.call(Verb::Check, plugin, self.result.as_ref(), &|_| Ok(()))?;
        }
        Ok(())
    }

    /// Has the plugins take everything back, the last one first. May be called after any failure, and twice.
    pub fn del(&self) -> Result<()> {
        let previous = self.result.as_ref().filter(|_| self.network.can_check());
        for plugin in self.network.plugins.iter().rev() {
            self.call(Verb::Del, plugin, previous, &|_| Ok(()))?;
        }
        Ok(())
    }

    /// The addresses of the namespace, in the order in which the plugins gave them.
    pub fn addresses(&self) -> Vec<IpAddr> {
        let ips = self.result.as_ref().and_then(|result| result.get("ips")).and_then(Value::as_array);
        let texts = ips.into_iter().flatten().filter_map(|ip| ip.get("address").and_then(Value::as_str));
        texts.filter_map(|text| text.split('/').next()?.parse().ok()).collect()
    }

    fn call(
        &self,
        verb: Verb,
        plugin: &Map<String, Value>,
        previous: Option<&Value>,
        started: &dyn Fn(i32) -> Result<()>,
    ) -> Result<Value> {
        let name = plugin.get("type").and_then(Value::as_str).unwrap_or_default();
        let told = configuration(&self.network, plugin, &self.ports, previous);
        let run = || execute(&self.network.program(plugin)?, &self.environment(verb), &told, started);
        run().map_err(|e| {
            e.wrap(format!("plugin '{name}' of CNI network '{}': {}", self.network.name, verb.name()))
        })
    }

    fn environment(&self, verb: Verb) -> Vec<(&'static str, String)> {
        let arguments: Vec<String> =
            self.arguments.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let directories: Vec<String> =
            self.network.directories.iter().map(|path| path.display().to_string()).collect();
        // One that is gone is not named: what was in it is gone too.
        let gone = verb == Verb::Del && !is_namespace(&self.namespace);
        let namespace = if gone { String::new() } else { self.namespace.display().to_string() };
        vec![
            ("CNI_COMMAND", verb.name().to_owned()),
            ("CNI_CONTAINERID", self.container.clone()),
            ("CNI_NETNS", namespace),
            ("CNI_IFNAME", self.interface.clone()),
            ("CNI_ARGS", arguments.join(";")),
            ("CNI_PATH", directories.join(":")),
            ("PATH", SEARCH_PATH.to_owned()),
        ]
    }
}

/// True if there is a namespace at this path, and not only a file for one to be mounted on.
fn is_namespace(path: &Path) -> bool {
    rustix::fs::statfs(path).is_ok_and(|fs| fs.f_type as u64 == NSFS_MAGIC)
}

#[cfg(test)]
mod tests {
    use super::super::plugin;
    use super::*;
    use serde_json::json;

    fn attachment(dir: &Path) -> Attachment {
        for name in ["first", "second"] {
            // Each writes down what it was called for, and what came before it.
            let log = dir.join("log").display().to_string();
            let text = format!(
                "told=$(cat)\n\
                 prev=$(printf '%s' \"$told\" | grep -c prevResult)\n\
                 echo \"{name} $CNI_COMMAND $CNI_IFNAME $CNI_ARGS $prev\" >> {log}\n\
                 echo '{{\"cniVersion\": \"1.0.0\", \"ips\": [{{\"address\": \"192.0.2.7/24\"}}, {{\"address\": \"2001:db8::7/64\"}}]}}'"
            );
            plugin::make(&dir.join(name), &text);
        }
        let plugin = |name: &str| json!({"type": name}).as_object().unwrap().clone();
        Attachment {
            network: Network {
                name: "n".to_owned(),
                version: "1.0.0".to_owned(),
                disable_check: false,
                plugins: vec![plugin("first"), plugin("second")],
                directories: vec![dir.to_owned()],
            },
            container: "c".to_owned(),
            namespace: PathBuf::from("/proc/self/ns/net"),
            interface: "eth0".to_owned(),
            arguments: vec![("A".to_owned(), "1".to_owned()), ("B".to_owned(), "2".to_owned())],
            ports: Vec::new(),
            result: None,
        }
    }

    #[test]
    fn plugins_are_called_in_order_with_the_results_before_them_and_backwards_at_the_end() {
        let tmp = tempfile::tempdir().unwrap();
        let mut attachment = attachment(tmp.path());
        attachment.add(&|_| Ok(())).unwrap();
        assert_eq!(
            attachment.addresses(),
            ["192.0.2.7".parse::<IpAddr>().unwrap(), "2001:db8::7".parse().unwrap()]
        );
        attachment.check().unwrap();
        attachment.del().unwrap();
        let log = std::fs::read_to_string(tmp.path().join("log")).unwrap();
        let expected = [
            "first ADD eth0 A=1;B=2 0",
            "second ADD eth0 A=1;B=2 1",
            "first CHECK eth0 A=1;B=2 1",
            "second CHECK eth0 A=1;B=2 1",
            "second DEL eth0 A=1;B=2 1",
            "first DEL eth0 A=1;B=2 1",
        ];
        assert_eq!(log.lines().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_failure_names_the_plugin_and_the_network() {
        let tmp = tempfile::tempdir().unwrap();
        let mut attachment = attachment(tmp.path());
        let script = "echo '{\"code\": 11, \"msg\": \"try again\"}'; exit 1";
        plugin::make(&tmp.path().join("second"), script);
        let e = attachment.add(&|_| Ok(())).unwrap_err();
        assert_eq!(e.message(), "plugin 'second' of CNI network 'n': ADD: try again (code 11)");
        assert!(attachment.result.is_none());
    }
}
