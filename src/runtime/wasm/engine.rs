//! The engine: one way to configure wasmtime, for compiling and for running.

use super::settings::CodeSettings;
use crate::error::{Error, ErrorKind, Result};
use crate::storage::blobs::{self, Digest};
use std::hash::{Hash as _, Hasher};
use wasmtime::{Config, Engine};

/// Address space that is reserved for a memory where there is little, in bytes; it moves when it outgrows that.
const SMALL_RESERVATION: u64 = 16 << 20;
/// Size of a guard where there is little address space, in bytes.
const SMALL_GUARD: u64 = 64 << 10;

/// Version of what is stored for a module; a new one makes all older entries unknown.
const FORMAT: &str = "magikrun wasm 1";

/// An engine that compiles.
pub fn compiling(code: CodeSettings) -> Result<Engine> {
    make(&config(code))
}

/// An engine that only runs what was compiled.
pub fn running(code: CodeSettings) -> Result<Engine> {
    let mut config = config(code);
    config.enable_compiler(false);
    make(&config)
}

fn make(config: &Config) -> Result<Engine> {
    Engine::new(config).map_err(|e| {
        Error::new(ErrorKind::RuntimeUnavailable, format!("cannot make a WebAssembly engine: {e:#}"))
    })
}

fn config(code: CodeSettings) -> Config {
    let mut config = Config::new();
    config.consume_fuel(code.fuel).epoch_interruption(code.epochs);
    #[cfg(feature = "wasi-p3")]
    config.wasm_component_model_async(true);
    // For debuggers and for offsets in backtraces; nobody looks at either, and both make the code larger.
    config.native_unwind_info(false).generate_address_map(false);
    if code.small {
        config.memory_reservation(SMALL_RESERVATION).memory_reservation_for_growth(0);
        config.memory_guard_size(SMALL_GUARD);
    }
    config
}

/// The key under which the code of a module is stored: it is another one for every version of the engine, every setting that
/// has a part in the code, and every set of processor features.
pub fn key(engine: &Engine, module: &Digest) -> Digest {
    let mut hash = Keyed(blobs::Hasher::default());
    FORMAT.hash(&mut hash);
    engine.precompile_compatibility_hash().hash(&mut hash);
    module.hash(&mut hash);
    hash.0.finish()
}

/// SHA-256 as the standard library's kind of hasher.
struct Keyed(blobs::Hasher);

impl Hasher for Keyed {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        // Nobody asks for it: what is wanted is all of the digest.
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_depends_on_the_module_and_on_every_setting() {
        let modules = [Digest::of(b"one"), Digest::of(b"two")];
        let mut keys = std::collections::HashSet::new();
        for fuel in [false, true] {
            for epochs in [false, true] {
                for small in [false, true] {
                    let engine = compiling(CodeSettings { fuel, epochs, small }).unwrap();
                    keys.extend(modules.iter().map(|module| key(&engine, module)));
                }
            }
        }
        assert_eq!(keys.len(), 16);
        let engine = compiling(CodeSettings::default()).unwrap();
        assert_eq!(key(&engine, &modules[0]), key(&compiling(CodeSettings::default()).unwrap(), &modules[0]));
    }
}
