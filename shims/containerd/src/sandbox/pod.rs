//! A pod as the CRI describes it: what of it concerns the sandbox.

use crate::error::{Context as _, Error, Result};
use crate::fields::Fields;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use std::collections::BTreeMap;

/// The name of the message, after its package's or the URL's last separator.
const MESSAGE: &str = "runtime.v1.PodSandboxConfig";
/// `NamespaceMode` of the CRI: the node's.
const NODE: u64 = 2;

/// A pod. Numbers of fields are those of `k8s.io/cri-api`, `runtime/v1/api.proto`.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Pod {
    /// Its name in its UTS namespace.
    pub hostname: String,
    /// Name servers, search domains and options; all empty for those of the node.
    pub dns: [Vec<String>; 3],
    /// What the cgroups of the pod are below.
    pub cgroup_parent: String,
    /// Kernel parameters of its namespaces.
    pub sysctls: BTreeMap<String, String>,
    /// Which namespaces are those of the node.
    pub node: NodeNamespaces,
    /// What its containers may use together, which a microVM is sized by.
    pub resources: Resources,
}

/// Limits, each 0 where there is none.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Resources {
    /// Memory, in bytes.
    pub memory: i64,
    /// Processor time in a period, in microseconds.
    pub quota: i64,
    /// The period, in microseconds.
    pub period: i64,
}

/// Whether namespaces are those of the node.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct NodeNamespaces {
    /// Network and host name.
    pub network: bool,
    /// Processes.
    pub pid: bool,
    /// System V IPC, and `/dev/shm`.
    pub ipc: bool,
}

impl Pod {
    /// Reads the message; without one, everything is the default.
    pub fn from_any(any: Option<&Any>) -> Result<Self> {
        let Some(any) = any.filter(|any| !any.type_url.is_empty()) else { return Ok(Self::default()) };
        if !any.type_url.ends_with(MESSAGE) {
            return Err(Error::invalid(format!("unknown type of sandbox '{}'", any.type_url)));
        }
        Fields::parse(&any.value)
            .and_then(|fields| Self::from_fields(&fields))
            .context(|| "cannot read the pod")
    }

    fn from_fields(pod: &Fields) -> Result<Self> {
        let (dns, linux) = (pod.message(4)?, pod.message(8)?);
        let namespaces = linux.message(2)?.message(1)?;
        if namespaces.message(5)?.number(1) != NODE && !namespaces.texts(5)?.is_empty() {
            return Err(Error::invalid("user namespaces need the sandboxer 'podsandbox'"));
        }
        let resources = linux.message(5)?;
        let limit = |number| resources.number(number).cast_signed();
        Ok(Self {
            hostname: pod.text(2)?,
            dns: [dns.texts(1)?, dns.texts(2)?, dns.texts(3)?],
            cgroup_parent: linux.text(1)?,
            sysctls: linux.map(3)?,
            node: NodeNamespaces {
                network: namespaces.number(1) == NODE,
                pid: namespaces.number(2) == NODE,
                ipc: namespaces.number(3) == NODE,
            },
            resources: Resources { memory: limit(4), quota: limit(2), period: limit(1) },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A field that has a length.
    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        [&[number << 3 | 2, u8::try_from(bytes.len()).unwrap()], bytes].concat()
    }

    fn pod(bytes: Vec<u8>) -> Result<Pod> {
        let any = Any { type_url: MESSAGE.to_owned(), value: bytes, ..Any::default() };
        Pod::from_any(Some(&any))
    }

    fn linux(options: &[u8], rest: &[u8]) -> Vec<u8> {
        field(8, &[&field(2, &field(1, options)), rest].concat())
    }

    #[test]
    fn the_parts_of_a_pod_are_found() {
        let dns =
            [field(1, b"10.0.0.1"), field(1, b"10.0.0.2"), field(2, b"local"), field(3, b"ndots:5")].concat();
        let sysctl = field(3, &[field(1, b"net.a"), field(2, b"1")].concat());
        // Period 10, no quota, 7 bytes.
        let resources = field(5, &[8, 10, 32, 7]);
        let rest = [field(1, b"/pods"), sysctl, resources].concat();
        // Network: the node's; pid: the container's.
        let message = [field(2, b"web"), field(4, &dns), linux(&[8, 2, 16, 1], &rest)].concat();
        let expected = Pod {
            hostname: "web".to_owned(),
            dns: [vec!["10.0.0.1".into(), "10.0.0.2".into()], vec!["local".into()], vec!["ndots:5".into()]],
            cgroup_parent: "/pods".to_owned(),
            sysctls: BTreeMap::from([("net.a".to_owned(), "1".to_owned())]),
            node: NodeNamespaces { network: true, ..NodeNamespaces::default() },
            resources: Resources { memory: 7, quota: 0, period: 10 },
        };
        assert_eq!(pod(message).unwrap(), expected);
        assert_eq!(Pod::from_any(None).unwrap(), Pod::default());
    }

    #[test]
    fn what_is_not_supported_is_refused() {
        // A user namespace for the pod, which is mode 0 and not written; one of the node.
        assert!(pod(linux(&field(5, &[]), &[])).unwrap_err().to_string().contains("user namespaces"));
        assert!(pod(linux(&field(5, &[8, 2]), &[])).is_ok());
        let other = Any { type_url: "x.Y".to_owned(), ..Any::default() };
        assert!(Pod::from_any(Some(&other)).is_err());
    }
}
