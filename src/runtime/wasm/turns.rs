//! What computes takes turns: a request that never waits must not keep the others from being answered, and a program that has used
//! up its processor time must wait.
//!
//! All requests to a component are answered by one thread. Its engine's epoch is incremented whenever this process has computed for
//! the length of a turn, and whoever computes then gives way to the others, or waits. While nothing computes there is no timer either.

use crate::error::{Error, Result};
use crate::platform::sys::signal;
use std::sync::OnceLock;
use std::time::Duration;
use wasmtime::Engine;

/// The length of a turn, in processor time. The kernel rounds it up to its tick, of 1 to 10 ms.
const TURN: Duration = Duration::from_millis(5);

/// What the timer interrupts.
static ENGINES: OnceLock<Vec<Engine>> = OnceLock::new();

/// Begins to interrupt what the stores of the engines compute, for as long as this process lives.
pub fn begin(engines: Vec<Engine>) -> Result<()> {
    if ENGINES.set(engines).is_err() {
        crate::bail!(StartFailed, "what computes takes turns already, on other engines");
    }
    // In a handler of a signal: the one is an atomic load, the others are atomic additions.
    signal::on_processor_time(TURN, || {
        ENGINES.get().into_iter().flatten().for_each(Engine::increment_epoch);
    })
    .map_err(|e| Error::wrap(e, "cannot let take turns what computes"))
}
