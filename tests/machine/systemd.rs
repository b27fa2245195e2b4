//! Containers as units of systemd.

use crate::common::{Bundle, Output, Runtime, cgroup_dir, cgroup_value, poll};
use crate::{assert_at_the_root, is_unified, property, tool};
use serde_json::{Value, json};

fn call(runtime: &Runtime, args: &[&str]) -> Output {
    runtime.call(&[&["--systemd-cgroup"], args].concat())
}

#[track_caller]
fn ok(runtime: &Runtime, args: &[&str]) -> Output {
    call(runtime, args).success()
}

/// A bundle for a scope, and the name of that.
fn scope(runtime: &Runtime, slice: &str) -> (Bundle, String) {
    let mut bundle = runtime.sleeper();
    let id = bundle.id.clone();
    bundle.edit(|config| config["linux"]["cgroupsPath"] = json!(format!("{slice}:mkt:{id}")));
    (bundle, format!("mkt-{id}.scope"))
}

fn limits(config: &mut Value) {
    let resources = &mut config["linux"]["resources"];
    resources["memory"] = json!({"limit": 67_108_864, "reservation": 33_554_432});
    resources["pids"] = json!({"limit": 50});
    resources["cpu"] = json!({"shares": 512, "quota": 50_000, "period": 100_000, "cpus": "0"});
}

/// What the cgroups of a container say of the limits above: memory, its reservation, pids, quota, processors.
fn files(pid: i32) -> [String; 5] {
    let value = |controller: &str, v1: &str, v2: &str| cgroup_value(pid, controller, v1, v2);
    let quota = value("cpu", "cpu.cfs_quota_us", "cpu.max");
    [
        value("memory", "memory.limit_in_bytes", "memory.max"),
        value("memory", "memory.soft_limit_in_bytes", "memory.low"),
        value("pids", "pids.max", "pids.max"),
        quota.split(' ').next().unwrap_or_default().to_owned(),
        value("cpuset", "cpuset.cpus", "cpuset.cpus"),
    ]
}

/// systemd's name for the limit of memory.
fn memory_limit() -> &'static str {
    if is_unified() { "MemoryMax" } else { "MemoryLimit" }
}

#[test]
fn a_container_is_a_scope_with_its_limits() {
    let runtime = Runtime::new();
    let (mut bundle, unit) = scope(&runtime, "system.slice");
    bundle.edit(limits);
    ok(&runtime, &["run", "--detach", "--bundle", bundle.dir(), &bundle.id]);
    let pid = runtime.pid(&bundle.id);
    let dir = cgroup_dir(pid, "memory");
    assert!(dir.ends_with(format!("system.slice/{unit}")), "{}", dir.display());
    assert_eq!(files(pid), ["67108864", "33554432", "50", "50000", "0"]);
    // On cgroup v1 systemd has nothing to do with reservations and sets of processors.
    let more: &[_] = if is_unified() {
        &[("MemoryLow", "33554432"), ("AllowedCPUs", "0")]
    } else {
        &[("CPUShares", "512")]
    };
    for (name, value) in more.iter().copied().chain([
        (memory_limit(), "67108864"),
        ("TasksMax", "50"),
        ("CPUQuotaPerSecUSec", "500ms"),
        ("Slice", "system.slice"),
        ("Delegate", "yes"),
        ("ActiveState", "active"),
    ]) {
        assert_eq!(property(&unit, name), value, "{name}");
    }
    ok(&runtime, &["delete", "--force", &bundle.id]);
    assert_eq!(property(&unit, "ActiveState"), "inactive");
    assert!(!dir.exists(), "{} was left", dir.display());
    runtime.assert_nothing_left();
}

#[test]
fn limits_survive_a_reload_of_systemd_also_after_an_update() {
    let runtime = Runtime::new();
    let (mut bundle, unit) = scope(&runtime, "system.slice");
    bundle.edit(limits);
    ok(&runtime, &["run", "--detach", "--bundle", bundle.dir(), &bundle.id]);
    let pid = runtime.pid(&bundle.id);
    // The container, not the caller, knows that systemd has it.
    runtime.ok(&[
        "update",
        "--memory",
        "134217728",
        "--pids-limit",
        "33",
        "--cpu-quota",
        "20000",
        &bundle.id,
    ]);
    let after = ["134217728", "33554432", "33", "20000", "0"];
    assert_eq!(files(pid), after);
    assert_eq!(property(&unit, memory_limit()), "134217728");
    tool("systemctl", &["daemon-reload"]);
    assert_eq!(files(pid), after);
    ok(&runtime, &["delete", "--force", &bundle.id]);
    runtime.assert_nothing_left();
}

