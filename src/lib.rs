//! magikrun: an OCI runtime for Linux containers, WebAssembly and microVMs, with atomic pods.
//!
//! Dependencies between the modules point one way:
//! `cli -> pod -> {runtime, image, infra, cni} -> {passt, vm} -> storage -> platform -> undo -> {error, limits}`.
//!
//! What this host can do:
//!
//! ```
//! use magikrun::image::{Capability, Platform};
//!
//! let platform = Platform::detect();
//! assert!(platform.oci_platform().starts_with("linux/"));
//! if platform.supports_native_containers() {
//!     println!("runs Linux containers");
//! }
//! if platform.has_hypervisor() {
//!     println!("runs microVMs");
//! }
//! assert!(platform.capabilities.contains(&Capability::WasmRuntime));
//! ```
//!
//! # Features
//!
//! `testing` shows internals to security tests, such as the unpacking of layers. What the program of a microVM's first process
//! needs is no feature but a package of its own, `vminit`: it is built for another machine, and small.

pub mod error;
pub mod limits;
pub mod undo;

pub mod platform;
pub mod storage;
pub mod vm;

pub mod cni;
pub mod image;
pub mod infra;
pub mod passt;
pub mod runtime;

pub mod pod;

pub mod cli;

pub use error::{Error, ErrorKind, Result};
