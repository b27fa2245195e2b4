//! Linux containers: namespaces, cgroups, and a launch path close to what the kernel itself needs.

pub mod affinity;
pub mod attributes;
pub mod channel;
pub mod create;
pub mod exec;
pub mod init;
pub mod launch;
pub mod listener;
pub mod namespaces;
pub mod network;
pub mod prepare;
pub mod process;
pub mod program;
pub mod start;
pub mod sysctl;
pub mod target;
