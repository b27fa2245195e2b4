//! Pods whose containers share a microVM.

use crate::common::pods::{IMAGE, container, lead_out, monitor};
use crate::common::{Pods, names_in, signal};
use crate::is_passt;
use std::path::Path;

/// What each container may use of memory: the emulated machine has little.
pub const MEMORY: &str = "resources: {limits: {memory: 32Mi}}";
/// A script that waits until it is told to end. Without a loop: all containers of a guest share a slow processor.
pub const WAIT: &str = "trap 'exit 0' TERM; sleep 3000 & wait";

/// A manifest of a pod in a microVM.
pub fn manifest(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n  annotations: {{krun.cpus: '1'}}\n\
         spec: {{runtimeClassName: microvm, {spec}}}\n---\n\
         apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: settings}}\ndata: {{key: value}}\n"
    )
}

/// Pods of their own, on an emulated machine that has what every host has.
pub fn pods() -> Pods {
    std::fs::create_dir_all("/mnt").expect("a folder");
    lead_out();
    Pods::new()
}

#[test]
fn a_pod_that_cannot_start_whole_leaves_nothing() {
    let pods = pods();
    let two = [container("a", WAIT, MEMORY), container("b", WAIT, MEMORY)].join(", ");
    let missing = "{name: c, image: 'localhost/nothing:1', imagePullPolicy: Never}";
    let spec = format!("containers: [{two}, {missing}]");
    pods.run(&[], &manifest(&pods.name("image"), &spec))
        .fails_with(1, &["container 'c'", "localhost/nothing:1"]);
    pods.assert_nothing_left();
    let nonsense = format!("{{name: c, image: '{IMAGE}', command: [nonsense], {MEMORY}}}");
    let spec = format!("containers: [{two}, {nonsense}]");
    pods.run(&[], &manifest(&pods.name("program"), &spec))
        .fails_with(1, &["cannot start container 'c'", "executable file not found in $PATH"]);
    pods.assert_nothing_left();
}

#[test]
fn the_pod_fails_with_its_machine() {
    let pods = pods();
    let name = pods.name("killed");
    let spec = format!("containers: [{}]", container("a", "echo there; sleep 600", MEMORY));
    let pod = pods.start(&manifest(&name, &spec));
    pods.wait_log(&pod, "a", "there");
    let machine = machine_of(&name).into_iter().find(|pid| !is_passt(*pid)).expect("a machine");
    signal(machine, rustix::process::Signal::KILL);
    let status = pods.wait_phase(&pod, "Failed");
    assert!(
        status["reason"].as_str().is_some_and(|why| why.contains("the pod's microVM has ended")),
        "{status}"
    );
    pods.ok(&["delete", &pod]);
    pods.assert_nothing_left();
}

#[test]
fn a_container_that_runs_out_of_memory_in_the_guest_says_so() {
    let pods = pods();
    let spec = format!("containers: [{}]", container("a", "sleep 5; exec tail /dev/zero", MEMORY));
    let pod = pods.start(&manifest(&pods.name("greedy"), &spec));
    pods.assert_out_of_memory(&pod);
    pods.ok(&["delete", &pod]);
    pods.assert_nothing_left();
}

/// The machine of a pod, and its passt: children of the first process of the container around it, which is a child of the monitor.
pub fn machine_of(name: &str) -> Vec<i32> {
    children(monitor(name).expect("a monitor")).into_iter().flat_map(children).collect()
}

/// The children of all threads of a process.
fn children(pid: i32) -> Vec<i32> {
    let tasks = Path::new("/proc").join(pid.to_string()).join("task");
    let of = |task: String| std::fs::read_to_string(tasks.join(task).join("children")).unwrap_or_default();
    let all = names_in(&tasks).into_iter().map(of).collect::<String>();
    all.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}
