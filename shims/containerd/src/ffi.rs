//! Calls of the C library and the kernel that no crate wraps safely: the only unsafe code of this program.
#![allow(unsafe_code)]

use std::ffi::c_int;
use std::io::{Error, Result};
use std::os::fd::{AsRawFd as _, OwnedFd};

// SAFETY: malloc_trim(3) takes a number, and any thread may call it at any time.
unsafe extern "C" {
    safe fn malloc_trim(pad: usize) -> c_int;
}

/// Gives the kernel all memory that was freed. By itself the allocator gives back only what is above the last block in use, and after many
/// processes at once one that is kept is often the last.
pub fn trim_memory() {
    malloc_trim(0);
}

/// Maps the ids of a mount that is mounted nowhere yet, by those of a user namespace: mount_setattr(2).
pub fn map_ids(tree: &OwnedFd, namespace: &OwnedFd, recursive: bool) -> Result<()> {
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: u64::from(namespace.as_raw_fd().cast_unsigned()),
    };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    let (path, size) = (c"".as_ptr(), size_of_val(&attributes));
    // SAFETY: the path is a C string, and the attributes are as long as is told; both outlive the call, which keeps neither.
    let result = unsafe {
        libc::syscall(libc::SYS_mount_setattr, tree.as_raw_fd(), path, flags, &raw const attributes, size)
    };
    if result == 0 { Ok(()) } else { Err(Error::last_os_error()) }
}
