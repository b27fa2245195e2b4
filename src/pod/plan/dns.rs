//! How the containers of a pod find names: `/etc/resolv.conf`, and the pod's own name server.

use super::Network;
use crate::pod::manifest::types::Spec;
use crate::pod::manifest::{MICROVM, PodSpec};
use std::net::IpAddr;

/// Domain of a cluster, so that the full names of manifests lead to the same pods here: the default of Kubernetes.
pub const CLUSTER_DOMAIN: &str = "cluster.local";

/// Servers that the pod's own name server asks for what it does not know; none where the pod has no such server. It has one on
/// a network where pods reach each other, unless the manifest wants other name servers.
pub fn name_server(spec: &Spec, network: &Network, host: &str) -> Option<Vec<IpAddr>> {
    let policy = spec.dns_policy.as_deref().unwrap_or("ClusterFirst");
    // It listens on the loopback device of the pod's network, which a guest cannot reach.
    let microvm = spec.runtime_class_name.as_deref() == Some(MICROVM);
    let own = matches!(network, Network::Cni(_)) && policy.starts_with("ClusterFirst") && !microvm;
    own.then(|| servers(network, host).filter_map(|address| address.parse().ok()).collect())
}

/// The name servers of the host that the pod can reach.
fn servers<'a>(network: &Network, host: &'a str) -> impl Iterator<Item = &'a str> {
    let on_host = *network == Network::Host;
    let addresses = host.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        words.next().filter(|word| *word == "nameserver").and_then(|_| words.next())
    });
    // A server on the host's loopback cannot be reached from another network.
    addresses.filter(move |address| on_host || !(address.starts_with("127.") || *address == "::1"))
}

/// The words of the last line that begins with one of these: what resolv.conf(5) says of lines that are there twice.
fn last(host: &str, keys: &[&str]) -> Vec<String> {
    let lines = host.lines().rev().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let found = lines.into_iter().find(|words| words.first().is_some_and(|word| keys.contains(word)));
    found.into_iter().flat_map(|words| words.into_iter().skip(1)).map(str::to_owned).collect()
}

/// `/etc/resolv.conf`: that of the host unless the policy is None, with what the pod adds.
pub fn resolv_conf(pod: &PodSpec, network: &Network, host: &str) -> String {
    let (spec, dns) = (&pod.spec, &pod.spec.dns_config);
    let mut text = String::new();
    let mut searches: Vec<String> = Vec::new();
    let mut options: Vec<String> = Vec::new();
    if name_server(spec, network, host).is_some() {
        text += "nameserver 127.0.0.1\n";
        searches.push(format!("{}.svc.{CLUSTER_DOMAIN}", pod.metadata.namespace()));
    }
    if spec.dns_policy.as_deref() != Some("None") && *network != Network::None {
        if text.is_empty() {
            text.extend(servers(network, host).map(|address| format!("nameserver {address}\n")));
        }
        searches.extend(last(host, &["search", "domain"]));
        options.extend(last(host, &["options"]));
    }
    text.extend(dns.nameservers.iter().map(|server| format!("nameserver {server}\n")));
    searches.extend(dns.searches.iter().cloned());
    options.extend(dns.options.iter().map(|option| match &option.value {
        Some(value) => format!("{}:{value}", option.name),
        None => option.name.clone(),
    }));
    if !searches.is_empty() {
        text += &format!("search {}\n", searches.join(" "));
    }
    if !options.is_empty() {
        text += &format!("options {}\n", options.join(" "));
    }
    text
}
