//! Limits that the plain host has no controllers for, read back and enforced.

use crate::common::{Runtime, cgroup_dir, finish, poll, start};
use serde_json::{Value, json};
use std::process::Command;
use std::time::{Duration, Instant};

/// The disk of the machine.
const DISK: &str = "/dev/vda";

fn device() -> (u64, u64) {
    use std::os::unix::fs::MetadataExt;
    let number = std::fs::metadata(DISK).expect("the disk").rdev();
    (number >> 8 & 0xfff, number & 0xff)
}

#[test]
fn the_rate_of_a_disk_is_limited() {
    if !crate::has_unified() {
        return;
    }
    let runtime = Runtime::new();
    let mut bundle = runtime.sleeper();
    let (major, minor) = device();
    bundle.edit(|config| {
        let rate = json!([{"major": major, "minor": minor, "rate": 1_048_576}]);
        // The test's own reader is in this cgroup too.
        config["linux"]["resources"]["devices"] = json!([{"allow": true, "access": "rwm"}]);
        config["linux"]["resources"]["blockIO"] =
            json!({"throttleReadBpsDevice": rate, "throttleWriteIOPSDevice": [{"major": major, "minor": minor, "rate": 100}]});
    });
    let dir = cgroup_dir(runtime.detach(&bundle), "io");
    let line = std::fs::read_to_string(dir.join("io.max")).expect("io.max");
    assert_eq!(line.trim(), format!("{major}:{minor} rbps=1048576 wbps=max riops=max wiops=100"));
    let mut command = Command::new("sh");
    let script = "echo $$ >\"$1/cgroup.procs\"; exec dd if=\"$2\" of=/dev/null bs=64k count=48 iflag=direct";
    command.args(["-c", script, "sh"]).arg(&dir).arg(DISK);
    let begin = Instant::now();
    finish(command, None).success();
    // 3 MiB at 1 MiB a second; the first part may come at once.
    assert!(begin.elapsed() > Duration::from_secs(1), "{:?}", begin.elapsed());
    let stats: Value =
        serde_json::from_str(&runtime.ok(&["events", "--stats", &bundle.id]).stdout).expect("JSON");
    let read = stats["data"]["blkio"]["ioServiceBytesRecursive"].as_array().expect("a list");
    assert!(
        read.iter().any(|entry| entry["op"] == "Read" && entry["value"].as_u64() >= Some(3 << 20)),
        "{stats}"
    );
    runtime.ok(&["delete", "--force", &bundle.id]);
    runtime.assert_nothing_left();
}

#[test]
fn the_quota_of_a_processor_is_enforced() {
    let runtime = Runtime::new();
    let mut bundle = runtime.shell("while :; do :; done");
    bundle.edit(|config| config["linux"]["resources"]["cpu"] = json!({"quota": 5000, "period": 100_000}));
    runtime.detach(&bundle);
    poll("the container to be throttled", || {
        let text = runtime.ok(&["events", "--stats", &bundle.id]).stdout;
        let stats: Value = serde_json::from_str(&text).expect("JSON");
        (stats["data"]["cpu"]["throttling"]["throttledPeriods"].as_u64() > Some(3)).then_some(())
    });
    runtime.ok(&["delete", "--force", &bundle.id]);
    runtime.assert_nothing_left();
}

#[test]
fn a_process_that_is_killed_for_want_of_memory_is_an_event() {
    let runtime = Runtime::new();
    let mut bundle = runtime.sleeper();
    bundle.edit(|config| {
        config["linux"]["resources"]["memory"] = json!({"limit": 16_777_216, "swap": 16_777_216});
    });
    runtime.detach(&bundle);
    let events = start(runtime.command(&["events", &bundle.id]), None);
    events.wait_stdout("\"type\":\"stats\"");
    runtime
        .call(&["exec", &bundle.id, "dd", "if=/dev/zero", "of=/dev/null", "bs=100M", "count=1"])
        .exits(137);
    events.wait_stdout("\"type\":\"oom\"");
    let text = runtime.ok(&["events", "--stats", &bundle.id]).stdout;
    let stats: Value = serde_json::from_str(&text).expect("JSON");
    let memory = &stats["data"]["memory"];
    let kills = memory.pointer("/oomControl/oom_kill").or_else(|| memory.pointer("/events/oom_kill"));
    assert!(kills.and_then(Value::as_u64) >= Some(1), "{stats}");
    runtime.ok(&["delete", "--force", &bundle.id]);
    events.finish().success();
    runtime.assert_nothing_left();
}

#[test]
fn unified_settings_and_every_controller_reach_the_container() {
    if !crate::has_unified() {
        return;
    }
    let runtime = Runtime::new();
    let mut bundle = runtime.sleeper();
    bundle.edit(|config| {
        config["linux"]["resources"]["unified"] =
            json!({"memory.high": "8388608", "memory.oom.group": "1", "cpu.weight": "77", "io.weight": "default 50"});
    });
    let dir = cgroup_dir(runtime.detach(&bundle), "memory");
    let file = |name: &str| std::fs::read_to_string(dir.join(name)).expect("a cgroup file").trim().to_owned();
    assert_eq!([file("memory.high"), file("memory.oom.group"), file("cpu.weight")], ["8388608", "1", "77"]);
    for controller in ["cpuset", "cpu", "io", "memory", "hugetlb", "pids"] {
        assert!(file("cgroup.controllers").contains(controller), "{controller}");
    }
    runtime.ok(&["delete", "--force", &bundle.id]);
    runtime.assert_nothing_left();
}
