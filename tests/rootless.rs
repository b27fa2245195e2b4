//! Containers of a user without privileges.
mod common;

use common::{Bundle, Output, Runtime, finish};
use serde_json::json;
use std::os::unix::fs::chown;
use std::process::Command;

/// A user that exists on every Debian and owns nothing.
const UID: u32 = 65534;

/// A runtime whose folder belongs to the user.
fn runtime() -> Runtime {
    let runtime = Runtime::new();
    for path in [runtime.dir().to_owned(), runtime.root()] {
        chown(path, Some(UID), Some(UID)).expect("the folder's owner");
    }
    runtime
}

/// A bundle of the user's.
fn rootless(runtime: &Runtime, script: &str) -> Bundle {
    let mut bundle = runtime.shell(script);
    bundle.for_user(UID);
    bundle
}

fn call(runtime: &Runtime, args: &[&str]) -> Output {
    let mut command = Command::new("setpriv");
    let uid = UID.to_string();
    command.args(["--reuid", &uid, "--regid", &uid, "--clear-groups"]);
    command.arg(common::runtime_path()).arg("--root").arg(runtime.root()).args(args);
    finish(command, None)
}

#[test]
fn a_user_without_privileges_is_root_in_the_container_and_nobody_outside() {
    let runtime = runtime();
    let bundle = rootless(&runtime, "id -u; cat /proc/self/uid_map; mount | grep -c ' /sys '; hostname");
    let output = call(&runtime, &["run", "--bundle", bundle.dir(), &bundle.id]).success();
    let lines: Vec<_> =
        output.stdout.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).collect();
    assert_eq!(lines[0], ["0"]);
    assert_eq!(lines[1], ["0", &UID.to_string(), "1"]);
    runtime.assert_nothing_left();
}

#[test]
fn the_life_of_a_container_needs_no_privileges() {
    let runtime = runtime();
    let bundle = rootless(&runtime, "sleep 600");
    let ok = |args: &[&str]| call(&runtime, args).success();
    ok(&["create", "--bundle", bundle.dir(), &bundle.id]);
    ok(&["start", &bundle.id]);
    assert!(ok(&["state", &bundle.id]).stdout.contains("\"status\": \"running\""));
    assert_eq!(ok(&["exec", &bundle.id, "id", "-u"]).stdout, "0\n");
    let _ = call(&runtime, &["exec", &bundle.id, "sh", "-c", "exit 5"]).exits(5);
    ok(&["kill", &bundle.id, "KILL"]);
    runtime.wait_status(&bundle.id, "stopped");
    ok(&["delete", &bundle.id]);
    runtime.assert_nothing_left();
}

#[test]
fn limits_that_the_user_cannot_set_are_refused() {
    let runtime = runtime();
    let mut bundle = rootless(&runtime, "true");
    bundle.edit(|config| config["linux"]["resources"] = json!({"memory": {"limit": 64_000_000}}));
    let output = call(&runtime, &["run", "--bundle", bundle.dir(), &bundle.id]);
    let _ = output.fails_with(1, &["rootless needs no limits"]);
    runtime.assert_nothing_left();
}
