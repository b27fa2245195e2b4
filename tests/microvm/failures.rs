//! What goes wrong is told, and leaves nothing behind.

use crate::common::{Runtime, finish, runtime_path, signal, start};
use crate::{children, microvm, programs};
use rustix::process::Signal;
use serde_json::json;
use std::path::Path;
use std::process::Command;

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
fn a_host_without_a_guest_kernel_or_enough_memory_is_told_before_anything_is_made() {
    let runtime = Runtime::new();
    let mut bundle = microvm(&runtime, "true");
    let mut command = Command::new("unshare");
    // Where the emulated machine has the guest's kernel.
    command.args(["-m", "sh", "-c", "mount -t tmpfs none /usr/local/lib && exec \"$@\"", "sh"]);
    command.arg(runtime_path()).arg("--root").arg(runtime.root());
    command.args(["create", "--bundle", bundle.dir(), &bundle.id]);
    finish(command, None).fails_with(1, &["cannot run a microVM", "'libkrunfw.so.5'", "libkrunfw5"]);
    bundle.edit(|config| config["annotations"]["krun.ram_mib"] = json!("4096"));
    let create = ["create", "--bundle", bundle.dir(), &bundle.id];
    runtime.call(&create).fails_with(1, &["4096 MiB", "the host has", "krun.ram_mib"]);
    runtime.assert_nothing_left();
}

#[test]
fn a_guest_that_does_not_get_ready_is_ended_at_the_deadline() {
    let runtime = Runtime::new();
    let config = runtime.file("short.toml", "[vm]\nstart_timeout = 1\n");
    let bundle = microvm(&runtime, "true");
    let mut command = runtime.command(&["run", "--bundle", bundle.dir(), &bundle.id]);
    command.env("MAGIKRUN_CONFIG", config);
    finish(command, None).fails_with(1, &["does not run in time", "vm.start_timeout"]);
    runtime.assert_nothing_left();
}

#[test]
fn the_container_ends_when_the_machine_is_killed() {
    let runtime = Runtime::new();
    let bundle = microvm(&runtime, "echo up; sleep 600");
    let running = start(runtime.command(&["run", "--keep", "--bundle", bundle.dir(), &bundle.id]), None);
    running.wait_stdout("up");
    let monitor = *children(runtime.pid(&bundle.id)).last().expect("a monitor");
    signal(monitor, Signal::KILL);
    let output = running.finish().exits(137);
    assert!(output.stderr.contains("the virtual machine was killed by signal 9"), "{}", output.stderr);
    assert_eq!(runtime.status(&bundle.id), "stopped");
    runtime.ok(&["delete", &bundle.id]);
    runtime.assert_nothing_left();
}

#[test]
fn a_machine_that_does_not_take_a_signal_is_ended() {
    let runtime = Runtime::new();
    let bundle = microvm(&runtime, "echo up; sleep 600");
    let config = runtime.file("patience.toml", "[vm]\nstart_timeout = 400\nanswer_timeout = 5\n");
    let mut command = runtime.command(&["run", "--bundle", bundle.dir(), &bundle.id]);
    command.env("MAGIKRUN_CONFIG", config);
    let running = start(command, None);
    running.wait_stdout("up");
    let monitor = *children(runtime.pid(&bundle.id)).last().expect("a monitor");
    signal(monitor, Signal::STOP);
    runtime.ok(&["kill", &bundle.id, "TERM"]);
    let output = running.finish().exits(125);
    assert!(output.stderr.contains("does not answer to a signal"), "{}", output.stderr);
    runtime.assert_nothing_left();
}

#[test]
fn a_guest_whose_first_process_dies_has_not_succeeded_and_its_last_words_are_told() {
    let runtime = Runtime::new();
    let programs = programs(&runtime, Path::new("/bin/busybox"));
    let bundle = microvm(&runtime, "true");
    let mut command = Command::new(programs.join("magikrun"));
    command.arg("--root").arg(runtime.root()).args(["run", "--bundle", bundle.dir(), &bundle.id]);
    finish(command, None).fails_with(1, &["ended with code 125 before its program ran", "applet not found"]);
    runtime.assert_nothing_left();
}
