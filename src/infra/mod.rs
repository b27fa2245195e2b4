//! The infra container: a small unprivileged process that holds a pod's namespaces and runs extensions in them.
//!
//! It speaks to the monitor of its pod over one stream. Nothing here knows of the host's runtime, so that the same code can
//! serve a pod inside a microVM.

pub mod dns;
pub mod extension;
mod external;
pub mod message;
pub mod probe;
mod process;
pub mod wire;

pub use extension::{ExtensionResult, InfraContext, InfraEvent, InfraExtension, PodInfo};
pub use process::{PROCESS_NAME, main, run, state_directory};
