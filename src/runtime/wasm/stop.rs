//! The end of a program that is asked for from outside of its thread.

use super::outcome::Outcome;
use crate::error::Result;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicI32, Ordering};
use std::task::Poll;
use tokio::sync::Notify;

/// Ends a program from another thread.
#[derive(Debug, Default)]
pub struct Stop {
    signal: AtomicI32,
    waiting: Notify,
}

impl Stop {
    /// Ends it as the signal with this number would. Code that runs ends when the epoch of its engine is incremented after this.
    pub fn stop(&self, signal: i32) {
        self.signal.store(signal, Ordering::SeqCst);
        self.waiting.notify_one();
    }

    /// How it ended, if it was ended.
    pub fn outcome(&self) -> Option<Outcome> {
        Some(self.signal.load(Ordering::SeqCst)).filter(|signal| *signal != 0).map(Outcome::signalled)
    }

    /// Does `work` until it is done, or until it is to be ended.
    pub async fn or(&self, work: impl Future<Output = Result<Outcome>>) -> Result<Outcome> {
        let (mut work, mut stopped) = (pin!(work), pin!(self.waiting.notified()));
        let ended = poll_fn(|cx| match stopped.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(None),
            Poll::Pending => work.as_mut().poll(cx).map(Some),
        });
        let ended = ended.await;
        self.outcome().map(Ok).or(ended).unwrap_or_else(|| Ok(Outcome::exited(0)))
    }
}

#[cfg(test)]
mod tests {
    use crate::runtime::wasm::instance::{Budget, Call};
    use crate::runtime::wasm::limiter::Container;
    use crate::runtime::wasm::settings::Settings;
    use crate::runtime::wasm::{compile, engine, load};
    use crate::storage::config::WasmLimits;
    use std::future::{Future as _, poll_fn};
    use std::pin::pin;
    use std::task::Poll;
    use tokio::runtime::Builder;
    use wasmtime::{Instance, Module, Store};

    /// Whether a program that loops until its fuel is used up gives way before, which it does where it is to end.
    fn gives_way(module: &Module, budget: &Budget) -> bool {
        let mut store: Store<_> = budget.store(module.engine()).unwrap();
        Builder::new_current_thread().build().unwrap().block_on(async {
            let instance = Instance::new_async(&mut store, module, &[]).await.unwrap();
            let start = instance.get_typed_func::<(), ()>(&mut store, "_start").unwrap();
            let mut running = pin!(start.call_async(&mut store, ()));
            poll_fn(|cx| Poll::Ready(running.as_mut().poll(cx).is_pending())).await
        })
    }

    #[test]
    fn a_program_that_was_ended_before_it_had_a_store_gives_way_at_once() {
        let mut settings =
            Settings::from_spec(&oci_spec::runtime::Spec::default(), &WasmLimits::default()).unwrap();
        (settings.code.epochs, settings.code.fuel, settings.limits.fuel) = (true, true, Some(100_000));
        let engine = engine::compiling(settings.code).unwrap();
        let endless = b"(module (func (export \"_start\") (loop (br 0))))";
        let (code, _) = compile::here(&engine, endless, "endless").unwrap();
        let module = load::module(&engine, code).unwrap();
        let budget = Budget::new(Call::default(), &settings, Container::Unlimited);
        assert!(!gives_way(&module, &budget));
        budget.stop().stop(15);
        assert!(gives_way(&module, &budget));
    }
}
