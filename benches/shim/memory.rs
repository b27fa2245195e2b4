//! What servers of shims keep in memory.
//!
//! Three figures out of `smaps_rollup`, in KiB, of a server beside a second one of the same program, as there are on every machine with
//! more than one pod:
//!
//! - **own**: anonymous pages, which it has written to. Nobody else has them, and the kernel cannot drop them: what one more server costs.
//!   Dirty pages would not do: those of a program that was installed a moment ago are dirty too, until they are on the disk.
//! - **private**: pages that nobody else has mapped at the moment; of the program few, since the second server has them too.
//! - **resident**: all pages, with those of the program. A server that is the only one has them as private ones, though they are in the
//!   page cache once, and can be read again from the file.
//!
//! The same is counted for both shims. The goal of 2 MB is about `private`.

use crate::common::{Containerd, Shim};
use crate::{Subject, call, run_args};
use std::fs;

/// Prints the memory of each shim's server: with one idle container, for each further one of a group, and after many execs.
pub(crate) fn report(containerd: &Containerd, subjects: &[Subject], containers: usize, execs: usize) {
    println!("\nmemory of a server in KiB, beside a second one of the same program; own: anonymous pages;");
    println!(
        "private: pages that nobody else has mapped; resident: all, with those of the program; growth: of its own\n"
    );
    let (idle, each) = ("idle: own, private, resident", format!("{containers} further: own, private each"));
    println!("{:<12} {idle:>30} {each:>34} {:>28}", "shim", format!("{execs} execs: growth"));
    // The runtime under a shim is not in its memory.
    for (number, subject) in subjects.iter().enumerate() {
        if subjects[..number].iter().any(|other| other.shim == subject.shim) {
            continue;
        }
        let name = if subject.shim == Shim::Own { "magikrun" } else { "runc's" };
        match measure(containerd, subject, containers, execs) {
            Ok([idle, each, growth]) => println!("{name:<12} {idle:>30} {each:>34} {growth:>28}"),
            Err(e) => println!("{name:<24} failed: {e}"),
        }
    }
}

fn measure(
    containerd: &Containerd,
    subject: &Subject,
    containers: usize,
    execs: usize,
) -> Result<[String; 3], String> {
    let group = format!("io.containerd.runc.v2.group=group-{}", subject.container());
    let start = |number: usize| {
        let id = format!("{}-{number}", subject.container());
        let options = ["--detach", "--annotation", &group];
        call(containerd, &run_args(containerd, subject, &options, &id, &["sleep", "100000"])).map(|_| id)
    };
    let first = start(0)?;
    let server = server_of(containerd, &first)?;
    let idle = Memory::of(server)?;
    for number in 1..=containers {
        start(number)?;
    }
    let together = Memory::of(server)?;
    for number in 0..execs {
        let id = format!("many{number}");
        let words = ["task", "exec", "--exec-id", &id, &first, "true"];
        call(containerd, &words.map(str::to_owned))?;
    }
    let after = Memory::of(server)?;
    let each = |of: fn(&Memory) -> u64| of(&together).saturating_sub(of(&idle)) / containers.max(1) as u64;
    Ok([
        format!("{} {} {}", idle.own, idle.private, idle.resident),
        format!("{} {}", each(|memory| memory.own), each(|memory| memory.private)),
        format!(
            "{:+} ({} to {})",
            after.own.cast_signed() - together.own.cast_signed(),
            together.own,
            after.own
        ),
    ])
}

/// The server that was started for a container.
fn server_of(containerd: &Containerd, id: &str) -> Result<i32, String> {
    let is_of = |pid: &i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).any(|word| word == id.as_bytes())
    };
    containerd.shims().into_iter().find(is_of).ok_or_else(|| format!("there is no server for '{id}'"))
}

/// Memory in KiB.
struct Memory {
    own: u64,
    private: u64,
    resident: u64,
}

impl Memory {
    fn of(pid: i32) -> Result<Self, String> {
        let path = format!("/proc/{pid}/smaps_rollup");
        let text = fs::read_to_string(&path).map_err(|e| format!("cannot read '{path}': {e}"))?;
        let value = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            let number = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
            number.ok_or_else(|| format!("there is no '{name}' in '{path}'"))
        };
        Ok(Self {
            own: value("Anonymous:")?,
            private: value("Private_Dirty:")? + value("Private_Clean:")?,
            resident: value("Rss:")?,
        })
    }
}
