//! Containers that are saved and go on later.

use crate::common::{Bundle, ConsoleSocket, Runtime, poll};
use crate::property;
use serde_json::json;

/// Counts in a file of the container. What it prints to would be outside, where criu cannot follow.
const COUNT: &str =
    "exec </dev/null >/dev/null 2>&1; n=0; while :; do n=$((n+1)); echo $n >/tmp/count; sleep 0.2; done";

/// The number that the container has counted to.
fn count(bundle: &Bundle) -> u32 {
    let read = || std::fs::read_to_string(bundle.rootfs("tmp/count")).ok()?.trim().parse().ok();
    poll("the container to count", read)
}

fn wait_beyond(bundle: &Bundle, number: u32) {
    poll("the container to count on", || (count(bundle) > number).then_some(()));
}

/// A container that counts, made by `run` with these global options.
fn counting(runtime: &Runtime, options: &[&str]) -> Bundle {
    let bundle = runtime.shell(COUNT);
    runtime.ok(&[options, &["run", "--detach", "--bundle", bundle.dir(), &bundle.id]].concat());
    wait_beyond(&bundle, 2);
    bundle
}

fn images(runtime: &Runtime) -> String {
    runtime.path("images").to_string_lossy().into_owned()
}

#[test]
fn a_container_goes_on_where_it_was() {
    let runtime = Runtime::new();
    let bundle = counting(&runtime, &[]);
    let (id, images) = (bundle.id.as_str(), images(&runtime));
    runtime.ok(&["checkpoint", "--image-path", &images, id]);
    runtime.assert_nothing_left();
    let before = count(&bundle);
    runtime.ok(&["restore", "--detach", "--image-path", &images, "--bundle", bundle.dir(), id]);
    assert_eq!(runtime.status(id), "running");
    wait_beyond(&bundle, before);
    assert!(crate::common::cgroup_dir(runtime.pid(id), "memory").ends_with(id));
    crate::assert_at_the_root(&runtime.exec(id, "cat /proc/1/cgroup").success().stdout);
    runtime.ok(&["delete", "--force", id]);
    runtime.assert_nothing_left();
}

#[test]
fn a_container_can_be_saved_and_left_running_after_a_first_pass() {
    let runtime = Runtime::new();
    let bundle = counting(&runtime, &[]);
    let (id, parent, images) = (bundle.id.as_str(), runtime.path("parent"), images(&runtime));
    let parent = parent.to_str().expect("UTF-8");
    runtime.ok(&["checkpoint", "--pre-dump", "--image-path", parent, id]);
    runtime.ok(&["checkpoint", "--leave-running", "--parent-path", "../parent", "--image-path", &images, id]);
    assert_eq!(runtime.status(id), "running");
    wait_beyond(&bundle, count(&bundle));
    runtime.ok(&["delete", "--force", id]);
    runtime.assert_nothing_left();
}

#[test]
fn a_terminal_is_handed_out_again() {
    let runtime = Runtime::new();
    let mut bundle = runtime.shell("echo ready; while read line; do echo \"heard $line\"; done");
    bundle.edit(|config| config["process"]["terminal"] = json!(true));
    let (id, images) = (bundle.id.as_str(), images(&runtime));
    let first = ConsoleSocket::listen(runtime.dir(), "first");
    runtime.ok(&["run", "--detach", "--console-socket", first.path(), "--bundle", bundle.dir(), id]);
    let mut terminal = first.terminal();
    terminal.read_until("ready");
    runtime.ok(&["checkpoint", "--image-path", &images, id]);
    drop(terminal);
    let second = ConsoleSocket::listen(runtime.dir(), "second");
    let socket = second.path();
    let bundle_dir = bundle.dir();
    runtime.ok(&[
        "restore",
        "--detach",
        "--console-socket",
        socket,
        "--image-path",
        &images,
        "--bundle",
        bundle_dir,
        id,
    ]);
    let mut terminal = second.terminal();
    terminal.write("again\n");
    terminal.read_until("heard again");
    runtime.ok(&["delete", "--force", id]);
    runtime.assert_nothing_left();
}

