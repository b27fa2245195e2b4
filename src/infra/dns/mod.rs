//! The name server of a pod: other pods by their names, and everything else by asking the servers of the host.
//!
//! It listens on the pod's loopback device only. Which pods there are, the monitor knows.

mod message;
mod server;

pub(super) use server::start;
pub use server::{Resolved, Resolver};
