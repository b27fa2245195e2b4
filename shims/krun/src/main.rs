//! magikrun with libkrun compiled in.
//!
//! It starts as the other program does, see there. This one is linked dynamically: libkrun loads the guest's kernel, a shared library.
#![no_main]

mod engine;
mod ffi;

use magikrun::runtime::krun::engine::Libkrun;
use std::ffi::{c_char, c_int};

// SAFETY: this is the C library's entry point with its signature; nothing else of this program has its name.
#[expect(unsafe_code, reason = "the attribute is unsafe; there is no unsafe code here")]
#[unsafe(no_mangle)]
extern "C" fn main(_argc: c_int, _argv: *const *const c_char) -> c_int {
    c_int::from(magikrun::cli::main_with(Libkrun::Linked(&engine::Engine)))
}