#[test]
fn hooks_run_again_when_the_namespaces_are_there() {
    let runtime = Runtime::new();
    let mut bundle = runtime.shell(COUNT);
    let log = runtime.path("hooks");
    let hook = |name: &str| {
        let script = format!("echo {name} $(sed 's/.*\"pid\": *\\([0-9]*\\).*/\\1/') >>{}", log.display());
        json!([{"path": "/bin/sh", "args": ["sh", "-c", script]}])
    };
    bundle.edit(|config| {
        config["hooks"] = json!({
            "prestart": hook("prestart"), "createRuntime": hook("createRuntime"), "poststart": hook("poststart"),
            "poststop": hook("poststop"),
        });
    });
    runtime.detach(&bundle);
    wait_beyond(&bundle, 1);
    let (id, images) = (bundle.id.as_str(), images(&runtime));
    runtime.ok(&["checkpoint", "--image-path", &images, id]);
    std::fs::remove_file(&log).expect("the log of the hooks");
    runtime.ok(&["restore", "--detach", "--image-path", &images, "--bundle", bundle.dir(), id]);
    let pid = runtime.pid(id);
    let said = std::fs::read_to_string(&log).expect("the log of the hooks");
    assert_eq!(said, format!("prestart {pid}\ncreateRuntime {pid}\npoststart {pid}\n"));
    runtime.ok(&["delete", "--force", id]);
    // A hook that fails ends the restore, and nothing stays.
    bundle.edit(|config| {
        config["hooks"] = json!({"createRuntime": [{"path": "/bin/false"}]});
    });
    let restore =
        ["restore", "--detach", "--image-path", &images, "--bundle", bundle.dir(), bundle.id.as_str()];
    let _ = runtime.call(&restore).fails_with(1, &["createRuntime hook #0"]);
    runtime.assert_nothing_left();
}

#[test]
fn a_restored_container_is_a_scope_again() {
    let runtime = Runtime::new();
    let mut bundle = runtime.shell(COUNT);
    let id = bundle.id.clone();
    let unit = format!("mkt-{id}.scope");
    bundle.edit(|config| {
        config["linux"]["cgroupsPath"] = json!(format!("system.slice:mkt:{id}"));
        config["linux"]["resources"]["pids"] = json!({"limit": 50});
    });
    let images = images(&runtime);
    runtime.ok(&["--systemd-cgroup", "run", "--detach", "--bundle", bundle.dir(), &id]);
    wait_beyond(&bundle, 1);
    runtime.ok(&["checkpoint", "--image-path", &images, &id]);
    assert_eq!(property(&unit, "ActiveState"), "inactive");
    let restore =
        ["--systemd-cgroup", "restore", "--detach", "--image-path", &images, "--bundle", bundle.dir(), &id];
    runtime.ok(&restore);
    assert_eq!(property(&unit, "ActiveState"), "active");
    assert_eq!(property(&unit, "TasksMax"), "50");
    wait_beyond(&bundle, count(&bundle));
    runtime.ok(&["delete", "--force", &id]);
    assert_eq!(property(&unit, "ActiveState"), "inactive");
    runtime.assert_nothing_left();
}

#[test]
fn a_restore_in_the_foreground_answers_with_the_exit_code() {
    let runtime = Runtime::new();
    let bundle = runtime.shell("exec </dev/null >/dev/null 2>&1; echo 1 >/tmp/count; while ! [ -e /tmp/go ]; do sleep 0.1; done; exit 7");
    runtime.ok(&["run", "--detach", "--bundle", bundle.dir(), &bundle.id]);
    count(&bundle);
    let images = images(&runtime);
    runtime.ok(&["checkpoint", "--image-path", &images, &bundle.id]);
    std::fs::write(bundle.rootfs("tmp/go"), "").expect("a file");
    let restore = ["restore", "--image-path", &images, "--bundle", bundle.dir(), &bundle.id];
    let _ = runtime.call(&restore).exits(7);
    runtime.assert_nothing_left();
}
