//! Pods whose cgroups systemd manages, and what only a whole machine can limit.

use crate::common::pods::{WAIT, container, infra, manifest, monitor};
use crate::common::{Pods, cgroup_dir, cgroup_value, is_alive, poll, start};
use crate::{is_unified, property, tool};
use rustix::process::{Pid, Signal};
use std::time::Duration;

const MIB: u64 = 1 << 20;

/// Finds a process of a pod by the pod's name.
type Finds = fn(&str) -> Option<i32>;

fn pods() -> Pods {
    // Every Debian has it, and mmdebstrap's smallest has not.
    std::fs::create_dir_all("/mnt").expect("a folder");
    Pods::new()
}

/// A pod with limits as a whole and those of its containers.
fn limited(name: &str) -> String {
    let spec = format!(
        "{{terminationGracePeriodSeconds: 1, resources: {{limits: {{memory: 128Mi, cpu: 500m}}, requests: {{memory: 48Mi}}}},
           containers: [{}, {}]}}",
        container("a", WAIT, "resources: {limits: {memory: 64Mi}, requests: {memory: 32Mi}}"),
        container("b", WAIT, ""),
    );
    manifest(name, &spec)
}

/// The units that systemd knows of a pod, also those that have failed.
fn units(id: &str) -> Vec<String> {
    let (scopes, slices) = (format!("magikrun-{id}-*"), format!("*pod{}*", id.replace('-', "_")));
    let listed = tool("systemctl", &["list-units", "--all", "--plain", "--no-legend", &scopes, &slices]);
    let mut names: Vec<_> =
        listed.lines().filter_map(|line| line.split(' ').next().map(str::to_owned)).collect();
    names.sort();
    names
}

/// Requires that nothing is left of a pod, and no unit.
#[track_caller]
fn assert_no_units(pods: &Pods, id: &str) {
    pods.assert_nothing_left();
    poll("the pod's units to be gone", || units(id).is_empty().then_some(()));
}

/// Kills a process that may have ended already.
fn kill(pid: i32) {
    let _ = rustix::process::kill_process(Pid::from_raw(pid).expect("a pid"), Signal::KILL);
}

/// What systemd calls a limit of memory.
fn memory_limit() -> &'static str {
    if is_unified() { "MemoryMax" } else { "MemoryLimit" }
}

/// The first process of a container.
fn pid(id: &str, container: &str) -> i32 {
    let scope = format!("magikrun-{id}-{container}.scope");
    let path = property(&scope, "ControlGroup");
    let root = if is_unified() { "/sys/fs/cgroup" } else { "/sys/fs/cgroup/systemd" };
    let all = std::fs::read_to_string(format!("{root}{path}/cgroup.procs")).expect("the processes");
    all.lines().next().expect("a process").parse().expect("a pid")
}

#[test]
fn a_pod_is_a_slice_with_a_scope_for_each_container() {
    let pods = pods().of_systemd();
    let id = pods.start(&limited(&pods.name("slice")));
    let stem = pods.parent().trim_end_matches(".slice").to_owned();
    let slice = format!("{stem}-pod{}.slice", id.replace('-', "_"));
    let scope = |name: &str| format!("magikrun-{id}-{name}.scope");
    assert_eq!(units(&id), [scope("_infra"), scope("a"), scope("b"), slice.clone()]);
    let a = pid(&id, "a");
    let dir = cgroup_dir(a, "memory");
    assert!(dir.ends_with(format!("{}/{slice}/{}", pods.parent(), scope("a"))), "{}", dir.display());
    let limits = || {
        let of = |file: &str| std::fs::read_to_string(file).expect("a limit").trim().to_owned();
        let (v1, v2) = ("memory.limit_in_bytes", "memory.max");
        let file = dir.parent().expect("the slice").join(if is_unified() { v2 } else { v1 });
        [cgroup_value(a, "memory", v1, v2), of(file.to_str().expect("UTF-8"))]
    };
    let expected = [64 * MIB, 128 * MIB].map(|bytes| bytes.to_string());
    assert_eq!(limits(), expected);
    for (unit, name, value) in [
        (&scope("a"), memory_limit(), (64 * MIB).to_string()),
        (&scope("a"), "Slice", slice.clone()),
        (&scope("a"), "Delegate", "yes".to_owned()),
        (&slice, memory_limit(), (128 * MIB).to_string()),
        (&slice, "CPUQuotaPerSecUSec", "500ms".to_owned()),
        (&slice, "Slice", pods.parent()),
    ] {
        assert_eq!(property(unit, name), value, "{name} of {unit}");
    }
    tool("systemctl", &["daemon-reload"]);
    assert_eq!(limits(), expected, "after a reload of systemd");
    let stats: serde_json::Value =
        serde_json::from_str(&pods.ok(&["stats", "--format", "json", &id])).expect("JSON");
    assert!(stats.to_string().contains(&(64 * MIB).to_string()), "{stats}");
    assert!(pods.sh(&id, "b", "cat /proc/self/cgroup").lines().all(|line| line.ends_with(":/")));
    pods.ok(&["stop", &id]);
    poll("the units to end with the pod", || units(&id).is_empty().then_some(()));
    // What a pod is made of is known by its record: nobody has to say again who manages its cgroups.
    pods.ok(&["delete", &id]);
    assert_no_units(&pods, &id);
}

