//! From a module in a bundle to a program that can run: found, read, compiled or taken from the store.

use super::linked::linked;
use super::settings::Settings;
use super::source::Source;
use super::store::{Store, Stored};
use super::{compile, engine};
use crate::error::{Error, ErrorKind, Result};
use crate::platform::memory;
use crate::storage::blobs::Digest;
use crate::storage::config::WasmLimits;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::path::{Path, PathBuf};
use wasmtime::Engine;

/// What kind of program a module is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A core module of WASI preview 1 with a `_start` function.
    Command,
    /// A component of the world `wasi:cli/command`.
    Component,
    /// A component of the world `wasi:http/proxy`.
    Proxy,
}

/// A program that is ready to run.
#[derive(Debug)]
pub struct Program {
    /// Path of the module in the container.
    pub path: PathBuf,
    /// What it is.
    pub kind: Kind,
    /// Open on its code.
    pub code: File,
    /// What was decided about it.
    pub settings: Settings,
}

/// The store that the operator's configuration names, or the usual one of this user.
pub fn store(config: &WasmLimits) -> Store {
    let root = config.store.clone().unwrap_or_else(default_store);
    Store::new(root, config.max_store_bytes)
}

fn default_store() -> PathBuf {
    let var = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if rustix::process::geteuid().is_root() && var("XDG_DATA_HOME").is_none() {
        return PathBuf::from("/var/lib/magikrun/wasm");
    }
    let data = var("XDG_DATA_HOME").or_else(|| var("HOME").map(|home| home.join(".local/share")));
    // Without a home there is no place; what is compiled is then not kept, since this directory cannot be made.
    data.map_or_else(|| PathBuf::from("/nonexistent"), |data| data.join("magikrun/wasm"))
}

impl Program {
    /// Prepares a module for a process that is about to be made: compiles it in a process of its own if it is not in the
    /// store, for this one must stay single-threaded.
    pub fn prepare(config: &WasmLimits, settings: Settings, source: &Source) -> Result<Self> {
        (linked()?.prepare)(config, settings, source)
    }

    /// Prepares a module for this process, which may have several threads.
    pub fn prepare_here(config: &WasmLimits, settings: Settings, source: &Source) -> Result<Self> {
        Self::with(compile::here, config, settings, source)
    }

    fn with(compile: Compiler, config: &WasmLimits, settings: Settings, source: &Source) -> Result<Self> {
        let what = source.path.display().to_string();
        let (code, kind) = obtain(compile, &store(config), source, &what, &settings)?;
        if settings.http.is_some() != (kind == Kind::Proxy) {
            crate::bail!(InvalidBundle, "cannot run '{what}': {}", mismatch(kind));
        }
        Ok(Self { path: source.path.clone(), kind, code, settings })
    }
}

/// What [`Program::prepare`] does in a program that has wasmtime.
pub(super) fn prepare_apart(config: &WasmLimits, settings: Settings, source: &Source) -> Result<Program> {
    Program::with(compile::apart, config, settings, source)
}

fn mismatch(kind: Kind) -> String {
    use super::settings::HTTP;
    match kind {
        Kind::Proxy => format!("it serves HTTP: the annotation {HTTP} must say on which address"),
        Kind::Command => {
            format!("{HTTP} needs a component of the world wasi:http/proxy, and this is a core module")
        }
        Kind::Component => {
            format!("{HTTP} needs a component of the world wasi:http/proxy, and this is a command")
        }
    }
}

/// Compiles a module, whose name for messages is the last argument, into a file in memory.
type Compiler = fn(&Engine, &[u8], &str) -> Result<(File, Kind)>;

fn obtain(
    compile: Compiler,
    store: &Store,
    source: &Source,
    what: &str,
    settings: &Settings,
) -> Result<(File, Kind)> {
    let engine = engine::compiling(settings.code)?;
    let limit = settings.limits.module_size;
    let metadata = source.metadata()?;
    if metadata.len() <= limit
        && let Some(digest) = store.known(&metadata)
        && let Some(Stored { code, kind }) = store.get(&engine::key(&engine, &digest))
    {
        return Ok((code, kind));
    }
    let bytes = source.read(limit)?;
    let digest = Digest::of(&bytes);
    let key = engine::key(&engine, &digest);
    let found = compiled(compile, store, &engine, &key, &bytes, what)?;
    store.remember(&metadata, &digest);
    Ok(found)
}

/// The code of a module: from the store, or compiled and kept there.
fn compiled(
    compile: Compiler,
    store: &Store,
    engine: &Engine,
    key: &Digest,
    bytes: &[u8],
    what: &str,
) -> Result<(File, Kind)> {
    if let Some(Stored { code, kind }) = store.get(key) {
        return Ok((code, kind));
    }
    // One compiles, the others wait for what it stores.
    let _lock = store.lock(key);
    if let Some(Stored { code, kind }) = store.get(key) {
        return Ok((code, kind));
    }
    let (code, kind) = compile(engine, bytes, what)?;
    if let Err(e) = read(&code).and_then(|code| store.put(key, &code, kind)) {
        tracing::warn!("the compiled code of '{what}' is not kept: {e}");
    }
    if let Some(Stored { code, kind }) = store.get(key) {
        return Ok((code, kind));
    }
    Ok((memory::seal(code)?, kind))
}

/// Compiles a module into the store of this user, so that its first start is as fast as any, in a container of its own and in a pod of
/// modules. A process of its own with several threads does it.
///
/// Returns false if it was there already. `what` is how messages call it.
pub fn precompile(config: &WasmLimits, bytes: &[u8], what: &str) -> Result<bool> {
    if bytes.len() as u64 > config.max_module_size {
        crate::bail!(
            InvalidBundle,
            "cannot compile '{what}': it has more than {} bytes",
            config.max_module_size
        );
    }
    let mut settings = Settings::from_spec(&oci_spec::runtime::Spec::default(), config)?;
    settings.code.epochs = true;
    let (kind, new) = keep(config, &settings, bytes, what)?;
    if kind == Kind::Proxy {
        // What serves is interrupted wherever it runs.
        return Ok(new);
    }
    settings.code.epochs = false;
    keep(config, &settings, bytes, what).map(|(_, other)| new || other)
}

/// What kind of program a module is, whose code is in the store now; and whether it was not before.
fn keep(config: &WasmLimits, settings: &Settings, bytes: &[u8], what: &str) -> Result<(Kind, bool)> {
    let engine = engine::compiling(settings.code)?;
    let key = engine::key(&engine, &Digest::of(bytes));
    let store = store(config);
    if let Some(Stored { kind, .. }) = store.get(&key) {
        return Ok((kind, false));
    }
    let (code, kind) = compile::apart(&engine, bytes, what)?;
    store.put(&key, &read(&code)?, kind)?;
    Ok((kind, true))
}

/// All of a file in memory.
fn read(file: &File) -> Result<Vec<u8>> {
    use std::os::fd::AsRawFd as _;
    Ok(std::fs::read(format!("/proc/self/fd/{}", file.as_raw_fd()))?)
}

/// [`precompile`] for a file.
pub fn precompile_file(config: &WasmLimits, path: &Path) -> Result<bool> {
    let bytes = std::fs::read(path).map_err(|e| {
        Error::from(e).wrap(format!("cannot read '{}'", path.display())).with_kind(ErrorKind::InvalidBundle)
    })?;
    precompile(config, &bytes, &path.display().to_string())
}
