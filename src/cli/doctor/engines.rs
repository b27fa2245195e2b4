//! Checks of the programs that call this one: whether their configuration names it.

use super::check::Finding;
use super::host::Host;
use std::path::{Path, PathBuf};

/// The name that configurations have for this runtime.
const NAME: &str = "magikrun";

/// What of an engine is looked at.
struct Engine {
    /// Its name for `magikrun setup`.
    name: &'static str,
    /// Its program.
    program: &'static str,
    /// Its files of configuration.
    files: Vec<PathBuf>,
    /// The paths of the runtime that a file names; none if it does not name the runtime.
    paths: fn(&str) -> Option<Vec<String>>,
}

fn verdict(host: &Host, engine: &Engine) -> Finding {
    if host.program(engine.program).is_none() {
        return Finding::unknown(format!("{} is not installed", engine.program));
    }
    let mend = format!("magikrun setup {}", engine.name);
    let named = engine.files.iter().find_map(|file| {
        let paths = (engine.paths)(&host.text(file)?)?;
        Some((file, paths))
    });
    let Some((file, paths)) = named else {
        return Finding::missing("its configuration does not name magikrun").mend(mend);
    };
    let file = file.display();
    if paths.is_empty() || paths.iter().any(|path| host.has(path)) {
        return Finding::works(file.to_string());
    }
    Finding::missing(format!("{file} names {}, which does not exist", paths.join(" "))).mend(mend)
}

fn toml_at<'a>(document: &'a toml::Value, path: &[&str]) -> Option<&'a toml::Value> {
    path.iter().try_fold(document, |value, key| value.get(key))
}

fn words(value: &toml::Value) -> Vec<String> {
    let list = value.as_array().cloned().unwrap_or_else(|| vec![value.clone()]);
    list.iter().filter_map(|word| word.as_str().map(str::to_owned)).collect()
}

/// podman's containers.conf(5).
pub fn podman(host: &Host) -> Finding {
    let mut directories = vec![PathBuf::from("/usr/share/containers"), PathBuf::from("/etc/containers")];
    if !host.privileged {
        directories.extend(host.home.iter().map(|home| home.join(".config/containers")));
    }
    let mut files = Vec::new();
    for directory in directories {
        files.push(directory.join("containers.conf"));
        files.extend(host.files(directory.join("containers.conf.d"), ".conf"));
    }
    let paths = |text: &str| {
        let document: toml::Value = toml::from_str(text).ok()?;
        toml_at(&document, &["engine", "runtimes", NAME]).map(words)
    };
    verdict(host, &Engine { name: "podman", program: "podman", files, paths })
}

/// containerd's config.toml, of versions 2 to 4, and what it imports.
pub fn containerd(host: &Host) -> Finding {
    let main = Path::new("/etc/containerd/config.toml");
    let mut files = vec![main.to_owned()];
    files.extend(host.files("/etc/containerd/conf.d", ".toml"));
    let paths = |text: &str| {
        let document: toml::Value = toml::from_str(text).ok()?;
        let plugins = document.get("plugins")?.as_table()?;
        let runtime =
            plugins.values().find_map(|plugin| toml_at(plugin, &["containerd", "runtimes", NAME]))?;
        Some(toml_at(runtime, &["options", "BinaryName"]).map(words).unwrap_or_default())
    };
    verdict(host, &Engine { name: "containerd", program: "containerd", files, paths })
}

/// The Docker engine's daemon.json.
pub fn docker(host: &Host) -> Finding {
    let paths = |text: &str| {
        let document: serde_json::Value = serde_json::from_str(text).ok()?;
        let runtime = document.get("runtimes")?.get(NAME)?;
        Some(runtime.get("path").and_then(|path| path.as_str()).map(str::to_owned).into_iter().collect())
    };
    let files = vec![PathBuf::from("/etc/docker/daemon.json")];
    verdict(host, &Engine { name: "docker", program: "dockerd", files, paths })
}

/// CRI-O's crio.conf and what it reads beside it.
pub fn crio(host: &Host) -> Finding {
    let mut files = vec![PathBuf::from("/etc/crio/crio.conf")];
    files.extend(host.files("/etc/crio/crio.conf.d", ""));
    let paths = |text: &str| {
        let document: toml::Value = toml::from_str(text).ok()?;
        let runtime = toml_at(&document, &["crio", "runtime", "runtimes", NAME])?;
        Some(runtime.get("runtime_path").map(words).unwrap_or_default())
    };
    verdict(host, &Engine { name: "crio", program: "crio", files, paths })
}