#[test]
fn whatever_is_killed_no_unit_of_a_pod_is_left() {
    let pods = pods().of_systemd();
    let name = pods.name("killed");
    let all: [&[Finds]; 3] = [&[monitor], &[infra], &[monitor, infra]];
    for victims in all {
        let id = pods.start(&limited(&name));
        let a = pid(&id, "a");
        let victims: Vec<i32> = victims.iter().filter_map(|victim| victim(&name)).collect();
        victims.iter().copied().for_each(kill);
        if let [_] = victims[..] {
            poll("the container to end by itself", || (!is_alive(a)).then_some(()));
        }
        // Where both are killed this is the command that ends what is left.
        pods.wait_phase(&id, "Failed");
        poll("the container to end", || (!is_alive(a)).then_some(()));
        poll("the units to end with the pod", || units(&id).is_empty().then_some(()));
        pods.ok(&["delete", &id]);
        assert_no_units(&pods, &id);
    }
}

#[test]
fn a_pod_that_is_killed_while_it_is_made_leaves_no_unit() {
    let pods = pods().of_systemd();
    let name = pods.name("half");
    let slices = format!("{}-pod*.slice", pods.parent().trim_end_matches(".slice"));
    let scopes = || tool("systemctl", &["list-units", "--all", "--plain", "--no-legend", "magikrun-*.scope"]);
    for step in 0..6 {
        let running = start(pods.run_command(&[], &limited(&name)), None);
        // In the emulated machine a pod takes seconds.
        std::thread::sleep(Duration::from_millis(300 * step));
        if step % 2 == 0 {
            kill(running.pid());
        } else {
            monitor(&name).into_iter().for_each(kill);
        }
        let _ = running.finish();
        for id in pods.ok(&["list", "--quiet"]).split_whitespace() {
            pods.ok(&["delete", "--force", id]);
        }
        poll("the pod to be removed", || {
            pods.ok(&["gc"]);
            let left = tool("systemctl", &["list-units", "--all", "--plain", "--no-legend", &slices]);
            (left.trim().is_empty() && !scopes().contains(&name)).then_some(())
        });
        pods.assert_nothing_left();
    }
}

#[test]
fn a_pod_of_systemd_that_fails_leaves_no_unit_and_sidecars_start_again() {
    let pods = pods().of_systemd();
    let name = pods.name("fails");
    let missing = "{name: b, image: 'localhost/busybox:1', command: [/nonexistent]}";
    let spec = format!("{{containers: [{}, {missing}]}}", container("a", WAIT, ""));
    pods.run(&[], &manifest(&name, &spec)).fails_with(1, &["container 'b'", "/nonexistent"]);
    pods.assert_nothing_left();
    let file = pods.runtime.file("x.yaml", manifest(&name, &spec));
    let args = ["run", "--cgroup-parent", "/x", file.to_str().expect("UTF-8")];
    pods.call(&args).fails_with(1, &["the name of a slice, not '/x'"]);
    // More memory than the scope may have: systemd sees the unit fail.
    let hungry = container(
        "a",
        "sleep 1; exec dd if=/dev/zero of=/dev/null bs=100M count=1",
        "resources: {limits: {memory: 32Mi}}",
    );
    let id = pods.start(&manifest(&name, &format!("{{restartPolicy: Never, containers: [{hungry}]}}")));
    let status = pods.wait_phase(&id, "Failed");
    assert_eq!(status["containers"][0]["exitCode"], 137, "{status}");
    poll("the units to end with the pod", || units(&id).is_empty().then_some(()));
    pods.ok(&["delete", &id]);
    let sidecar = container(
        "s",
        "test -e /v/again && sleep 600; touch /v/again; sleep 1; exit 1",
        "restartPolicy: Always, volumeMounts: [{name: v, mountPath: /v}]",
    );
    let spec = format!(
        "{{initContainers: [{sidecar}], containers: [{}], volumes: [{{name: v}}]}}",
        container("a", WAIT, "")
    );
    let id = pods.start(&manifest(&name, &spec));
    let sidecar = || {
        pods.status(&id)["containers"].as_array().into_iter().flatten().find(|c| c["name"] == "s").cloned()
    };
    poll("the sidecar to be started again", || {
        sidecar().filter(|sidecar| sidecar["restarts"] == 1 && sidecar["state"] == "running")
    });
    assert_eq!(property(&format!("magikrun-{id}-s.scope"), "ActiveState"), "active");
    pods.ok(&["delete", "--force", &id]);
    assert_no_units(&pods, &id);
}

#[test]
fn a_request_for_memory_protects_a_pod_and_its_containers() {
    if !crate::has_unified() {
        return;
    }
    let pods = pods();
    let id = pods.start(&limited(&pods.name("low")));
    let root = format!("/sys/fs/cgroup{}/{id}", pods.parent());
    let read =
        |path: &str| std::fs::read_to_string(format!("{root}/{path}")).expect("a limit").trim().to_owned();
    let expected = [48 * MIB, 32 * MIB, 0].map(|bytes| bytes.to_string());
    assert_eq!(["memory.low", "a/memory.low", "b/memory.low"].map(read), expected);
    pods.ok(&["delete", "--force", &id]);
    pods.assert_nothing_left();
}
