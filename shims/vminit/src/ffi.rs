//! System calls that rustix does not wrap in safe functions: the only unsafe code of this program.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::io::{Error, Result};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd as _, OwnedFd};

/// `CLONE_INTO_CGROUP` of linux/sched.h; libc's constant does not fit its own type.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// The request by which a guest tells libkrun its exit code, on a file of the root file system.
const KRUN_EXIT_CODE: libc::Ioctl = 0x7602;

/// How [`clone3`] makes the child.
#[derive(Default)]
pub struct CloneArgs<'a> {
    /// `CLONE_NEW*` flags of clone(2).
    pub flags: u64,
    /// Directory of the cgroup v2 to make the child in.
    pub cgroup: Option<BorrowedFd<'a>>,
    /// The child's parent is the caller's parent.
    pub sibling: bool,
}

/// A child.
#[derive(Debug)]
pub struct Child {
    /// Pid in the caller's namespace.
    pub pid: i32,
    /// Descriptor of the process.
    pub pidfd: OwnedFd,
}

fn check(ret: libc::c_long) -> Result<libc::c_long> {
    if ret < 0 { Err(Error::last_os_error()) } else { Ok(ret) }
}

/// Makes a child that goes on with `child` in a copy of this process, which must have one thread, and exits with what
/// that returns.
pub fn clone3(args: &CloneArgs<'_>, child: impl FnOnce() -> i32) -> Result<Child> {
    let mut pidfd: libc::c_int = -1;
    // SAFETY: an all-zero clone_args is the documented "nothing asked for".
    let mut raw: libc::clone_args = unsafe { std::mem::zeroed() };
    raw.flags = args.flags | libc::CLONE_PIDFD as u64;
    raw.pidfd = (&raw mut pidfd) as u64;
    if args.sibling {
        // With CLONE_PARENT the exit signal is that of the caller.
        raw.flags |= libc::CLONE_PARENT as u64;
    } else {
        raw.exit_signal = libc::SIGCHLD as u64;
    }
    if let Some(cgroup) = args.cgroup {
        raw.flags |= CLONE_INTO_CGROUP;
        raw.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: without CLONE_VM and a new stack the child runs on a copy of this stack, as after fork(2); there is no other
    // thread that could hold a lock.
    let pid =
        check(unsafe { libc::syscall(libc::SYS_clone3, &raw const raw, size_of::<libc::clone_args>()) })?;
    if pid == 0 {
        let status = child();
        // SAFETY: _exit runs no exit handlers: those belong to the parent's copy.
        unsafe { libc::_exit(status) }
    }
    // SAFETY: the kernel stored a new descriptor that nothing else owns.
    Ok(Child { pid: pid as i32, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } })
}

/// Executes a program; returns only when that fails.
pub fn execve(path: &CStr, args: &[CString], env: &[CString]) -> Error {
    let pointers = |all: &[CString]| -> Vec<*const libc::c_char> {
        all.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (args, env) = (pointers(args), pointers(env));
    // SAFETY: both arrays end with a null pointer, and their strings outlive the call.
    unsafe { libc::execve(path.as_ptr(), args.as_ptr(), env.as_ptr()) };
    Error::last_os_error()
}

/// Closes every descriptor from `first` on when a program is executed.
pub fn close_on_exec_from(first: u32) -> Result<()> {
    // SAFETY: sets a flag of descriptors and touches no memory.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) })
        .map(drop)
}

/// Closes every descriptor from `first` on: for a child that needs none of them, and does not return to those who own them.
pub fn close_from(first: u32) -> Result<()> {
    // SAFETY: closing descriptors touches no memory; the contract above keeps their owners from using them.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) }).map(drop)
}

/// Sends the signal with this number to a process.
pub fn pidfd_send_signal(pidfd: impl AsFd, signal: i32) -> Result<()> {
    let no_info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: a null siginfo asks the kernel to fill it in as kill(2) does.
    let ret =
        unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_fd().as_raw_fd(), signal, no_info, 0) };
    check(ret).map(drop)
}

/// Blocks these signals and makes a descriptor from which they are read.
pub fn signal_descriptor(signals: &[i32]) -> Result<OwnedFd> {
    // SAFETY: sigemptyset initialises the set; the other calls read it. The descriptor that signalfd returns is new.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in signals {
            libc::sigaddset(&raw mut set, *signal);
        }
        check(libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()).into())?;
        let fd = check(libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK).into())?;
        Ok(OwnedFd::from_raw_fd(fd as i32))
    }
}

/// The number of the next signal of a signal descriptor, if there is one.
pub fn next_signal(fd: impl AsFd) -> Option<i32> {
    let mut info = [0u8; size_of::<libc::signalfd_siginfo>()];
    let read = rustix::io::read(fd, &mut info).ok()?;
    // The number is the first field.
    (read == info.len()).then(|| i32::from_ne_bytes([info[0], info[1], info[2], info[3]]))
}

/// Gives a program the signals as it expects them: none blocked, and SIGPIPE not ignored.
pub fn reset_signals() -> Result<()> {
    // SAFETY: sets a default disposition and an empty mask; no handler runs.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        check(libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut()).into()).map(drop)
    }
}

/// Listens on a port of AF_VSOCK.
pub fn listen_vsock(port: u32) -> Result<OwnedFd> {
    let flags = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: the socket is new; the address is a plain structure of the size that is given.
    unsafe {
        let fd = check(libc::socket(libc::AF_VSOCK, flags, 0).into())?;
        let fd = OwnedFd::from_raw_fd(fd as i32);
        let mut address: libc::sockaddr_vm = std::mem::zeroed();
        address.svm_family = libc::AF_VSOCK as libc::sa_family_t;
        address.svm_port = port;
        address.svm_cid = libc::VMADDR_CID_ANY;
        let length = size_of::<libc::sockaddr_vm>() as libc::socklen_t;
        check(libc::bind(fd.as_raw_fd(), (&raw const address).cast(), length).into())?;
        check(libc::listen(fd.as_raw_fd(), 128).into())?;
        Ok(fd)
    }
}

/// Tells libkrun the status with which it is to end. `root` is the root file system of the virtual machine.
pub fn report_exit_status(root: impl AsFd, status: u8) -> Result<()> {
    // SAFETY: this request takes an integer.
    let ret = unsafe { libc::ioctl(root.as_fd().as_raw_fd(), KRUN_EXIT_CODE, libc::c_int::from(status)) };
    check(ret.into()).map(drop)
}
