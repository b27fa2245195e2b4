//! Single containers: their life cycle over the backends.
//!
//! A Linux container is cloned, which only a process without other threads may do ([`NativeRuntime`]):
//!
//! ```no_run
//! use magikrun::runtime::{NativeRuntime, OciRuntime, Signal};
//!
//! # fn main() -> magikrun::Result<()> {
//! let runtime = NativeRuntime::new();
//! runtime.create("my-container", std::path::Path::new("bundle"))?;
//! runtime.start("my-container")?;
//! println!("{}", runtime.state("my-container")?.status);
//! runtime.kill("my-container", Signal::Kill)?;
//! runtime.delete("my-container")
//! # }
//! ```
//!
//! WebAssembly runs in threads of any process ([`WasmtimeRuntime`]):
//!
//! ```
//! use magikrun::runtime::{OciRuntime, WasmtimeRuntime};
//!
//! # fn main() -> magikrun::Result<()> {
//! # let bundle = tempfile::tempdir()?;
//! # std::fs::create_dir(bundle.path().join("rootfs"))?;
//! std::fs::write(bundle.path().join("rootfs/hello.wat"), "(module (func (export \"_start\")))")?;
//! let config = r#"{"ociVersion": "1.2.0", "root": {"path": "rootfs"},
//!     "process": {"cwd": "/", "args": ["/hello.wat"], "user": {"uid": 0, "gid": 0}}}"#;
//! std::fs::write(bundle.path().join("config.json"), config)?;
//! let runtime = WasmtimeRuntime::new();
//! runtime.create("hello", bundle.path())?;
//! runtime.start("hello")?;
//! assert_eq!(runtime.wait("hello")?.code, 0);
//! runtime.delete("hello")
//! # }
//! ```

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
pub mod microvm;
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
