//! The limits of a container: set, read back from the host and from inside, changed by `update`, and enforced.
mod common;

use common::{Bundle, Runtime, cgroup_value, finish, poll};
use serde_json::{Value, json};

fn limits(config: &mut Value) {
    let resources = &mut config["linux"]["resources"];
    resources["memory"] = json!({"limit": 67_108_864, "reservation": 33_554_432});
    resources["pids"] = json!({"limit": 50});
    resources["cpu"] = json!({"shares": 512, "quota": 50_000, "period": 100_000});
}

fn memory(pid: i32) -> String {
    cgroup_value(pid, "memory", "memory.limit_in_bytes", "memory.max")
}

fn pids(pid: i32) -> String {
    cgroup_value(pid, "pids", "pids.max", "pids.max")
}

/// The quota and the period in microseconds.
fn cpu(pid: i32) -> String {
    let value = cgroup_value(pid, "cpu", "cpu.cfs_quota_us", "cpu.max");
    if value.contains(' ') {
        return value;
    }
    format!("{value} {}", cgroup_value(pid, "cpu", "cpu.cfs_period_us", "cpu.cfs_period_us"))
}

fn limited(runtime: &Runtime) -> (Bundle, i32) {
    let mut bundle = runtime.sleeper();
    bundle.edit(limits);
    let pid = runtime.detach(&bundle);
    (bundle, pid)
}

/// Prints the limits from inside, on a host with cgroup v1 or v2.
const INSIDE: &str = "cd /sys/fs/cgroup; cat memory/memory.limit_in_bytes 2>/dev/null || cat memory.max; \
                      cat pids/pids.max 2>/dev/null || cat pids.max";

#[test]
fn limits_are_read_back_from_the_host() {
    if !common::has_controllers(&["cpu", "memory", "pids"]) {
        return;
    }
    let runtime = Runtime::new();
    let (bundle, pid) = limited(&runtime);
    assert_eq!((memory(pid), pids(pid), cpu(pid)), ("67108864".into(), "50".into(), "50000 100000".into()));
    let dir = common::cgroup_dir(pid, "memory");
    assert!(dir.ends_with(format!("{}/{}", runtime.name(), bundle.id)), "{}", dir.display());
}

#[test]
fn limits_are_read_back_from_inside() {
    if !common::has_controllers(&["cpu", "memory", "pids"]) {
        return;
    }
    let runtime = Runtime::new();
    assert_eq!(runtime.inside(INSIDE, limits), "67108864\n50\n");
}

#[test]
fn the_cgroups_inside_cannot_be_written() {
    if !common::has_controllers(&["cpu", "memory", "pids"]) {
        return;
    }
    let runtime = Runtime::new();
    let mut bundle = runtime.shell("cd /sys/fs/cgroup; echo 1 > $(ls -d pids/pids.max pids.max 2>/dev/null)");
    bundle.edit(limits);
    let output = runtime.run(&bundle).exits(1);
    assert!(output.stderr.contains("Read-only file system"), "{}", output.stderr);
}

#[test]
fn without_a_path_the_cgroup_is_named_after_the_id() {
    if !common::has_controllers(&["pids"]) {
        return;
    }
    let runtime = Runtime::new();
    let mut bundle = runtime.sleeper();
    bundle.edit(|config| {
        config["linux"].as_object_mut().expect("an object").remove("cgroupsPath");
    });
    let pid = runtime.detach(&bundle);
    assert!(common::cgroup_dir(pid, "pids").ends_with(&bundle.id));
    let dir = common::cgroup_dir(pid, "pids");
    runtime.ok(&["delete", "--force", &bundle.id]);
    assert!(!dir.exists(), "{} was left", dir.display());
}

#[test]
fn update_changes_the_limits_by_options() {
    if !common::has_controllers(&["cpu", "memory", "pids"]) {
        return;
    }
    let runtime = Runtime::new();
    let (bundle, pid) = limited(&runtime);
    let id = bundle.id.as_str();
    runtime.ok(&["update", "--memory", "134217728", "--pids-limit", "33", id]);
    assert_eq!((memory(pid), pids(pid)), ("134217728".into(), "33".into()));
    runtime.ok(&["update", "--cpu-period", "50000", "--cpu-quota", "20000", id]);
    assert_eq!(cpu(pid), "20000 50000");
    assert_eq!((memory(pid), pids(pid)), ("134217728".into(), "33".into()), "other limits were changed");
    runtime.ok(&["update", "--memory", "64M", id]);
    assert_eq!(memory(pid), "67108864");
}

#[test]
fn update_changes_the_limits_by_a_file_and_by_standard_input() {
    if !common::has_controllers(&["cpu", "memory", "pids"]) {
        return;
    }
    let runtime = Runtime::new();
    let (bundle, pid) = limited(&runtime);
    let file = runtime.file("resources.json", json!({"pids": {"limit": 21}}).to_string());
    runtime.ok(&["update", "--resources", file.to_str().expect("UTF-8"), &bundle.id]);
    assert_eq!(pids(pid), "21");
    let input =
        json!({"memory": {"limit": 100_663_296}, "cpu": {"quota": 30_000, "period": 60_000}}).to_string();
    let mut command = runtime.command(&["update", "-r", "-"]);
    command.arg(&bundle.id);
    finish(command, Some(input.as_bytes())).success();
    assert_eq!((memory(pid), cpu(pid)), ("100663296".into(), "30000 60000".into()));
}

