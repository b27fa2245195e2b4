//! What a server costs, alone and under load.

use crate::common::{self, Containerd, Engine, Shim, is_alive, poll, start, wait_dead};
use crate::{GROUPED, SMALL, only_shim, private_memory};
use std::path::Path;

/// Most private memory of a server for each container after the first, in KiB.
const FURTHER: u64 = 307;
/// Most private memory that storms of execs leave behind, in KiB: tables that have grown.
const STORM_MEMORY: u64 = 192;

fn threads(pid: i32) -> usize {
    common::names_in(Path::new(&format!("/proc/{pid}/task"))).len()
}

#[test]
fn a_group_shares_one_small_server() {
    let containerd = Containerd::new(Shim::Own);
    containerd.detached(&GROUPED, "first", "sleep 600");
    let shim = only_shim(&containerd);
    let alone = private_memory(shim);
    let names = ["a", "b", "c", "d"];
    for name in names {
        containerd.detached(&GROUPED, name, "sleep 600");
    }
    assert_eq!(only_shim(&containerd), shim);
    let together = private_memory(shim);
    let each = together.saturating_sub(alone) / names.len() as u64;
    eprintln!("private memory of a shim: {alone} KiB, and {each} KiB for each further container");
    assert!(alone <= SMALL, "{alone} KiB");
    assert!(each <= FURTHER, "{each} KiB");
    // One after the other is deleted, and the server ends with the last one.
    for name in names.iter().chain(&["first"]) {
        assert!(is_alive(shim));
        containerd.ok(&["task", "kill", "--signal", "SIGKILL", name]);
        containerd.wait_status(name, "STOPPED");
        containerd.call(&["task", "delete", name]);
    }
    wait_dead(shim);
}

#[test]
fn storms_of_execs_leave_nothing_behind() {
    let (at_once, storms) = (200, 6);
    let containerd = Containerd::new(Shim::Own);
    containerd.detached(&[], "box", "sleep 600");
    let shim = only_shim(&containerd);
    let descriptors = || common::names_in(Path::new(&format!("/proc/{shim}/fd"))).len();
    let storm = |number: usize| {
        let exec = |n: usize| {
            let id = format!("storm{number}-{n}");
            start(containerd.command(&["task", "exec", "--exec-id", &id, "box", "sh", "-c", "exit 5"]), None)
        };
        let running: Vec<_> = (0..at_once).map(exec).collect();
        running.into_iter().for_each(|exec| drop(exec.finish().exits(5)));
    };
    // Of the first exec something stays, as of every code that runs for the first time.
    containerd.exec("box", "first", "echo fine").success();
    let (memory, open) = (private_memory(shim), descriptors());
    (0..storms).for_each(storm);
    poll("the threads of the storms to end", || (threads(shim) < 30).then_some(()));
    poll("the descriptors to be closed", || (descriptors() <= open).then_some(()));
    let after = poll("the memory to be given back", || {
        Some(private_memory(shim)).filter(|after| *after <= memory + STORM_MEMORY)
    });
    let all = at_once * storms;
    eprintln!("private memory of a shim: {memory} KiB, after {all} execs, {at_once} at a time: {after} KiB");
    assert_eq!(containerd.exec("box", "last", "echo fine").success().stdout, "fine\n");
}
