//! Containers that are saved as images, and go on later, where CRIU is and the kernel is one that it knows: see `conformance containerd`.

use crate::common::{Containerd, Engine, Shim, names_in, poll};
use std::fs;

/// Counts in a file of the container. What it prints to would be outside, where CRIU cannot follow.
const COUNT: &str =
    "exec </dev/null >/dev/null 2>&1; n=0; while :; do n=$((n+1)); echo $n >/count; sleep 0.2; done";
const SAVED: &str = "example.org/test:saved";

/// The number that a container has counted to.
fn count(containerd: &Containerd, id: &str) -> u32 {
    let (pid, _) = containerd.task(id).expect("a task");
    let read = || fs::read_to_string(format!("/proc/{pid}/root/count")).ok()?.trim().parse().ok();
    poll("the container to count", read)
}

fn wait_beyond(containerd: &Containerd, id: &str, number: u32) {
    poll("the container to count on", || (count(containerd, id) > number).then_some(()));
}

#[test]
#[ignore = "needs CRIU, and a kernel that it knows"]
fn a_container_goes_on_where_its_checkpoint_was_made() {
    let containerd = Containerd::new(Shim::Own);
    containerd.detached(&[], "box", COUNT);
    wait_beyond(&containerd, "box", 2);
    containerd.ok(&["container", "checkpoint", "--rw", "--image", "--task", "box", SAVED]);
    let saved = count(&containerd, "box");
    // The first one goes on.
    wait_beyond(&containerd, "box", saved);
    containerd.ok(&["task", "kill", "--signal", "SIGKILL", "box"]);
    containerd.wait_status("box", "STOPPED");
    containerd.call(&["task", "delete", "box"]);
    containerd.ok(&["container", "delete", "box"]);
    containerd.ok(&["container", "restore", "--rw", "--live", "box", SAVED]);
    let restored = count(&containerd, "box");
    assert!(restored >= 2 && restored <= saved + 5, "{saved}, then {restored}");
    wait_beyond(&containerd, "box", restored);
    assert_eq!(containerd.exec("box", "one", "echo fine").success().stdout, "fine\n");
    // CRIU's log is no part of the checkpoint, and is not kept where all went well.
    let state = containerd.path("state").join("io.containerd.runtime.v2.task").join(&containerd.name);
    let bundle = state.join("box");
    assert!(bundle.is_dir() && !names_in(&bundle).iter().any(|name| name.contains("criu")), "{bundle:?}");
}
