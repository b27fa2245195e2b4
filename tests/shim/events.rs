//! What containerd is told, and when.

use crate::common::{Containerd, Engine, Shim, poll, signal, wait_dead};
use crate::{GROUPED, UNTIL_TOLD, end_with, ends, exits, listen, tasks};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::io::Read as _;
use std::process::Stdio;

#[test]
fn events_come_in_the_order_of_what_happened() {
    let containerd = Containerd::new(Shim::Own);
    let events = listen(&containerd);
    containerd.detached(&[], "box", "sleep 600");
    containerd.exec("box", "one", "exit 4").exits(4);
    containerd.ok(&["task", "pause", "box"]);
    containerd.ok(&["task", "resume", "box"]);
    containerd.ok(&["task", "kill", "--signal", "SIGKILL", "box"]);
    containerd.wait_status("box", "STOPPED");
    containerd.call(&["task", "delete", "box"]);
    poll("the last event", || {
        tasks(&events.stdout()).iter().any(|(topic, _)| topic == "delete").then_some(())
    });
    let found = tasks(&events.stdout());
    let topics: Vec<_> = found.iter().map(|(topic, _)| topic.as_str()).collect();
    let expected =
        ["create", "start", "exec-added", "exec-started", "exit", "paused", "resumed", "exit", "delete"];
    assert_eq!(topics, expected);
    assert_eq!((&found[4].1["id"], &found[4].1["exit_status"]), (&json!("one"), &json!(4)));
    assert_eq!((&found[7].1["id"], &found[7].1["exit_status"]), (&json!("box"), &json!(137)));
    assert_eq!(found[0].1["pid"], found[8].1["pid"]);
    signal(events.pid(), Signal::TERM);
}

#[test]
fn a_process_whose_output_nobody_reads_is_told_of_before_its_container() {
    let containerd = Containerd::new(Shim::Own);
    let events = listen(&containerd);
    containerd.detached(&[], "box", "sleep 600");
    let script = "while :; do echo 0123456789; done";
    let mut command = containerd.command(&["task", "exec", "--exec-id", "loud", "box", "sh", "-c", script]);
    let mut client = command.stdout(Stdio::piped()).spawn().expect("ctr runs");
    let mut first = [0; 10];
    client.stdout.as_mut().unwrap().read_exact(&mut first).expect("some output");
    containerd.ok(&["task", "kill", "--signal", "SIGKILL", "box"]);
    poll("both ends", || (ends(&events.stdout()).len() == 2).then_some(()));
    let ended: Vec<_> = ends(&events.stdout()).into_iter().map(|event| event["id"].clone()).collect();
    assert_eq!(ended, ["loud", "box"]);
    client.kill().and_then(|()| client.wait()).expect("ctr ends");
    signal(events.pid(), Signal::TERM);
}

#[test]
fn nothing_is_lost_while_containerd_does_not_answer() {
    let containerd = Containerd::new(Shim::Own);
    let events = listen(&containerd);
    let names: Vec<_> = (0..6).map(|n| format!("box{n}")).collect();
    let pids: Vec<_> = names
        .iter()
        .map(|name| {
            containerd.detached(&GROUPED, name, UNTIL_TOLD);
            containerd.task(name).expect("a task").0
        })
        .collect();
    signal(containerd.pid(), Signal::STOP);
    for (code, pid) in (10..).zip(&pids) {
        end_with(*pid, code);
    }
    signal(containerd.pid(), Signal::CONT);
    poll("all events", || (exits(&events.stdout()).len() == names.len()).then_some(()));
    // In the order in which the processes ended, and each once.
    assert_eq!(exits(&events.stdout()), [10, 11, 12, 13, 14, 15]);
    signal(events.pid(), Signal::TERM);
}

/// The place of the first event of a topic.
fn place(found: &[(String, Value)], wanted: &str) -> Option<usize> {
    found.iter().position(|(topic, _)| topic == wanted)
}

#[test]
fn a_container_that_is_out_of_memory_is_told_of() {
    let containerd = Containerd::new(Shim::Own);
    let events = listen(&containerd);
    containerd.script(&["--memory-limit", "33554432"], "box", "tail /dev/zero; exit 3").exits(3);
    let found =
        poll("the end", || Some(tasks(&events.stdout())).filter(|found| place(found, "exit").is_some()));
    // Whoever hears of the end looks whether memory was short.
    assert!(place(&found, "oom").is_some_and(|oom| Some(oom) < place(&found, "exit")), "{found:?}");
    signal(events.pid(), Signal::TERM);
}

#[test]
fn without_a_pid_namespace_the_end_of_the_first_process_ends_all() {
    let containerd = Containerd::new(Shim::Own);
    let options = ["--with-ns", "pid:/proc/self/ns/pid"];
    let output = containerd.script(&options, "box", "sleep 600 & echo $!; exit 3").exits(3);
    wait_dead(output.stdout.trim().parse().expect("a pid"));
}
