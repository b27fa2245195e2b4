//! `poll_oneoff` where sockets are among what is waited for.

use super::guest::{Guest, error, number};
use super::{Passed, parts, socket};
use crate::runtime::wasm::instance::{PREVIEW1, State};
use rustix::event::{PollFd, PollFlags, Timespec};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;
use wasmtime::{Caller, Linker};
use wasmtime_wasi::p1::wasi_snapshot_preview1 as wasi;
use wiggle::GuestMemory;

/// Size of a `subscription`, in bytes.
const SUBSCRIPTION: u32 = 48;
/// Size of an `event`, in bytes.
const EVENT: u32 = 32;
/// Most subscriptions of one call.
const MAX_SUBSCRIPTIONS: u32 = 8192;
/// Of `eventrwflags`: the other side is gone.
const HANGUP: u8 = 1;

/// What is waited for.
enum Wait {
    /// A time from now.
    Time(Duration),
    /// A socket, to read or to write.
    Socket(Arc<OwnedFd>, PollFlags),
    /// A standard stream.
    Standard(i32, PollFlags),
    /// What is always ready: files.
    Ready,
    /// What cannot be waited for, with the number of the error.
    Never(i32),
}

struct Subscription {
    user: [u8; 8],
    kind: u8,
    wait: Wait,
}

pub fn link(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker.func_wrap_async(
        PREVIEW1,
        "poll_oneoff",
        |mut caller: Caller<'_, State>, (from, to, count, done): (i32, i32, i32, i32)| {
            Box::new(async move {
                let (memory, state) = parts(&mut caller)?;
                let asked = read(&mut Guest(memory), &state.passed, from, count as u32);
                match asked {
                    Ok(asked) if asked.iter().any(|one| matches!(one.wait, Wait::Socket(..))) => {
                        let answered =
                            wait(&asked).and_then(|ready| write(&mut Guest(memory), &ready, to, done));
                        Ok(answered.err().unwrap_or(number::SUCCESS))
                    }
                    // Faults too are told as everywhere.
                    _ => {
                        let mut memory = GuestMemory::Unshared(memory);
                        wasi::poll_oneoff(&mut state.wasi, &mut memory, from, to, count, done).await
                    }
                }
            })
        },
    )?;
    Ok(())
}

fn read(guest: &mut Guest<'_>, passed: &Passed, from: i32, count: u32) -> Result<Vec<Subscription>, i32> {
    if count > MAX_SUBSCRIPTIONS {
        return Err(number::INVAL);
    }
    let one = |n: u32| {
        let at = (from as u32).checked_add(n * SUBSCRIPTION).ok_or(number::FAULT)?;
        let bytes: [u8; SUBSCRIPTION as usize] = guest.bytes(at as i32)?;
        let word = |at: usize| i32::from_le_bytes(bytes[at..at + 4].try_into().unwrap_or_default());
        let user = bytes[..8].try_into().unwrap_or_default();
        let kind = bytes[8];
        let wait = match kind {
            // An absolute time is of a clock that only wasmtime-wasi knows.
            0 if bytes[40] & 1 != 0 => Wait::Never(number::NOTSUP),
            0 => Wait::Time(Duration::from_nanos(u64::from_le_bytes(
                bytes[24..32].try_into().unwrap_or_default(),
            ))),
            1 | 2 => {
                let flags = if kind == 1 { PollFlags::IN } else { PollFlags::OUT };
                match (word(16), passed.get(word(16))) {
                    (_, Some(socket)) => Wait::Socket(socket, flags),
                    (stream @ 0..=2, None) => Wait::Standard(stream, flags),
                    _ => Wait::Ready,
                }
            }
            _ => Wait::Never(number::INVAL),
        };
        Ok(Subscription { user, kind, wait })
    };
    (0..count).map(one).collect()
}

/// An `event`.
fn event(of: &Subscription, failure: i32, bytes: u64, hangup: bool) -> [u8; EVENT as usize] {
    let mut event = [0u8; EVENT as usize];
    event[..8].copy_from_slice(&of.user);
    event[8..10].copy_from_slice(&(failure as u16).to_le_bytes());
    event[10] = of.kind;
    event[16..24].copy_from_slice(&bytes.to_le_bytes());
    event[24] = if hangup { HANGUP } else { 0 };
    event
}

/// Waits until something is ready or a time is over. This blocks the thread, which the program has for itself.
fn wait(asked: &[Subscription]) -> Result<Vec<[u8; EVENT as usize]>, i32> {
    let streams = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    let mut fds: Vec<PollFd<'_>> = Vec::new();
    let mut shortest: Option<Duration> = None;
    for one in asked {
        match &one.wait {
            Wait::Socket(socket, flags) => fds.push(PollFd::new(socket, *flags)),
            Wait::Standard(0, flags) => fds.push(PollFd::from_borrowed_fd(streams.0.as_fd(), *flags)),
            Wait::Standard(1, flags) => fds.push(PollFd::from_borrowed_fd(streams.1.as_fd(), *flags)),
            Wait::Standard(_, flags) => fds.push(PollFd::from_borrowed_fd(streams.2.as_fd(), *flags)),
            Wait::Time(time) => shortest = Some(shortest.map_or(*time, |shortest| shortest.min(*time))),
            Wait::Ready | Wait::Never(_) => shortest = Some(Duration::ZERO),
        }
    }
    let limit = shortest.map(|time| Timespec {
        tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: time.subsec_nanos().into(),
    });
    let ready = rustix::io::retry_on_intr(|| rustix::event::poll(&mut fds, limit.as_ref())).map_err(error)?;
    let mut polled = fds.iter();
    let mut events = Vec::new();
    for one in asked {
        match &one.wait {
            Wait::Socket(..) | Wait::Standard(..) => {
                let found = polled.next().map_or(PollFlags::empty(), PollFd::revents);
                if found.is_empty() {
                    continue;
                }
                let bytes = match &one.wait {
                    Wait::Socket(socket, PollFlags::IN) => socket::waiting(socket),
                    _ => 1,
                };
                events.push(event(one, number::SUCCESS, bytes, found.contains(PollFlags::HUP)));
            }
            Wait::Time(time) if ready == 0 && Some(*time) == shortest => {
                events.push(event(one, number::SUCCESS, 0, false));
            }
            Wait::Time(_) => {}
            Wait::Ready => events.push(event(one, number::SUCCESS, 1, false)),
            Wait::Never(failure) => events.push(event(one, *failure, 0, false)),
        }
    }
    Ok(events)
}

fn write(guest: &mut Guest<'_>, events: &[[u8; EVENT as usize]], to: i32, done: i32) -> Result<(), i32> {
    guest.write(to, &events.concat())?;
    guest.write(done, &(events.len() as u32).to_le_bytes())
}
