//! How a program ended: its exit code, or one of ours with a message.

use super::limiter::Limiter;
use wasmtime::{Trap, WasmBacktrace};
use wasmtime_wasi::I32Exit;

/// Exit code of a program that trapped.
pub const TRAPPED: u8 = 110;
/// Exit code of a program that used up its fuel.
pub const OUT_OF_FUEL: u8 = 111;
/// Exit code of a program that asked for more memory than it may have.
pub const OUT_OF_MEMORY: u8 = 112;
/// Exit code of a program that imports what nobody provides.
pub const MISSING_IMPORT: u8 = 113;
/// Exit code of a program that was interrupted because its time was over.
pub const INTERRUPTED: u8 = 114;
/// Exit code when the engine could not run the program at all.
pub const FAILED: u8 = 115;

/// How a program ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Exit code.
    pub code: u8,
    /// What to say about it; nothing when the program chose its code itself.
    pub message: Option<String>,
}

impl Outcome {
    /// It ended by itself.
    pub fn exited(code: i32) -> Self {
        // As for a process: the lowest eight bits.
        Self { code: code as u8, message: None }
    }

    /// A signal ended it.
    pub fn signalled(number: i32) -> Self {
        Self::exited(128 + number)
    }

    /// The engine could not run it.
    pub fn failed(message: impl Into<String>) -> Self {
        Self { code: FAILED, message: Some(message.into()) }
    }

    /// What an error of the engine means. `path` is that of the module.
    pub fn of(e: &wasmtime::Error, path: &str, limiter: &Limiter) -> Self {
        if let Some(I32Exit(code)) = e.downcast_ref() {
            return Self::exited(*code);
        }
        let said = |code, message: String| Self { code, message: Some(format!("'{path}' {message}")) };
        let trap = e.downcast_ref::<Trap>();
        if let Some((wanted, most)) = limiter.denied {
            let cause = trap.map_or_else(|| format!("{e:#}"), ToString::to_string);
            return said(
                OUT_OF_MEMORY,
                format!("is out of memory: it asked for {wanted} bytes, and may have {most} ({cause})"),
            );
        }
        match trap {
            Some(Trap::OutOfFuel) => said(
                OUT_OF_FUEL,
                format!(
                    "is out of fuel: the limit is set by the annotation {} or wasm.fuel in the operator's configuration",
                    super::settings::FUEL
                ),
            ),
            Some(Trap::Interrupt) => said(INTERRUPTED, "was interrupted".to_owned()),
            Some(trap) => said(TRAPPED, format!("trapped: {trap}{}", place(e))),
            None => said(FAILED, format!("cannot be run: {e:#}").replace('\n', " ")),
        }
    }
}

/// In which function it was, if the module has names for its functions.
fn place(e: &wasmtime::Error) -> String {
    let name = e
        .downcast_ref::<WasmBacktrace>()
        .and_then(|trace| trace.frames().iter().find_map(wasmtime::FrameInfo::func_name));
    name.map(|name| format!(" in function '{name}'")).unwrap_or_default()
}
