//! What a program sees of the world: the state of its store, and what is linked to it.

use super::fetch::Hooks;
use super::limiter::{Container, Limiter, Memory};
use super::names::lookup;
use super::passed::{Passed, placeholders};
use super::preopen::Preopen;
use super::processor::Processor;
use super::settings::{CodeSettings, Limits, Settings, Sockets};
use super::stdio::{Stdin, Stdout, Streams};
use super::stop::Stop;
use crate::error::{Error, ErrorKind, Result};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use wasmtime::component::Component;
use wasmtime::{Engine, Store};
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::{FsPerms, I32Exit, WasiCtxBuilder, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

/// The module of functions of WASI preview 1.
pub(super) const PREVIEW1: &str = "wasi_snapshot_preview1";

/// What a program is called with.
#[derive(Debug, Clone, Default)]
pub struct Call {
    /// Arguments, the name of the program first.
    pub args: Vec<String>,
    /// Environment: names and values.
    pub env: Vec<(String, String)>,
    /// Working directory.
    pub cwd: String,
    /// Directories.
    pub preopens: Vec<Preopen>,
    /// Sockets.
    pub sockets: Sockets,
    /// Sockets that a program of preview 1 finds open.
    pub passed: Vec<Arc<OwnedFd>>,
    /// It reads the standard input of this process.
    pub stdin: bool,
    /// Standard streams that are not those of this process.
    pub streams: Option<Streams>,
    /// It has this process for itself, and so may block its thread.
    pub alone: bool,
}

/// The state of a store.
pub struct State {
    pub(super) wasi: WasiP1Ctx,
    pub(super) passed: Passed,
    http: WasiHttpCtx,
    hooks: Hooks,
    sockets: Sockets,
    /// Limits.
    pub limiter: Limiter,
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        self.wasi.ctx()
    }
}

impl WasiHttpView for State {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { ctx: &mut self.http, table: self.wasi.ctx().table, hooks: &mut self.hooks }
    }
}

impl State {
    fn new(call: &Call, limiter: Limiter) -> Result<Self> {
        let mut wasi = WasiCtxBuilder::new();
        // Before the preopens, which take it over.
        wasi.allow_blocking_current_thread(call.alone);
        wasi.args(&call.args).envs(&call.env).initial_cwd(&call.cwd);
        if let Some(Streams { stdin, stdout, stderr }) = &call.streams {
            wasi.stdin(Stdin::of(stdin.clone()));
            wasi.stdout(Stdout::of(stdout.clone())).stderr(Stdout::of(stderr.clone()));
        } else {
            wasi.inherit_stdout().inherit_stderr();
            if call.stdin {
                wasi.stdin(Stdin::default());
            }
        }
        for Preopen { path, name, read_only } in
            placeholders(&call.preopens, call.passed.len()).iter().chain(&call.preopens)
        {
            let permissions = if *read_only { FsPerms::ReadOnly } else { FsPerms::ReadWrite };
            wasi.preopened_dir(path, name, permissions).map_err(|e| {
                Error::new(
                    ErrorKind::StartFailed,
                    format!("cannot open directory '{name}' for the module: {e:#}"),
                )
            })?;
        }
        wasi.allow_tcp(call.sockets.tcp).allow_udp(call.sockets.udp);
        if call.sockets != Sockets::default() {
            wasi.inherit_network();
        }
        // That would ask the C library: see `names`.
        wasi.allow_ip_name_lookup(false);
        let (sockets, hooks) = (call.sockets, Hooks { tcp: call.sockets.tcp });
        let passed = Passed::new(&call.passed);
        Ok(Self { wasi: wasi.build_p1(), passed, http: WasiHttpCtx::new(), hooks, sockets, limiter })
    }

    /// It may look names up: whoever has sockets may.
    pub fn may_resolve(&self) -> bool {
        self.sockets != Sockets::default()
    }
}

/// What the instances of one program are called with, what they may use together, and what ends them all.
#[derive(Debug)]
pub struct Budget {
    call: Call,
    code: CodeSettings,
    limits: Limits,
    memory: Memory,
    processor: Option<Arc<Processor>>,
    stop: Arc<Stop>,
}

