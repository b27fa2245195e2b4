//! The bundle's configuration: the little that the server needs of it.

use crate::error::{Context as _, Error, Result};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Annotations that name the group of containers which share a server: containerd's own, and the pod of the CRI.
const GROUPS: [&str; 2] = ["io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id"];
/// What a container is in a pod; `sandbox` is the one that holds the pod's namespaces.
const KIND: &str = "io.kubernetes.cri.container-type";
/// Selects the backend.
const BACKEND: &str = "org.magikrun.backend";
/// The backend of which the containers of a pod share one.
const MICROVM: &str = "krun";
/// Largest configuration that is read, in bytes.
const SIZE_LIMIT: u64 = 16 * 1024 * 1024;

/// A part of `config.json`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Config {
    annotations: HashMap<String, String>,
    linux: Linux,
}

/// A file or directory that the containers of a pod share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedFile {
    /// Where it is on the host.
    pub source: PathBuf,
    /// Where containers see it.
    pub destination: &'static str,
}

/// What a container gets beside what its bundle says.
#[derive(Debug, Clone, Copy)]
pub struct Additions<'a> {
    /// The backend; empty for none.
    pub backend: &'a str,
    /// Files of its pod.
    pub files: &'a [SharedFile],
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Linux {
    namespaces: Vec<Namespace>,
    cgroups_path: String,
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
    /// Whether a bundle has a configuration.
    pub fn exists(bundle: &Path) -> bool {
        bundle.join("config.json").exists()
    }

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

    /// Whether the cgroup is named as a unit of systemd: a slice, a prefix and a name. The CRI does so for pods below a slice, and not every
    /// containerd hands an option on that says it.
    pub fn names_unit(&self) -> bool {
        let parts: Vec<&str> = self.linux.cgroups_path.split(':').collect();
        parts.len() == 3 && parts[0].ends_with(".slice") && !parts[2].is_empty()
    }

    /// Whether the backend of the runtime's options applies: not if the container says otherwise, nor to one that holds a pod's
    /// namespaces, which is an ordinary program in any pod but that of a microVM, which it is then.
    fn takes_backend(&self, backend: &str) -> bool {
        !self.annotations.contains_key(BACKEND)
            && (backend == MICROVM || self.annotations.get(KIND).is_none_or(|kind| kind != "sandbox"))
    }
}

/// Writes what a container gets beside into the configuration of its bundle.
pub fn complete(bundle: &Path, config: &Config, additions: Additions<'_>) -> Result<()> {
    let backend = if config.takes_backend(additions.backend) { additions.backend } else { "" };
    if backend.is_empty() && additions.files.is_empty() {
        return Ok(());
    }
    let mut value: Value = serde_json::from_slice(&read(bundle)?)?;
    let object = value
        .as_object_mut()
        .ok_or_else(|| Error::invalid("cannot read 'config.json': it is not an object"))?;
    if !backend.is_empty() {
        object.entry("annotations").or_insert_with(|| json!({}))[BACKEND] = backend.into();
    }
    if let Some(mounts) = object.entry("mounts").or_insert_with(|| json!([])).as_array_mut() {
        additions.files.iter().for_each(|file| add_file(mounts, file));
    }
    let path = bundle.join("config.json");
    let new = bundle.join(".config.json.new");
    std::fs::write(&new, value.to_string())
        .and_then(|()| std::fs::rename(&new, &path))
        .context(|| format!("cannot write '{}'", path.display()))
}

/// Mounts a file of the pod in place of a file system of the container's own, but not of what somebody else has bound there.
fn add_file(mounts: &mut Vec<Value>, file: &SharedFile) {
    let is_there = |mount: &Value| mount["destination"] == file.destination;
    let is_bind = |mount: &Value| {
        let options = mount["options"].as_array().into_iter().flatten();
        mount["type"] == "bind" || options.into_iter().any(|option| option == "bind" || option == "rbind")
    };
    if mounts.iter().any(|mount| is_there(mount) && is_bind(mount)) {
        return;
    }
    mounts.retain(|mount| !is_there(mount));
    mounts.push(json!({
        "destination": file.destination,
        "type": "bind",
        "source": file.source,
        "options": ["rbind", "rprivate", "rw"],
    }));
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
    fn a_slice_a_prefix_and_a_name_are_for_systemd() {
        let of = |path: &str| config(&format!(r#"{{"linux": {{"cgroupsPath": "{path}"}}}}"#)).names_unit();
        assert!(of("kubepods-besteffort-podx.slice:cri-containerd:0a"));
        for path in
            ["", "/kubepods/podx/0a", "/a.slice/0a", "a:b:c", "a.slice:b", "a.slice:b:", "a.slice:b:c:d"]
        {
            assert!(!of(path), "{path}");
        }
        assert!(!config("{}").names_unit());
    }

    #[test]
    fn the_backend_of_the_options_is_for_containers_that_say_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let of = |backend: &str, text: &str| {
            std::fs::write(folder.path().join("config.json"), text).unwrap();
            let additions = Additions { backend, files: &[] };
            complete(folder.path(), &config(text), additions).unwrap();
            Config::read(folder.path()).unwrap().annotations.get(BACKEND).cloned()
        };
        assert_eq!(of("wasm", "{}").as_deref(), Some("wasm"));
        let annotated = |kind: &str| format!(r#"{{"annotations": {{"{KIND}": "{kind}"}}}}"#);
        assert_eq!(of("wasm", &annotated("container")).as_deref(), Some("wasm"));
        assert_eq!(of("wasm", &annotated("sandbox")), None);
        assert_eq!(of(MICROVM, &annotated("sandbox")).as_deref(), Some(MICROVM));
        assert_eq!(
            of("wasm", &format!(r#"{{"annotations": {{"{BACKEND}": "krun"}}}}"#)).as_deref(),
            Some("krun")
        );
    }

    #[test]
    fn files_of_a_pod_take_the_place_of_what_is_not_bound() {
        let file = SharedFile { source: "/pod/shm".into(), destination: "/dev/shm" };
        let sources = |text: &str| {
            let mut mounts: Vec<Value> = serde_json::from_str(text).unwrap();
            add_file(&mut mounts, &file);
            let source = |mount: &Value| mount["source"].as_str().unwrap().to_owned();
            mounts.iter().map(source).collect::<Vec<_>>()
        };
        assert_eq!(sources("[]"), ["/pod/shm"]);
        let mount =
            |kind: &str| format!(r#"[{{"destination": "/dev/shm", "type": "{kind}", "source": "x"}}]"#);
        assert_eq!(sources(&mount("tmpfs")), ["/pod/shm"]);
        assert_eq!(sources(&mount("bind")), ["x"]);
        let bound = r#"[{"destination": "/dev/shm", "source": "y", "options": ["ro", "rbind"]}]"#;
        assert_eq!(sources(bound), ["y"]);
    }
}