#[test]
fn annotations_set_properties_of_the_unit() {
    let runtime = Runtime::new();
    let (mut bundle, unit) = scope(&runtime, "system.slice");
    bundle.edit(|config| {
        config["annotations"] = json!({
            "org.systemd.property.TimeoutStopSec": "uint64 7",
            "org.systemd.property.CollectMode": "'inactive-or-failed'",
            "org.systemd.property.Description": "'a test'",
        });
    });
    ok(&runtime, &["run", "--detach", "--bundle", bundle.dir(), &bundle.id]);
    assert_eq!(property(&unit, "TimeoutStopUSec"), "7s");
    assert_eq!(property(&unit, "CollectMode"), "inactive-or-failed");
    assert_eq!(property(&unit, "Description"), "a test");
    ok(&runtime, &["delete", "--force", &bundle.id]);
    for (annotation, words) in
        [("x", "is too short"), ("TimeoutStopSec", "value parse error"), ("NoSuch", "NoSuch")]
    {
        bundle.edit(|config| {
            config["annotations"] = json!({format!("org.systemd.property.{annotation}"): "'5'"});
        });
        let _ = call(&runtime, &["create", "--bundle", bundle.dir(), &bundle.id]).fails_with(1, &[words]);
        runtime.assert_nothing_left();
    }
}

#[test]
fn a_scope_may_be_in_a_slice_of_slices_or_have_no_path() {
    let runtime = Runtime::new();
    let (bundle, unit) = scope(&runtime, "mkt-deep.slice");
    ok(&runtime, &["run", "--detach", "--bundle", bundle.dir(), &bundle.id]);
    let dir = cgroup_dir(runtime.pid(&bundle.id), "memory");
    assert!(dir.ends_with(format!("mkt.slice/mkt-deep.slice/{unit}")), "{}", dir.display());
    ok(&runtime, &["delete", "--force", &bundle.id]);
    let mut bundle = runtime.sleeper();
    bundle.edit(|config| {
        config["linux"].as_object_mut().expect("an object").remove("cgroupsPath");
    });
    ok(&runtime, &["run", "--detach", "--bundle", bundle.dir(), &bundle.id]);
    let dir = cgroup_dir(runtime.pid(&bundle.id), "memory");
    assert!(dir.parent().is_some_and(|slice| slice.ends_with("system.slice")), "{}", dir.display());
    ok(&runtime, &["delete", "--force", &bundle.id]);
    runtime.assert_nothing_left();
    tool("systemctl", &["stop", "mkt-deep.slice", "mkt.slice"]);
}

#[test]
fn a_unit_that_exists_is_refused_and_left_alone() {
    let runtime = Runtime::new();
    let (first, unit) = scope(&runtime, "system.slice");
    let mut second = runtime.sleeper();
    let path = first.config()["linux"]["cgroupsPath"].clone();
    second.edit(|config| config["linux"]["cgroupsPath"] = path);
    ok(&runtime, &["run", "--detach", "--bundle", first.dir(), &first.id]);
    let output = call(&runtime, &["create", "--bundle", second.dir(), &second.id]);
    let _ = output.fails_with(1, &[&unit]);
    assert_eq!(runtime.status(&first.id), "running");
    ok(&runtime, &["delete", "--force", &first.id]);
    runtime.assert_nothing_left();
}

#[test]
fn a_container_that_cannot_be_made_leaves_no_unit() {
    let runtime = Runtime::new();
    let (mut bundle, unit) = scope(&runtime, "system.slice");
    bundle.args(&["/no/such/program"]);
    let _ =
        call(&runtime, &["run", "--bundle", bundle.dir(), &bundle.id]).fails_with(1, &["/no/such/program"]);
    poll("the unit to end", || (property(&unit, "ActiveState") == "inactive").then_some(()));
    runtime.assert_nothing_left();
}

#[test]
fn a_container_that_ends_takes_its_scope_with_it() {
    let runtime = Runtime::new();
    let (mut bundle, unit) = scope(&runtime, "system.slice");
    bundle.args(&["sh", "-c", "exit 3"]);
    let _ = call(&runtime, &["run", "--bundle", bundle.dir(), &bundle.id]).exits(3);
    assert_eq!(property(&unit, "ActiveState"), "inactive");
    runtime.assert_nothing_left();
}

#[test]
fn exec_ps_pause_and_events_work_in_a_scope() {
    let runtime = Runtime::new();
    let (bundle, unit) = scope(&runtime, "system.slice");
    let id = bundle.id.as_str();
    ok(&runtime, &["run", "--detach", "--bundle", bundle.dir(), id]);
    let output = runtime.ok(&["exec", id, "cat", "/proc/self/cgroup"]);
    assert_at_the_root(&output.stdout);
    let file = runtime.path("pid");
    runtime.ok(&["exec", "-d", "--pid-file", file.to_str().expect("UTF-8"), id, "sleep", "600"]);
    let exec: i32 = std::fs::read_to_string(file).expect("the pid file").parse().expect("a pid");
    assert!(cgroup_dir(exec, "memory").ends_with(&unit));
    assert!(runtime.ok(&["ps", id]).stdout.contains(&exec.to_string()));
    runtime.ok(&["pause", id]);
    assert_eq!(runtime.status(id), "paused");
    runtime.ok(&["resume", id]);
    assert!(runtime.ok(&["events", "--stats", id]).stdout.contains("\"current\":2"));
    runtime.ok(&["delete", "--force", id]);
    runtime.assert_nothing_left();
}
