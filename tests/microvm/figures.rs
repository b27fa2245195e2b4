//! What magikrun adds to libkrun, and to an exec: printed, for docs/design.md.

use crate::common::{Bundle, Runtime};
use crate::{children, microvm};
use magikrun::limits::ANSWER_TIMEOUT;
use magikrun::vm::Guest;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;
use std::time::Instant;

/// How often a microVM is booted.
const BOOTS: usize = 3;
/// How often everything else is done.
const ROUNDS: usize = 15;

#[test]
#[ignore = "measures and judges nothing: conformance microvm --figures"]
fn figures() {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).expect("to adopt containers");
    let runtime = Runtime::new();
    let native = median((0..ROUNDS).map(|_| processor_time(|| drop(runtime.output(&runtime.bundle())))));
    println!("native run of true: {native} us of processor time");
    let boots: Vec<_> = (0..BOOTS).map(|_| boot(&runtime)).collect();
    println!("microVM, command: {} us", median(boots.iter().map(|(command, _)| *command)));
    println!("microVM, supervisor: {} us", median(boots.iter().map(|(_, supervisor)| *supervisor)));
    println!(
        "together: {} us beside the monitor and its guest",
        median(boots.iter().map(|(command, supervisor)| command + supervisor))
    );
    compare_exec(&runtime);
}

/// The processor time in microseconds of the command that runs a microVM, and of the supervisor until its end.
fn boot(runtime: &Runtime) -> (u64, u64) {
    let bundle = microvm(runtime, "sleep 3");
    let command = processor_time(|| {
        drop(runtime.ok(&["run", "--detach", "--bundle", bundle.dir(), &bundle.id]));
    });
    let supervisor = runtime.pid(&bundle.id);
    runtime.wait_status(&bundle.id, "stopped");
    // It is ours now, and not waited for yet.
    let used = nanoseconds(supervisor) / 1000;
    let pid = rustix::process::Pid::from_raw(supervisor).expect("a pid");
    rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty()).expect("its status");
    runtime.ok(&["delete", &bundle.id]);
    (command, used)
}

fn compare_exec(runtime: &Runtime) {
    let machine = microvm(runtime, "sleep 600");
    let supervisor = runtime.detach(&machine);
    let native = runtime.sleeper();
    runtime.detach(&native);
    println!("memory of the supervisor: {}", memory(supervisor));
    let monitor = *children(supervisor).last().expect("a monitor");
    println!("memory of the monitor, with the guest's: {}", memory(monitor));
    let exec = |bundle: &Bundle| wall_time(|| drop(runtime.ok(&["exec", &bundle.id, "true"])));
    let guest = Guest::at(runtime.root().join(&machine.id).join("vm/control.sock"));
    let ping = || wall_time(|| drop(guest.ping(ANSWER_TIMEOUT).expect("an answer")));
    let all: Vec<_> = (0..ROUNDS).map(|_| [exec(&native), exec(&machine), ping()]).collect();
    for (index, what) in ["native exec", "exec in a microVM", "round trip to the guest"].iter().enumerate() {
        println!("{what}: {} us", median(all.iter().map(|times| times[index])));
    }
    runtime.ok(&["delete", "--force", &machine.id]);
    runtime.ok(&["delete", "--force", &native.id]);
}

fn median(values: impl Iterator<Item = u64>) -> u64 {
    let mut values: Vec<_> = values.collect();
    values.sort_unstable();
    values[values.len() / 2]
}

/// Of the children that were waited for.
fn processor_time(act: impl FnOnce()) -> u64 {
    let now = || {
        let usage = getrusage(UsageWho::RUSAGE_CHILDREN).expect("the usage of children");
        (usage.user_time() + usage.system_time()).num_microseconds() as u64
    };
    let before = now();
    act();
    now() - before
}

fn wall_time(act: impl FnOnce()) -> u64 {
    let begin = Instant::now();
    act();
    begin.elapsed().as_micros() as u64
}

/// Nanoseconds that a process has run, also when it is dead and not waited for.
fn nanoseconds(pid: i32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/schedstat")).expect("the time of a process");
    text.split(' ').next().and_then(|word| word.parse().ok()).expect("nanoseconds")
}

/// What it shares counted in parts, and what it alone has written.
fn memory(pid: i32) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("the memory of a process");
    let of = |name: &str| text.lines().find(|line| line.starts_with(name)).unwrap_or_default().to_owned();
    format!("{}, {}", of("Pss:"), of("Private_Dirty:"))
}
