//! `wasi:sockets/ip-name-lookup`, in place of wasmtime-wasi's, which asks the C library.

use super::{Failure, resolve};
use crate::runtime::wasm::instance::State;
use std::net::IpAddr;
use std::vec::IntoIter;
use wasmtime::StoreContextMut;
use wasmtime::component::{Linker, Resource, ResourceType};
use wasmtime_wasi::WasiView as _;
use wasmtime_wasi::p2::bindings::sockets::network::{ErrorCode, IpAddress};
use wasmtime_wasi::p2::{DynPollable, Network, Pollable, subscribe};
use wasmtime_wasi::runtime::{AbortOnDropJoinHandle, spawn};

/// The interface, of the version that wasmtime-wasi has; older ones are compatible.
const INTERFACE: &str = "wasi:sockets/ip-name-lookup@0.2.12";

type Found = Result<IntoIter<IpAddr>, ErrorCode>;

/// The addresses of a name, once they are known.
enum Addresses {
    Asked(AbortOnDropJoinHandle<Found>),
    Known(Found),
}

#[wasmtime_wasi::async_trait]
impl Pollable for Addresses {
    async fn ready(&mut self) {
        if let Self::Asked(task) = self {
            *self = Self::Known(task.await);
        }
    }
}

impl Addresses {
    fn next(&mut self) -> Result<Option<IpAddress>, ErrorCode> {
        if let Self::Asked(task) = self
            && let std::task::Poll::Ready(found) =
                std::pin::Pin::new(task).poll(&mut std::task::Context::from_waker(std::task::Waker::noop()))
        {
            *self = Self::Known(found);
        }
        match self {
            Self::Asked(_) => Err(ErrorCode::WouldBlock),
            Self::Known(Ok(found)) => Ok(found.next().map(IpAddress::from)),
            Self::Known(Err(code)) => Err(*code),
        }
    }
}

/// Takes the place of the functions that are linked already.
pub fn link(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    let mut interface = linker.instance(INTERFACE)?;
    interface.resource(
        "resolve-address-stream",
        ResourceType::host::<Addresses>(),
        |mut store, number| {
            store.data_mut().ctx().table.delete(Resource::<Addresses>::new_own(number))?;
            Ok(())
        },
    )?;
    interface.func_wrap("resolve-addresses", start)?;
    interface.func_wrap("[method]resolve-address-stream.resolve-next-address", next)?;
    interface.func_wrap("[method]resolve-address-stream.subscribe", wait)?;
    linker.allow_shadowing(false);
    Ok(())
}

type Started = Result<Resource<Addresses>, ErrorCode>;

fn start(
    mut store: StoreContextMut<'_, State>,
    (network, name): (Resource<Network>, String),
) -> wasmtime::Result<(Started,)> {
    let state = store.data_mut();
    let allowed = state.may_resolve();
    let table = state.ctx().table;
    table.get(&network)?;
    if !allowed {
        return Ok((Err(ErrorCode::AccessDenied),));
    }
    let task = spawn(async move { resolve(&name).await.map(Vec::into_iter).map_err(code) });
    Ok((Ok(table.push(Addresses::Asked(task))?),))
}

fn next(
    mut store: StoreContextMut<'_, State>,
    (addresses,): (Resource<Addresses>,),
) -> wasmtime::Result<(Result<Option<IpAddress>, ErrorCode>,)> {
    Ok((store.data_mut().ctx().table.get_mut(&addresses)?.next(),))
}

fn wait(
    mut store: StoreContextMut<'_, State>,
    (addresses,): (Resource<Addresses>,),
) -> wasmtime::Result<(Resource<DynPollable>,)> {
    Ok((subscribe(store.data_mut().ctx().table, addresses)?,))
}

fn code(failure: Failure) -> ErrorCode {
    match failure {
        Failure::Invalid => ErrorCode::InvalidArgument,
        Failure::Unknown => ErrorCode::NameUnresolvable,
        Failure::NoAnswer => ErrorCode::TemporaryResolverFailure,
    }
}
