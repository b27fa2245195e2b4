//! What goes wrong is told, and leaves nothing behind.

use crate::common::{Runtime, poll, signal};
use crate::microvm;
use serde_json::json;

#[test]
fn what_cannot_run_is_told_as_for_an_ordinary_container() {
    let runtime = Runtime::new();
    let mut bundle = microvm(&runtime, "");
    bundle.args(&["nonsense"]);
    runtime.run(&bundle).fails_with(1, &["executable file not found in $PATH"]);
    let mut bundle = microvm(&runtime, "true");
    bundle.edit(|config| config["annotations"]["krun.gpu_flags"] = json!("1"));
    runtime.run(&bundle).fails_with(1, &["krun.gpu_flags"]);
    let mut bundle = microvm(&runtime, "true");
    bundle.mount("/dev/net", "bind", "/dev", &["bind"]);
    runtime.run(&bundle).fails_with(1, &["'/dev/net' cannot be bound into a microVM"]);
    runtime.assert_nothing_left();
}

#[test]
fn a_guest_that_does_not_get_ready_is_ended_at_the_deadline() {
    let runtime = Runtime::new();
    let config = runtime.file("short.toml", "[vm]\nstart_timeout = 1\n");
    let bundle = microvm(&runtime, "true");
    let mut command = runtime.command(&["run", "--bundle", bundle.dir(), &bundle.id]);
    command.env("MAGIKRUN_CONFIG", config);
    crate::common::finish(command, None).fails_with(1, &["does not run in time", "vm.start_timeout"]);
    runtime.assert_nothing_left();
}

#[test]
fn the_container_ends_when_the_machine_is_killed() {
    let runtime = Runtime::new();
    let bundle = microvm(&runtime, "sleep 600");
    let supervisor = runtime.detach(&bundle);
    let children = format!("/proc/{supervisor}/task/{supervisor}/children");
    let monitor = std::fs::read_to_string(children).expect("the children of the first process");
    let monitor = monitor.split_whitespace().last().expect("a monitor").parse().expect("a pid");
    signal(monitor, rustix::process::Signal::KILL);
    runtime.wait_status(&bundle.id, "stopped");
    runtime.ok(&["delete", &bundle.id]);
    poll("nothing to be left", || runtime.processes().is_empty().then_some(()));
    runtime.assert_nothing_left();
}
