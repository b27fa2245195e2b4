//! The environment of a container, and the replacement of `$(NAME)`.

use super::{Context, EnvPlan, EnvValue, ImageFacts, resources};
use crate::error::Result;
use crate::pod::manifest::types::{Container, EnvSource, OptionalRef};
use crate::pod::manifest::{Data, PodSpec};
use std::collections::BTreeMap;

/// Search path where neither the image nor the manifest has one.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Kind of a container's terminal, where neither says it: what Kubernetes' runtimes set.
const DEFAULT_TERM: &str = "xterm";

/// The environment: that of the image, of `envFrom` and of `env`, in this order; the last of each name wins.
pub fn environment(
    pod: &PodSpec,
    container: &Container,
    image: &ImageFacts,
    context: &Context,
) -> Result<Vec<EnvPlan>> {
    let mut env: Vec<EnvPlan> = Vec::new();
    let mut set = |name: &str, value: EnvValue| {
        env.retain(|known| known.name != name);
        env.push(EnvPlan { name: name.to_owned(), value });
    };
    set("PATH", EnvValue::Text(DEFAULT_PATH.to_owned()));
    if container.tty {
        set("TERM", EnvValue::Text(DEFAULT_TERM.to_owned()));
    }
    for (name, value) in image.env.iter().filter_map(|pair| pair.split_once('=')) {
        set(name, EnvValue::Text(value.to_owned()));
    }
    for from in &container.env_from {
        let maps = from.config_map_ref.as_ref().map(|reference| (reference, &pod.config_maps));
        let secrets = from.secret_ref.as_ref().map(|reference| (reference, &pod.secrets));
        for (name, value) in all_of(maps.or(secrets)) {
            set(&format!("{}{name}", from.prefix), EnvValue::Text(value));
        }
    }
    for variable in &container.env {
        let value = match &variable.value_from {
            None => Some(EnvValue::Template(variable.value.clone().unwrap_or_default())),
            Some(source) => source_value(pod, container, source, context)?,
        };
        if let Some(value) = value {
            set(&variable.name, value);
        }
    }
    Ok(env)
}

/// All values of an object that are text; binary ones cannot be variables.
fn all_of(source: Option<(&OptionalRef, &BTreeMap<String, Data>)>) -> Vec<(String, String)> {
    let data = source.and_then(|(reference, objects)| objects.get(&reference.name));
    let values = data.into_iter().flat_map(|data| &data.values);
    values.filter_map(|(key, value)| Some((key.clone(), String::from_utf8(value.clone()).ok()?))).collect()
}

fn source_value(
    pod: &PodSpec,
    container: &Container,
    source: &EnvSource,
    context: &Context,
) -> Result<Option<EnvValue>> {
    let text = |data: Option<&Data>, key: &str| -> Result<Option<EnvValue>> {
        let Some(value) = data.and_then(|data| data.values.get(key)) else { return Ok(None) };
        match String::from_utf8(value.clone()) {
            Ok(text) if !text.contains('\0') => Ok(Some(EnvValue::Text(text))),
            _ => crate::bail!(InvalidManifest, "the value of key '{key}' is not text"),
        }
    };
    match source {
        EnvSource::ConfigMapKeyRef(reference) => text(pod.config_maps.get(&reference.name), &reference.key),
        EnvSource::SecretKeyRef(reference) => text(pod.secrets.get(&reference.name), &reference.key),
        EnvSource::FieldRef(field) => Ok(Some(match field.field_path.as_str() {
            "status.podIP" | "status.podIPs" => EnvValue::PodIp,
            "status.hostIP" | "status.hostIPs" => EnvValue::HostIp,
            path => EnvValue::Text(field_value(pod, path, context)),
        })),
        EnvSource::ResourceFieldRef(reference) => {
            let name = reference.container_name.as_deref().unwrap_or(&container.name);
            let value =
                resources::field(pod, name, &reference.resource, reference.divisor.as_ref(), context)?;
            Ok(Some(EnvValue::Text(value)))
        }
    }
}

/// The value of a field of the pod that is known before it runs.
pub fn field_value(pod: &PodSpec, path: &str, context: &Context) -> String {
    let metadata = &pod.metadata;
    let keyed = |prefix: &str, values: &BTreeMap<String, String>| {
        let key = path.strip_prefix(prefix)?.strip_suffix("']")?;
        Some(values.get(key).cloned().unwrap_or_default())
    };
    let lines = |values: &BTreeMap<String, String>| {
        values.iter().map(|(name, value)| format!("{name}={value:?}")).collect::<Vec<_>>().join("\n")
    };
    match path {
        "metadata.name" => metadata.name.clone(),
        "metadata.namespace" => metadata.namespace().to_owned(),
        "metadata.uid" => context.id.clone(),
        "metadata.labels" => lines(&metadata.labels),
        "metadata.annotations" => lines(&metadata.annotations),
        "spec.nodeName" => context.node_name.clone(),
        "spec.serviceAccountName" => "default".to_owned(),
        _ => keyed("metadata.labels['", &metadata.labels)
            .or_else(|| keyed("metadata.annotations['", &metadata.annotations))
            .unwrap_or_default(),
    }
}

/// Replaces each `$(NAME)` by the value of that variable; `$$` is a dollar sign, and what is not known stays.
pub fn expand(template: &str, variables: &[(String, String)]) -> String {
    let mut text = String::new();
    let mut rest = template;
    while let Some(at) = rest.find('$') {
        text += &rest[..at];
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            text.push('$');
            rest = after;
            continue;
        }
        let name = rest.strip_prefix('(').and_then(|inner| inner.split_once(')'));
        match name.and_then(|(name, after)| Some((variables.iter().rev().find(|(n, _)| n == name)?, after))) {
            Some(((_, value), after)) => {
                text += value;
                rest = after;
            }
            None => text.push('$'),
        }
    }
    text + rest
}
