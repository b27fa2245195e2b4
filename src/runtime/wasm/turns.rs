//! Requests that compute take turns: one that never waits must not keep the others from being answered.
//!
//! All requests to a component are answered by one thread. Its engine's epoch is incremented whenever this process has computed for
//! the length of a turn, and whoever computes then gives way to the others. While nothing computes there is no timer either.

use crate::error::{Error, Result};
use crate::platform::sys::signal;
use std::sync::OnceLock;
use std::time::Duration;
use wasmtime::Engine;

/// The length of a turn, in processor time. The kernel rounds it up to its tick, of 1 to 10 ms.
const TURN: Duration = Duration::from_millis(5);

/// What the timer interrupts.
static ENGINE: OnceLock<Engine> = OnceLock::new();

/// Begins to interrupt what the stores of `engine` compute, for as long as this process lives.
pub fn begin(engine: &Engine) -> Result<()> {
    if ENGINE.set(engine.clone()).is_err() {
        crate::bail!(StartFailed, "requests take turns already, on another engine");
    }
    // In a handler of a signal: the one is an atomic load, the other an atomic addition.
    signal::on_processor_time(TURN, || {
        if let Some(engine) = ENGINE.get() {
            engine.increment_epoch();
        }
    })
    .map_err(|e| Error::wrap(e, "cannot let requests take turns"))
}
