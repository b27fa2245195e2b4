//! The configurations of networks: where they are found, and what they must be.

use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::storage::config::CniConfig;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// Versions of the specification that this program speaks, oldest first. Results before 0.3.0 have another form.
const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
/// How configurations end: a list of plugins, or one plugin.
const ENDINGS: [&str; 3] = ["conflist", "conf", "json"];

/// A network: plugins that are called one after the other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Name, unique on the host.
    pub name: String,
    /// Version of the specification by which the plugins are called.
    pub version: String,
    /// The plugins do not check.
    pub disable_check: bool,
    /// Configuration of each plugin.
    pub plugins: Vec<Map<String, Value>>,
    /// Where the plugins are looked for.
    pub directories: Vec<PathBuf>,
}

/// A list of plugins, as its file has it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct List {
    #[serde(default)]
    cni_version: String,
    #[serde(default)]
    cni_versions: Vec<String>,
    #[serde(default)]
    name: String,
    #[serde(default)]
    disable_check: bool,
    #[serde(default, rename = "loadOnlyInlinedPlugins")]
    only_inlined: bool,
    #[serde(default)]
    plugins: Vec<Map<String, Value>>,
}

impl Network {
    /// The network with this name; without one, that of the first file by name, which is the host's default.
    ///
    /// Fails with [`ErrorKind::NotSupported`] when there is none, or it is not one that could work.
    pub fn find(config: &CniConfig, name: Option<&str>) -> Result<Self> {
        let mut broken = None;
        for path in files(&config.config_dirs)? {
            match read(&path, &config.plugin_dirs) {
                Ok(network) if name.is_none_or(|name| name == network.name) => {
                    network.check().context(|| format!("cannot use CNI network '{}'", network.name))?;
                    return Ok(network);
                }
                Ok(_) => {}
                // The default may not change because its file is broken; another network may be looked for behind it.
                Err(e) if name.is_none() => return Err(e),
                Err(e) => broken = broken.or(Some(e)),
            }
        }
        let dirs: Vec<String> = config.config_dirs.iter().map(|dir| format!("'{}'", dir.display())).collect();
        let network = name.map_or("a CNI network".to_owned(), |name| format!("CNI network '{name}'"));
        let also = broken.map(|e| format!("; {e}")).unwrap_or_default();
        let message = format!("cannot find {network}: no file in {} has it{also}", dirs.join(", "));
        Err(Error::new(ErrorKind::NotSupported, message))
    }

    /// Fails when a plugin is missing, or a name is one that could lead elsewhere.
    fn check(&self) -> Result<()> {
        let simple = |name: &str| {
            name.starts_with(|c: char| c.is_ascii_alphanumeric())
                && name.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c))
        };
        if !simple(&self.name) {
            crate::bail!(NotSupported, "its name may have letters, digits and _.- only");
        }
        if !VERSIONS.contains(&self.version.as_str()) {
            crate::bail!(
                NotSupported,
                "its cniVersion is '{}', known are {}",
                self.version,
                VERSIONS.join(", ")
            );
        }
        if self.plugins.is_empty() {
            crate::bail!(NotSupported, "it has no plugins");
        }
        self.plugins.iter().try_for_each(|plugin| self.program(plugin).map(drop))
    }

    /// The program of a plugin.
    pub(super) fn program(&self, plugin: &Map<String, Value>) -> Result<PathBuf> {
        let name = plugin.get("type").and_then(Value::as_str).unwrap_or_default();
        if name.is_empty() || name.contains('/') || name.starts_with('.') {
            crate::bail!(NotSupported, "a plugin has the type '{name}'");
        }
        let found = self.directories.iter().map(|dir| dir.join(name)).find(|path| path.is_file());
        found.ok_or_else(|| {
            let dirs: Vec<String> =
                self.directories.iter().map(|dir| format!("'{}'", dir.display())).collect();
            let hint = "Debian's package containernetworking-plugins has the usual ones";
            let message = format!("plugin '{name}' is not in {} ({hint})", dirs.join(", "));
            Error::new(ErrorKind::NotSupported, message)
        })
    }

    /// True if a plugin makes ports of the host lead to the attached namespace.
    pub fn maps_ports(&self) -> bool {
        self.plugins.iter().any(|plugin| has_capability(plugin, super::call::PORT_MAPPINGS))
    }
}

/// True if a plugin wants what the runtime knows under this name.
pub(super) fn has_capability(plugin: &Map<String, Value>, name: &str) -> bool {
    plugin.get("capabilities").and_then(|all| all.get(name)).and_then(Value::as_bool) == Some(true)
}

/// The files of configurations, by their names.
fn files(directories: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for directory in directories {
        let entries = match std::fs::read_dir(directory) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            entries => entries.context(|| format!("cannot read directory '{}'", directory.display()))?,
        };
        let paths = entries.flatten().map(|entry| entry.path());
        let mut paths: Vec<PathBuf> = paths.filter(|path| ending(path).is_some() && path.is_file()).collect();
        paths.sort_unstable();
        all.extend(paths);
    }
    Ok(all)
}

