//! What only our own containerd shim does: how it lives, dies, tells of events, moves output and shares a server.
mod checkpoint;
#[path = "../common/mod.rs"]
mod common;
mod deaths;
mod events;
mod load;
mod options;
mod rootfs;
mod streams;

use common::{Containerd, Engine, Running, Shim, finish, poll, start, wait_dead};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

/// Options of `ctr run` for a container of a group.
const GROUPED: [&str; 2] = ["--annotation", "io.containerd.runc.v2.group=pod"];
/// Most private memory of a server that has little to do, in KiB.
const SMALL: u64 = 2048;
/// A script that waits for a file, and ends with the code in it.
const UNTIL_TOLD: &str = "while [ ! -e /end ]; do sleep 0.1; done; exit $(cat /end)";

/// Ends a container that waits for a file; `pid` is its first process.
fn end_with(pid: i32, code: i32) {
    let path = |name: &str| format!("/proc/{pid}/root/{name}");
    fs::write(path("end.new"), code.to_string()).expect("a file in the container");
    fs::rename(path("end.new"), path("end")).expect("its name");
    wait_dead(pid);
}

fn only_shim(containerd: &Containerd) -> i32 {
    let shims = containerd.shims();
    assert_eq!(shims.len(), 1, "{shims:?}");
    shims[0]
}

/// Private memory of a process in KiB: its anonymous pages. The others are those of the executable, which a second server shares, and
/// which are dirty too as long as a new executable is not on the disk.
fn private_memory(pid: i32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("the maps of the shim");
    let line = text.lines().find(|line| line.starts_with("Anonymous:")).expect("the anonymous memory");
    line.split_whitespace().nth(1).unwrap().parse().expect("a number")
}

/// `ctr events` in the background.
fn listen(containerd: &Containerd) -> Running {
    let running = start(containerd.command(&["events"]), None);
    // It says nothing when it listens; a namespace's label is an event of its own.
    poll("events to arrive", || {
        containerd.ok(&["namespace", "label", &containerd.name, "probe=1"]);
        (!running.stdout().is_empty()).then_some(())
    });
    running
}

/// The ends among events, in their order.
fn ends(text: &str) -> Vec<Value> {
    let ends = tasks(text).into_iter().filter(|(topic, _)| topic == "exit");
    ends.map(|(_, event)| event).collect()
}

/// The codes of the ends among events, in their order.
fn exits(text: &str) -> Vec<u64> {
    ends(text).iter().map(|event| event["exit_status"].as_u64().expect("a status")).collect()
}

/// The topics of tasks and what they are about, in their order.
fn tasks(text: &str) -> Vec<(String, Value)> {
    let line = |line: &str| {
        let (_, rest) = line.split_once(" /tasks/")?;
        let (topic, event) = rest.split_once(' ')?;
        Some((topic.to_owned(), serde_json::from_str(event).expect("an event is JSON")))
    };
    // The rest of the last line may be still to come.
    let whole = text.rsplit_once('\n').map_or("", |(lines, _)| lines);
    whole.lines().filter_map(line).collect()
}

#[test]
fn the_shim_is_static_and_tells_what_it_is() {
    let shim = common::shim_folder().join("containerd-shim-magikrun-v2");
    let bytes = fs::read(&shim).expect("the shim");
    assert_eq!(bytes[0x10], 2, "it is position independent");
    let mut command = Command::new(&shim);
    command.arg("-v");
    assert!(finish(command, None).success().stdout.starts_with("containerd-shim-magikrun-v2 version "));
    let mut command = Command::new(&shim);
    command.arg("-info");
    let info = finish(command, None).success().stdout;
    assert!(info.contains("io.containerd.magikrun.v2") && info.contains("ociVersionMax"), "{info}");
    let mut command = Command::new(&shim);
    command.args(["-namespace", "x", "start"]);
    finish(command, None).fails_with(1, &["-id"]);
}

#[test]
fn the_name_of_the_shim_says_the_backend_where_options_name_none() {
    let containerd = Containerd::new(Shim::Own);
    let shim = common::shim_folder().join("containerd-shim-magikrun-v2");
    symlink(shim, containerd.path("containerd-shim-magikrun-wasm-v2")).expect("a link to the shim");
    let path = |path: &Path| path.display().to_string();
    let mount = format!("type=bind,src={},dst=/probe.wasm,options=rbind:ro", path(common::probe()));
    let runtime = ["--runtime", "io.containerd.magikrun-wasm.v2", "--runtime-config-path"];
    let options = path(&containerd.path("shim.toml"));
    let run = ["run", "--rm", "--snapshotter", "native"].into_iter().chain(runtime);
    let rest = [&options, "--mount", &mount, common::IMAGE, "module", "/probe.wasm", "exit", "9"];
    containerd.call(&run.chain(rest).collect::<Vec<_>>()).exits(9);
}
