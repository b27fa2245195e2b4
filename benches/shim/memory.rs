//! What servers of shims keep in memory.

use crate::common::{Containerd, Shim};
use crate::{Subject, call, run_args};
use std::fs;

/// Prints the private memory of each subject's server: with one idle container, for each further one of a group, and after many execs.
pub(crate) fn report(containerd: &Containerd, subjects: &[Subject], containers: usize, execs: usize) {
    println!(
        "\nprivate memory of a server in KiB (dirty part): idle; each of {containers} further containers; after {execs} execs more"
    );
    // The runtime under a shim is not in its memory.
    for (number, subject) in subjects.iter().enumerate() {
        if subjects[..number].iter().any(|other| other.shim == subject.shim) {
            continue;
        }
        match measure(containerd, subject, containers, execs) {
            Ok(text) => {
                let name = if subject.shim == Shim::Own { "magikrun" } else { "runc's" };
                println!("{name:<24} {text}");
            }
            Err(e) => println!("{:<24} failed: {e}", subject.name),
        }
    }
}

fn measure(
    containerd: &Containerd,
    subject: &Subject,
    containers: usize,
    execs: usize,
) -> Result<String, String> {
    let group = format!("io.containerd.runc.v2.group=group-{}", subject.container());
    let start = |number: usize| {
        let id = format!("{}-{number}", subject.container());
        let options = ["--detach", "--annotation", &group];
        call(containerd, &run_args(containerd, subject, &options, &id, &["sleep", "100000"])).map(|_| id)
    };
    let first = start(0)?;
    let server = server_of(containerd, &first)?;
    let idle = private(server);
    for number in 1..=containers {
        start(number)?;
    }
    let together = private(server);
    for number in 0..execs {
        let id = format!("many{number}");
        let words = ["task", "exec", "--exec-id", &id, &first, "true"];
        call(containerd, &words.map(str::to_owned))?;
    }
    let after = private(server);
    let each = |of: fn(&Private) -> u64| of(&together).saturating_sub(of(&idle)) / containers.max(1) as u64;
    Ok(format!(
        "{} ({}); {} ({}); {} ({}), before {} ({})",
        idle.all,
        idle.dirty,
        each(|private| private.all),
        each(|private| private.dirty),
        after.all,
        after.dirty,
        together.all,
        together.dirty
    ))
}

/// The server that was started for a container.
fn server_of(containerd: &Containerd, id: &str) -> Result<i32, String> {
    let is_of = |pid: &i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).any(|word| word == id.as_bytes())
    };
    containerd.shims().into_iter().find(is_of).ok_or_else(|| format!("there is no server for '{id}'"))
}

/// Private memory in KiB.
struct Private {
    all: u64,
    /// Without the pages of the executable, which further servers share.
    dirty: u64,
}

fn private(pid: i32) -> Private {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0)
    };
    let dirty = value("Private_Dirty:");
    Private { all: dirty + value("Private_Clean:"), dirty }
}
