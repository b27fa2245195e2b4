//! What annotations and the operator's configuration say about a module: pure decisions.
//!
//! An annotation can lower a limit as it likes, and raise it up to what the operator's configuration allows.

use crate::error::Result;
use crate::limits::DEFAULT_WASM_FUEL;
use crate::storage::config::WasmLimits;
use oci_spec::runtime::Spec;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::str::FromStr;

/// Most units of fuel: operations, as wasmtime counts them.
pub const FUEL: &str = "org.magikrun.wasm.fuel";
/// Largest module, in bytes.
pub const MODULE_SIZE: &str = "org.magikrun.wasm.max-module-size";
/// Most pages of 64 KiB of all memories together.
pub const MEMORY_PAGES: &str = "org.magikrun.wasm.max-memory-pages";
/// Most elements of one table.
pub const TABLE_ELEMENTS: &str = "org.magikrun.wasm.max-table-elements";
/// Most core instances, and as many tables and memories.
pub const INSTANCES: &str = "org.magikrun.wasm.max-instances";
/// Which sockets a component may use.
pub const SOCKETS: &str = "org.magikrun.wasm.sockets";
/// The address that a `wasi:http/proxy` component is served on.
pub const HTTP: &str = "org.magikrun.wasm.http";

/// All annotations of this backend.
pub const ANNOTATIONS: [&str; 7] =
    [FUEL, MODULE_SIZE, MEMORY_PAGES, TABLE_ELEMENTS, INSTANCES, SOCKETS, HTTP];

/// Below this limit of the address space a memory of 4 GiB is not reserved at once, which costs speed: twice what
/// wasmtime reserves for one memory and its guards.
const ROOMY_ADDRESS_SPACE: u64 = 16 << 30;

/// What code is generated: a part of the key under which it is stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CodeSettings {
    /// The code counts its operations.
    pub fuel: bool,
    /// The code looks at a counter that a thread or a timer raises to interrupt it.
    pub epochs: bool,
    /// The code makes do with little address space.
    pub small: bool,
}

/// Limits of one program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Largest module, in bytes.
    pub module_size: u64,
    /// Most pages of 64 KiB of all memories together.
    pub memory_pages: u64,
    /// Most elements of one table.
    pub table_elements: u64,
    /// Most core instances, memories and tables, each.
    pub instances: u64,
    /// Most units of fuel; none: not counted.
    pub fuel: Option<u64>,
}

impl Limits {
    /// What the operator's configuration allows.
    pub fn of(config: &WasmLimits) -> Self {
        Self {
            module_size: config.max_module_size,
            memory_pages: config.max_memory_pages,
            table_elements: config.max_table_elements,
            instances: config.max_instances,
            fuel: config.fuel,
        }
    }
}

/// Which sockets a component may use, in the network of its container.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sockets {
    /// TCP.
    pub tcp: bool,
    /// UDP.
    pub udp: bool,
}

/// Everything that is decided about a program before its module is looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Code generation.
    pub code: CodeSettings,
    /// Limits.
    pub limits: Limits,
    /// Sockets.
    pub sockets: Sockets,
    /// Address to serve HTTP on.
    pub http: Option<SocketAddr>,
}

impl Settings {
    /// Reads the annotations of a configuration.
    pub fn from_spec(spec: &Spec, config: &WasmLimits) -> Result<Self> {
        let none = HashMap::new();
        let annotations = spec.annotations().as_ref().unwrap_or(&none);
        let mut settings = Self::from_annotations(annotations, config)?;
        settings.code.small = address_space(spec).is_some_and(|bytes| bytes < ROOMY_ADDRESS_SPACE);
        Ok(settings)
    }

    /// The settings for a further process of a container: without an address, which is that of the first.
    pub fn for_exec(spec: &Spec, config: &WasmLimits) -> Result<Self> {
        let mut settings = Self { http: None, ..Self::from_spec(spec, config)? };
        settings.code.epochs = false;
        Ok(if spec.linux().is_none() { settings.without_cgroup() } else { settings })
    }

    /// The settings for a program whose processor time no cgroup limits: its operations are counted.
    #[must_use]
    pub fn without_cgroup(mut self) -> Self {
        self.limits.fuel.get_or_insert(DEFAULT_WASM_FUEL);
        self.code.fuel = true;
        self
    }

