//! The server: what it consists of, and its life.

use crate::bootstrap::EVENTS;
use crate::error::{Context as _, Error, Result};
use crate::events::Publisher;
use crate::flags::Flags;
use crate::reaper::Reaper;
use crate::relay::Relay;
use crate::rpc;
use crate::service::Service;
use rustix::fs::{Mode, OFlags};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// How long the last events may take to be sent.
const FLUSH_DEADLINE: Duration = Duration::from_secs(5);

/// What all containers of a server share.
pub struct Shim {
    /// The namespace of containerd.
    pub namespace: String,
    /// Who waits for children.
    pub reaper: Arc<Reaper>,
    /// Who moves input and output.
    pub relay: Arc<Relay>,
    /// Who tells containerd what happens.
    pub publisher: Arc<Publisher>,
}

/// Serves the socket that is standard input, until containerd ends it.
pub fn serve(flags: &Flags) -> Result<()> {
    let listener = take_listener()?;
    let socket = listener.local_addr().ok().and_then(|address| address.as_pathname().map(Path::to_owned));
    let socket =
        socket.ok_or_else(|| Error::invalid("standard input is no socket; containerd starts this"))?;
    let address = std::env::var(EVENTS).unwrap_or_default();
    let shim = Arc::new(Shim {
        namespace: flags.namespace.clone(),
        reaper: Reaper::start()?,
        relay: Relay::start()?,
        publisher: Publisher::start(&address, &flags.namespace)?,
    });
    let service = Arc::new(Service::new(shim));
    rpc::serve(listener, Arc::clone(&service))?;
    service.wait_for_shutdown();
    service.shim().publisher.flush(FLUSH_DEADLINE);
    let _ = std::fs::remove_file(&socket);
    // Whatever still hangs, the process ends.
    std::process::exit(0)
}

/// Takes the socket from standard input, in whose place is nothing then.
fn take_listener() -> Result<UnixListener> {
    let socket = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3);
    let socket = socket.context(|| "cannot take the socket from standard input")?;
    let nothing = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .context(|| "cannot open '/dev/null'")?;
    rustix::stdio::dup2_stdin(nothing).context(|| "cannot close standard input")?;
    Ok(UnixListener::from(socket))
}
