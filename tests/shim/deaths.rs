//! What is left, and goes on, when containerd or a shim dies.

use crate::common::{
    Containerd, Engine, LISTENER, Shim, leftover_cgroups, names_in, poll, require_root, shim_folder, signal,
    start, wait_dead,
};
use crate::{GROUPED, UNTIL_TOLD, end_with, exits, listen, only_shim};
use rustix::process::Signal;
use std::fs;
use std::process::Command;

/// The children of a process.
fn children_of(pid: i32) -> Vec<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().map(str::to_owned).collect()
}

/// The children of a process that are `sleep`.
fn sleeps_of(pid: i32) -> Vec<String> {
    let name = |pid: &str| fs::read_to_string(format!("/proc/{pid}/comm"));
    children_of(pid).into_iter().filter(|pid| name(pid).is_ok_and(|name| name == "sleep\n")).collect()
}

/// Waits until containerd has done what it does after a shim that has died, whose bundles it removes last. By then nothing may be left of
/// the containers, nor be in the way of others with their names.
#[track_caller]
fn wait_cleaned(containerd: &Containerd, names: &[&str]) {
    let bundles = containerd.path("state").join("io.containerd.runtime.v2.task");
    assert!(bundles.is_dir(), "'{}' is no folder", bundles.display());
    let bundles = bundles.join(&containerd.name);
    let is_one = |name: &str| names.contains(&name);
    poll("the bundles to be gone", || (!names_in(&bundles).iter().any(|name| is_one(name))).then_some(()));
    let states = names_in(&containerd.runtime_root());
    assert!(!states.iter().any(|name| is_one(name)), "{states:?}");
    let left = leftover_cgroups(&containerd.name);
    assert!(!left.iter().any(|path| names.iter().any(|name| path.ends_with(name))), "{left:?}");
}

/// Deletes a task, which must have ended with a code.
#[track_caller]
fn delete(containerd: &Containerd, name: &str, code: i32) {
    containerd.wait_status(name, "STOPPED");
    let deleted = containerd.ok(&["task", "delete", name]);
    assert!(deleted.stderr.contains(&format!("exit code {code}")), "{name}: {deleted:?}");
}

#[test]
fn what_a_dead_shim_has_left_is_removed() {
    let containerd = Containerd::new(Shim::Own);
    containerd.detached(&[], "box", "sleep 600 & sleep 600");
    let (pid, _) = containerd.task("box").expect("a task");
    signal(only_shim(&containerd), Signal::KILL);
    wait_dead(pid);
    poll("the task to be gone", || containerd.task("box").is_none().then_some(()));
    wait_cleaned(&containerd, &["box"]);
    containerd.ok(&["container", "delete", "box"]);
    containerd.script(&[], "box", "exit 0").success();
}

#[test]
fn what_a_shim_leaves_that_dies_while_containerd_is_away_is_removed() {
    let mut containerd = Containerd::new(Shim::Own);
    containerd.detached(&[], "box", "sleep 600 & sleep 600");
    let (pid, _) = containerd.task("box").expect("a task");
    let shim = only_shim(&containerd);
    containerd.crash();
    signal(shim, Signal::KILL);
    wait_dead(shim);
    containerd.start();
    wait_dead(pid);
    poll("the task to be gone", || containerd.task("box").is_none().then_some(()));
    wait_cleaned(&containerd, &["box"]);
    containerd.ok(&["container", "delete", "box"]);
    containerd.script(&[], "box", "exit 4").exits(4);
}

