//! The operator's configuration: a TOML file that can raise limits, say where things are, and forbid annotations. There is none
//! by default.

mod timeouts;

pub use timeouts::{Mirrors, Registries, Timeouts};

use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::limits::{
    ANSWER_TIMEOUT, CONTAINER_START_TIMEOUT, DEFAULT_MEMORY_BYTES, MAX_CONTAINERS, MAX_EXPANSION,
    MAX_FILES_PER_LAYER, MAX_LAYER_SIZE, MAX_LAYERS, MAX_MEMORY_BYTES, MAX_PODS, MAX_ROOTFS_SIZE,
    MAX_WASM_INSTANCES, MAX_WASM_MEMORY_PAGES, MAX_WASM_MODULE_SIZE, MAX_WASM_STORE_BYTES,
    MAX_WASM_TABLE_ELEMENTS,
};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Environment variable that names the file.
pub const CONFIG_VARIABLE: &str = "MAGIKRUN_CONFIG";
/// Where the file is looked for when the variable is not set; it may be missing there.
pub const DEFAULT_CONFIG: &str = "/etc/magikrun/config.toml";

/// The configuration.
#[derive(Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Table `[limits]`.
    pub limits: Limits,
    /// Table `[wasm]`.
    pub wasm: WasmLimits,
    /// Table `[cni]`.
    pub cni: CniConfig,
    /// Table `[pods]`.
    pub pods: PodConfig,
    /// Table `[stores]`.
    pub stores: Stores,
    /// Table `[annotations]`.
    pub annotations: Annotations,
    /// Table `[vm]`.
    pub vm: VmLimits,
    /// Table `[timeouts]`.
    pub timeouts: Timeouts,
    /// Table `[mirrors]`.
    pub mirrors: Mirrors,
}

/// Where things are kept, unless the command line or the environment says otherwise.
#[derive(Debug, Clone, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(default, deny_unknown_fields)]
pub struct Stores {
    /// State of containers and pods; none: the usual place.
    pub state: Option<PathBuf>,
    /// Images; none: the usual place.
    pub images: Option<PathBuf>,
}

/// Which annotations may change how a container is run.
#[derive(Debug, Clone, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(default, deny_unknown_fields)]
pub struct Annotations {
    /// Their names; a `*` at the end stands for anything. None: all.
    pub allowed: Option<Vec<String>>,
}

impl Annotations {
    /// Whether this one may.
    pub fn allows(&self, name: &str) -> bool {
        let Some(allowed) = &self.allowed else { return true };
        allowed.iter().any(|known| match known.strip_suffix('*') {
            Some(start) => name.starts_with(start),
            None => known == name,
        })
    }
}

/// Where the Container Network Interface is.
#[derive(Debug, Clone, Deserialize, Serialize, PartialEq, Eq)]
#[serde(default, deny_unknown_fields)]
pub struct CniConfig {
    /// Directories with the configurations of networks.
    pub config_dirs: Vec<PathBuf>,
    /// Directories with the plugins: those of the specification's examples and of Debian's package.
    pub plugin_dirs: Vec<PathBuf>,
}

impl Default for CniConfig {
    fn default() -> Self {
        Self {
            config_dirs: vec![PathBuf::from("/etc/cni/net.d")],
            plugin_dirs: vec![PathBuf::from("/opt/cni/bin"), PathBuf::from("/usr/lib/cni")],
        }
    }
}

/// What pods may have of the host.
#[derive(Debug, Clone, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(default, deny_unknown_fields)]
pub struct PodConfig {
    /// First of the user and group ids for pods with `hostUsers: false`; none: those of subuid(5).
    pub first_id: Option<u32>,
    /// How many there are.
    pub ids: Option<u32>,
}

/// What microVMs may do at most.
#[derive(Debug, Clone, Deserialize, Serialize, PartialEq, Eq)]
#[serde(default, deny_unknown_fields)]
pub struct VmLimits {
    /// How many seconds a microVM may take until its program runs; it is ended then.
    pub start_timeout: u64,
    /// How many seconds a guest that runs may take to answer. What was asked of it fails then; one that does not take a signal is ended.
    pub answer_timeout: u64,
}

