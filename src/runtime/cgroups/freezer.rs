//! Whether a cgroup of version 2 is frozen, with the kernel's own threads left out.
//!
//! Before Linux 6.13 a virtual machine has a thread of the kernel (`kvm-nx-lpage-recovery`) in its cgroup. No such thread is ever
//! frozen, so the kernel never says that the cgroup is.

use super::fs;
use crate::error::Result;
use crate::platform::small_file;
use std::path::Path;
use std::time::{Duration, Instant};

/// `PF_KTHREAD` of linux/sched.h.
const KERNEL_THREAD: u64 = 0x0020_0000;
/// Where the kernel holds a frozen thread; the second where the compiler has put the first into it.
const TRAPS: [&str; 2] = ["do_freezer_trap", "get_signal"];

/// How long the kernel is given to say that all is frozen, before its threads are looked for.
const USUAL: Duration = Duration::from_millis(100);

/// Whether everything in the cgroup that can be frozen is, since `begin`.
pub fn is_frozen(directory: &Path, begin: Instant) -> Result<bool> {
    let frozen = fs::read(&directory.join("cgroup.events"))?.lines().any(|line| line == "frozen 1");
    if frozen || begin.elapsed() < USUAL {
        return Ok(frozen);
    }
    let mut kernel = false;
    for thread in fs::read(&directory.join("cgroup.threads"))?.lines() {
        let file = |name: &str| small_file::read(format!("/proc/{thread}/{name}")).unwrap_or_default();
        if is_of_kernel(&file("stat")) {
            kernel = true;
        } else if !TRAPS.contains(&file("wchan").trim_end()) {
            return Ok(false);
        }
    }
    Ok(kernel)
}

/// Whether a line of `/proc/PID/stat` is that of a thread of the kernel: its flags are the seventh field after the name.
fn is_of_kernel(stat: &str) -> bool {
    let fields = stat.rsplit_once(") ").map(|(_, fields)| fields);
    let flags =
        fields.and_then(|fields| fields.split(' ').nth(6)).and_then(|flags| flags.parse::<u64>().ok());
    flags.is_some_and(|flags| flags & KERNEL_THREAD != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_of_the_kernel_are_told_from_others() {
        assert!(is_of_kernel("160 (kvm-nx-lpage-re) S 2 0 0 0 -1 2129984 0 0 0 0\n"));
        assert!(!is_of_kernel(&small_file::read("/proc/self/stat").unwrap()));
        assert!(!is_of_kernel("1 (a) b) 2129984) S 0 1 1 0 -1 4194560 0\n"));
        assert!(!is_of_kernel(""));
    }
}
