//! `magikrun features`: what this runtime supports, in the form of the runtime specification's features document.

use super::version::{COMMIT, SPEC_VERSION, SPEC_VERSION_MIN, VERSION, libseccomp};
use crate::error::Result;
use crate::runtime::capabilities::CAPABILITIES;
use crate::runtime::krun;
use crate::runtime::rootfs::known_mount_options;
use crate::runtime::seccomp::{known_actions, known_archs, known_flags, known_operators, supported_flags};
use crate::runtime::validate::unsafe_annotations;
use serde_json::{Value, json};

/// `magikrun features`
pub fn run() -> Result<()> {
    super::print(&serde_json::to_string_pretty(&features())?)
}

fn features() -> Value {
    json!({
        "ociVersionMin": SPEC_VERSION_MIN,
        "ociVersionMax": SPEC_VERSION,
        "hooks": ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"],
        "mountOptions": known_mount_options().collect::<Vec<_>>(),
        "linux": linux(),
        "annotations": {
            "io.github.seccomp.libseccomp.version": libseccomp(),
            "org.opencontainers.runc.checkpoint.enabled": "true",
            "org.magikrun.version": VERSION,
            "org.magikrun.commit": COMMIT,
            "org.magikrun.backends": backends(),
        },
        "potentiallyUnsafeConfigAnnotations": unsafe_annotations(),
    })
}

/// The backends that work here.
fn backends() -> &'static str {
    let microvms = krun::check::hypervisor().is_ok() && krun::replace::is_installed();
    if microvms { "native,wasm,krun" } else { "native,wasm" }
}

fn linux() -> Value {
    json!({
        "namespaces": ["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"],
        "capabilities": CAPABILITIES.as_slice(),
        "cgroup": {"v1": true, "v2": true, "systemd": true, "systemdUser": true, "rdma": true},
        "seccomp": {
            "enabled": true,
            "actions": known_actions(),
            "operators": known_operators(),
            "archs": known_archs().collect::<Vec<_>>(),
            "knownFlags": known_flags(),
            "supportedFlags": supported_flags(),
        },
        "apparmor": {"enabled": true},
        "selinux": {"enabled": true},
        "intelRdt": {"enabled": true},
        "memoryPolicy": {
            "modes": [
                "MPOL_BIND",
                "MPOL_DEFAULT",
                "MPOL_INTERLEAVE",
                "MPOL_LOCAL",
                "MPOL_PREFERRED",
                "MPOL_PREFERRED_MANY",
                "MPOL_WEIGHTED_INTERLEAVE",
            ],
            "flags": ["MPOL_F_NUMA_BALANCING", "MPOL_F_RELATIVE_NODES", "MPOL_F_STATIC_NODES"],
        },
        "mountExtensions": {"idmap": {"enabled": true}},
        "netDevices": {"enabled": true},
    })
}
