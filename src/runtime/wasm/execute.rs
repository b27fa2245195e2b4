//! Running a program to its end.

use super::instance::{self, Budget, Call, State};
use super::limiter::Container;
use super::outcome::Outcome;
use super::processor::Processor;
use super::program::{Kind, Program};
use super::stop::Stop;
use super::{http, load, passed};
use crate::error::{Context as _, Result};
use std::fs::File;
use std::future::Future;
use std::net::TcpListener;
use std::sync::Arc;
use wasmtime::component::Component;
use wasmtime::{Engine, Module, Store, TypedFunc};
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
            budget: Budget::new(call, &settings, Container::Unlimited),
            listener: settings.http.map(http::listen).transpose()?,
        })
    }
}

/// A program in its own store, of which nothing has run but what an instance runs when it is made.
enum Ready {
    Module(Store<State>, TypedFunc<(), ()>),
    Component(Store<State>, Command),
    /// It has a store for each request.
    Proxy(Component, TcpListener, Budget),
    #[cfg(feature = "wasi-p3")]
    Concurrent(Store<State>, Component, wasmtime::component::Linker<State>),
}

/// What a program waits for, once it is ready, that is one of several in this process.
pub trait Gate {
    /// It is ready.
    fn ready(&self);
    /// Returns when it is to run.
    fn opened(&self) -> impl Future<Output = ()>;
}

/// Runs a program on this thread, until it ends or the [`Stop`] of its budget ends it.
pub fn run(engine: &Engine, job: Job) -> Result<Outcome> {
    let path = job.path.clone();
    execute(&Needs::of(&job), async {
        match prepare(engine, job).await? {
            Ok(ready) => go(engine, ready, &path).await,
            Err(outcome) => Ok(outcome),
        }
    })
}

/// As [`run`], but only when the gate is opened. An outcome before that is why it cannot run.
pub fn run_behind(gate: &impl Gate, engine: &Engine, job: Job) -> Result<Outcome> {
    let path = job.path.clone();
    execute(&Needs::of(&job), async {
        match prepare(engine, job).await? {
            Ok(ready) => {
                gate.ready();
                gate.opened().await;
                go(engine, ready, &path).await
            }
            Err(outcome) => Ok(outcome),
        }
    })
}

/// What a program needs of its executor.
struct Needs {
    serves: bool,
    processor: Option<Arc<Processor>>,
    stop: Arc<Stop>,
}

impl Needs {
    fn of(job: &Job) -> Self {
        Self {
            serves: job.listener.is_some(),
            processor: job.budget.processor().cloned(),
            stop: Arc::clone(job.budget.stop()),
        }
    }
}

fn execute(needs: &Needs, work: impl Future<Output = Result<Outcome>>) -> Result<Outcome> {
    let mut executor = tokio::runtime::Builder::new_current_thread();
    if needs.serves {
        // Every task may take a whole turn.
        executor.event_interval(1);
    }
    if let Some(processor) = &needs.processor {
        processor.count(&mut executor);
    }
    let runtime = executor.enable_io().enable_time().build().context(|| "cannot make an executor")?;
    let ended = runtime.block_on(needs.stop.or(work));
    // A thread may be waiting for a file that never comes, as a FIFO can make it.
    runtime.shutdown_background();
    if let Some(processor) = &needs.processor {
        processor.leave();
    }
    ended
}

/// Loads a program and makes its instance; or tells how that ended.
async fn prepare(engine: &Engine, job: Job) -> Result<Result<Ready, Outcome>> {
    let Job { path, kind, code, budget, listener } = job;
    if kind == Kind::Command {
        let (module, mut store) = (load::module(engine, code)?, budget.store(engine)?);
        return Ok(match command(&mut store, &module).await {
            Ok(start) => Ok(Ready::Module(store, start)),
            Err(e) => Err(Outcome::of(&e, &path, &store.data().limiter)),
        });
    }
    let component = load::component(engine, code)?;
    if let Some(listener) = listener {
        return Ok(Ok(Ready::Proxy(component, listener, budget)));
    }
    let mut store = budget.store(engine)?;
    let linker = instance::component_linker(engine, &component)?;
    #[cfg(feature = "wasi-p3")]
    if instance::exports(engine, &component, super::p3::COMMAND_EXPORT) {
        return Ok(Ok(Ready::Concurrent(store, component, linker)));
    }
    Ok(match Command::instantiate_async(&mut store, &component, &linker).await {
        Ok(command) => Ok(Ready::Component(store, command)),
        Err(e) => Err(Outcome::of(&e, &path, &store.data().limiter)),
    })
}

/// Links and instantiates a core module.
async fn command(store: &mut Store<State>, module: &Module) -> wasmtime::Result<TypedFunc<(), ()>> {
    let mut linker = instance::module_linker(store.engine())?;
    if !store.data().passed.is_empty() {
        passed::link(&mut linker)?;
    }
    let instance = linker.instantiate_async(&mut *store, module).await?;
    instance.get_typed_func::<(), ()>(&mut *store, "_start")
}

/// Runs what is ready to its end.
async fn go(engine: &Engine, ready: Ready, path: &str) -> Result<Outcome> {
    let failed = |result: Result<(), ()>| i32::from(result.is_err());
    let (ended, store) = match ready {
        Ready::Proxy(component, listener, budget) => {
            return http::serve(engine, &component, listener, budget, path.to_owned()).await;
        }
        Ready::Module(mut store, start) => (start.call_async(&mut store, ()).await.map(|()| 0), store),
        Ready::Component(mut store, command) => {
            (command.wasi_cli_run().call_run(&mut store).await.map(failed), store)
        }
        #[cfg(feature = "wasi-p3")]
        Ready::Concurrent(mut store, component, linker) => {
            (super::p3::command(&mut store, &component, &linker).await, store)
        }
    };
    Ok(match ended {
        Ok(code) => Outcome::exited(code),
        Err(e) => Outcome::of(&e, path, &store.data().limiter),
    })
}
