//! The entry point: what comes before the C library.
#![allow(unsafe_code)]

use magikrun::cli::ENTERING;
use magikrun::platform::selfexe::PATH_ASSIGNMENT;
use magikrun::platform::sys::entry;
use std::arch::global_asm;

// The linker is told of it in .cargo/rustc-static.sh. The C library begins at `_start`, with the stack as the kernel made it and no
// function in rdx (the System V ABI of x86_64, 3.4.1).
global_asm!(
    ".globl magikrun_start",
    "magikrun_start:",
    "xor ebp, ebp",
    "mov rbx, rsp",
    "mov rdi, rsp",
    "and rsp, -16",
    "call {before}",
    "mov rsp, rbx",
    "xor edx, edx",
    "jmp _start",
    before = sym before,
);

extern "C" fn before(stack: *const usize) {
    // SAFETY: it is called with the stack of the new process, above.
    unsafe { entry::protect(stack, &ENTERING, PATH_ASSIGNMENT) }
}
