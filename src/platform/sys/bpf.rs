//! Device programs of cgroup v2: bpf(2).

use crate::error::{Error, Result};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// One instruction: `struct bpf_insn` of linux/bpf.h.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    /// Operation.
    pub code: u8,
    /// Destination in the low, source in the high four bits (of a little-endian machine).
    pub registers: u8,
    /// Jump or memory offset.
    pub off: i16,
    /// Immediate value.
    pub imm: i32,
}

const PROG_LOAD: libc::c_int = 5;
const PROG_ATTACH: libc::c_int = 8;
const PROG_DETACH: libc::c_int = 9;
const PROG_GET_FD_BY_ID: libc::c_int = 13;
const PROG_QUERY: libc::c_int = 16;
const PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_TYPE_CGROUP_DEVICE: u32 = 6;
/// Programs of ancestors stay in force.
const F_ALLOW_MULTI: u32 = 2;
/// Most programs of a cgroup: `BPF_CGROUP_MAX_PROGS`.
const MAX_PROGRAMS: usize = 64;

/// The first members of `union bpf_attr` for `BPF_PROG_LOAD`.
#[repr(C)]
#[derive(Default)]
struct LoadAttr {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct AttachAttr {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
}

/// All members for `BPF_PROG_QUERY`, those that are not used too: from Linux 6.17 to 7.1 the kernel writes `revision`
/// whatever size it is given, past the end of a shorter structure.
#[repr(C)]
#[derive(Default)]
struct QueryAttr {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
    _pad: u32,
    prog_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
}

/// Where `revision` ends in linux/bpf.h.
const _: () = assert!(size_of::<QueryAttr>() == 64);

#[repr(C)]
#[derive(Default)]
struct GetFdAttr {
    id: u32,
    next_id: u32,
    open_flags: u32,
}

fn bpf<T>(command: libc::c_int, attr: &mut T) -> Result<i64> {
    // SAFETY: `attr` is laid out as the command's part of union bpf_attr and its size is given; pointers in it are to
    // buffers that outlive the call and whose lengths are in it too.
    let ret = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    if ret < 0 { Err(Error::from(std::io::Error::last_os_error())) } else { Ok(ret) }
}

/// Loads a program of type `BPF_PROG_TYPE_CGROUP_DEVICE`.
pub fn load_device_program(program: &[Instruction]) -> Result<OwnedFd> {
    let mut attr = LoadAttr {
        prog_type: PROG_TYPE_CGROUP_DEVICE,
        insn_cnt: program.len() as u32,
        insns: program.as_ptr() as u64,
        license: c"Apache".as_ptr() as u64,
        ..LoadAttr::default()
    };
    let fd = bpf(PROG_LOAD, &mut attr)?;
    // SAFETY: the kernel returned a new descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

fn attach_attr(cgroup: BorrowedFd<'_>, program: &OwnedFd, flags: u32) -> AttachAttr {
    AttachAttr {
        target_fd: cgroup.as_raw_fd() as u32,
        attach_bpf_fd: program.as_fd().as_raw_fd() as u32,
        attach_type: ATTACH_TYPE_CGROUP_DEVICE,
        attach_flags: flags,
    }
}

/// Attaches a program to a cgroup, beside those that are attached already.
pub fn attach_device_program(cgroup: BorrowedFd<'_>, program: &OwnedFd) -> Result<()> {
    bpf(PROG_ATTACH, &mut attach_attr(cgroup, program, F_ALLOW_MULTI)).map(drop)
}

/// Detaches a program from a cgroup.
pub fn detach_device_program(cgroup: BorrowedFd<'_>, program: &OwnedFd) -> Result<()> {
    bpf(PROG_DETACH, &mut attach_attr(cgroup, program, 0)).map(drop)
}

/// The programs that are attached to this very cgroup.
pub fn attached_device_programs(cgroup: BorrowedFd<'_>) -> Result<Vec<OwnedFd>> {
    let mut ids = [0u32; MAX_PROGRAMS];
    let mut attr = QueryAttr {
        target_fd: cgroup.as_raw_fd() as u32,
        attach_type: ATTACH_TYPE_CGROUP_DEVICE,
        prog_ids: ids.as_mut_ptr() as u64,
        prog_cnt: MAX_PROGRAMS as u32,
        ..QueryAttr::default()
    };
    bpf(PROG_QUERY, &mut attr)?;
    ids.iter()
        .take(attr.prog_cnt as usize)
        .map(|id| {
            let fd = bpf(PROG_GET_FD_BY_ID, &mut GetFdAttr { id: *id, ..GetFdAttr::default() })?;
            // SAFETY: the kernel returned a new descriptor that nothing else owns.
            Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
        })
        .collect()
}