fn ending(path: &Path) -> Option<&str> {
    path.extension().and_then(|ending| ending.to_str()).filter(|ending| ENDINGS.contains(ending))
}

fn read(path: &Path, directories: &[PathBuf]) -> Result<Network> {
    let cannot = || format!("cannot read CNI configuration '{}'", path.display());
    let text = std::fs::read(path).or_kind(ErrorKind::NotSupported, cannot)?;
    let value: Value = serde_json::from_slice(&text).or_kind(ErrorKind::NotSupported, cannot)?;
    let mut list = parse(value).map_err(|e| e.wrap(cannot()))?;
    if !list.only_inlined && ending(path) == Some("conflist") {
        let further = path.parent().unwrap_or(Path::new("/")).join(&list.name);
        for path in files(&[further])?.iter().filter(|path| ending(path) == Some("conf")) {
            let text = std::fs::read(path).or_kind(ErrorKind::NotSupported, cannot)?;
            list.plugins.push(serde_json::from_slice(&text).or_kind(ErrorKind::NotSupported, cannot)?);
        }
    }
    Ok(Network {
        version: version(&list),
        name: list.name,
        disable_check: list.disable_check,
        plugins: list.plugins,
        directories: directories.to_vec(),
    })
}

/// A list, or a single plugin, which is a list of one.
fn parse(mut value: Value) -> Result<List> {
    if value.get("plugins").is_none() && value.get("type").is_some() {
        let plugin = value.clone();
        if let Some(fields) = value.as_object_mut() {
            fields.insert("plugins".to_owned(), Value::Array(vec![plugin]));
        }
    }
    serde_json::from_value(value).map_err(|e| Error::new(ErrorKind::NotSupported, e.to_string()))
}

/// The newest version that the list names and that this program speaks.
fn version(list: &List) -> String {
    let newest =
        VERSIONS.iter().rev().find(|version| list.cni_versions.iter().any(|known| known == *version));
    newest.map_or_else(|| list.cni_version.clone(), |version| (*version).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(dir: &Path) -> CniConfig {
        CniConfig { config_dirs: vec![dir.join("net.d")], plugin_dirs: vec![dir.join("bin")] }
    }

    fn directory(files: &[(&str, &str)]) -> tempfile::TempDir {
        let tmp = tempfile::tempdir().unwrap();
        for directory in ["net.d/many", "bin"] {
            std::fs::create_dir_all(tmp.path().join(directory)).unwrap();
        }
        std::fs::write(tmp.path().join("bin/bridge"), "").unwrap();
        for (name, text) in files {
            std::fs::write(tmp.path().join("net.d").join(name), text).unwrap();
        }
        tmp
    }

    #[test]
    fn a_network_is_found_by_its_name_or_is_that_of_the_first_file() {
        let tmp = directory(&[
            ("20-b.conf", r#"{"cniVersion": "0.4.0", "name": "one", "type": "bridge"}"#),
            (
                "30-c.conflist",
                r#"{"cniVersion": "1.0.0", "cniVersions": ["0.4.0", "1.1.0", "9.0.0"], "name": "many", "plugins": [{"type": "bridge"}]}"#,
            ),
            ("many/further.conf", r#"{"type": "bridge", "x": 1}"#),
            ("10-a.txt", "no configuration"),
        ]);
        let first = Network::find(&config(tmp.path()), None).unwrap();
        assert_eq!((first.name.as_str(), first.version.as_str(), first.plugins.len()), ("one", "0.4.0", 1));
        let many = Network::find(&config(tmp.path()), Some("many")).unwrap();
        assert_eq!((many.version.as_str(), many.plugins.len()), ("1.1.0", 2), "the newest that both know");
        assert!(!many.maps_ports());
        let e = Network::find(&config(tmp.path()), Some("none")).unwrap_err();
        assert!(e.message().starts_with("cannot find CNI network 'none': no file in '"), "{e}");
    }

    #[test]
    fn a_network_that_cannot_work_is_refused_with_the_reason() {
        for (text, reason) in [
            (r#"{"cniVersion": "0.2.0", "name": "n", "type": "bridge"}"#, "its cniVersion is '0.2.0'"),
            (r#"{"cniVersion": "1.0.0", "name": "n", "type": "missing"}"#, "plugin 'missing' is not in"),
            (
                r#"{"cniVersion": "1.0.0", "name": "n", "type": "../bridge"}"#,
                "a plugin has the type '../bridge'",
            ),
            (r#"{"cniVersion": "1.0.0", "name": "../n", "type": "bridge"}"#, "its name may have"),
            (r#"{"cniVersion": "1.0.0", "name": "n", "plugins": []}"#, "it has no plugins"),
            ("{", "cannot read CNI configuration"),
        ] {
            let tmp = directory(&[("a.conflist", text)]);
            let e = Network::find(&config(tmp.path()), None).unwrap_err();
            assert!(e.message().contains(reason), "{e}");
        }
    }
}
