//! Making and waiting for processes.

use crate::error::{Context as _, Error, Result};
use crate::platform::small_file;
use rustix::fs::{Mode, OFlags};
use rustix::io::retry_on_intr;
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, kill_process, pidfd_open, waitpid};
use std::os::fd::{AsFd as _, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// `CLONE_INTO_CGROUP` of linux/sched.h; libc's constant does not fit its own type.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// How [`clone3`] makes the child.
#[derive(Default)]
pub struct CloneArgs<'a> {
    /// `CLONE_NEW*` and other flags of clone(2); `CLONE_PIDFD` is always added.
    pub flags: u64,
    /// Directory of the cgroup v2 to make the child in (`CLONE_INTO_CGROUP`, Linux 5.7).
    pub cgroup: Option<BorrowedFd<'a>>,
    /// Make the child a sibling: its parent is the caller's parent (`CLONE_PARENT`).
    pub sibling: bool,
}

/// The child made by [`clone3`].
#[derive(Debug)]
pub struct Child {
    /// Process id, in the caller's pid namespace.
    pub pid: i32,
    /// A descriptor that refers to the process even when the pid is reused; readable when it has exited.
    pub pidfd: OwnedFd,
}

impl Child {
    /// Takes over a child of this process that nobody has waited for: the pid is its own until then. Where no descriptor of it can be had it
    /// is ended, for nobody would know of it.
    pub fn adopt(pid: Pid) -> Result<Self> {
        let opened = pidfd_open(pid, PidfdFlags::empty()).inspect_err(|_| {
            let _ = kill_process(pid, Signal::KILL);
            let _ = retry_on_intr(|| waitpid(Some(pid), WaitOptions::empty()));
        });
        let pidfd = opened.context(|| "cannot open a pidfd")?;
        Ok(Self { pid: pid.as_raw_pid(), pidfd })
    }
}

/// The number of processes in the pid namespace that `/proc` shows, where that is another than the caller's: pidfd_open(2).
#[derive(Debug)]
pub struct ProcView(OwnedFd);

impl ProcView {
    /// The view of the `/proc` that there is now; it stays the same when this process enters another mount namespace.
    pub fn open() -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = rustix::fs::open("/proc/self/fdinfo", flags, Mode::empty());
        opened.map(Self).context(|| "cannot open '/proc/self/fdinfo'")
    }

    /// What the process id of a child is there.
    pub fn pid_of(&self, child: &Child) -> Result<i32> {
        let cannot = || "cannot find the pid of a process";
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let name = child.pidfd.as_raw_fd().to_string();
        let file = rustix::fs::openat(&self.0, name, flags, Mode::empty()).context(cannot)?;
        let text =
            String::from_utf8_lossy(&small_file::read_open(file.as_fd()).context(cannot)?).into_owned();
        let pid = text.lines().find_map(|line| line.strip_prefix("Pid:")?.trim().parse().ok());
        pid.filter(|pid| *pid > 0).ok_or_else(|| Error::from_errno(libc::ESRCH)).context(cannot)
    }
}

/// Makes a child that goes on with `child` in a copy of this process: fork(2). It exits with the status that `child` returns.
///
/// Also for a process with threads: the C library makes its allocator usable in the copy. Other locks that a thread may
/// hold, those of standard streams and of the log, `child` must not take.
pub fn fork(child: impl FnOnce() -> i32) -> Result<Child> {
    // SAFETY: the C library's fork, unlike a bare clone(2), brings the allocator's locks into order in the child; what else
    // the child may do is the contract above.
    match unsafe { libc::fork() } {
        0 => {
            let status =
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(child)).unwrap_or(libc::EXIT_FAILURE);
            // SAFETY: _exit runs no exit handlers: those belong to the parent's copy.
            unsafe { libc::_exit(status) }
        }
        pid if pid > 0 => {
            let id = Pid::from_raw(pid).ok_or_else(|| Error::from_errno(libc::ESRCH))?;
            Child::adopt(id)
        }
        _ => Err(Error::from(std::io::Error::last_os_error())).context(|| "cannot make a process"),
    }
}

/// Makes a child that goes on with `child` in a copy of this process, as fork(2) does, and never returns from it: the
/// child exits with the status that `child` returns.
///
/// The caller must be single-threaded: the copy has only the calling thread.
pub fn clone3(args: &CloneArgs<'_>, child: impl FnOnce() -> i32) -> Result<Child> {
    let mut pidfd: libc::c_int = -1;
    // SAFETY: an all-zero clone_args is the documented "nothing asked for".
    let mut raw: libc::clone_args = unsafe { std::mem::zeroed() };
    raw.flags = args.flags | libc::CLONE_PIDFD as u64;
    raw.pidfd = (&raw mut pidfd) as u64;
    if args.sibling {
        // With CLONE_PARENT the exit signal is the one that the caller itself was made with.
        raw.flags |= libc::CLONE_PARENT as u64;
    } else {
        raw.exit_signal = libc::SIGCHLD as u64;
    }
    if let Some(cgroup) = args.cgroup {
        raw.flags |= CLONE_INTO_CGROUP;
        raw.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: no CLONE_VM and no new stack, so the child runs on a copy of this stack as after fork(2);
    // the process is single-threaded, so no lock is held by a thread that the child does not have.
    let ret = unsafe { libc::syscall(libc::SYS_clone3, &raw const raw, size_of::<libc::clone_args>()) };
    match ret {
        0 => {
            let status = child();
            // SAFETY: _exit runs no exit handlers: those belong to the parent's copy.
            unsafe { libc::_exit(status) }
        }
        pid if pid > 0 => {
            // SAFETY: the kernel stored a new descriptor that nothing else owns.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Child { pid: pid as i32, pidfd })
        }
        _ => Err(Error::from(std::io::Error::last_os_error())).context(|| "cannot make a process"),
    }
}
