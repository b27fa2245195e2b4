//! The operator's configuration: a TOML file that can raise limits. There is none by default.

use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::limits::{
    MAX_CONTAINERS, MAX_EXPANSION, MAX_FILES_PER_LAYER, MAX_LAYER_SIZE, MAX_LAYERS, MAX_ROOTFS_SIZE,
    MAX_WASM_INSTANCES, MAX_WASM_MEMORY_PAGES, MAX_WASM_MODULE_SIZE, MAX_WASM_STORE_BYTES,
    MAX_WASM_TABLE_ELEMENTS,
};
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// Environment variable that names the file.
pub const CONFIG_VARIABLE: &str = "MAGIKRUN_CONFIG";
/// Where the file is looked for when the variable is not set; it may be missing there.
pub const DEFAULT_CONFIG: &str = "/etc/magikrun/config.toml";

/// The configuration.
#[derive(Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Table `[limits]`.
    pub limits: Limits,
    /// Table `[wasm]`.
    pub wasm: WasmLimits,
}

/// Limits that can be raised.
#[derive(Debug, Clone, Deserialize, PartialEq, Eq)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Most containers under one state root.
    pub max_containers: usize,
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
#[derive(Debug, Clone, Deserialize, PartialEq, Eq)]
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
            max_layer_size: MAX_LAYER_SIZE,
            max_rootfs_size: MAX_ROOTFS_SIZE,
            max_layers: MAX_LAYERS,
            max_files_per_layer: MAX_FILES_PER_LAYER,
            max_expansion: MAX_EXPANSION,
        }
    }
}

impl Config {
    /// Reads the file that the environment names, or the default one if it exists.
    pub fn load() -> Result<Self> {
        match std::env::var_os(CONFIG_VARIABLE).filter(|path| !path.is_empty()) {
            Some(path) => Self::read(&PathBuf::from(path)),
            None => match Self::read(Path::new(DEFAULT_CONFIG)) {
                Err(e) if e.errno() == Some(libc::ENOENT) => Ok(Self::default()),
                config => config,
            },
        }
    }

    fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .or_kind(ErrorKind::Usage, || format!("cannot read configuration '{}'", path.display()))?;
        Self::parse(&text).map_err(|e| e.wrap(format!("cannot parse configuration '{}'", path.display())))
    }

    fn parse(text: &str) -> Result<Self> {
        // The parser's message has several lines: the place with a picture of it, and the fault.
        toml::from_str(text).map_err(|e| {
            let line =
                e.span().map_or(1, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
            Error::new(ErrorKind::Usage, format!("line {line}: {}", e.message()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_can_be_raised_and_what_is_unknown_is_refused() {
        assert_eq!(Config::parse("").unwrap(), Config::default());
        let raised = Config::parse("[limits]\nmax_containers = 5000\n").unwrap();
        assert_eq!(raised.limits.max_containers, 5000);
        let e = Config::parse("[limits]\nmax_container = 1\n").unwrap_err();
        assert!(e.message().starts_with("line 2: unknown field `max_container`"), "{e}");
    }
}
