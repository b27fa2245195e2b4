//! The same on a host that has cgroup v2 alone: each command runs in a mount namespace with that view.
mod common;

use common::{Output, Runtime, finish, poll};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;

/// Makes a view of `/sys/fs/cgroup` that is a cgroup v2, and runs its arguments in it.
const VIEW: &str = r#"umount -R /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup && exec "$@""#;

fn call(runtime: &Runtime, args: &[&str]) -> Output {
    let mut command = Command::new("unshare");
    command.args(["-m", "--propagation", "private", "sh", "-c", VIEW, "sh"]);
    command.arg(common::runtime_path()).arg("--root").arg(runtime.root()).args(args);
    finish(command, None)
}

fn ok(runtime: &Runtime, args: &[&str]) -> Output {
    call(runtime, args).success()
}

#[test]
fn a_container_lives_and_dies_in_one_cgroup() {
    let runtime = Runtime::new();
    let bundle = runtime.sleeper();
    let id = bundle.id.as_str();
    ok(&runtime, &["create", "--bundle", bundle.dir(), id]);
    ok(&runtime, &["start", id]);
    let cgroup = std::fs::read_to_string(format!("/proc/{}/cgroup", runtime.pid(id))).expect("its cgroup");
    assert!(cgroup.lines().any(|line| line.starts_with("0::/") && line.ends_with(id)), "{cgroup}");
    assert_eq!(ok(&runtime, &["exec", id, "echo", "hello"]).stdout, "hello\n");
    ok(&runtime, &["pause", id]);
    assert!(ok(&runtime, &["state", id]).stdout.contains("\"paused\""));
    let _ = call(&runtime, &["exec", id, "true"]).fails_with(255, &["cannot exec in a paused container"]);
    ok(&runtime, &["resume", id]);
    assert!(ok(&runtime, &["ps", "--format", "json", id]).stdout.contains(&runtime.pid(id).to_string()));
    let event: Value = serde_json::from_str(&ok(&runtime, &["events", "--stats", id]).stdout).expect("JSON");
    assert_eq!(event["type"], "stats");
    if Path::new("/proc/pressure/cpu").exists() {
        for resource in ["cpu", "memory", "blkio"] {
            assert!(event["data"][resource]["psi"]["some"]["total"].is_u64(), "{event}");
        }
    }
    ok(&runtime, &["delete", "--force", id]);
    runtime.assert_nothing_left();
}

#[test]
fn the_container_sees_its_own_cgroup_and_nothing_above() {
    let runtime = Runtime::new();
    let mut bundle = runtime.shell("cat /sys/fs/cgroup/cgroup.procs | head -1; grep '^0:' /proc/self/cgroup");
    bundle.namespace("cgroup", Some(json!({"type": "cgroup"})));
    let output = ok(&runtime, &["run", "--bundle", bundle.dir(), &bundle.id]);
    assert_eq!(output.stdout, "1\n0::/\n");
    runtime.assert_nothing_left();
}

#[test]
fn devices_are_filtered_by_a_program() {
    let runtime = Runtime::new();
    let device = json!([{"path": "/dev/kmsg", "type": "c", "major": 1, "minor": 11, "fileMode": 0o666}]);
    let script = "(: < /dev/kmsg) 2>&1 && echo open; echo x > /dev/null && echo null";
    for (allowed, expected) in [(false, "Operation not permitted"), (true, "open")] {
        let mut bundle = runtime.shell(script);
        bundle.edit(|config| {
            config["linux"]["devices"] = device.clone();
            let rules = config["linux"]["resources"]["devices"].as_array_mut().expect("rules");
            if allowed {
                rules.push(json!({"allow": true, "type": "c", "major": 1, "minor": 11, "access": "r"}));
            }
        });
        let output = ok(&runtime, &["run", "--bundle", bundle.dir(), &bundle.id]);
        assert!(output.stdout.contains(expected) && output.stdout.ends_with("null\n"), "{}", output.stdout);
    }
    runtime.assert_nothing_left();
}

#[test]
fn a_limit_whose_controller_is_missing_is_named() {
    let runtime = Runtime::new();
    let mut bundle = runtime.bundle();
    // The unified hierarchy of this machine has no controller for rdma devices.
    bundle.edit(|config| config["linux"]["resources"]["rdma"] = json!({"mlx5_1": {"hcaHandles": 3}}));
    let output = call(&runtime, &["run", "--bundle", bundle.dir(), &bundle.id]);
    let _ = output.fails_with(1, &["rdma.max"]);
    runtime.assert_nothing_left();
}

#[test]
fn all_processes_of_a_container_without_a_pid_namespace_are_killed() {
    let runtime = Runtime::new();
    let mut bundle = runtime.shell("sleep 600 & sleep 600 & sleep 600 & wait");
    bundle.namespace("pid", None);
    let id = bundle.id.as_str();
    ok(&runtime, &["run", "--detach", "--bundle", bundle.dir(), id]);
    let pids = || -> Vec<i32> {
        serde_json::from_str(&ok(&runtime, &["ps", "--format", "json", id]).stdout).expect("JSON")
    };
    let before = poll("all processes to run", || Some(pids()).filter(|pids| pids.len() == 4));
    ok(&runtime, &["kill", id, "KILL"]);
    for pid in before {
        poll("the process to end", || (!common::is_alive(pid)).then_some(()));
    }
    ok(&runtime, &["delete", id]);
    runtime.assert_nothing_left();
}

#[test]
fn a_container_in_a_cgroup_that_has_processes_is_refused() {
    let runtime = Runtime::new();
    let (first, mut second) = (runtime.sleeper(), runtime.sleeper());
    ok(&runtime, &["run", "--detach", "--bundle", first.dir(), &first.id]);
    let path = first.config()["linux"]["cgroupsPath"].clone();
    second.edit(|config| config["linux"]["cgroupsPath"] = path);
    let output = call(&runtime, &["create", "--bundle", second.dir(), &second.id]);
    let _ = output.fails_with(1, &["container's cgroup is not empty: 1 process(es) found"]);
    ok(&runtime, &["delete", "--force", &first.id]);
    runtime.assert_nothing_left();
}
