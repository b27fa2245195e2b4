//! Serving a component of the world `wasi:http/proxy`: HTTP/1.1, an instance for every request.

use super::instance::{self, Budget, State};
use super::outcome::Outcome;
#[cfg(feature = "wasi-p3")]
use super::p3;
use crate::error::{Context as _, Result};
use crate::platform::stdio;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::rt::{Sleep, Timer};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use std::net::{SocketAddr, TcpListener};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, oneshot};
use wasmtime::component::Component;
use wasmtime::{Engine, Store};
use wasmtime_wasi_http::WasiHttpView as _;
use wasmtime_wasi_http::io::TokioIo;
use wasmtime_wasi_http::p2::bindings::ProxyPre;
use wasmtime_wasi_http::p2::bindings::http::types::{ErrorCode, Scheme};
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;

/// Most connections at a time; further ones wait to be accepted.
const MAX_CONNECTIONS: usize = 1024;
/// How long to wait after a connection could not be accepted.
const RETRY: Duration = Duration::from_millis(10);

/// How long a client may take for the head of a request: the places are few.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// The executor's clock, as the HTTP library wants it.
#[derive(Debug, Clone, Copy)]
struct Clock;

struct Nap(Pin<Box<tokio::time::Sleep>>);

impl Future for Nap {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        self.0.as_mut().poll(context)
    }
}

impl Sleep for Nap {}

impl Timer for Clock {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        Box::pin(Nap(Box::pin(tokio::time::sleep(duration))))
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        Box::pin(Nap(Box::pin(tokio::time::sleep_until(deadline.into()))))
    }
}

/// Opens the socket that a component is served on.
pub fn listen(address: SocketAddr) -> Result<TcpListener> {
    let cannot = || format!("cannot serve HTTP on {address}");
    let listener = TcpListener::bind(address).context(cannot)?;
    listener.set_nonblocking(true).context(cannot)?;
    Ok(listener)
}

/// A component that answers requests.
#[derive(Clone)]
enum Proxy {
    P2(ProxyPre<State>),
    #[cfg(feature = "wasi-p3")]
    P3(wasmtime_wasi_http::p3::bindings::ServicePre<State>),
}

impl Proxy {
    fn link(engine: &Engine, component: &Component) -> wasmtime::Result<Self> {
        let pre = instance::component_linker(engine, component)?.instantiate_pre(component)?;
        #[cfg(feature = "wasi-p3")]
        if instance::exports(engine, component, p3::PROXY_EXPORT) {
            return wasmtime_wasi_http::p3::bindings::ServicePre::new(pre).map(Self::P3);
        }
        ProxyPre::new(pre).map(Self::P2)
    }
}

/// What a request is answered with, as soon as its head is known.
pub type Answer = oneshot::Sender<Result<Response<HyperOutgoingBody>, ErrorCode>>;

/// What every request needs.
struct Server {
    engine: Engine,
    proxy: Proxy,
    budget: Budget,
    path: String,
}

/// Serves a component until the process ends. Every request has an instance, and fuel, of its own; the memory of all
/// together is limited.
pub async fn serve(
    engine: &Engine,
    component: &Component,
    listener: TcpListener,
    budget: Budget,
    path: String,
) -> Result<Outcome> {
    let proxy = match Proxy::link(engine, component) {
        Ok(proxy) => proxy,
        Err(e) => return Ok(Outcome::failed(format!("'{path}' cannot be served: {e:#}"))),
    };
    let server = Arc::new(Server { engine: engine.clone(), proxy, budget, path });
    let listener = tokio::net::TcpListener::from_std(listener).context(|| "cannot serve HTTP")?;
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&connections).acquire_owned().await else { return Ok(Outcome::exited(0)) };
        let Ok((client, _)) = listener.accept().await else {
            // The client is gone, or there are too many descriptors: others will be closed.
            tokio::time::sleep(RETRY).await;
            continue;
        };
        let server = Arc::clone(&server);
        tokio::task::spawn(async move {
            let service = service_fn(|request| Arc::clone(&server).answer(request));
            // What goes wrong with a connection is between the client and the network.
            let mut http = http1::Builder::new();
            http.timer(Clock).header_read_timeout(HEAD_TIMEOUT);
            let _ = http.serve_connection(TokioIo::new(client), service).await;
            drop(place);
        });
    }
}

impl Server {
    async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> Result<Response<HyperOutgoingBody>, std::convert::Infallible> {
        let answer = self.handle(request).await;
        Ok(answer.unwrap_or_else(|message| {
            stdio::tell(format_args!("magikrun: {message}"));
            let mut failed = Response::new(Empty::new().map_err(|never| match never {}).boxed_unsync());
            *failed.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            failed
        }))
    }

    async fn handle(&self, request: Request<Incoming>) -> Result<Response<HyperOutgoingBody>, String> {
        let mut store = self.budget.store(&self.engine).map_err(|e| e.to_string())?;
        let (sender, receiver) = oneshot::channel();
        let (proxy, path) = (self.proxy.clone(), self.path.clone());
        // It goes on after the head of its answer is sent.
        let task = tokio::task::spawn(async move {
            let handled = match &proxy {
                Proxy::P2(proxy) => p2(&mut store, proxy, request, sender).await,
                #[cfg(feature = "wasi-p3")]
                Proxy::P3(proxy) => p3::serve(&mut store, proxy, request, sender).await,
            };
            handled.map_err(|e| Outcome::of(&e, &path, &store.data().limiter).message.unwrap_or_default())
        });
        match receiver.await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(code)) => Err(format!("'{}' answered with an error: {code:?}", self.path)),
            Err(_) => match task.await {
                Ok(Err(message)) => Err(message),
                _ => Err(format!("'{}' gave no answer", self.path)),
            },
        }
    }
}

/// Answers a request by an instance of its own.
async fn p2(
    store: &mut Store<State>,
    proxy: &ProxyPre<State>,
    request: Request<Incoming>,
    answer: Answer,
) -> wasmtime::Result<()> {
    let request = store.data_mut().http().new_incoming_request(Scheme::Http, request)?;
    let out = store.data_mut().http().new_response_outparam(answer)?;
    let instance = proxy.instantiate_async(&mut *store).await?;
    instance.wasi_http_incoming_handler().call_handle(&mut *store, request, out).await
}
