//! The magikrun executable.
//!
//! It starts without the set-up that Rust's standard library does before `main`: that reads `/proc/self/maps` and installs
//! handlers for stack overflows, and takes longer than some operations. What is needed of it, the library does.
#![no_main]

#[cfg(target_arch = "x86_64")]
mod ffi;

use std::ffi::{c_char, c_int};

// SAFETY: this is the C library's entry point with its signature; nothing else of this program has its name.
#[expect(unsafe_code, reason = "the attribute is unsafe; there is no unsafe code here")]
#[unsafe(no_mangle)]
extern "C" fn main(_argc: c_int, _argv: *const *const c_char) -> c_int {
    c_int::from(magikrun::cli::main())
}