impl Default for VmLimits {
    fn default() -> Self {
        Self { start_timeout: CONTAINER_START_TIMEOUT.as_secs(), answer_timeout: ANSWER_TIMEOUT.as_secs() }
    }
}

impl VmLimits {
    /// How long a guest that runs may take to answer.
    pub fn answer(&self) -> Duration {
        Duration::from_secs(self.answer_timeout)
    }
}

/// Limits that can be raised.
#[derive(Debug, Clone, Deserialize, Serialize, PartialEq, Eq)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Most containers under one state root.
    pub max_containers: usize,
    /// Most pods under one state root.
    pub max_pods: usize,
    /// Memory of a container of a bundle that we build, or of a pod, if nobody says another limit, in bytes; 0: no limit.
    pub default_memory: u64,
    /// Largest compressed layer, in bytes.
    pub max_layer_size: u64,
    /// Largest root file system of an image, in bytes.
    pub max_rootfs_size: u64,
    /// Most layers of an image.
    pub max_layers: usize,
    /// Most entries of one layer.
    pub max_files_per_layer: usize,
    /// How many times larger than itself a layer may unpack to.
    pub max_expansion: u64,
}

/// What WebAssembly modules may use at most; annotations lower it.
#[derive(Debug, Clone, Deserialize, Serialize, PartialEq, Eq)]
#[serde(default, deny_unknown_fields)]
pub struct WasmLimits {
    /// Where compiled code is kept; none: the usual place.
    pub store: Option<PathBuf>,
    /// Most bytes of compiled code that are kept.
    pub max_store_bytes: u64,
    /// Largest module, in bytes.
    pub max_module_size: u64,
    /// Most pages of 64 KiB of all memories of a program together.
    pub max_memory_pages: u64,
    /// Most elements of one table.
    pub max_table_elements: u64,
    /// Most core instances of a program, and as many tables and memories.
    pub max_instances: u64,
    /// Most units of fuel of a program; none: not counted unless an annotation says how many.
    pub fuel: Option<u64>,
}

impl Default for WasmLimits {
    fn default() -> Self {
        Self {
            store: None,
            max_store_bytes: MAX_WASM_STORE_BYTES,
            max_module_size: MAX_WASM_MODULE_SIZE,
            max_memory_pages: u64::from(MAX_WASM_MEMORY_PAGES),
            max_table_elements: MAX_WASM_TABLE_ELEMENTS,
            max_instances: MAX_WASM_INSTANCES,
            fuel: None,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_containers: MAX_CONTAINERS,
            max_pods: MAX_PODS,
            default_memory: DEFAULT_MEMORY_BYTES,
            max_layer_size: MAX_LAYER_SIZE,
            max_rootfs_size: MAX_ROOTFS_SIZE,
            max_layers: MAX_LAYERS,
            max_files_per_layer: MAX_FILES_PER_LAYER,
            max_expansion: MAX_EXPANSION,
        }
    }
}

/// A configuration, and the file that it came from.
#[derive(Debug, Default)]
pub struct Loaded {
    /// What holds.
    pub config: Config,
    /// The file with its text; none if there is no file.
    pub file: Option<(PathBuf, String)>,
}

impl Config {
    /// Reads the file that the environment names, or the default one if it exists.
    pub fn load() -> Result<Self> {
        Ok(Self::load_with_source()?.config)
    }

    /// The same, with the text that it came from.
    pub fn load_with_source() -> Result<Loaded> {
        match std::env::var_os(CONFIG_VARIABLE).filter(|path| !path.is_empty()) {
            Some(path) => Self::read(&PathBuf::from(path)),
            None => match Self::read(Path::new(DEFAULT_CONFIG)) {
                Err(e) if e.errno() == Some(libc::ENOENT) => Ok(Loaded::default()),
                config => config,
            },
        }
    }

    fn read(path: &Path) -> Result<Loaded> {
        let text = std::fs::read_to_string(path)
            .or_kind(ErrorKind::Usage, || format!("cannot read configuration '{}'", path.display()))?;
        let config = Self::parse(&text)
            .map_err(|e| e.wrap(format!("cannot parse configuration '{}'", path.display())))?;
        Ok(Loaded { config, file: Some((path.to_owned(), text)) })
    }

