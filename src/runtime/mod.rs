//! Single containers: their life cycle over the backends.

pub mod cgroups;
pub mod container;
pub mod foreground;
pub mod hooks;
pub mod lifecycle;
pub mod native;
pub mod options;
pub mod rootfs;
pub mod seccomp;
pub mod spec;
pub mod terminal;
