//! Standard streams without threads of their own: wasmtime-wasi's read in one, which a container may not be allowed to have, and its
//! standard outputs are those of the process.

use bytes::Bytes;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::stdio::stdin;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use wasmtime_wasi::cli::{IsTerminal, StdinStream, StdoutStream};
use wasmtime_wasi::p2::{InputStream, OutputStream, Pollable, StreamError, StreamResult};

/// Most bytes of one read: a guest must not make us allocate as much as it likes.
const MAX_READ: usize = 64 << 10;

/// The standard streams of a program that are not those of the process: pipes.
#[derive(Debug, Clone)]
pub struct Streams {
    /// Its input.
    pub stdin: Arc<OwnedFd>,
    /// Its output. Nobody else writes to it: it does not block.
    pub stdout: Arc<OwnedFd>,
    /// Its second output.
    pub stderr: Arc<OwnedFd>,
}

/// Standard input of the program.
#[derive(Debug, Default)]
pub struct Stdin {
    descriptor: Descriptor,
    /// Made when it is first needed, and then shared: epoll(7) takes a descriptor once.
    readiness: OnceLock<Readiness>,
}

/// None for what is always ready, as a file is: epoll(7) refuses it.
type Readiness = Option<Arc<AsyncFd<Descriptor>>>;

/// A reader of it. All of them read from the one descriptor.
#[derive(Debug, Clone)]
struct Reader {
    descriptor: Descriptor,
    readiness: Readiness,
}

/// A descriptor that a program reads or writes; none for standard input of the process.
#[derive(Debug, Clone, Default)]
struct Descriptor(Option<Arc<OwnedFd>>);

impl AsFd for Descriptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_ref().map_or_else(|| stdin(), |fd| fd.as_fd())
    }
}

impl AsRawFd for Descriptor {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

impl Descriptor {
    #[expect(
        deprecated,
        reason = "its successor is unsafe; the contract holds, for the descriptor is never closed before"
    )]
    fn readiness(&self, interest: Interest) -> Readiness {
        AsyncFd::with_interest(self.clone(), interest).ok().map(Arc::new)
    }

    /// Whether there is something to read, or room for something to write.
    fn is_ready(&self, what: PollFlags) -> bool {
        let mut fds = [PollFd::new(self, what)];
        // An error shows when it is used.
        poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).map_or(true, |ready| ready > 0)
    }

    /// Waits until it is ready.
    async fn wait(&self, readiness: &Readiness, interest: Interest, what: PollFlags) {
        let Some(readiness) = readiness else { return };
        while let Ok(mut guard) = readiness.ready(interest).await {
            if self.is_ready(what) {
                guard.retain_ready();
                return;
            }
            guard.clear_ready();
        }
    }
}

impl Stdin {
    /// Another one than that of the process.
    pub fn of(fd: Arc<OwnedFd>) -> Self {
        Self { descriptor: Descriptor(Some(fd)), readiness: OnceLock::new() }
    }

    fn reader(&self) -> Reader {
        let readiness = self.readiness.get_or_init(|| self.descriptor.readiness(Interest::READABLE));
        Reader { descriptor: self.descriptor.clone(), readiness: readiness.clone() }
    }
}

impl Reader {
    fn read_now(&self, buffer: &mut [u8]) -> std::io::Result<usize> {
        Ok(rustix::io::retry_on_intr(|| rustix::io::read(&self.descriptor, &mut *buffer))?)
    }

    /// The descriptor blocks, since it is shared with others: it is read only when there is something.
    fn is_ready(&self) -> bool {
        self.descriptor.is_ready(PollFlags::IN)
    }
}

impl IsTerminal for Stdin {
    fn is_terminal(&self) -> bool {
        rustix::termios::isatty(&self.descriptor)
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
        self.descriptor.wait(&self.readiness, Interest::READABLE, PollFlags::IN).await;
    }
}

impl InputStream for Reader {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        if size == 0 || (self.readiness.is_some() && !self.is_ready()) {
            return Ok(Bytes::new());
        }
        let mut buffer = vec![0; size.min(MAX_READ)];
        match self.read_now(&mut buffer) {
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
                if self.is_ready() {
                    guard.retain_ready();
                    break;
                }
                guard.clear_ready();
            }
        }
        let length = self.read_now(buf.initialize_unfilled())?;
        buf.advance(length);
        Poll::Ready(Ok(()))
    }
}

/// An output of the program that is not one of the process's: the writing end of a pipe, which does not block.
#[derive(Debug)]
pub struct Stdout {
    descriptor: Descriptor,
    readiness: OnceLock<Readiness>,
}

/// A writer to it. All of them write to the one descriptor, and keep nothing back.
#[derive(Debug)]
struct Writer {
    descriptor: Descriptor,
    readiness: Readiness,
}

impl Stdout {
    /// A pipe.
    pub fn of(fd: Arc<OwnedFd>) -> Self {
        Self { descriptor: Descriptor(Some(fd)), readiness: OnceLock::new() }
    }

    fn writer(&self) -> Writer {
        let readiness = self.readiness.get_or_init(|| self.descriptor.readiness(Interest::WRITABLE));
        Writer { descriptor: self.descriptor.clone(), readiness: readiness.clone() }
    }
}

impl IsTerminal for Stdout {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Stdout {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.writer())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.writer())
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Writer {
    async fn ready(&mut self) {
        self.descriptor.wait(&self.readiness, Interest::WRITABLE, PollFlags::OUT).await;
    }
}

impl OutputStream for Writer {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        match rustix::io::retry_on_intr(|| rustix::io::write(&self.descriptor, &bytes)) {
            Ok(written) if written == bytes.len() => Ok(()),
            // No more was asked for than there was room for.
            Ok(_) | Err(Errno::AGAIN) => {
                Err(StreamError::LastOperationFailed(wasmtime::format_err!("the pipe is full")))
            }
            Err(Errno::PIPE) => Err(StreamError::Closed),
            Err(e) => Err(StreamError::LastOperationFailed(std::io::Error::from(e).into())),
        }
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        // A pipe that can be written to takes so much at least.
        Ok(if self.descriptor.is_ready(PollFlags::OUT) { rustix::pipe::PIPE_BUF } else { 0 })
    }
}

impl AsyncWrite for Writer {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        loop {
            match rustix::io::retry_on_intr(|| rustix::io::write(&self.descriptor, bytes)) {
                Err(Errno::AGAIN) => {}
                written => return Poll::Ready(Ok(written?)),
            }
            let Some(readiness) = &self.readiness else { return Poll::Ready(Err(Errno::AGAIN.into())) };
            std::task::ready!(readiness.poll_write_ready(cx))?.clear_ready();
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
