//! Names of other pods, for the pod's name server.

use super::Monitor;
use crate::infra::dns::Resolved;
use crate::infra::message::ToInfra;
use crate::pod::plan::CLUSTER_DOMAIN;
use crate::pod::record::{PodPhase, PodStatus};
use crate::pod::store::PodStore;
use std::net::IpAddr;

/// What a name may mean.
#[derive(Debug, PartialEq, Eq)]
struct Meaning<'a> {
    namespace: &'a str,
    pod: &'a str,
    subdomain: Option<&'a str>,
}

impl Monitor<'_> {
    /// Answers the pod's name server.
    pub(super) fn resolve(&self, name: String) {
        let record = &self.orders.record;
        let (meanings, only_here) = meanings(&name, &record.namespace);
        let found = meanings.iter().find_map(|meaning| find(self.store, record.network.as_deref(), meaning));
        let answer = match found {
            Some(addresses) => Resolved::Addresses(addresses),
            None if only_here => Resolved::Nobody,
            None => Resolved::Elsewhere,
        };
        if let Some(sandbox) = &self.sandbox {
            let _ = sandbox.send(&ToInfra::Resolved { name, answer });
        }
    }
}

/// The addresses of the pod that is meant, if it runs on this network.
fn find(store: &PodStore, network: Option<&str>, meaning: &Meaning<'_>) -> Option<Vec<IpAddr>> {
    let pod = store.open(&format!("{}/{}", meaning.namespace, meaning.pod)).ok()?;
    let record = &pod.record;
    // An id opens a pod too, but is no name.
    let meant = record.name == meaning.pod
        && record.network.as_deref() == network
        && meaning.subdomain.is_none_or(|subdomain| record.subdomain.as_deref() == Some(subdomain));
    let status =
        PodStatus::load(&pod.dir).ok().filter(|status| meant && status.phase == PodPhase::Running)?;
    Some(status.pod_ips.iter().filter_map(|address| address.parse().ok()).collect())
}

/// What a name may mean to a pod in `namespace`, the likeliest first; and whether nobody but us can know it.
fn meanings<'a>(name: &'a str, namespace: &'a str) -> (Vec<Meaning<'a>>, bool) {
    let inner = name.strip_suffix(CLUSTER_DOMAIN).and_then(|rest| rest.strip_suffix('.'));
    let short = inner.unwrap_or(name);
    let short = short.strip_suffix(".svc").or_else(|| short.strip_suffix(".pod")).unwrap_or(short);
    let labels: Vec<&str> = short.split('.').collect();
    let meaning = |pod, subdomain, namespace| Meaning { namespace, pod, subdomain };
    let all = match labels[..] {
        ["", ..] => Vec::new(),
        [pod] => vec![meaning(pod, None, namespace)],
        [pod, second] => vec![meaning(pod, Some(second), namespace), meaning(pod, None, second)],
        [pod, subdomain, namespace] => vec![meaning(pod, Some(subdomain), namespace)],
        _ => Vec::new(),
    };
    (all, inner.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_means_a_pod_of_the_namespace_below_a_subdomain_or_of_another_namespace() {
        let texts = |name: &str| {
            let (all, only_here) = meanings(name, "own");
            let text =
                |m: &Meaning<'_>| format!("{}/{}/{}", m.namespace, m.pod, m.subdomain.unwrap_or_default());
            (all.iter().map(text).collect::<Vec<_>>().join(" "), only_here)
        };
        assert_eq!(texts("web"), ("own/web/".to_owned(), false));
        assert_eq!(texts("web.own.svc.cluster.local"), ("own/web/own own/web/".to_owned(), true));
        assert_eq!(texts("web.sub"), ("own/web/sub sub/web/".to_owned(), false));
        assert_eq!(texts("web.sub.other.svc.cluster.local"), ("other/web/sub".to_owned(), true));
        assert_eq!(texts("a.b.c.d"), (String::new(), false));
        assert_eq!(texts(""), (String::new(), false));
    }
}
