//! What only a whole machine has: systemd, every controller of cgroup v2, AppArmor, checkpoints. These tests run in the
//! conformance suites' emulated machine (`make conformance ENV=vm`) and not with the others.

#[path = "../common/mod.rs"]
mod common;

mod apparmor;
mod checkpoint;
mod limits;
mod network;
mod pods;
mod rootless;
mod systemd;

use common::{Output, property, tool};
use std::path::Path;
use std::process::Command;

/// Whether the machine was booted with cgroup v2 alone.
fn is_unified() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

/// As [`is_unified`]; says what is missing where it was not.
fn has_unified() -> bool {
    if !is_unified() {
        eprintln!("unsupported: cgroup v2 alone");
    }
    is_unified()
}

/// Requires that a process sees its cgroups, as /proc/PID/cgroup tells them, as the roots of their hierarchies.
#[track_caller]
fn assert_at_the_root(cgroups: &str) {
    assert!(!cgroups.is_empty() && cgroups.lines().all(|line| line.ends_with(":/")), "{cgroups}");
}

/// Runs the runtime, after the words `before`, as the ordinary user of the machine, who has a service manager.
fn as_user(runtime: &common::Runtime, before: &[&str], args: &[&str]) -> Output {
    tool("systemctl", &["start", "user@1000.service"]);
    // Where it is, the user may have no access.
    let program = runtime.path("runtime");
    if !program.exists() {
        std::fs::copy(common::runtime_path(), &program).expect("a copy of the runtime");
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=1000", "--regid=1000", "--init-groups", "env", "XDG_RUNTIME_DIR=/run/user/1000"]);
    command.args(before).arg(program).arg("--root").arg(runtime.root()).args(args);
    common::finish(command, None)
}
