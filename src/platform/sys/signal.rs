//! Signals: dispositions, and sending any of the 64 by number.

use crate::error::{Error, Result};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::OnceLock;
use std::time::Duration;

/// Sends the signal with this number, 0 to 64, to a process: pidfd_send_signal(2).
pub fn pidfd_send_signal(pidfd: impl AsFd, signal: i32) -> Result<()> {
    let fd = pidfd.as_fd().as_raw_fd();
    let no_info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: a null siginfo asks the kernel to fill it in as kill(2) does.
    let ret = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, no_info, 0) };
    if ret == 0 { Ok(()) } else { Err(Error::from(std::io::Error::last_os_error())) }
}

/// Ignores SIGPIPE: writing to a closed pipe is an error to be reported, and must not end us half-way.
pub fn ignore_sigpipe() {
    // SAFETY: sets a disposition; no handler runs.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}

/// Lets the kernel reap children as they end: for the first process of a pid namespace, which inherits all orphans.
pub fn ignore_children() {
    // SAFETY: sets a disposition; no handler runs.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
}

/// Gives SIGPIPE its default action again. We ignore it, and an ignored signal stays ignored across
/// execve(2), which programs do not expect.
pub fn default_sigpipe() {
    // SAFETY: sets a default disposition; no handler runs.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
}

/// Signals that end a process unless it handles them, without those that tell of a fault of its own and those that the
/// real-time ones start after.
const FATAL: [libc::c_int; 15] = [
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGABRT,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGALRM,
    libc::SIGTERM,
    libc::SIGSTKFLT,
    libc::SIGXCPU,
    libc::SIGXFSZ,
    libc::SIGVTALRM,
    libc::SIGPROF,
    libc::SIGIO,
    libc::SIGPWR,
];

/// True for a signal that ends a process unless it handles it.
pub fn is_fatal(number: i32) -> bool {
    const FAULTS: [libc::c_int; 7] =
        [libc::SIGKILL, libc::SIGILL, libc::SIGTRAP, libc::SIGBUS, libc::SIGFPE, libc::SIGSEGV, libc::SIGSYS];
    FATAL.contains(&number)
        || FAULTS.contains(&number)
        || number == libc::SIGPIPE
        || number >= libc::SIGRTMIN()
}

/// Makes signals that end other processes end this one, with the exit code 128 + n: the kernel keeps from the first process of
/// a pid namespace every signal that it does not handle.
pub fn exit_on_fatal_signals() {
    extern "C" fn exit(number: libc::c_int) {
        // SAFETY: _exit may be called in a signal handler.
        unsafe { libc::_exit(128 + number) }
    }
    FATAL.into_iter().chain(libc::SIGRTMIN()..=libc::SIGRTMAX()).for_each(|number| handle(number, exit));
}

/// Handles a signal. What the handler interrupts goes on, and it runs on the alternate stack where there is one, for the program may
/// have used its own up.
fn handle(number: libc::c_int, handler: extern "C" fn(libc::c_int)) {
    // SAFETY: an all-zero sigaction is a valid one; the handler has the signature that goes without SA_SIGINFO. What the handlers
    // of this module do is said where they are.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as libc::sighandler_t;
        action.sa_flags = libc::SA_ONSTACK | libc::SA_RESTART;
        libc::sigaction(number, &raw const action, std::ptr::null_mut());
    }
}

/// Calls `elapsed` whenever this process has computed for another `interval` (setitimer(2) with `ITIMER_VIRTUAL`), in a handler of
/// SIGVTALRM: it may do nothing but what a handler may, which atomic operations are. Only the first call counts.
pub fn on_processor_time(interval: Duration, elapsed: fn()) -> Result<()> {
    static ELAPSED: OnceLock<fn()> = OnceLock::new();
    extern "C" fn handler(_: libc::c_int) {
        if let Some(elapsed) = ELAPSED.get() {
            elapsed();
        }
    }
    ELAPSED.get_or_init(|| elapsed);
    handle(libc::SIGVTALRM, handler);
    let interval = libc::timeval { tv_sec: 0, tv_usec: interval.subsec_micros().into() };
    let timer = libc::itimerval { it_interval: interval, it_value: interval };
    // SAFETY: the timer is read only, and what it was before is not asked for.
    let set = unsafe { libc::setitimer(libc::ITIMER_VIRTUAL, &raw const timer, std::ptr::null_mut()) };
    if set == 0 { Ok(()) } else { Err(Error::from(std::io::Error::last_os_error())) }
}
