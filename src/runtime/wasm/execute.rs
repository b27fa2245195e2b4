//! Running a program to its end.

use super::instance::{self, Budget, Call, State};
use super::outcome::Outcome;
use super::program::{Kind, Program};
use super::{http, load, passed};
use crate::error::{Context as _, Result};
use std::fs::File;
use std::future::{Future, poll_fn};
use std::net::TcpListener;
use std::pin::pin;
use std::sync::atomic::{AtomicI32, Ordering};
use std::task::Poll;
use tokio::sync::Notify;
use wasmtime::component::Component;
use wasmtime::{Engine, Module, Store};
use wasmtime_wasi::p2::bindings::Command;

/// A program with everything that it needs to run.
pub struct Job {
    /// Path of the module, for messages.
    pub path: String,
    /// What it is.
    pub kind: Kind,
    /// Its code.
    pub code: File,
    /// What it is called with, and what it may use.
    pub budget: Budget,
    /// Where it serves HTTP, if it is a component that does.
    pub listener: Option<TcpListener>,
}

impl Job {
    /// A program with what it is called with.
    pub fn new(program: Program, call: Call) -> Result<Self> {
        let Program { path, kind, code, settings } = program;
        Ok(Self {
            path: path.display().to_string(),
            kind,
            code,
            budget: Budget::new(call, &settings, None),
            listener: settings.http.map(http::listen).transpose()?,
        })
    }
}

/// Ends a program from another thread.
#[derive(Debug, Default)]
pub struct Stop {
    signal: AtomicI32,
    waiting: Notify,
}

impl Stop {
    /// Ends it as the signal with this number would. Code that runs ends when the epoch of its engine is incremented.
    pub fn stop(&self, signal: i32) {
        self.signal.store(signal, Ordering::SeqCst);
        self.waiting.notify_one();
    }

    /// How it ended, if it was ended.
    fn outcome(&self) -> Option<Outcome> {
        Some(self.signal.load(Ordering::SeqCst)).filter(|signal| *signal != 0).map(Outcome::signalled)
    }

    /// Does `work` until it is done, or until it is to be ended.
    async fn or(&self, work: impl Future<Output = Result<Outcome>>) -> Result<Outcome> {
        let (mut work, mut stopped) = (pin!(work), pin!(self.waiting.notified()));
        let ended = poll_fn(|cx| match stopped.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(None),
            Poll::Pending => work.as_mut().poll(cx).map(Some),
        });
        let ended = ended.await;
        self.outcome().map(Ok).or(ended).unwrap_or_else(|| Ok(Outcome::exited(0)))
    }
}

/// Loaded code.
enum Loaded {
    Module(Module),
    Component(Component),
}

/// Runs a program on this thread, until it ends or `stop` ends it.
pub fn run(engine: &Engine, job: Job, stop: Option<&Stop>) -> Result<Outcome> {
    let mut executor = tokio::runtime::Builder::new_current_thread();
    if job.listener.is_some() {
        // Every task may take a whole turn.
        executor.event_interval(1);
    }
    let runtime = executor.enable_io().enable_time().build().context(|| "cannot make an executor")?;
    let ended = match stop {
        Some(stop) => runtime.block_on(stop.or(go(engine, job))),
        None => runtime.block_on(go(engine, job)),
    };
    // A thread may be waiting for a file that never comes, as a FIFO can make it.
    runtime.shutdown_background();
    ended
}

async fn go(engine: &Engine, job: Job) -> Result<Outcome> {
    let Job { path, kind, code, budget, listener } = job;
    let loaded = match kind {
        Kind::Command => Loaded::Module(load::module(engine, code)?),
        Kind::Component | Kind::Proxy => Loaded::Component(load::component(engine, code)?),
    };
    if let (Loaded::Component(component), Some(listener)) = (&loaded, listener) {
        return http::serve(engine, component, listener, budget, path).await;
    }
    let mut store = budget.store(engine)?;
    let ended = match &loaded {
        Loaded::Module(module) => command(&mut store, module).await,
        Loaded::Component(component) => component_command(&mut store, component).await,
    };
    Ok(match ended {
        Ok(code) => Outcome::exited(code),
        Err(e) => Outcome::of(&e, &path, &store.data().limiter),
    })
}

/// Runs a core module.
async fn command(store: &mut Store<State>, module: &Module) -> wasmtime::Result<i32> {
    let mut linker = instance::module_linker(store.engine())?;
    if !store.data().passed.is_empty() {
        passed::link(&mut linker)?;
    }
    let instance = linker.instantiate_async(&mut *store, module).await?;
    let start = instance.get_typed_func::<(), ()>(&mut *store, "_start")?;
    start.call_async(store, ()).await.map(|()| 0)
}

/// Runs a component.
async fn component_command(store: &mut Store<State>, component: &Component) -> wasmtime::Result<i32> {
    let linker = instance::component_linker(store.engine(), component)?;
    #[cfg(feature = "wasi-p3")]
    if instance::exports(store.engine(), component, super::p3::COMMAND_EXPORT) {
        return super::p3::command(store, component, &linker).await;
    }
    let command = Command::instantiate_async(&mut *store, component, &linker).await?;
    let result = command.wasi_cli_run().call_run(store).await?;
    Ok(i32::from(result.is_err()))
}