impl Budget {
    /// The budget of one program; see [`Memory::new`].
    pub fn new(call: Call, settings: &Settings, container: impl Into<Container>) -> Self {
        let Settings { code, limits, .. } = *settings;
        let memory = Memory::new(limits.memory_pages, container);
        Self { call, code, limits, memory, processor: None, stop: Arc::default() }
    }

    /// The memory that they use.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// As one of several programs in a process, whose processor time is counted.
    #[must_use]
    pub fn counted(self, processor: Arc<Processor>) -> Self {
        Self { processor: Some(processor), ..self }
    }

    /// The processor time that they use, where it is counted.
    pub fn processor(&self) -> Option<&Arc<Processor>> {
        self.processor.as_ref()
    }

    /// Ends the program.
    pub fn stop(&self) -> &Arc<Stop> {
        &self.stop
    }

    /// A store for an instance.
    pub fn store(&self, engine: &Engine) -> Result<Store<State>> {
        let limiter = Limiter::new(self.limits, self.memory.clone());
        let mut store = Store::new(engine, State::new(&self.call, limiter)?);
        store.limiter(|state| &mut state.limiter);
        if self.code.epochs {
            // Every increment of the engine's epoch is the end of its turn: whoever runs it can end it then.
            store.set_epoch_deadline(1);
            match self.processor.clone() {
                None => store.epoch_deadline_async_yield_and_update(1),
                Some(processor) => store.epoch_deadline_callback(move |_| Ok(processor.turn())),
            }
            if self.stop.outcome().is_some() {
                // Whoever ended it may have incremented the epoch before there was a deadline: that has passed.
                store.set_epoch_deadline(0);
            }
        }
        if let Some(fuel) = self.limits.fuel {
            store
                .set_fuel(fuel)
                .map_err(|e| Error::new(ErrorKind::StartFailed, format!("cannot set the fuel: {e:#}")))?;
        }
        Ok(store)
    }
}

fn cannot_link(e: &wasmtime::Error) -> Error {
    Error::new(ErrorKind::RuntimeUnavailable, format!("cannot link WASI: {e:#}"))
}

/// What core modules can import.
pub fn module_linker(engine: &Engine) -> Result<wasmtime::Linker<State>> {
    let mut linker = wasmtime::Linker::new(engine);
    let linked = wasmtime_wasi::p1::add_to_linker_async(&mut linker, |state: &mut State| &mut state.wasi)
        .and_then(|()| {
            // wasmtime-wasi's traps for a status of 126 and above; ours gives any.
            linker.allow_shadowing(true);
            linker.func_wrap(PREVIEW1, "proc_exit", |status: i32| -> wasmtime::Result<()> {
                Err(I32Exit(status).into())
            })?;
            linker.allow_shadowing(false);
            Ok(())
        });
    linked.map_err(|e| cannot_link(&e))?;
    Ok(linker)
}

/// True if a component exports an interface whose name and version begin so.
pub fn exports(engine: &Engine, component: &Component, prefix: &str) -> bool {
    component.component_type().exports(engine).any(|(name, _)| name.starts_with(prefix))
}

/// What components can import. HTTP, which is much, is linked for those that use it.
pub fn component_linker(
    engine: &Engine,
    component: &Component,
) -> Result<wasmtime::component::Linker<State>> {
    let mut linker = wasmtime::component::Linker::new(engine);
    let http = component.component_type().imports(engine).any(|(name, _)| name.starts_with("wasi:http/"));
    let linked = wasmtime_wasi::p2::add_to_linker_async(&mut linker)
        .and_then(|()| lookup::link(&mut linker))
        .and_then(|()| {
            if http { wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker) } else { Ok(()) }
        });
    #[cfg(feature = "wasi-p3")]
    let linked = linked.and_then(|()| super::p3::link(&mut linker, http));
    linked.map_err(|e| cannot_link(&e))?;
    Ok(linker)
}