    fn parse(text: &str) -> Result<Self> {
        let document = toml::Deserializer::parse(text).map_err(|e| fault(text, None, &e))?;
        let config: Self = serde_path_to_error::deserialize(document)
            .map_err(|e| fault(text, Some(e.path().to_string()), e.inner()))?;
        if config.pods.first_id.is_some() != config.pods.ids.is_some() {
            return Err(Error::new(ErrorKind::Usage, "pods.first_id and pods.ids need each other"));
        }
        for path in [&config.stores.state, &config.stores.images, &config.wasm.store].into_iter().flatten() {
            if !path.is_absolute() {
                let cause = format!("the path '{}' of a store is not absolute", path.display());
                return Err(Error::new(ErrorKind::Usage, cause));
            }
        }
        if config.limits.default_memory > MAX_MEMORY_BYTES {
            let cause = format!(
                "limits.default_memory: {} is more than {MAX_MEMORY_BYTES}",
                config.limits.default_memory
            );
            return Err(Error::new(ErrorKind::Usage, cause));
        }
        Ok(config)
    }

    /// What it says of registries.
    pub fn registries(&self) -> Registries {
        Registries::new(self.mirrors.clone(), &self.timeouts)
    }
}

/// One line: where, which key, and what is wrong. The parser's own has several, with a picture of the place.
fn fault(text: &str, key: Option<String>, e: &toml::de::Error) -> Error {
    let line = e.span().map_or(1, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
    let key =
        key.filter(|key| key != "." && !key.is_empty()).map_or_else(String::new, |key| format!("{key}: "));
    Error::new(ErrorKind::Usage, format!("line {line}: {key}{}", e.message()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_can_be_raised_and_what_is_unknown_is_refused() {
        assert_eq!(Config::parse("").unwrap(), Config::default());
        let raised = Config::parse("[limits]\nmax_containers = 5000\n").unwrap();
        assert_eq!(raised.limits.max_containers, 5000);
        let moved = Config::parse("[cni]\nplugin_dirs = ['/plugins']\n").unwrap();
        assert_eq!(moved.cni.plugin_dirs, [Path::new("/plugins")]);
        assert_eq!(moved.cni.config_dirs, CniConfig::default().config_dirs);
        assert!(Config::parse("[pods]\nfirst_id = 5\n").is_err());
        assert_eq!(Config::parse("[pods]\nfirst_id = 5\nids = 7\n").unwrap().pods.ids, Some(7));
        let e = Config::parse("[limits]\nmax_container = 1\n").unwrap_err();
        assert!(e.message().starts_with("line 2: limits.max_container: unknown field"), "{e}");
    }

    #[test]
    fn faults_name_their_line_and_key() {
        for (text, start) in [
            ("[limits]\n\nmax_layers = \"many\"\n", "line 3: limits.max_layers: invalid type"),
            ("[limits]\nmax_layers = -1\n", "line 2: limits.max_layers: invalid value"),
            ("[limit]\n", "line 1: limit: unknown field `limit`"),
            ("a = [", "line 1: "),
            ("[stores]\nimages = \"here\"\n", "the path 'here' of a store is not absolute"),
            ("[limits]\ndefault_memory = 9_000_000_000\n", "limits.default_memory: 9000000000 is more than"),
            ("[timeouts]\nstart = 0\n", "line 2: timeouts.start: invalid value"),
            ("[timeouts]\npull = \"5m\"\n", "line 2: timeouts.pull: invalid type"),
            ("[mirrors]\n\"r.example\" = \"m.example\"\n", "line 2: mirrors.r.example: invalid type"),
        ] {
            let e = Config::parse(text).unwrap_err();
            assert!(e.message().starts_with(start), "{text}: {e}");
            assert_eq!(e.message().lines().count(), 1, "{e}");
        }
    }

    #[test]
    fn annotations_are_allowed_by_name_or_by_beginning() {
        let rules =
            Config::parse("[annotations]\nallowed = [\"run.oci.handler\", \"org.magikrun.wasm.*\"]\n");
        let rules = rules.unwrap().annotations;
        assert!(rules.allows("run.oci.handler") && rules.allows("org.magikrun.wasm.fuel"));
        assert!(!rules.allows("org.magikrun.backend"));
        assert!(Annotations::default().allows("anything"));
        assert!(!Annotations { allowed: Some(Vec::new()) }.allows("anything"));
    }
}
