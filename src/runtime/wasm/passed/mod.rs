//! Sockets that the caller passed to a program of WASI preview 1, as `sd_listen_fds(3)` has it: from descriptor 3 on.
//!
//! wasmtime-wasi has none in preview 1. The functions that take descriptors are put before its own, and answer for sockets;
//! everything else goes on to those.

mod guest;
mod poll;
mod socket;

use super::instance::{PREVIEW1, State};
use super::preopen::Preopen;
use guest::{Answer, Guest, number};
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use wasmtime::{Caller, Extern, Linker};
use wasmtime_wasi::p1::wasi_snapshot_preview1 as wasi;
use wiggle::GuestMemory;

/// The first descriptor that is passed: `SD_LISTEN_FDS_START`.
pub const FIRST: u32 = 3;
/// The first descriptor of accepted connections, out of the way of those that wasmtime-wasi numbers.
const FIRST_ACCEPTED: u32 = 1 << 20;
/// Most connections at a time.
const MAX_ACCEPTED: usize = 4096;
/// Kind of a preopened descriptor that is no directory: C libraries pass over what they do not know.
const NO_DIRECTORY: u8 = 1;

/// The sockets of a program, by descriptor.
#[derive(Debug, Default)]
pub struct Passed {
    open: BTreeMap<u32, Arc<OwnedFd>>,
}

impl Passed {
    /// Those that the caller passed.
    pub fn new(sockets: &[Arc<OwnedFd>]) -> Self {
        Self { open: (FIRST..).zip(sockets.iter().cloned()).collect() }
    }

    /// True if there are none, and can be none.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    fn get(&self, fd: i32) -> Option<Arc<OwnedFd>> {
        self.open.get(&(fd as u32)).cloned()
    }

    fn add(&mut self, socket: OwnedFd) -> Result<u32, i32> {
        if self.open.len() >= MAX_ACCEPTED {
            return Err(number::MFILE);
        }
        let mut numbers = FIRST_ACCEPTED..=FIRST_ACCEPTED + MAX_ACCEPTED as u32;
        let free = numbers.find(|fd| !self.open.contains_key(fd)).ok_or(number::MFILE)?;
        self.open.insert(free, Arc::new(socket));
        Ok(free)
    }
}

/// Directories that take the numbers of `count` sockets in the table of wasmtime-wasi, which gives the next ones to the real
/// ones. What reaches them by those numbers finds what the program can read anyway.
pub fn placeholders(preopens: &[Preopen], count: usize) -> Vec<Preopen> {
    let first =
        preopens.first().map(|first| Preopen { name: String::new(), read_only: true, ..first.clone() });
    first.into_iter().cycle().take(count).collect()
}

/// The memory of the program that calls, and its state.
fn parts<'a>(caller: &'a mut Caller<'_, State>) -> wasmtime::Result<(&'a mut [u8], &'a mut State)> {
    match caller.get_export("memory") {
        Some(Extern::Memory(memory)) => Ok(memory.data_and_store_mut(caller)),
        _ => Err(wasmtime::Error::msg("the module exports no memory")),
    }
}

/// Puts a function before that of wasmtime-wasi: `$answer` has the memory, the state and the socket, if the first argument is
/// the descriptor of one.
macro_rules! before {
    ($linker:expr, $name:ident($($arg:ident),*), $answer:expr $(, $wait:tt)?) => {
        $linker.func_wrap_async(
            PREVIEW1,
            stringify!($name),
            |mut caller: Caller<'_, State>, (fd, $($arg),*): (i32, $(before!(@type $arg)),*)| {
                Box::new(async move {
                    let (memory, state) = parts(&mut caller)?;
                    if let Some(socket) = state.passed.get(fd) {
                        let answer: fn(&mut Guest<'_>, &mut Passed, &OwnedFd, i32, $(before!(@type $arg)),*) -> Answer =
                            $answer;
                        let done = answer(&mut Guest(memory), &mut state.passed, &socket, fd, $($arg),*);
                        return Ok(done.err().unwrap_or(number::SUCCESS));
                    }
                    let mut memory = GuestMemory::Unshared(memory);
                    wasi::$name(&mut state.wasi, &mut memory, fd, $($arg),*)$(.$wait)?
                })
            },
        )?;
    };
    (@type $arg:ident) => { i32 };
}

/// Puts the functions before those that are linked already.
pub fn link(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    before!(linker, sock_accept(flags, to), |guest, passed, socket, _, flags, to| {
        let accepted = passed.add(socket::accept(socket, flags)?)?;
        guest.write(to, &accepted.to_le_bytes())
    });
    before!(
        linker,
        sock_recv(data, count, flags, to, to_flags),
        |guest, _, socket, _, data, count, flags, to, to_flags| {
            let length = socket::receive(guest, socket, data, count, flags)?;
            guest.write(to, &length.to_le_bytes())?;
            guest.write(to_flags, &0u16.to_le_bytes())
        }
    );
    before!(linker, sock_send(data, count, flags, to), |guest, _, socket, _, data, count, _flags, to| {
        let length = socket::send(guest, socket, data, count)?;
        guest.write(to, &length.to_le_bytes())
    });
    before!(linker, sock_shutdown(how), |_, _, socket, _, how| socket::shut_down(socket, how));
    before!(
        linker,
        fd_read(data, count, to),
        |guest, _, socket, _, data, count, to| {
            let length = socket::receive(guest, socket, data, count, 0)?;
            guest.write(to, &length.to_le_bytes())
        },
        await
    );
    before!(
        linker,
        fd_write(data, count, to),
        |guest, _, socket, _, data, count, to| {
            let length = socket::send(guest, socket, data, count)?;
            guest.write(to, &length.to_le_bytes())
        },
        await
    );
    before!(
        linker,
        fd_close(),
        |_, passed, _, fd| passed.open.remove(&(fd as u32)).map(drop).ok_or(number::BADF),
        await
    );
    before!(
        linker,
        fd_fdstat_get(to),
        |guest, _, socket, _, to| guest.write(to, &socket::describe(socket)?),
        await
    );
    before!(linker, fd_fdstat_set_flags(flags), |_, _, socket, _, flags| socket::set_flags(socket, flags));
    before!(linker, fd_prestat_get(to), |guest, _, _, _, to| guest
        .write(to, &[NO_DIRECTORY, 0, 0, 0, 0, 0, 0, 0]));
    poll::link(linker)?;
    linker.allow_shadowing(false);
    Ok(())
}
