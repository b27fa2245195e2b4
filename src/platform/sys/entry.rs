//! Protection of the executable before the C library starts.
//!
//! What enters a container is executed a second time, from a read-only clone of the executable's mount (`platform::selfexe`). The C library,
//! when it starts, asks the processor some sixty questions (cpuid), and a virtual machine answers each in four microseconds;
//! done here, before that, the second execution costs half. What does not work here is left to `selfexe`, which comes to the same.
//!
//! Nothing of the C library works yet, not even memcpy: so there are system calls and single bytes here, and nothing else. Reading and writing
//! are volatile so that the compiler does not make calls of its functions out of loops.

use std::arch::asm;
use std::ffi::{CStr, c_char};
use std::mem::MaybeUninit;
use std::ptr;

/// `ST_RDONLY` of statfs(2).
const RDONLY: i64 = 1;
/// Where `struct statfs` of x86_64 has its flags, in words, and how many it has.
const STATFS_FLAGS: usize = 10;
const STATFS_WORDS: usize = 15;
/// Most variables of the environment that are passed on; with more it is left to `selfexe`.
const MAX_VARIABLES: usize = 510;
/// Bytes for the variable that says where the executable is.
const VARIABLE: usize = 4096;

/// Executes this program again from a read-only clone of its mount, when a word of the command line is one of `commands` and
/// `variable` (with a `=` at its end) is not in the environment. It becomes the path of the executable there.
///
/// Returns when that is not so, not needed, or does not work.
///
/// # Safety
///
/// `stack` must be what the kernel has put on the stack of a process at its start (the System V ABI of x86_64, 3.4.1), and nothing may
/// have changed it.
pub unsafe fn protect(stack: *const usize, commands: &[&CStr], variable: &CStr) {
    // SAFETY: as the caller says: the number of arguments, the arguments, zero, the environment, zero.
    unsafe {
        let count = stack.read_volatile();
        let args = stack.add(1).cast::<*const c_char>();
        let environment = args.add(count + 1);
        let mut enters = false;
        for n in 1..count {
            for command in commands {
                enters |= starts_with(*args.add(n), command.as_ptr(), true);
            }
        }
        if !enters {
            return;
        }
        let mut variables = 0;
        while !(*environment.add(variables)).is_null() {
            if variables == MAX_VARIABLES
                || starts_with(*environment.add(variables), variable.as_ptr(), false)
            {
                return;
            }
            variables += 1;
        }
        execute(args, environment, variables, variable);
    }
}

/// As [`protect`], when it is to be done.
unsafe fn execute(
    args: *const *const c_char,
    environment: *const *const c_char,
    variables: usize,
    variable: &CStr,
) {
    let exe = c"/proc/self/exe".as_ptr();
    let mut statfs = MaybeUninit::<[i64; STATFS_WORDS]>::uninit();
    let mut text = MaybeUninit::<[c_char; VARIABLE]>::uninit();
    let mut all = MaybeUninit::<[*const c_char; MAX_VARIABLES + 2]>::uninit();
    let (text, all) = (text.as_mut_ptr().cast::<c_char>(), all.as_mut_ptr().cast::<*const c_char>());
    // SAFETY: the kernel writes within what it is given; all that is read was written, and within the arrays.
    unsafe {
        if call(libc::SYS_statfs, &[exe as usize, statfs.as_mut_ptr() as usize, 0, 0, 0]) != 0
            || statfs.as_ptr().cast::<i64>().add(STATFS_FLAGS).read_volatile() & RDONLY != 0
        {
            return;
        }
        let mut length = 0;
        while variable.as_ptr().add(length).read_volatile() != 0 {
            text.add(length).write_volatile(variable.as_ptr().add(length).read_volatile());
            length += 1;
        }
        let room = VARIABLE - length;
        let path = call(libc::SYS_readlink, &[exe as usize, text.add(length) as usize, room, 0, 0]);
        if path <= 0 || path as usize >= room {
            return;
        }
        text.add(length + path as usize).write_volatile(0);
        for n in 0..variables {
            all.add(n).write_volatile(environment.add(n).read_volatile());
        }
        all.add(variables).write_volatile(text);
        all.add(variables + 1).write_volatile(ptr::null());

        let clone = libc::OPEN_TREE_CLONE as usize | libc::OPEN_TREE_CLOEXEC as usize;
        let tree = call(libc::SYS_open_tree, &[libc::AT_FDCWD as usize, exe as usize, clone, 0, 0]);
        if tree < 0 {
            return;
        }
        let attr = [libc::MOUNT_ATTR_RDONLY, 0, 0, 0];
        let (tree, empty, by_descriptor) =
            (tree as usize, c"".as_ptr() as usize, libc::AT_EMPTY_PATH as usize);
        let size = size_of_val(&attr);
        if call(libc::SYS_mount_setattr, &[tree, empty, by_descriptor, attr.as_ptr() as usize, size]) == 0 {
            call(libc::SYS_execveat, &[tree, empty, args as usize, all as usize, by_descriptor]);
        }
        call(libc::SYS_close, &[tree, 0, 0, 0, 0]);
    }
}

/// Whether a string begins with another, or is it as a whole.
///
/// # Safety
///
/// Both must end with a zero.
unsafe fn starts_with(string: *const c_char, start: *const c_char, whole: bool) -> bool {
    let mut at = 0;
    // SAFETY: neither is read behind its zero, which the other does not equal or which ends the loop.
    unsafe {
        while start.add(at).read_volatile() != 0 {
            if string.add(at).read_volatile() != start.add(at).read_volatile() {
                return false;
            }
            at += 1;
        }
        !whole || string.add(at).read_volatile() == 0
    }
}

/// A system call; the result is its own or the negative errno.
///
/// # Safety
///
/// That of the call.
unsafe fn call(number: libc::c_long, arguments: &[usize; 5]) -> isize {
    let result;
    // SAFETY: registers as syscall(2) says; the kernel changes no others.
    unsafe {
        asm!("syscall", inlateout("rax") number as isize => result,
            in("rdi") arguments[0], in("rsi") arguments[1], in("rdx") arguments[2], in("r10") arguments[3],
            in("r8") arguments[4], lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_compared_to_their_end() {
        let starts = |string: &CStr, start: &CStr, whole| {
            // SAFETY: both end with a zero.
            unsafe { starts_with(string.as_ptr(), start.as_ptr(), whole) }
        };
        assert!(starts(c"run", c"run", true) && starts(c"A=b", c"A=", false));
        assert!(!starts(c"runs", c"run", true) && !starts(c"ru", c"run", true) && !starts(c"", c"A=", false));
    }
}