    fn from_annotations(annotations: &HashMap<String, String>, config: &WasmLimits) -> Result<Self> {
        let most = Limits::of(config);
        let within = |name: &str, setting: &str, most: u64| -> Result<u64> {
            let Some(wanted) = parse::<u64>(annotations, name)? else { return Ok(most) };
            if wanted > most {
                crate::bail!(
                    InvalidBundle,
                    "annotations: {name}: {wanted} is more than {most}, which wasm.{setting} in the operator's configuration allows"
                );
            }
            Ok(wanted)
        };
        let limits = Limits {
            module_size: within(MODULE_SIZE, "max_module_size", most.module_size)?,
            memory_pages: within(MEMORY_PAGES, "max_memory_pages", most.memory_pages)?,
            table_elements: within(TABLE_ELEMENTS, "max_table_elements", most.table_elements)?,
            instances: within(INSTANCES, "max_instances", most.instances)?,
            fuel: match most.fuel {
                Some(most) => Some(within(FUEL, "fuel", most)?),
                None => parse(annotations, FUEL)?,
            },
        };
        let sockets = parse(annotations, SOCKETS)?.unwrap_or_default();
        let http = parse(annotations, HTTP)?;
        let code = CodeSettings { fuel: limits.fuel.is_some(), epochs: http.is_some(), small: false };
        Ok(Self { code, limits, sockets, http })
    }
}

/// Whether the value of an annotation can be understood, whatever the operator allows; if not, why.
pub fn check(name: &str, value: &str) -> Result<(), String> {
    fn as_a<T: FromStr<Err: std::fmt::Display>>(value: &str) -> Result<(), String> {
        value.parse::<T>().map(drop).map_err(|e| e.to_string())
    }
    match name {
        SOCKETS => as_a::<Sockets>(value),
        HTTP => as_a::<SocketAddr>(value),
        _ => as_a::<u64>(value),
    }
}

impl FromStr for Sockets {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "none" => Ok(Self::default()),
            "tcp" => Ok(Self { tcp: true, udp: false }),
            "udp" => Ok(Self { tcp: false, udp: true }),
            "all" => Ok(Self { tcp: true, udp: true }),
            _ => Err("must be none, tcp, udp or all"),
        }
    }
}

fn parse<T: FromStr<Err: std::fmt::Display>>(
    annotations: &HashMap<String, String>,
    name: &str,
) -> Result<Option<T>> {
    let Some(text) = annotations.get(name) else { return Ok(None) };
    match text.parse() {
        Ok(value) => Ok(Some(value)),
        Err(e) => crate::bail!(InvalidBundle, "annotations: {name}: cannot use '{text}': {e}"),
    }
}

/// The limit of the address space that the configuration sets, in bytes.
fn address_space(spec: &Spec) -> Option<u64> {
    use oci_spec::runtime::{PosixRlimit, PosixRlimitType};
    let limits = spec.process().as_ref()?.rlimits().as_ref()?;
    limits.iter().find(|limit| limit.typ() == PosixRlimitType::RlimitAs).map(PosixRlimit::soft)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(pairs: &[(&str, &str)], config: &WasmLimits) -> Result<Settings> {
        let annotations = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Settings::from_annotations(&annotations, config)
    }

    #[test]
    fn annotations_lower_limits_and_raise_them_only_as_far_as_the_operator_allows() {
        let config = WasmLimits::default();
        let settings = with(&[], &config).unwrap();
        assert_eq!(settings.limits, Limits::of(&config));
        assert_eq!((settings.limits.fuel, settings.code.fuel), (None, false));
        let settings = with(&[(MEMORY_PAGES, "16"), (FUEL, "1000")], &config).unwrap();
        assert_eq!((settings.limits.memory_pages, settings.limits.fuel), (16, Some(1000)));
        assert!(settings.code.fuel);
        let e = with(&[(MEMORY_PAGES, "70000")], &config).unwrap_err();
        assert!(e.message().contains("wasm.max_memory_pages"), "{e}");
        let raised = WasmLimits { max_memory_pages: 100_000, fuel: Some(50), ..config };
        assert_eq!(with(&[(MEMORY_PAGES, "70000")], &raised).unwrap().limits.memory_pages, 70_000);
        assert_eq!(with(&[], &raised).unwrap().limits.fuel, Some(50));
        assert!(with(&[(FUEL, "51")], &raised).unwrap_err().message().contains("wasm.fuel"));
    }

    #[test]
    fn what_cannot_be_understood_is_named() {
        for (name, value) in [(FUEL, "lots"), (INSTANCES, "-1"), (SOCKETS, "yes"), (HTTP, "localhost")] {
            let e = with(&[(name, value)], &WasmLimits::default()).unwrap_err();
            assert!(e.message().contains(name) && e.message().contains(value), "{e}");
        }
    }

    #[test]
    fn sockets_and_the_address_are_read() {
        let settings = with(&[(SOCKETS, "tcp"), (HTTP, "0.0.0.0:80")], &WasmLimits::default()).unwrap();
        assert_eq!(settings.sockets, Sockets { tcp: true, udp: false });
        assert_eq!(settings.http, Some("0.0.0.0:80".parse().unwrap()));
    }
}
