//! Calls of the C library and the kernel that no crate wraps safely: the only unsafe code of this program.
#![allow(unsafe_code)]

use rustix::process::{Resource, Rlimit, setrlimit};
use std::ffi::c_int;
use std::fs::File;
use std::io::{Error, Result};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

// SAFETY: malloc_trim(3) takes a number, and any thread may call it at any time.
unsafe extern "C" {
    safe fn malloc_trim(pad: usize) -> c_int;
}

/// Gives the kernel all memory that was freed. By itself the allocator gives back only what is above the last block in use, and after many
/// processes at once one that is kept is often the last.
pub fn trim_memory() {
    malloc_trim(0);
}

/// Closes all descriptors but the standard streams. Call first of all: whoever started this program may have left some open, which would go
/// to every program that is started here, and take the places that loggers are promised.
pub fn close_inherited() {
    // SAFETY: nothing in this program owns a descriptor yet. A kernel without the call leaves them open.
    unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0) };
}

/// Has a program started with a limit other than that of this process.
pub fn set_limit(command: &mut Command, resource: Resource, limit: Rlimit) {
    // SAFETY: between fork(2) and execve(2) there is the system call only, which allocates nothing and takes no lock.
    unsafe { command.pre_exec(move || Ok(setrlimit(resource, limit)?)) };
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

/// `LOOP_CTL_GET_FREE` and `LOOP_CONFIGURE` of the kernel's `loop.h`.
const GET_FREE: libc::Ioctl = 0x4C82;
const CONFIGURE: libc::Ioctl = 0x4C0A;
/// Its flags.
const READ_ONLY: u32 = 1;
const AUTOCLEAR: u32 = 4;
const DIRECT_IO: u32 = 16;

/// `struct loop_config` of the kernel, with `struct loop_info64` in it.
#[repr(C)]
#[derive(Default)]
struct LoopConfig {
    backing: u32,
    block_size: u32,
    /// Device, inode, device number, offset and size limit.
    place: [u64; 5],
    number: u32,
    encryption: [u32; 2],
    flags: u32,
    /// The name of the file, for whoever looks; a null byte is its end.
    name: [[u8; 32]; 2],
    encryption_name: [[u8; 32]; 2],
    encryption_key: [u8; 32],
    init: [u64; 2],
    reserved: [u64; 8],
}

/// The number of a loop device that is free now.
pub fn free_loop_device(control: &File) -> Result<u32> {
    // SAFETY: this request takes no argument.
    let number = unsafe { libc::ioctl(control.as_raw_fd(), GET_FREE) };
    u32::try_from(number).map_err(|_| Error::last_os_error())
}

/// Makes a loop device that is free one of a file, until nobody has it open or mounted. The name is what others are told.
pub fn configure_loop_device(
    device: &File,
    file: &File,
    name: &str,
    read_only: bool,
    direct: bool,
) -> Result<()> {
    let mut config = LoopConfig { backing: file.as_raw_fd().cast_unsigned(), ..LoopConfig::default() };
    let flag = |set: bool, flag: u32| if set { flag } else { 0 };
    config.flags = AUTOCLEAR | flag(read_only, READ_ONLY) | flag(direct, DIRECT_IO);
    let places = config.name.as_flattened_mut();
    let last = places.len() - 1;
    places[..last].iter_mut().zip(name.bytes()).for_each(|(place, byte)| *place = byte);
    // SAFETY: the request reads a structure of the kernel's layout (its size is asserted below) during the call only.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), CONFIGURE, &raw const config) };
    if result == 0 { Ok(()) } else { Err(Error::last_os_error()) }
}

// The size of `struct loop_config`, on all architectures.
const _: () = assert!(size_of::<LoopConfig>() == 304);
