//! Checkpoint and restore, where criu can work with the kernel.
mod common;

use common::{Bundle, Runtime, finish, poll};
use std::fs;
use std::process::{Command, Stdio};

/// Whether criu can dump processes of this kernel; says so if it cannot.
fn criu_works() -> bool {
    let mut check = Command::new(common::require_program("criu"));
    check.arg("check");
    let works = finish(check, None).code == 0;
    if !works {
        eprintln!("unsupported: checkpoint (criu check)");
    }
    works
}

/// Runs a command whose container keeps no file of ours as its standard descriptors, which criu could not restore.
#[track_caller]
fn quiet(runtime: &Runtime, args: &[&str]) {
    let mut command = runtime.command(args);
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    assert!(status.expect("the runtime starts").success(), "{args:?}");
}

fn count(bundle: &Bundle) -> u64 {
    fs::read_to_string(bundle.rootfs("tmp/count")).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

#[test]
fn a_container_goes_on_where_its_checkpoint_was_made() {
    if !criu_works() {
        return;
    }
    let runtime = Runtime::new();
    let bundle = runtime
        .shell("i=0; while :; do i=$((i + 1)); echo $i > /tmp/new; mv /tmp/new /tmp/count; sleep 0.1; done");
    let id = bundle.id.as_str();
    quiet(&runtime, &["run", "--detach", "--bundle", bundle.dir(), id]);
    poll("the container to count", || (count(&bundle) > 3).then_some(()));
    let images = runtime.path("images");
    let images = images.to_str().expect("UTF-8");
    let dump = ["checkpoint", "--image-path", images, "--work-path", images, id];
    runtime.ok(&dump);
    let before = count(&bundle);
    let args =
        ["restore", "--detach", "--image-path", images, "--work-path", images, "--bundle", bundle.dir(), id];
    quiet(&runtime, &args);
    let after = poll("the container to count on", || Some(count(&bundle)).filter(|count| *count > before));
    assert!(after < before + 1000, "the count began anew or jumped: {before}, {after}");
    assert_eq!(runtime.status(id), "running");
    runtime.ok(&["delete", "--force", id]);
    runtime.assert_nothing_left();
}

#[test]
fn a_container_runs_on_while_its_checkpoint_is_made() {
    if !criu_works() {
        return;
    }
    let runtime = Runtime::new();
    let bundle = runtime.sleeper();
    quiet(&runtime, &["run", "--detach", "--bundle", bundle.dir(), &bundle.id]);
    let pid = runtime.pid(&bundle.id);
    let images = runtime.path("images");
    let images = images.to_str().expect("UTF-8");
    runtime.ok(&["checkpoint", "--leave-running", "--image-path", images, "--work-path", images, &bundle.id]);
    assert_eq!((runtime.status(&bundle.id).as_str(), runtime.pid(&bundle.id)), ("running", pid));
    assert!(fs::read_dir(images).expect("the images").count() > 5, "there are no images");
}
