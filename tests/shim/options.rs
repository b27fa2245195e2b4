//! What an operator may say about a runtime, and what callers get wrong.

use crate::common::{Containerd, Engine, Shim, make_cgroups, poll, start};
use crate::only_shim;
use std::fs;

/// A document of options with one more line; answers its path.
fn options(containerd: &Containerd, line: &str) -> String {
    let text = fs::read_to_string(containerd.path("shim.toml")).expect("the options");
    let path = containerd.path("more.toml");
    fs::write(&path, format!("{text}{line}\n")).expect("more options");
    path.display().to_string()
}

#[test]
fn pipes_belong_to_whom_the_options_name() {
    let containerd = Containerd::new(Shim::Own);
    let path = options(&containerd, "IoUid = 1000\nIoGid = 1000");
    containerd.detached(&["--runtime-config-path", &path], "theirs", "sleep 600");
    containerd.detached(&[], "ours", "sleep 600");
    let script = "echo out >/proc/self/fd/1 && echo err >/proc/self/fd/2";
    let exec = |id| {
        let user = ["task", "exec", "--exec-id", "one", "--user", "1000:1000"];
        containerd.call(&[&user[..], &[id, "sh", "-c", script]].concat())
    };
    let output = exec("theirs").success();
    assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("out\n", "err\n"));
    assert_ne!(exec("ours").code, 0);
}

#[test]
fn the_server_enters_the_cgroup_that_the_options_name() {
    let containerd = Containerd::new(Shim::Own);
    make_cgroups(&format!("{}/servers", containerd.name));
    let path = options(&containerd, &format!("ShimCgroup = '/{}/servers'", containerd.name));
    containerd.detached(&["--runtime-config-path", &path], "box", "sleep 600");
    let shim = only_shim(&containerd);
    let cgroups = fs::read_to_string(format!("/proc/{shim}/cgroup")).expect("its cgroups");
    assert!(cgroups.contains(&format!(":/{}/servers\n", containerd.name)), "{cgroups}");
    let (pid, _) = containerd.task("box").expect("a task");
    let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("its cgroups");
    assert!(!cgroups.contains("/servers"), "{cgroups}");
}

#[test]
fn what_is_there_already_or_not_at_all_is_told_by_its_code() {
    let containerd = Containerd::new(Shim::Own);
    containerd.detached(&[], "box", "sleep 600");
    let exec = ["task", "exec", "--exec-id", "one", "box", "sleep", "600"];
    let first = start(containerd.command(&exec), None);
    let list = || containerd.ok(&["task", "ps", "box"]).stdout;
    poll("the first process to run", || list().contains("one").then_some(()));
    // With the words of the code, that of an error of the server.
    let second = containerd.call(&exec);
    assert!(second.code != 0 && second.stderr.contains("already exists"), "{second:?}");
    let none = containerd.call(&["task", "kill", "--exec-id", "none", "box"]);
    assert!(none.code != 0 && none.stderr.contains("not found"), "{none:?}");
    containerd.ok(&["task", "kill", "--exec-id", "one", "--signal", "SIGKILL", "box"]);
    let killed = first.finish();
    assert_eq!(killed.code, 137, "{killed:?}");
}
