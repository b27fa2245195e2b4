//! The call of the C library that no crate wraps safely: the only unsafe code of this program.
#![allow(unsafe_code)]

use std::ffi::c_int;

// SAFETY: malloc_trim(3) takes a number, and any thread may call it at any time.
unsafe extern "C" {
    safe fn malloc_trim(pad: usize) -> c_int;
}

/// Gives the kernel all memory that was freed. By itself the allocator gives back only what is above the last block in use, and after many
/// processes at once one that is kept is often the last.
pub fn trim_memory() {
    malloc_trim(0);
}
