//! The microVM of a pod: how large it is, and what of the plan is done by its kernel.

use super::{Action, ContainerPlan, Network, PodPlan, PortPlan, ProbePlan, resources};
use crate::error::{Context as _, Result};
use crate::pod::manifest::PodSpec;
use crate::pod::manifest::types::{Container, Spec};
use crate::runtime::krun::settings::{ANNOTATIONS, MIN_RAM_MIB, OVERHEAD_MIB, Settings, Wish};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Annotation with the memory of the guest, in MiB.
const RAM: &str = "krun.ram_mib";
/// Annotation with the ports that lead to the guest.
const PORTS: &str = "org.magikrun.krun.ports";

/// The microVM of a pod.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VmPlan {
    /// Limits of the container around the machine, which size it: `linux.resources` of the runtime specification.
    pub resources: Value,
    /// Annotations of the pod that are about microVMs, and the ports that lead to the guest.
    pub annotations: BTreeMap<String, String>,
    /// Kernel parameters of the guest.
    pub sysctls: Vec<(String, String)>,
}

/// Turns the plan of a pod into that of one in a microVM. `cpus` is how many processors the host has.
pub fn enclose(pod: &PodSpec, plan: &mut PodPlan, cpus: u64) -> Result<()> {
    if plan.network == Network::Host {
        crate::bail!(NotSupported, "a pod in a microVM cannot have the host's network");
    }
    let probed = probed(&plan.containers);
    if plan.network == Network::None && !probed.is_empty() {
        crate::bail!(
            NotSupported,
            "spec.containers: a probe or hook over the network of a microVM needs one (--network pasta or cni)"
        );
    }
    let annotations = &pod.metadata.annotations;
    let own =
        ANNOTATIONS.iter().filter_map(|name| Some(((*name).to_owned(), annotations.get(*name)?.clone())));
    let mut own: BTreeMap<String, String> = own.collect();
    own.entry(PORTS.to_owned()).or_insert_with(|| ports(&pod.spec, &plan.ports, &probed));
    let vm = VmPlan {
        resources: size(plan, annotations.get(RAM).and_then(|text| text.parse().ok())),
        annotations: own,
        sysctls: std::mem::take(&mut plan.sysctls),
    };
    vm.check(cpus)?;
    for container in &mut plan.containers {
        // The guest has none: the manifest's check says so.
        container.seccomp = None;
    }
    plan.vm = Some(vm);
    Ok(())
}

impl VmPlan {
    /// Fails where the annotations and limits make no machine.
    fn check(&self, cpus: u64) -> Result<()> {
        let spec = json!({"ociVersion": "1.0.0", "annotations": self.annotations, "linux": {"resources": self.resources}});
        let spec = serde_json::from_value(spec)?;
        let cpus = usize::try_from(cpus).unwrap_or(usize::MAX);
        Settings::new(&spec, &Wish::default(), cpus).context(|| "cannot size the microVM").map(drop)
    }
}

/// The machine has what its containers may have together.
fn size(plan: &PodPlan, ram_mib: Option<u64>) -> Value {
    let sum = |path: &str| resources::together(&plan.containers, path);
    let own = |path: &str| plan.resources.pointer(path).and_then(Value::as_u64);
    let overhead = u64::from(OVERHEAD_MIB) << 20;
    let memory = own("/memory/limit")
        .or_else(|| Some((ram_mib? << 20) + overhead))
        .or_else(|| Some(sum("/memory/limit")? + (u64::from(MIN_RAM_MIB) << 20) + overhead));
    let mut all = json!({});
    if let Some(bytes) = memory {
        all["memory"] = json!({"limit": bytes});
    }
    if let Some(quota) = own("/cpu/quota").or_else(|| sum("/cpu/quota")) {
        all["cpu"] = json!({"quota": quota, "period": 100_000});
    }
    if let Some(shares) = own("/cpu/shares").or_else(|| sum("/cpu/shares")) {
        all["cpu"]["shares"] = json!(shares.min(262_144));
    }
    all
}

/// What of the manifest can be reached from outside, as the annotation has it: ports that containers declare or publish, and those that
/// are probed.
fn ports(spec: &Spec, published: &[PortPlan], probed: &[u16]) -> String {
    let containers: Vec<&Container> = spec.init_containers.iter().chain(&spec.containers).collect();
    let declared = containers.iter().flat_map(|container| &container.ports);
    let declared = declared.map(|port| (port.container_port, port.protocol.as_deref() == Some("UDP")));
    let published = published.iter().map(|port| (port.container_port, port.udp));
    let all: BTreeSet<_> =
        declared.chain(published).chain(probed.iter().map(|port| (*port, false))).collect();
    let text: Vec<String> =
        all.iter().map(|(port, udp)| format!("{port}/{}", if *udp { "udp" } else { "tcp" })).collect();
    if text.is_empty() { "none".to_owned() } else { text.join(",") }
}

/// The ports that probes and hooks connect to.
fn probed(containers: &[ContainerPlan]) -> Vec<u16> {
    let port = |action: &Action| match action {
        Action::Http { port, .. } | Action::Tcp { port, .. } | Action::Grpc { port, .. } => Some(*port),
        Action::Exec(_) | Action::Sleep(_) => None,
    };
    let of = |c: &ContainerPlan| {
        let probes = [&c.startup, &c.readiness, &c.liveness]
            .map(|probe: &Option<ProbePlan>| probe.as_ref().and_then(|probe| port(&probe.action)));
        let hooks = [&c.post_start, &c.pre_stop].map(|hook| hook.as_ref().and_then(port));
        probes.into_iter().chain(hooks).flatten().collect::<Vec<_>>()
    };
    containers.iter().flat_map(of).collect()
}
