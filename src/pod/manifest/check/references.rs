//! What a pod refers to must be in its manifest.

use crate::pod::manifest::findings::Findings;
use crate::pod::manifest::types::{Container, DataVolume, EnvSource, KeyRef, Projection, VolumeSource};
use crate::pod::manifest::{Data, PULL_SECRET_KEY, PodSpec};
use std::collections::BTreeMap;

/// Checks that every config map, secret and key that is not optional is there.
pub fn references(pod: &PodSpec, findings: &mut Findings) {
    for (number, volume) in pod.spec.volumes.iter().enumerate() {
        let path = format!("spec.volumes[{number}]");
        match &volume.source {
            Some(VolumeSource::ConfigMap(data)) => {
                items(&format!("{path}.configMap"), data, MAPS.of(pod), findings);
            }
            Some(VolumeSource::Secret(data)) => {
                items(&format!("{path}.secret"), data, SECRETS.of(pod), findings);
            }
            Some(VolumeSource::Projected(projected)) => {
                for (index, source) in projected.sources.iter().enumerate() {
                    let at = format!("{path}.projected.sources[{index}]");
                    match source {
                        Projection::ConfigMap(data) => items(&at, data, MAPS.of(pod), findings),
                        Projection::Secret(data) => items(&at, data, SECRETS.of(pod), findings),
                        Projection::DownwardApi(_) => {}
                    }
                }
            }
            _ => {}
        }
    }
    for (number, container) in pod.spec.init_containers.iter().enumerate() {
        environment(&format!("spec.initContainers[{number}]"), container, pod, findings);
    }
    for (number, container) in pod.spec.containers.iter().enumerate() {
        environment(&format!("spec.containers[{number}]"), container, pod, findings);
    }
    for (number, reference) in pod.spec.image_pull_secrets.iter().enumerate() {
        let path = format!("spec.imagePullSecrets[{number}].name");
        match pod.secrets.get(&reference.name) {
            None => findings.error(&path, format!("there is no secret '{}' in the manifest", reference.name)),
            Some(data) if data.secret_type != "kubernetes.io/dockerconfigjson" => {
                findings.error(&path, "must be a secret of type kubernetes.io/dockerconfigjson");
            }
            Some(data) if !data.values.contains_key(PULL_SECRET_KEY) => {
                findings.error(&path, format!("secret '{}' has no key '{PULL_SECRET_KEY}'", reference.name));
            }
            Some(_) => {}
        }
    }
}

/// A kind of objects that hold data.
struct Kind {
    name: &'static str,
    objects: fn(&PodSpec) -> &BTreeMap<String, Data>,
}

const MAPS: Kind = Kind { name: "config map", objects: |pod| &pod.config_maps };
const SECRETS: Kind = Kind { name: "secret", objects: |pod| &pod.secrets };

impl Kind {
    fn of<'a>(&self, pod: &'a PodSpec) -> (&'static str, &'a BTreeMap<String, Data>) {
        (self.name, (self.objects)(pod))
    }
}

type OfPod<'a> = (&'static str, &'a BTreeMap<String, Data>);

fn items(path: &str, volume: &DataVolume, (kind, objects): OfPod<'_>, findings: &mut Findings) {
    let Some(data) = objects.get(&volume.name) else {
        if !volume.optional {
            findings.error(path, format!("there is no {kind} '{}' in the manifest", volume.name));
        }
        return;
    };
    for item in volume.items.iter().flatten() {
        if !volume.optional && !data.values.contains_key(&item.key) {
            findings.error(path, format!("{kind} '{}' has no key '{}'", volume.name, item.key));
        }
    }
}

fn environment(path: &str, container: &Container, pod: &PodSpec, findings: &mut Findings) {
    for (number, env) in container.env.iter().enumerate() {
        let at = format!("{path}.env[{number}].valueFrom");
        match &env.value_from {
            Some(EnvSource::ConfigMapKeyRef(reference)) => key(&at, reference, MAPS.of(pod), findings),
            Some(EnvSource::SecretKeyRef(reference)) => key(&at, reference, SECRETS.of(pod), findings),
            _ => {}
        }
    }
    for (number, from) in container.env_from.iter().enumerate() {
        let at = format!("{path}.envFrom[{number}]");
        if from.config_map_ref.is_some() == from.secret_ref.is_some() {
            findings.error(&at, "needs exactly one of configMapRef and secretRef");
        }
        for (reference, (kind, objects)) in
            [(&from.config_map_ref, MAPS.of(pod)), (&from.secret_ref, SECRETS.of(pod))]
        {
            if let Some(reference) = reference
                && !reference.optional
                && !objects.contains_key(&reference.name)
            {
                findings.error(&at, format!("there is no {kind} '{}' in the manifest", reference.name));
            }
        }
    }
}

fn key(path: &str, reference: &KeyRef, (kind, objects): OfPod<'_>, findings: &mut Findings) {
    let found = objects.get(&reference.name).is_some_and(|data| data.values.contains_key(&reference.key));
    if !found && !reference.optional {
        let what =
            format!("there is no key '{}' in a {kind} '{}' of the manifest", reference.key, reference.name);
        findings.error(path, what);
    }
}
