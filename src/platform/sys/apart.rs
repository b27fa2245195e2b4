//! Running a function in a process of its own that borrows the memory of this one: vfork(2).

use super::mapping::Mapping;
use crate::error::{Context as _, Error, Result};
use rustix::io::retry_on_intr;
use rustix::process::{Pid, WaitOptions, waitpid};
use std::ffi::{c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;

/// Bytes of the stack, as much as a thread of Rust gets; the kernel makes a page of it only where one is touched.
const STACK: usize = 2 << 20;
/// Bytes below it that nobody may touch: what grows over the end is ended by a signal.
const GUARD: usize = 64 << 10;

/// Runs `work` in a process of its own, and returns what it returned; `None` where it panicked, or the process was ended.
///
/// As with vfork(2), the calling thread sleeps until that process has ended, and no memory is copied: what `work` writes is there afterwards.
/// Namespaces, directories, ids, limits, cgroup and descriptors are that process's own: what it changes of them ends with it, and a
/// descriptor that it opens means nothing in what it returns. A time namespace it cannot enter, which the kernel allows only where nobody shares
/// the memory.
pub fn apart<T>(work: impl FnOnce() -> T) -> Result<Option<T>> {
    let stack = Stack::new()?;
    let mut task = Task { work: Some(work), result: None };
    let entry = entry_of(&task);
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    // SAFETY: the process runs on a stack of its own, and CLONE_VFORK keeps this thread, and with it `task` and `stack`, as they are until it
    // has ended. It shares the thread-local storage, which nobody else uses meanwhile, and locks of the allocator work between processes that share memory.
    let pid = unsafe { libc::clone(entry, stack.top(), flags, (&raw mut task).cast()) };
    let Some(pid) = Pid::from_raw(pid.max(0)) else {
        return Err(Error::from(std::io::Error::last_os_error())).context(|| "cannot make a process");
    };
    let _ = retry_on_intr(|| waitpid(Some(pid), WaitOptions::empty()));
    Ok(task.result)
}

struct Task<F, T> {
    work: Option<F>,
    result: Option<T>,
}

type Entry = extern "C" fn(*mut c_void) -> c_int;

/// The entry that is made for a task of this type.
fn entry_of<F: FnOnce() -> T, T>(_: &Task<F, T>) -> Entry {
    enter::<F, T>
}

extern "C" fn enter<F: FnOnce() -> T, T>(task: *mut c_void) -> c_int {
    // SAFETY: `apart` passes its own task, of this type, and does not touch it before this process has ended.
    let task = unsafe { &mut *task.cast::<Task<F, T>>() };
    task.result = task.work.take().and_then(|work| catch_unwind(AssertUnwindSafe(work)).ok());
    0
}

/// A stack with a guard below it.
struct Stack(Mapping);

impl Stack {
    fn new() -> Result<Self> {
        let cannot = || "cannot make a stack";
        let kind = libc::MAP_PRIVATE | libc::MAP_STACK | libc::MAP_NORESERVE;
        let stack = Self(Mapping::new(GUARD + STACK, libc::PROT_NONE, kind, None).context(cannot)?);
        // SAFETY: what is above the guard is part of the mapping, which nobody uses yet.
        let opened = unsafe {
            libc::mprotect(stack.above_guard().as_ptr(), STACK, libc::PROT_READ | libc::PROT_WRITE)
        };
        if opened == 0 { Ok(stack) } else { Err(std::io::Error::last_os_error()).context(cannot) }
    }

    fn above_guard(&self) -> NonNull<c_void> {
        // SAFETY: within the mapping.
        unsafe { self.0.address().byte_add(GUARD) }
    }

    /// Its end, from which it grows down; aligned to a page, as every ABI's stack must be to less.
    fn top(&self) -> *mut c_void {
        // SAFETY: one past the end of the mapping.
        unsafe { self.above_guard().byte_add(STACK).as_ptr() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{Resource, Signal, getcwd, getpid, getrlimit, kill_process, setrlimit};

    #[test]
    fn what_is_written_stays_and_what_the_process_is_does_not() {
        let mut written = Vec::new();
        let (own, directory, files) = (getpid(), getcwd(Vec::new()).unwrap(), getrlimit(Resource::Nofile));
        let returned = apart(|| {
            written.push("here".to_owned());
            rustix::process::chdir("/proc/self").unwrap();
            let fewer = rustix::process::Rlimit { current: Some(3), ..files };
            setrlimit(Resource::Nofile, fewer).unwrap();
            (getpid() != own, getcwd(Vec::new()).unwrap() != directory, std::fs::File::open("/proc").is_err())
        });
        assert_eq!(returned.unwrap(), Some((true, true, true)));
        assert_eq!(written, ["here"]);
        assert_eq!(getcwd(Vec::new()).unwrap(), directory);
        assert_eq!(getrlimit(Resource::Nofile).current, files.current);
    }

    #[test]
    fn a_process_that_is_ended_or_panics_returns_nothing() {
        let ended: Option<()> = apart(|| {
            kill_process(getpid(), Signal::KILL).unwrap();
            unreachable!("SIGKILL comes before the system call returns")
        })
        .unwrap();
        assert_eq!(ended, None);
        let panicked: Option<()> = apart(|| panic!("in a process of its own")).unwrap();
        assert_eq!(panicked, None);
        assert_eq!(apart(|| 7).unwrap(), Some(7));
    }

    #[test]
    fn many_threads_may_do_it_at_once() {
        let one = |n: usize| (0..50).map(|i| apart(|| vec![n; i].len()).unwrap().unwrap()).sum::<usize>();
        let sums: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|n| scope.spawn(move || one(n))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(sums, [1225; 4]);
    }
}
