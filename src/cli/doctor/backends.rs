//! What the checks mean for each thing that magikrun does.

use super::check::{Finding, State};
use serde::Serialize;
use std::collections::BTreeMap;

/// One thing that magikrun does.
pub struct Backend {
    /// Its name.
    pub name: &'static str,
    /// The checks without which it does not work.
    pub needs: &'static [&'static str],
    /// The checks without which it does less, and what is missing then.
    pub wants: &'static [(&'static str, &'static str)],
}

const CONTAINER: [&str; 6] = ["configuration", "kernel", "root", "namespaces", "cgroups", "seccomp"];

/// All of them.
pub const BACKENDS: [Backend; 7] = [
    Backend { name: "native", needs: &CONTAINER, wants: &[] },
    Backend { name: "wasm", needs: &CONTAINER, wants: &[] },
    Backend {
        name: "krun",
        needs: &[
            "configuration",
            "kernel",
            "root",
            "namespaces",
            "cgroups",
            "kvm",
            "magikrun-krun",
            "libkrunfw",
        ],
        wants: &[("passt", "no network of its own")],
    },
    Backend {
        name: "pods",
        needs: &[
            "configuration",
            "kernel",
            "root",
            "namespaces",
            "cgroups",
            "seccomp",
            "seccomp profile",
            "overlayfs",
            "image store",
        ],
        wants: &[("pasta", "no hostPort and no outgoing connections")],
    },
    Backend {
        name: "images",
        needs: &["configuration", "kernel", "root", "namespaces", "overlayfs", "image store"],
        wants: &[],
    },
    Backend {
        name: "checkpoint",
        needs: &["configuration", "kernel", "root", "namespaces", "cgroups", "criu"],
        wants: &[],
    },
    Backend {
        name: "rootless",
        needs: &["configuration", "kernel", "root", "namespaces", "user namespaces"],
        wants: &[
            ("subordinate ids", "one user in a container"),
            ("newuidmap", "one user in a container"),
            ("cgroup delegation", "no limits"),
        ],
    },
];

/// What holds for a backend.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Its name.
    pub name: &'static str,
    /// `missing` if a check that it needs is; `unknown` if one could not be told.
    pub state: State,
    /// What is missing, in the order of the checks.
    pub missing: Vec<&'static str>,
    /// What it does without, though it works.
    pub without: Vec<String>,
    /// The commands that mend all that.
    pub mend: Vec<String>,
}

/// Judges one.
pub fn judge(backend: &Backend, findings: &BTreeMap<&'static str, Finding>) -> Verdict {
    let state_of = |name: &str| findings.get(name).map_or(State::Unknown, |finding| finding.state);
    let missing: Vec<&str> =
        backend.needs.iter().copied().filter(|name| state_of(name) == State::Missing).collect();
    let wanting: Vec<_> = backend.wants.iter().filter(|(name, _)| state_of(name) == State::Missing).collect();
    let state = if !missing.is_empty() {
        State::Missing
    } else if backend.needs.iter().any(|name| state_of(name) == State::Unknown) {
        State::Unknown
    } else {
        State::Works
    };
    let mut mend: Vec<String> = Vec::new();
    for name in missing.iter().copied().chain(wanting.iter().map(|(name, _)| *name)) {
        let command = findings.get(name).and_then(|finding| finding.mend.clone());
        mend.extend(command.filter(|command| !mend.contains(command)));
    }
    let without = wanting.iter().map(|(name, what)| format!("without {name}: {what}")).collect();
    Verdict { name: backend.name, state, missing, without, mend }
}
