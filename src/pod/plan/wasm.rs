//! A pod of modules: whether one process can run them all, and how large it is.

use super::users::Users;
use super::{ContainerPlan, PodPlan, Propagation, resources};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The one process of a pod whose containers are all modules.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WasmPlan {
    /// Limits of the container around it, `linux.resources` of the runtime specification: what its modules may have together.
    pub resources: Value,
}

/// Makes it one process, if that is possible: all containers are modules, and what a process has only once is the same for all of them.
pub fn enclose(plan: &mut PodPlan) {
    let Some(first) = plan.containers.first() else { return };
    let all = plan.containers.iter().all(|c| is_plain(c) && are_alike(c, first));
    if all && plan.users == Users::Host {
        plan.wasm = Some(WasmPlan { resources: resources(&plan.containers) });
    }
}

/// A module that needs nothing of its process but to be run in it.
fn is_plain(container: &ContainerPlan) -> bool {
    let passes_on = container.mounts.iter().any(|mount| mount.propagation == Propagation::Both);
    container.backend.as_deref() == Some("wasm") && !container.tty && !container.privileged && !passes_on
}

/// What a process has only once is the same for both.
fn are_alike(a: &ContainerPlan, b: &ContainerPlan) -> bool {
    let of_user =
        |c: &ContainerPlan| (c.uid, c.gid, c.groups.clone(), c.capabilities.clone(), c.no_new_privileges);
    of_user(a) == of_user(b) && a.seccomp == b.seccomp && a.apparmor == b.apparmor && a.selinux == b.selinux
}

/// The sum of what each may have, where each is limited.
fn resources(containers: &[ContainerPlan]) -> Value {
    let sum = |path| resources::together(containers, path);
    let mut all = json!({});
    if let Some(bytes) = sum("/memory/limit") {
        all["memory"] = json!({"limit": bytes});
    }
    if let Some(quota) = sum("/cpu/quota") {
        all["cpu"] = json!({"quota": quota, "period": 100_000});
    }
    if let Some(shares) = sum("/cpu/shares") {
        all["cpu"]["shares"] = json!(shares.min(262_144));
    }
    all
}
