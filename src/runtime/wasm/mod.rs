//! WebAssembly: modules and components run by wasmtime, as the processes of a container.
//!
//! The runtime finds the module and compiles it, or finds its code in the store, before anything is made ([`program`]). The
//! container is made as any other. Where a native process would execute its program, this one executes the runtime again
//! ([`handover`]), which runs the module ([`runner`], [`execute`]), or several of them ([`together`]).

pub mod bandwidth;
pub mod compile;
pub mod engine;
pub mod execute;
pub mod fetch;
pub mod handover;
pub mod http;
pub mod instance;
pub mod library;
pub mod limiter;
pub mod linked;
pub mod load;
pub mod names;
pub mod outcome;
#[cfg(feature = "wasi-p3")]
mod p3;
pub mod passed;
pub mod preopen;
pub mod processor;
pub mod program;
pub mod runner;
pub mod settings;
pub mod source;
mod stdio;
pub mod stop;
pub mod store;
pub mod together;
mod turns;
mod verified;
pub mod view;

pub use library::WasmtimeRuntime;
pub use program::{precompile, precompile_file};
