//! Clocks of single threads: clock_gettime(2) with a clock that neither rustix nor nix names.

use std::time::Duration;

/// The processor time that a thread of this process has used, by the kernel's number for the thread; none if there is no such
/// thread.
pub fn of_thread(thread: i32) -> Option<Duration> {
    /// `CPUCLOCK_SCHED` and `CPUCLOCK_PERTHREAD_MASK` of the kernel: the time that the scheduler has counted, of one thread.
    const OF_THREAD: libc::clockid_t = 2 | 4;
    let clock = (!thread << 3) | OF_THREAD;
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes to the structure, which outlives the call.
    let got = unsafe { libc::clock_gettime(clock, &raw mut time) };
    let parts = (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec));
    match parts {
        (Ok(seconds), Ok(nanoseconds)) if got == 0 => Some(Duration::new(seconds, nanoseconds)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_computes_uses_time_and_one_that_sleeps_does_not() {
        let own = rustix::thread::gettid().as_raw_pid();
        let used = |from: Duration| of_thread(own).unwrap().saturating_sub(from);
        let before = of_thread(own).unwrap();
        while used(before) < Duration::from_millis(5) {}
        let before = of_thread(own).unwrap();
        std::thread::sleep(Duration::from_millis(50));
        assert!(used(before) < Duration::from_millis(40));
        assert_eq!(of_thread(1), None, "that of another process");
    }
}
