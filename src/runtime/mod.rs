//! Single containers: their life cycle over the backends.

pub mod api;
pub mod backend;
pub mod capabilities;
pub mod cgroups;
pub mod checkpoint;
pub mod container;
pub mod delete;
pub mod events;
pub mod exec_process;
pub mod foreground;
pub mod guest_exec;
pub mod hooks;
pub mod kernel_security;
pub mod krun;
pub mod lifecycle;
pub mod native;
pub mod notify;
pub mod options;
pub mod process_id;
pub mod procfs;
pub mod record;
pub mod rootfs;
pub mod seccomp;
pub mod signal;
pub mod spec;
pub mod state;
pub mod terminal;
pub mod update;
pub mod validate;
pub mod wasm;

pub use api::{NativeRuntime, OciRuntime, Signal};
pub use wasm::WasmtimeRuntime;
