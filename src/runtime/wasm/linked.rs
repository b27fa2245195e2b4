//! Whether this program can run WebAssembly. The linker leaves out what nothing names, and wasmtime is most of a program that has it; so
//! what compiles and runs modules is named in [`link`] alone, and whoever needs it asks here.
//!
//! The program with libkrun does not link it: it never runs a module, and a machine that a hostile guest is in has no use for a compiler.

use super::program::{Program, precompile, prepare_apart};
use super::runner;
use super::settings::Settings;
use super::source::Source;
use crate::error::{Error, ErrorKind, Result};
use crate::storage::config::WasmLimits;
use std::sync::OnceLock;

/// What needs wasmtime.
#[derive(Debug)]
pub struct Linked {
    /// [`Program::prepare`].
    pub prepare: fn(&WasmLimits, Settings, &Source) -> Result<Program>,
    /// [`precompile`].
    pub precompile: fn(&WasmLimits, &[u8], &str) -> Result<bool>,
    /// [`runner::main`].
    pub run: fn() -> Option<u8>,
}

static LINKED: OnceLock<Linked> = OnceLock::new();

/// Links it. What this program does later can run modules.
pub fn link() {
    LINKED.get_or_init(|| Linked { prepare: prepare_apart, precompile, run: runner::main });
}

/// What was linked.
pub fn linked() -> Result<&'static Linked> {
    LINKED.get().ok_or_else(|| {
        Error::new(
            ErrorKind::RuntimeUnavailable,
            "cannot run WebAssembly: this program is for microVMs only; call 'magikrun'",
        )
    })
}

/// Runs the module of this process, if it was made to run one. Call it first.
pub fn run() -> Option<u8> {
    LINKED.get().and_then(|linked| (linked.run)())
}
