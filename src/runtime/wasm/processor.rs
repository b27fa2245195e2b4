//! The processor time of one of several programs in a process: how much it has used, and that it waits when that is too much.

use super::bandwidth::{Account, Bandwidth};
use crate::platform::sys::time;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::runtime::Builder;
use wasmtime::UpdateDeadline;

/// What a program uses of the processor.
#[derive(Debug)]
pub struct Processor {
    threads: Mutex<Threads>,
    account: Option<Mutex<Account>>,
    began: Instant,
}

/// The threads that work for the program: its own, and those that wait for files.
#[derive(Debug, Default)]
struct Threads {
    running: Vec<i32>,
    /// What those have used that have ended.
    ended: Duration,
}

/// A thread that panicked while it held a lock has changed nothing half-way.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn this_thread() -> i32 {
    rustix::thread::gettid().as_raw_pid()
}

impl Processor {
    /// That of a program which begins now.
    pub fn new(limit: Option<Bandwidth>) -> Self {
        let account = limit.map(Account::new).map(Mutex::new);
        Self { threads: Mutex::default(), account, began: Instant::now() }
    }

    /// Counts this thread, from its beginning on, and all that the executor of the program makes.
    pub(super) fn count(self: &Arc<Self>, executor: &mut Builder) {
        self.enter();
        let (enters, leaves) = (Arc::clone(self), Arc::clone(self));
        executor.on_thread_start(move || enters.enter()).on_thread_stop(move || leaves.leave());
    }

    fn enter(&self) {
        lock(&self.threads).running.push(this_thread());
    }

    /// This thread ends.
    pub(super) fn leave(&self) {
        let (thread, mut threads) = (this_thread(), lock(&self.threads));
        threads.running.retain(|running| *running != thread);
        threads.ended += time::of_thread(thread).unwrap_or_default();
    }

    /// What it has used.
    pub fn used(&self) -> Duration {
        let threads = lock(&self.threads);
        let running = threads.running.iter().filter_map(|thread| time::of_thread(*thread));
        running.sum::<Duration>() + threads.ended
    }

    /// What its code does when the epoch has changed: it gives way to whatever else waits for this thread, and, when it has used up
    /// what it may, sleeps as long as that takes. Whoever ends the program ends its sleep.
    pub(super) fn turn(&self) -> UpdateDeadline {
        let Some(account) = &self.account else { return UpdateDeadline::Yield(1) };
        match lock(account).settle(self.used(), self.began.elapsed()) {
            None => UpdateDeadline::Yield(1),
            Some(until) => UpdateDeadline::YieldCustom(
                1,
                Box::pin(tokio::time::sleep_until((self.began + until).into())),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::wasm::execute::{self, Job};
    use crate::runtime::wasm::instance::{Budget, Call};
    use crate::runtime::wasm::limiter::Container;
    use crate::runtime::wasm::outcome::Outcome;
    use crate::runtime::wasm::settings::Settings;
    use crate::runtime::wasm::{compile, engine};
    use crate::storage::config::WasmLimits;
    use std::thread::{sleep, spawn};

    /// Fails the test when something does not happen.
    const DEADLINE: Duration = Duration::from_secs(60);

    #[test]
    fn a_program_that_has_used_up_its_quota_sleeps_and_is_ended_at_once() {
        let mut settings =
            Settings::from_spec(&oci_spec::runtime::Spec::default(), &WasmLimits::default()).unwrap();
        settings.code.epochs = true;
        let engine = engine::compiling(settings.code).unwrap();
        let endless = b"(module (func (export \"_start\") (loop (br 0))))";
        let (code, kind) = compile::here(&engine, endless, "endless").unwrap();
        let quota = Duration::from_millis(20);
        let processor =
            Arc::new(Processor::new(Some(Bandwidth { quota, period: Duration::from_secs(3600) })));
        let budget =
            Budget::new(Call::default(), &settings, Container::Unlimited).counted(Arc::clone(&processor));
        let stop = Arc::clone(budget.stop());
        let job = Job { path: "endless".to_owned(), kind, code, budget, listener: None };
        let other_engine = engine.clone();
        let thread = spawn(move || execute::run(&other_engine, job));
        let begin = Instant::now();
        let mut last = Duration::ZERO;
        while last < quota || last != processor.used() {
            assert!(begin.elapsed() < DEADLINE, "it does not sleep");
            last = processor.used();
            engine.increment_epoch();
            sleep(Duration::from_millis(20));
        }
        assert!(!thread.is_finished());
        // The epoch stays: its code does not look whether it is to end.
        stop.stop(15);
        while !thread.is_finished() {
            assert!(begin.elapsed() < DEADLINE, "it does not end");
            sleep(Duration::from_millis(1));
        }
        assert_eq!(thread.join().unwrap().unwrap(), Outcome::signalled(15));
        assert!(processor.used() >= quota, "what it has used is known after its end");
    }
}
