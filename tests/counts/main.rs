//! What each operation asks of the kernel, held against committed figures: system calls, processes and page faults do not
//! depend on how fast a machine is, or on what else it does.
//!
//! It measures the release binary, in a view of the host that has cgroup v2 alone, with the seccomp profile of container
//! engines and warm caches. A figure that got better fails too: `committed.json` is then to be lowered, to what the test
//! prints.
#[path = "../common/mod.rs"]
mod common;

#[path = "../faults/tracer.rs"]
#[allow(dead_code, reason = "nothing is disturbed here")]
mod tracer;

use common::{Bundle, Runtime, finish};
use nix::sys::resource::{UsageWho, getrusage};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// How long one operation may take under the tracer.
const PATIENCE: Duration = Duration::from_secs(60);
/// Measurements of each operation; the least counts, since a retry is chance.
const ROUNDS: usize = 5;
/// System calls that an allocator or a scheduler decides on.
const UNSTEADY: [i64; 7] = [
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_mprotect,
    libc::SYS_brk,
    libc::SYS_madvise,
    libc::SYS_futex,
];

/// What an operation costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Counts {
    /// Processes, the command itself included.
    processes: usize,
    /// System calls of them all, until each executes the program of the container.
    calls: usize,
    /// Page faults that read nothing from a disk, of the command and of those it waited for.
    faults: usize,
}

impl Counts {
    fn least(self, other: Self) -> Self {
        Self {
            processes: self.processes.min(other.processes),
            calls: self.calls.min(other.calls),
            faults: self.faults.min(other.faults),
        }
    }

    /// What differs from the committed figures by more than the layout of a host explains.
    fn differs(self, committed: Self) -> Option<String> {
        let far = |now: usize, then: usize, allowed: usize| now.abs_diff(then) > allowed.max(then / 25);
        // Waiting for a cgroup to freeze or for an answer takes a few calls more or less. Where the linker puts what has no order
        // of its own differs from build to build, and so do page faults.
        let wrong = self.processes != committed.processes
            || far(self.calls, committed.calls, 8)
            || far(self.faults, committed.faults, committed.faults / 5);
        wrong.then(|| format!("{self:?} instead of {committed:?}"))
    }
}

/// The operations, in an order in which each leaves what the next one needs.
const LIFE: [&str; 10] =
    ["--version", "create", "state", "list", "start", "exec", "pause", "resume", "kill", "delete"];

fn args<'a>(operation: &'a str, bundle: &'a Bundle) -> Vec<&'a str> {
    let (id, dir) = (bundle.id.as_str(), bundle.dir());
    match operation {
        "--version" | "list" => vec![operation],
        "create" | "run" => vec![operation, "--bundle", dir, id],
        "exec" => vec!["exec", id, "true"],
        "kill" => vec!["kill", id, "KILL"],
        other => vec![other, id],
    }
}

/// The release binary on this runtime's state root.
fn command(runtime: &Runtime, operation: &str, bundle: &Bundle) -> Command {
    let mut command = Command::new(common::release_path());
    command.arg("--root").arg(runtime.root()).args(args(operation, bundle));
    command
}

fn faults() -> usize {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).expect("the usage of children");
    usize::try_from(usage.minor_page_faults()).expect("a count")
}

/// One operation with its system calls counted, or its page faults: a tracer causes some of its own.
fn measure(runtime: &Runtime, operation: &str, bundle: &Bundle, traced: bool) -> Counts {
    let command = command(runtime, operation, bundle);
    if traced {
        let run = tracer::run(&command, None, PATIENCE);
        assert_eq!(run.code, 0, "{operation} fails under the tracer");
        let steady =
            run.points.iter().filter(|point| !UNSTEADY.iter().any(|call| *call as u64 == point.call));
        let processes: HashSet<usize> = run.points.iter().map(|point| point.process).collect();
        Counts { processes: processes.len(), calls: steady.count(), faults: usize::MAX }
    } else {
        let before = faults();
        let _ = finish(command, None).success();
        Counts { processes: usize::MAX, calls: usize::MAX, faults: faults() - before }
    }
}

/// A container's whole life, and one in the foreground.
fn life(runtime: &Runtime, traced: bool, figures: &mut BTreeMap<String, Counts>) {
    let mut note = |operation: &str, bundle: &Bundle| {
        let now = measure(runtime, operation, bundle, traced);
        figures.entry(operation.to_owned()).and_modify(|least| *least = least.least(now)).or_insert(now);
    };
    let bundle = profiled(runtime.sleeper());
    for operation in LIFE {
        note(operation, &bundle);
        if operation == "kill" {
            runtime.wait_status(&bundle.id, "stopped");
        }
    }
    let bundle = profiled(runtime.bundle());
    note("run", &bundle);
    runtime.assert_nothing_left();
}

/// The bundle with a filter, which every container engine gives.
fn profiled(mut bundle: Bundle) -> Bundle {
    bundle.edit(|config| {
        config["linux"]["seccomp"] = serde_json::json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "architectures": ["SCMP_ARCH_X86_64"],
            "syscalls": [{"names": ["swapon", "swapoff", "reboot"], "action": "SCMP_ACT_ERRNO"}]
        });
    });
    bundle
}

/// Gives this thread, and what it starts, a host that has cgroup v2 alone.
fn unified_view() {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).expect("a mount namespace");
    let script =
        "mount --make-rprivate / && umount -R /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup";
    let status = Command::new("sh").args(["-c", script]).status().expect("a shell");
    assert!(status.success(), "cannot make a view with cgroup v2 alone");
}

#[test]
fn no_operation_asks_more_of_the_kernel_than_is_committed() {
    unified_view();
    let runtime = Runtime::new();
    let mut figures = BTreeMap::new();
    // The first fills the caches.
    life(&runtime, false, &mut BTreeMap::new());
    for _ in 0..ROUNDS {
        life(&runtime, true, &mut figures);
        life(&runtime, false, &mut figures);
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/counts/committed.json");
    let text = std::fs::read_to_string(path).expect("the committed figures");
    let committed: BTreeMap<String, Counts> = serde_json::from_str(&text).expect("figures");
    let measured = serde_json::to_string_pretty(&figures).expect("JSON");
    let wrong: Vec<String> = figures
        .iter()
        .filter_map(|(operation, now)| match committed.get(operation) {
            Some(then) => now.differs(*then).map(|what| format!("{operation}: {what}")),
            None => Some(format!("{operation}: no figures are committed")),
        })
        .collect();
    assert!(wrong.is_empty(), "{}\nmeasured:\n{measured}", wrong.join("\n"));
}