#[test]
fn update_of_a_stopped_container_is_refused() {
    let runtime = Runtime::new();
    let bundle = runtime.bundle();
    runtime.create(&bundle);
    runtime.ok(&["start", &bundle.id]);
    runtime.wait_status(&bundle.id, "stopped");
    let _ = runtime.call(&["update", "--pids-limit", "33", &bundle.id]).fails_with(1, &["not running"]);
}

#[test]
fn the_limit_of_processes_is_enforced() {
    if !common::has_controllers(&["pids"]) {
        return;
    }
    let runtime = Runtime::new();
    let mut bundle = runtime.shell("for i in 1 2 3 4 5 6 7 8; do sleep 600 & done; echo all");
    bundle.edit(|config| config["linux"]["resources"]["pids"] = json!({"limit": 4}));
    let output = runtime.run(&bundle);
    assert_ne!(output.code, 0);
    assert!(output.stderr.contains("can't fork") && !output.stdout.contains("all"), "{output:?}");
    runtime.assert_nothing_left();
}

#[test]
fn a_process_over_its_memory_limit_is_killed_with_137() {
    if !common::has_controllers(&["memory"]) {
        return;
    }
    let runtime = Runtime::new();
    let mut bundle = runtime.bundle();
    bundle.args(&["dd", "if=/dev/zero", "of=/dev/null", "bs=300M", "count=1"]);
    bundle.edit(|config| {
        config["linux"]["resources"]["memory"] = json!({"limit": 16_777_216, "swap": 16_777_216});
    });
    runtime.run(&bundle).exits(137);
    runtime.assert_nothing_left();
}

#[test]
fn exec_joins_the_cgroups_of_the_container() {
    if !common::has_controllers(&["cpu", "memory", "pids"]) {
        return;
    }
    let runtime = Runtime::new();
    let (bundle, pid) = limited(&runtime);
    let file = runtime.path("pid");
    runtime.ok(&["exec", "-d", "--pid-file", file.to_str().expect("UTF-8"), &bundle.id, "sleep", "600"]);
    let exec: i32 = std::fs::read_to_string(file).expect("the pid file").parse().expect("a pid");
    for controller in ["memory", "pids", "cpu", "freezer", "devices"] {
        assert_eq!(common::cgroup_dir(exec, controller), common::cgroup_dir(pid, controller));
    }
    let mut listed: Vec<i32> =
        serde_json::from_str(&runtime.ok(&["ps", "-f", "json", &bundle.id]).stdout).expect("JSON");
    // The kernel lists them in no order that it promises.
    listed.sort_unstable();
    assert_eq!(listed, [pid.min(exec), pid.max(exec)]);
}

#[test]
fn events_print_the_statistics_once_where_asked() {
    if !common::has_controllers(&["cpu", "memory", "pids"]) {
        return;
    }
    let runtime = Runtime::new();
    let (bundle, _) = limited(&runtime);
    let text = runtime.ok(&["events", "--stats", &bundle.id]).stdout;
    let event: Value = serde_json::from_str(&text).expect("one JSON record");
    assert_eq!(event["type"], "stats");
    assert_eq!(event["id"], *bundle.id);
    assert_eq!(event["data"]["pids"]["current"], 1);
    assert_eq!(event["data"]["memory"]["usage"]["limit"], 67_108_864);
    assert!(event["data"]["cpu"]["usage"]["total"].as_u64().is_some_and(|total| total > 0), "{event}");
    let memory = &event["data"]["memory"];
    let kills = memory.pointer("/oomControl/oom_kill").or_else(|| memory.pointer("/events/oom_kill"));
    assert_eq!(kills, Some(&json!(0)), "{event}");
}

#[test]
fn a_limit_that_the_kernel_refuses_undoes_the_create() {
    let runtime = Runtime::new();
    let mut bundle = runtime.sleeper();
    bundle.edit(|config| config["linux"]["resources"]["cpu"] = json!({"cpus": "4000"}));
    let _ = runtime.call(&["create", "--bundle", bundle.dir(), &bundle.id]).fails_with(1, &["cpuset.cpus"]);
    runtime.assert_nothing_left();
}

#[test]
fn a_deleted_container_leaves_no_cgroup() {
    if !common::has_controllers(&["cpu", "memory", "pids"]) {
        return;
    }
    let runtime = Runtime::new();
    let (bundle, pid) = limited(&runtime);
    let dir = common::cgroup_dir(pid, "memory");
    assert!(dir.is_dir());
    runtime.ok(&["delete", "--force", &bundle.id]);
    poll("the cgroup to go", || (!dir.exists()).then_some(()));
    runtime.assert_nothing_left();
}
