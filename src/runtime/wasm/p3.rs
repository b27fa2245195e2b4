//! Components of WASI 0.3: the feature `wasi-p3`.

use super::http::Answer;
use super::instance::State;
use http_body_util::BodyExt as _;
use hyper::Request;
use hyper::body::Incoming;
use tokio::sync::oneshot;
use wasmtime::Store;
use wasmtime::component::{Component, Linker};
use wasmtime_wasi::p3::bindings::Command;
use wasmtime_wasi_http::WasiHttpView as _;
use wasmtime_wasi_http::p3;
use wasmtime_wasi_http::p3::bindings::ServicePre;

/// What a component exports that is a command.
pub const COMMAND_EXPORT: &str = "wasi:cli/run@0.3.";
/// What a component exports that serves HTTP.
pub const PROXY_EXPORT: &str = "wasi:http/handler@0.3.";

/// Links what components of WASI 0.3 import.
pub fn link(linker: &mut Linker<State>, http: bool) -> wasmtime::Result<()> {
    wasmtime_wasi::p3::add_to_linker(linker)?;
    if http { p3::add_to_linker(linker) } else { Ok(()) }
}

/// Runs a command; returns its exit code.
pub async fn command(
    store: &mut Store<State>,
    component: &Component,
    linker: &Linker<State>,
) -> wasmtime::Result<i32> {
    let command = Command::instantiate_async(&mut *store, component, linker).await?;
    let ended = store.run_concurrent(async |store| command.wasi_cli_run().call_run(store).await).await??;
    Ok(i32::from(ended.is_err()))
}

/// Answers a request by an instance of its own, and goes on until all of the answer was sent.
pub async fn serve(
    store: &mut Store<State>,
    service: &ServicePre<State>,
    request: Request<Incoming>,
    answer: Answer,
) -> wasmtime::Result<()> {
    let instance = service.instantiate_async(&mut *store).await?;
    let (request, received) = p3::Request::from_http(store.data_mut().http().hooks, request);
    store
        .run_concurrent(async |store| {
            let response = instance.handle(store, request).await??;
            let (sending, sent) = oneshot::channel::<()>();
            let response = store.with(|store| response.into_http(store, received))?;
            // The body's end, or that nobody wants it any more, drops the sender.
            let response = response.map(|body| {
                let body = body.map_frame(move |frame| {
                    let _ = &sending;
                    frame
                });
                body.boxed_unsync()
            });
            if answer.send(Ok(response)).is_ok() {
                let _ = sent.await;
            }
            Ok(())
        })
        .await?
}
