//! Handing a seccomp listener to the agent that the configuration names.

use crate::error::{Context as _, Result};
use crate::platform::socket::connect;
use crate::platform::socket::send_descriptor;
use serde_json::{Value, json};
use std::os::fd::BorrowedFd;
use std::path::Path;

/// Sends the listener and the container process state, as the runtime specification has it ("The Container Process State").
///
/// `pid` is the process that loaded the filter; `state` is the JSON of the container's state.
pub fn send_listener(
    path: &Path,
    metadata: &str,
    pid: i32,
    state: &[u8],
    listener: BorrowedFd<'_>,
) -> Result<()> {
    let state: Value = serde_json::from_slice(state)?;
    let version = state.get("ociVersion").cloned().unwrap_or_default();
    let message = json!({
        "ociVersion": version,
        "fds": ["seccompFd"],
        "pid": pid,
        "metadata": metadata,
        "state": state,
    });
    let socket = connect(path).context(|| "cannot reach the seccomp agent")?;
    send_descriptor(&socket, listener, message.to_string().as_bytes())
        .context(|| "cannot send the seccomp listener to its agent")
}
