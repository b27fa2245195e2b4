//! The bundle's configuration: the little that the server needs of it.

use crate::error::{Context as _, Error, Result};
use serde::Deserialize;
use std::collections::HashMap;
use std::path::Path;

/// Annotations that name the group of containers which share a server: containerd's own, and the pod of the CRI.
const GROUPS: [&str; 2] = ["io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id"];
/// What a container is in a pod; `sandbox` is the one that holds the pod's namespaces.
const KIND: &str = "io.kubernetes.cri.container-type";
/// Selects the backend.
const BACKEND: &str = "org.magikrun.backend";
/// Largest configuration that is read, in bytes.
const SIZE_LIMIT: u64 = 16 * 1024 * 1024;

/// A part of `config.json`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Config {
    annotations: HashMap<String, String>,
    linux: Linux,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Linux {
    namespaces: Vec<Namespace>,
}

#[derive(Debug, Deserialize)]
struct Namespace {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    path: String,
}

fn read(bundle: &Path) -> Result<Vec<u8>> {
    let path = bundle.join("config.json");
    let read = || {
        let file = std::fs::File::open(&path)?;
        let mut data = Vec::new();
        std::io::Read::read_to_end(&mut std::io::Read::take(file, SIZE_LIMIT), &mut data)?;
        Ok::<_, std::io::Error>(data)
    };
    read().context(|| format!("cannot read '{}'", path.display()))
}

impl Config {
    /// Reads the configuration of a bundle.
    pub fn read(bundle: &Path) -> Result<Self> {
        serde_json::from_slice(&read(bundle)?).context(|| "cannot read 'config.json'")
    }

    /// The group whose server this container belongs to, if it has one.
    pub fn group(&self) -> Option<&str> {
        GROUPS.iter().find_map(|name| self.annotations.get(*name)).map(String::as_str)
    }

    /// Whether the end of the first process leaves the others alive: without a pid namespace of its own.
    pub fn shares_pids(&self) -> bool {
        !self.linux.namespaces.iter().any(|namespace| namespace.kind == "pid" && namespace.path.is_empty())
    }

    /// Whether the backend of the runtime's options applies: not if the container says otherwise, nor to one that
    /// holds a pod's namespaces, which is an ordinary program in any pod.
    fn takes_backend(&self) -> bool {
        !self.annotations.contains_key(BACKEND)
            && self.annotations.get(KIND).is_none_or(|kind| kind != "sandbox")
    }
}

/// Writes the backend that the options name into the configuration of a bundle.
pub fn set_backend(bundle: &Path, config: &Config, backend: &str) -> Result<()> {
    if backend.is_empty() || !config.takes_backend() {
        return Ok(());
    }
    let mut value: serde_json::Value = serde_json::from_slice(&read(bundle)?)?;
    let annotations = value
        .as_object_mut()
        .ok_or_else(|| Error::invalid("cannot read 'config.json': it is not an object"))?
        .entry("annotations")
        .or_insert_with(|| serde_json::json!({}));
    annotations[BACKEND] = backend.into();
    let path = bundle.join("config.json");
    let new = bundle.join(".config.json.new");
    std::fs::write(&new, value.to_string())
        .and_then(|()| std::fs::rename(&new, &path))
        .context(|| format!("cannot write '{}'", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Config {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn containers_of_a_pod_are_in_its_group() {
        let pod = config(r#"{"annotations": {"io.kubernetes.cri.sandbox-id": "p", "x": "y"}}"#);
        assert_eq!(pod.group(), Some("p"));
        assert_eq!(config("{}").group(), None);
    }

    #[test]
    fn only_a_pid_namespace_of_its_own_ends_with_the_first_process() {
        let shares = |namespaces: &str| {
            config(&format!(r#"{{"linux": {{"namespaces": [{namespaces}]}}}}"#)).shares_pids()
        };
        assert!(!shares(r#"{"type": "pid"}"#));
        assert!(shares(r#"{"type": "pid", "path": "/proc/1/ns/pid"}"#));
        assert!(shares(r#"{"type": "network"}"#));
    }

    #[test]
    fn the_backend_of_the_options_is_for_containers_that_say_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let backend = |text: &str| {
            std::fs::write(folder.path().join("config.json"), text).unwrap();
            set_backend(folder.path(), &config(text), "wasm").unwrap();
            Config::read(folder.path()).unwrap().annotations.get(BACKEND).cloned()
        };
        assert_eq!(backend("{}").as_deref(), Some("wasm"));
        let kind = |kind: &str| backend(&format!(r#"{{"annotations": {{"{KIND}": "{kind}"}}}}"#));
        assert_eq!((kind("container").as_deref(), kind("sandbox")), (Some("wasm"), None));
        assert_eq!(
            backend(&format!(r#"{{"annotations": {{"{BACKEND}": "krun"}}}}"#)).as_deref(),
            Some("krun")
        );
    }
}
