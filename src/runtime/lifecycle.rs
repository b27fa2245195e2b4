//! The operations on containers, over the backends.

use crate::error::Result;
use crate::runtime::options::{CreateOptions, ExecOptions, Host, RunOptions};

/// Creates a container: everything is set up, the user's program waits for [`start`].
pub fn create(_host: &Host, _options: &CreateOptions) -> Result<()> {
    unimplemented!()
}

/// Creates and starts a container; unless detached, waits for it, deletes it and returns its exit code.
pub fn run(_host: &Host, _options: &RunOptions) -> Result<u8> {
    unimplemented!()
}

/// Starts a created container.
pub fn start(_host: &Host, _id: &str) -> Result<()> {
    unimplemented!()
}

/// Executes a process in a running container; unless detached, waits for it and returns its exit code.
pub fn exec(_host: &Host, _options: &ExecOptions) -> Result<u8> {
    unimplemented!()
}

/// Sends a signal to the container's first process, or with `all` to every process.
pub fn kill(_host: &Host, _id: &str, _signal: i32, _all: bool) -> Result<()> {
    unimplemented!()
}

/// Removes a stopped container; with `force` kills a running one first, and an id that does not exist is no error.
pub fn delete(_host: &Host, _id: &str, _force: bool) -> Result<()> {
    unimplemented!()
}

/// Freezes all processes of a container.
pub fn pause(_host: &Host, _id: &str) -> Result<()> {
    unimplemented!()
}

/// Lets the processes of a paused container go on.
pub fn resume(_host: &Host, _id: &str) -> Result<()> {
    unimplemented!()
}
