//! What processes run until one of them makes a virtual machine, by the traces of the kernel.

use std::fs;
use std::path::{Path, PathBuf};

/// The traces.
const TRACES: &str = "/sys/kernel/tracing";
/// Told whenever the kernel adds to the time that a process has run.
const TIMES: &str = "events/sched/sched_stat_runtime";
/// Told of each ioctl(2).
const CALLS: &str = "events/syscalls/sys_enter_ioctl";
/// Sums of these times, for each process.
const SUMS: &str = "hist:keys=pid:vals=runtime";
/// Ends that with `KVM_CREATE_VM`.
const UNTIL: &str = "disable_hist:sched:sched_stat_runtime if cmd == 44545";

/// Sums that grow until a virtual machine is made. They are gone with this.
pub struct Traces {
    sums: PathBuf,
}

fn file(event: &str, name: &str) -> PathBuf {
    Path::new(TRACES).join(event).join(name)
}

fn set(event: &str, text: &str) {
    fs::write(file(event, "trigger"), text).unwrap_or_else(|e| panic!("{event}: {text}: {e}"));
}

impl Traces {
    /// Begins with nothing.
    pub fn begin() -> Self {
        if !file(TIMES, "trigger").exists() {
            rustix::mount::mount("tracefs", TRACES, "tracefs", rustix::mount::MountFlags::empty(), None)
                .expect("the kernel's traces");
        }
        let traces = Self::begin_to_the_end();
        set(CALLS, UNTIL);
        traces
    }

    /// Begins again with nothing, and does not end.
    pub fn begin_to_the_end() -> Self {
        set(TIMES, SUMS);
        Self { sums: file(TIMES, "hist") }
    }

    /// How long the process has run until then, in nanoseconds.
    pub fn end(self, pid: i32) -> u64 {
        let text = fs::read_to_string(&self.sums).expect("the sums");
        let of = |line: &str| {
            let mut words = line.split_whitespace().skip_while(|word| *word != "pid:");
            let is_it = words.nth(1)?.parse() == Ok(pid);
            let mut words = words.skip_while(|word| *word != "runtime:");
            is_it.then(|| words.nth(1)?.parse().ok()).flatten()
        };
        text.lines().find_map(of).unwrap_or_else(|| panic!("nothing of {pid} in: {text}"))
    }
}

impl Drop for Traces {
    fn drop(&mut self) {
        let _ = fs::write(file(CALLS, "trigger"), format!("!{UNTIL}"));
        let _ = fs::write(file(TIMES, "trigger"), format!("!{SUMS}"));
    }
}
