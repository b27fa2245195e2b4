//! magikrun: an OCI runtime for Linux containers, WebAssembly and microVMs, with atomic pods.
//!
//! Dependencies between the modules point one way:
//! `cli -> pod -> {runtime, image, infra, cni} -> {passt, vm} -> storage -> platform -> undo -> {error, limits}`.

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