#[test]
fn a_runtime_that_fails_does_not_keep_the_rest_from_being_removed() {
    require_root();
    let bundle = tempfile::tempdir().expect("a folder");
    let rootfs = bundle.path().join("rootfs");
    fs::create_dir(&rootfs).expect("a folder");
    fs::write(bundle.path().join("magikrun-options.json"), r#"{"BinaryName": "/not/there"}"#)
        .expect("the options");
    fs::write(bundle.path().join("init.pid"), "77").expect("a pid");
    rustix::mount::mount("none", &rootfs, "tmpfs", rustix::mount::MountFlags::empty(), None)
        .expect("a mount");
    let mut command = Command::new(shim_folder().join("containerd-shim-magikrun-v2"));
    command.args(["-namespace", "test", "-id", "box", "-address", "/nowhere", "delete"]);
    let output = command.current_dir(bundle.path()).output().expect("the shim runs");
    assert!(output.status.success(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("cannot execute '/not/there'"), "{output:?}");
    // The pid, and 137.
    assert!(output.stdout.starts_with(&[0x08, 77, 0x10, 0x89, 0x01]), "{output:?}");
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("the mounts");
    assert!(!mounts.contains(rootfs.to_str().expect("UTF-8")));
}

#[test]
fn a_dead_shim_takes_its_whole_pod_with_it() {
    let containerd = Containerd::new(Shim::Own);
    let events = listen(&containerd);
    let names = ["first", "second", "third"];
    for name in names {
        containerd.detached(&GROUPED, name, "sleep 600 & sleep 600");
    }
    let pids = names.map(|name| containerd.task(name).expect("a task").0);
    signal(only_shim(&containerd), Signal::KILL);
    pids.into_iter().for_each(wait_dead);
    poll("the tasks to be gone", || names.iter().all(|name| containerd.task(name).is_none()).then_some(()));
    poll("the ends to be told", || (exits(&events.stdout()).len() == names.len()).then_some(()));
    assert_eq!(exits(&events.stdout()), [137; 3]);
    wait_cleaned(&containerd, &names);
    for name in names {
        containerd.ok(&["container", "delete", name]);
    }
    // The socket of the dead server is in nobody's way.
    containerd.script(&GROUPED, "first", "exit 4").exits(4);
    signal(events.pid(), Signal::TERM);
}

#[test]
fn containers_outlive_containerd_and_are_found_again() {
    let mut containerd = Containerd::new(Shim::Own);
    let log = containerd.detached(&[], "box", LISTENER);
    containerd.detached(&[], "short", UNTIL_TOLD);
    let (short, _) = containerd.task("short").expect("a task");
    containerd.crash();
    // One ends while containerd is away.
    end_with(short, 7);
    containerd.start();
    delete(&containerd, "short", 7);
    containerd.wait_status("box", "RUNNING");
    assert_eq!(containerd.exec("box", "after", "echo again").success().stdout, "again\n");
    containerd.ok(&["task", "kill", "--signal", "SIGTERM", "box"]);
    delete(&containerd, "box", 42);
    assert_eq!(fs::read_to_string(&log).expect("the log"), "ready\nterm\n");
    poll("the shims to end", || containerd.shims().is_empty().then_some(()));
}

#[test]
fn containerd_may_crash_again_and_again_under_load() {
    let mut containerd = Containerd::new(Shim::Own);
    let count = "i=0; while [ ! -e /end ]; do echo $i; i=$((i+1)); done; exit 9";
    let names: Vec<_> = (0..4).map(|n| format!("box{n}")).collect();
    let logs: Vec<_> = names.iter().map(|name| containerd.detached(&GROUPED, name, count)).collect();
    let shim = only_shim(&containerd);
    for round in 0..3 {
        // Those end with codes of their own while containerd is away.
        let short = |n| (format!("short{round}-{n}"), 20 + 10 * round + n);
        let short: Vec<_> = (0..3).map(short).collect();
        short.iter().for_each(|(name, _)| drop(containerd.detached(&GROUPED, name, UNTIL_TOLD)));
        let pids: Vec<_> = short.iter().map(|(name, _)| containerd.task(name).expect("a task").0).collect();
        // Those of the last round may live still.
        let before = sleeps_of(shim);
        let exec = |n| {
            let id = format!("exec{round}-{n}");
            start(containerd.command(&["task", "exec", "--exec-id", &id, "box0", "sleep", "5"]), None)
        };
        let execs: Vec<_> = (0..8).map(exec).collect();
        poll("execs to be under way", || {
            sleeps_of(shim).iter().any(|pid| !before.contains(pid)).then_some(())
        });
        containerd.crash();
        execs.into_iter().for_each(|exec| drop(exec.finish()));
        pids.into_iter().zip(&short).for_each(|(pid, (_, code))| end_with(pid, *code));
        containerd.start();
        short.iter().for_each(|(name, code)| delete(&containerd, name, *code));
        for name in &names {
            containerd.wait_status(name, "RUNNING");
        }
        assert_eq!(only_shim(&containerd), shim);
        let id = format!("after{round}");
        assert_eq!(containerd.exec("box1", &id, "echo fine").success().stdout, "fine\n");
    }
    for (name, log) in names.iter().zip(logs) {
        let (pid, _) = containerd.task(name).expect("a task");
        fs::write(format!("/proc/{pid}/root/end"), "").expect("a file in the container");
        delete(&containerd, name, 9);
        // Not a line is missing.
        let text = fs::read_to_string(log).expect("the log");
        assert!(text.lines().enumerate().all(|(n, line)| line == n.to_string()), "{} bytes", text.len());
    }
    wait_dead(shim);
}
