//! What only a whole machine has: systemd, every controller of cgroup v2, AppArmor, checkpoints. These tests run in the
//! conformance suites' emulated machine (`make conformance ENV=vm`) and not with the others.

#[path = "../common/mod.rs"]
mod common;

mod apparmor;
mod checkpoint;
mod limits;
mod rootless;
mod systemd;

use common::Output;
use std::process::Command;

/// What a program of the machine prints; it must succeed.
#[track_caller]
fn tool(program: &str, args: &[&str]) -> String {
    let mut command = Command::new(program);
    command.args(args);
    common::finish(command, None).success().stdout
}

/// A property of a unit of the system's manager.
#[track_caller]
fn property(unit: &str, name: &str) -> String {
    tool("systemctl", &["show", "--value", "--property", name, unit]).trim().to_owned()
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
