//! Standard input without a thread of its own: wasmtime-wasi's reads in one, which a container may not be allowed to have.

use bytes::Bytes;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::stdio::stdin;
use std::os::fd::{AsRawFd, RawFd};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, Interest, ReadBuf};
use wasmtime_wasi::cli::{IsTerminal, StdinStream};
use wasmtime_wasi::p2::{InputStream, Pollable, StreamError, StreamResult};

/// Most bytes of one read: a guest must not make us allocate as much as it likes.
const MAX_READ: usize = 64 << 10;

/// Standard input of the program.
#[derive(Debug, Default)]
pub struct Stdin {
    /// Made when it is first needed, and then shared: epoll(7) takes a descriptor once.
    readiness: OnceLock<Readiness>,
}

/// None for what is always ready, as a file is: epoll(7) refuses it.
type Readiness = Option<Arc<AsyncFd<Descriptor>>>;

/// A reader of it. All of them read from the one descriptor.
#[derive(Debug, Clone)]
struct Reader {
    readiness: Readiness,
}

#[derive(Debug)]
struct Descriptor;

impl AsRawFd for Descriptor {
    fn as_raw_fd(&self) -> RawFd {
        stdin().as_raw_fd()
    }
}

impl Stdin {
    #[expect(
        deprecated,
        reason = "its successor is unsafe; the contract holds, for standard input is never closed"
    )]
    fn reader(&self) -> Reader {
        let make = || AsyncFd::with_interest(Descriptor, Interest::READABLE).ok().map(Arc::new);
        Reader { readiness: self.readiness.get_or_init(make).clone() }
    }
}

impl Reader {
    fn read_now(buffer: &mut [u8]) -> std::io::Result<usize> {
        Ok(rustix::io::retry_on_intr(|| rustix::io::read(stdin(), &mut *buffer))?)
    }
}

/// The descriptor blocks, since it is shared with others: it is read only when there is something.
fn is_ready() -> bool {
    let mut fds = [PollFd::from_borrowed_fd(stdin(), PollFlags::IN)];
    // An error shows when it is read.
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).map_or(true, |ready| ready > 0)
}

impl IsTerminal for Stdin {
    fn is_terminal(&self) -> bool {
        rustix::termios::isatty(stdin())
    }
}

impl StdinStream for Stdin {
    fn async_stream(&self) -> Box<dyn AsyncRead + Send + Sync> {
        Box::new(self.reader())
    }

    fn p2_stream(&self) -> Box<dyn InputStream> {
        Box::new(self.reader())
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Reader {
    async fn ready(&mut self) {
        let Some(readiness) = &self.readiness else { return };
        while let Ok(mut guard) = readiness.readable().await {
            if is_ready() {
                guard.retain_ready();
                return;
            }
            guard.clear_ready();
        }
    }
}

impl InputStream for Reader {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        if size == 0 || (self.readiness.is_some() && !is_ready()) {
            return Ok(Bytes::new());
        }
        let mut buffer = vec![0; size.min(MAX_READ)];
        match Self::read_now(&mut buffer) {
            Ok(0) => Err(StreamError::Closed),
            Ok(length) => {
                buffer.truncate(length);
                Ok(buffer.into())
            }
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => Ok(Bytes::new()),
            Err(e) => Err(StreamError::LastOperationFailed(e.into())),
        }
    }
}

impl AsyncRead for Reader {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        if let Some(readiness) = &self.readiness {
            loop {
                let mut guard = std::task::ready!(readiness.poll_read_ready(cx))?;
                if is_ready() {
                    guard.retain_ready();
                    break;
                }
                guard.clear_ready();
            }
        }
        let length = Self::read_now(buf.initialize_unfilled())?;
        buf.advance(length);
        Poll::Ready(Ok(()))
    }
}
