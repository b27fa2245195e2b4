//! A pod of modules in one process: the container around it. Pure functions of the plan and of the containers' configurations.
//!
//! Each container's root, with all that is mounted in it but what shows the kernel, has a directory below the root of the container
//! around it, and a module is given that directory and nothing else.

use crate::error::Result;
use crate::pod::around;
use crate::pod::plan::config::OCI_VERSION;
use crate::pod::plan::{PodPlan, WasmPlan};
use crate::runtime::wasm::view::shows_kernel;
use oci_spec::runtime as oci;
use serde_json::{Value, json};
use std::path::PathBuf;

/// Id of the container around the modules, the only one in the pod's own state root.
pub const WASM: &str = "wasm";

/// A container with its configuration as one of its own would have it.
#[derive(Debug)]
pub struct Member<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its bundle.
    pub bundle: PathBuf,
    /// Its configuration.
    pub config: &'a Value,
}

/// The configuration of the container around them. Their own differ in nothing that a process has only once.
pub fn configuration(plan: &PodPlan, wasm: &WasmPlan, members: &[Member<'_>]) -> Result<Value> {
    // For the engine, which maps the code of components by it.
    let mut mounts = vec![json!({"destination": "/proc", "type": "proc", "source": "proc",
        "options": ["nosuid", "noexec", "nodev"]})];
    let wanted = |mount: &oci::Mount| Ok(!mount.typ().as_deref().is_some_and(shows_kernel));
    let mut read_only = Vec::new();
    for member in members {
        mounts.extend(around::mounts(member.name, &member.bundle, member.config, wanted)?);
        read_only.extend((member.config["root"]["readonly"] == true).then(|| around::root(member.name)));
    }
    let first = members.first().map(|member| member.config.clone()).unwrap_or_default();
    let mut process = first["process"].clone();
    process["terminal"] = json!(false);
    process["args"] = json!([WASM]);
    process["env"] = json!([]);
    process["cwd"] = json!("/");
    let mut linux = json!({
        "cgroupsPath": plan.cgroup.path_of(WASM),
        "namespaces": first["linux"]["namespaces"],
        "resources": wasm.resources,
        "readonlyPaths": read_only,
    });
    linux["resources"]["devices"] = json!([{"allow": false, "access": "rwm"}]);
    for name in ["seccomp", "mountLabel"] {
        if !first["linux"][name].is_null() {
            linux[name] = first["linux"][name].clone();
        }
    }
    Ok(json!({
        "ociVersion": OCI_VERSION,
        "process": process,
        "root": {"path": "rootfs", "readonly": true},
        "mounts": mounts,
        "annotations": {
            "org.magikrun.backend": "wasm",
            "io.kubernetes.pod.uid": plan.id,
            "io.kubernetes.pod.name": plan.metadata.name,
            "io.kubernetes.pod.namespace": plan.metadata.namespace(),
        },
        "linux": linux,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::PodSpec as Manifest;
    use crate::pod::plan::config::{Facts, spec};
    use crate::pod::plan::{Context, ImageFacts, plan};
    use std::collections::BTreeMap;

    #[test]
    fn each_module_has_its_mounts_below_a_directory_of_its_own_and_none_of_the_kernel() {
        let manifest = "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {containers: [\
             {name: a, image: i, securityContext: {readOnlyRootFilesystem: true}, resources: {limits: {memory: 64Mi}}}, \
             {name: b, image: i, resources: {limits: {memory: 32Mi}}, volumeMounts: [{name: v, mountPath: /data}]}], \
             volumes: [{name: v, emptyDir: {}}]}\n";
        let images = BTreeMap::from([("i".to_owned(), ImageFacts { wasm: true, ..ImageFacts::default() })]);
        let context =
            Context { id: "id".to_owned(), cgroup_parent: "/m".to_owned(), images, ..Context::default() };
        let plan = plan(&Manifest::from_yaml(manifest).unwrap(), &context).unwrap();
        let wasm = plan.wasm.clone().unwrap();
        let facts = Facts {
            etc: "/etc-of-pod".to_owned(),
            sources: BTreeMap::from([(("v".to_owned(), String::new(), false), "/host/v".to_owned())]),
            ..Facts::default()
        };
        let configs: Vec<_> = plan.containers.iter().map(|c| spec(&plan, c, &facts, "rootfs")).collect();
        let member = |n: usize| Member {
            name: plan.containers[n].name.as_str(),
            bundle: format!("/bundles/{n}").into(),
            config: &configs[n],
        };
        let around = configuration(&plan, &wasm, &[member(0), member(1)]).unwrap();
        let destinations: Vec<_> =
            around["mounts"].as_array().unwrap().iter().map(|m| m["destination"].as_str().unwrap()).collect();
        let below = |name: &str| {
            ["", "/dev", "/dev/shm", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf"]
                .map(|path| format!("/containers/{name}{path}"))
        };
        let expected = [vec!["/proc".to_owned()], below("a").into(), below("b").into()].concat();
        assert_eq!(destinations[..13], expected);
        assert_eq!(destinations[13..], ["/containers/b/data"]);
        assert_eq!(around["mounts"][1]["source"], "/bundles/0/rootfs");
        assert_eq!(around["linux"]["readonlyPaths"], json!(["/containers/a"]));
        assert_eq!(around["linux"]["cgroupsPath"], "/m/id/wasm");
        assert_eq!(around["linux"]["resources"]["memory"]["limit"], 96 << 20);
        let parsed = crate::runtime::spec::parse(around.to_string().as_bytes(), "config").unwrap();
        crate::runtime::validate::validate(&parsed, crate::runtime::kernel_security::KernelSecurity::probe)
            .unwrap();
    }
}
