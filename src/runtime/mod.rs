//! Single containers: their life cycle over the backends.

pub mod cgroups;
pub mod foreground;
pub mod hooks;
pub mod rootfs;
pub mod seccomp;
pub mod terminal;
