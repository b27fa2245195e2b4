//! The only unsafe code of this crate: system calls that neither rustix nor nix wraps in a safe function.
//!
//! Every function here is safe to call from a single-threaded process; none is a policy.
#![allow(unsafe_code)]

pub mod apart;
pub mod bpf;
pub mod clone;
#[cfg(target_arch = "x86_64")]
pub mod entry;
pub mod fd;
pub mod heap;
pub mod mapped;
mod mapping;
pub mod mount;
pub mod names;
pub mod random;
pub mod sched;
pub mod seccomp;
pub mod security;
pub mod shared;
pub mod signal;
pub mod time;
