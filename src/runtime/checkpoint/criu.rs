//! The process of criu: one request, and what it tells and asks on the way. It is run as `criu swrk FD`, as runc does.

use super::CriuOptions;
use super::rpc::{Kind, Notification, Options, Request, Response};
use crate::error::{Context as _, Error, ErrorKind, Result};
use prost::Message as _;
use rustix::fs::{Mode, OFlags};
use rustix::io::FdFlags;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, Shutdown, SocketFlags,
    SocketType,
};
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;
use std::process::{Child, Command};

/// More than any message of criu's.
const MAX_MESSAGE: usize = 64 << 10;
/// criu's word for everything: what is logged when nothing goes wrong is needed when something does.
const LOG_LEVEL: i32 = 4;

/// A running criu that waits for its request.
pub(super) struct Criu {
    child: Child,
    socket: OwnedFd,
    images: OwnedFd,
    work: OwnedFd,
    /// Path of its log, for messages.
    log: String,
}

impl Criu {
    /// Starts it. `log` is the name of its log in the work directory.
    pub(super) fn start(options: &CriuOptions, log: &str) -> Result<Self> {
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .context(|| "cannot make a socket pair")?;
        let (images, work) = (directory(&options.image_path)?, directory(&options.work_path)?);
        // Only criu is started while these may be inherited.
        for fd in [&theirs, &images, &work] {
            rustix::io::fcntl_setfd(fd, FdFlags::empty()).context(|| "cannot pass a descriptor on")?;
        }
        let started = Command::new(&options.criu).args(["swrk", &theirs.as_raw_fd().to_string()]).spawn();
        for fd in [&images, &work] {
            rustix::io::fcntl_setfd(fd, FdFlags::CLOEXEC).context(|| "cannot keep a descriptor")?;
        }
        let child = started.map_err(|e| {
            let program = options.criu.display();
            Error::from(e)
                .wrap(format!("cannot execute '{program}': install criu (Debian: apt-get install criu)"))
                .with_kind(ErrorKind::NotSupported)
        })?;
        let log = options.work_path.join(log).display().to_string();
        Ok(Self { child, socket: ours, images, work, log })
    }

    /// Its pid.
    pub(super) fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Makes the request and waits for its end; answers the pid of the restored process, if that is what was asked for.
    ///
    /// `told` hears of every step, with the descriptor that came along, and its error ends the request.
    pub(super) fn request(
        mut self,
        kind: Kind,
        mut options: Options,
        mut told: impl FnMut(&Notification, Option<OwnedFd>) -> Result<()>,
    ) -> Result<Option<i32>> {
        options.images_dir_fd = self.images.as_raw_fd();
        options.work_dir_fd = Some(self.work.as_raw_fd());
        options.log_level = Some(LOG_LEVEL);
        options.log_file = Path::new(&self.log).file_name().map(|name| name.to_string_lossy().into_owned());
        options.notify_scripts = Some(true);
        let request = Request { kind: kind.into(), options: Some(options), notify_success: None };
        self.send(&request).map_err(|e| self.ended(e))?;
        let mut refused = None;
        let response = loop {
            let (response, descriptor) =
                self.receive().map_err(|e| refused.take().unwrap_or_else(|| self.ended(e)))?;
            let Some(notification) = &response.notification else { break response };
            let heard = told(notification, descriptor);
            let success = heard.is_ok();
            refused = refused.or(heard.err());
            self.send(&Request { kind: Kind::Notify.into(), options: None, notify_success: Some(success) })?;
        };
        // It would wait for more.
        let _ = rustix::net::shutdown(&self.socket, Shutdown::Both);
        let _ = self.child.wait();
        match (refused, response.success) {
            (Some(e), _) => Err(e),
            (None, true) => Ok(response.restored.map(|restored| restored.pid)),
            (None, false) => {
                let said = response.message.map(|text| format!(": {text}")).unwrap_or_default();
                crate::bail!(System, "criu failed{said} (log file: {})", self.log)
            }
        }
    }

    /// Why there is no more to be heard of it: how it ended says more than what became of the connection.
    fn ended(&mut self, e: Error) -> Error {
        let _ = rustix::net::shutdown(&self.socket, Shutdown::Both);
        match self.child.wait() {
            Ok(status) if !status.success() => {
                Error::new(ErrorKind::System, format!("criu failed: {status} (log file: {})", self.log))
            }
            _ => e,
        }
    }

    fn send(&self, request: &Request) -> Result<()> {
        rustix::io::retry_on_intr(|| {
            rustix::net::send(&self.socket, &request.encode_to_vec(), SendFlags::NOSIGNAL)
        })
        .context(|| format!("cannot talk to criu (log file: {})", self.log))?;
        Ok(())
    }

    fn receive(&self) -> Result<(Response, Option<OwnedFd>)> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut data = vec![0u8; MAX_MESSAGE];
        let received = rustix::io::retry_on_intr(|| {
            let mut slices = [IoSliceMut::new(&mut data)];
            rustix::net::recvmsg(&self.socket, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC)
        })
        .context(|| format!("cannot talk to criu (log file: {})", self.log))?;
        if received.bytes == 0 {
            crate::bail!(System, "criu ended without an answer (log file: {})", self.log);
        }
        let descriptor = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        let response = Response::decode(&data[..received.bytes])
            .map_err(|e| Error::new(ErrorKind::System, format!("cannot read criu's answer: {e}")))?;
        Ok((response, descriptor))
    }
}

impl Drop for Criu {
    fn drop(&mut self) {
        // After a request it has ended; before one nobody needs it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn directory(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).context(|| format!("cannot open '{}'", path.display()))
}
