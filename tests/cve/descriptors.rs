//! Descriptors of the host, and the runtime's own executable, seen from inside.

use crate::common::{Output, Runtime, copy_program, finish, poll, runtime_path};
use crate::{MANY, give};
use std::fs;
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};

/// The runtime as it is called by somebody who leaks folders of the host as descriptors 3 to 9.
fn leaky(runtime: &Runtime, args: &[&str]) -> Output {
    let script = "exec \"$@\" 3</ 4</ 5</sys/fs/cgroup 6</ 7</ 8</ 9</";
    let mut command = Command::new("sh");
    command.arg("-c").arg(script).arg("sh").arg(runtime_path());
    command.arg("--root").arg(runtime.root()).args(args);
    finish(command, None)
}

#[test]
fn no_descriptor_of_the_host_becomes_a_working_directory() {
    let runtime = Runtime::new();
    let sleeper = runtime.sleeper();
    runtime.detach(&sleeper);
    let script = "cd ../../../..; ls -d root/wt bin/bash usr/lib 2>/dev/null; cat etc/debian_version 2>/dev/null; true";
    for number in 3..24 {
        for base in ["/proc/self/fd", "/proc/1/fd", "/proc/thread-self/fd"] {
            let cwd = format!("{base}/{number}");
            let mut bundle = runtime.shell(script);
            bundle.edit(|config| config["process"]["cwd"] = serde_json::json!(cwd));
            let output = leaky(&runtime, &["run", "--bundle", bundle.dir(), &bundle.id]);
            assert!(output.code != 0 && output.stdout.is_empty(), "run in {cwd}: {output:?}");
            let output = leaky(&runtime, &["exec", "--cwd", &cwd, &sleeper.id, "sh", "-c", script]);
            assert!(output.code != 0 && output.stdout.is_empty(), "exec in {cwd}: {output:?}");
        }
    }
    // As an image does it.
    let bundle = runtime.sleeper();
    symlink("/proc/self/fd/7", bundle.rootfs("work")).expect("a link");
    let output = leaky(&runtime, &["run", "--detach", "--bundle", bundle.dir(), &bundle.id]);
    output.success();
    let output = leaky(&runtime, &["exec", "--cwd", "/work", &bundle.id, "sh", "-c", script]);
    assert!(output.code != 0 && output.stdout.is_empty(), "{output:?}");
    runtime.ok(&["delete", "--force", &bundle.id]);
    runtime.ok(&["delete", "--force", &sleeper.id]);
    runtime.assert_nothing_left();
}

#[test]
fn no_program_of_the_host_is_executed_by_a_descriptor() {
    let runtime = Runtime::new();
    let sleeper = runtime.sleeper();
    runtime.detach(&sleeper);
    for number in 3..24 {
        let program = format!("/proc/self/fd/{number}/bin/bash");
        let output = leaky(&runtime, &["exec", &sleeper.id, &program, "-c", "echo escaped"]);
        assert!(output.code != 0 && !output.stdout.contains("escaped"), "{output:?}");
        let mut bundle = runtime.bundle();
        bundle.args(&[&program, "-c", "echo escaped"]);
        let output = leaky(&runtime, &["run", "--bundle", bundle.dir(), &bundle.id]);
        assert!(output.code != 0 && !output.stdout.contains("escaped"), "{output:?}");
    }
}

/// Opens the executable of whatever process appears that is not busybox, keeps it open, and writes to it once nobody
/// executes it any more.
const ATTACK: &str = r#"
    while :; do
        for p in /proc/[0-9]*; do
            case "$(readlink $p/exe)" in */busybox|"") continue;; esac
            exec 3< $p/exe || continue
            echo opened
            while test -e $p/status; do :; done
            if echo attacker >> /proc/self/fd/3; then echo written; else echo refused; fi
            exec 3<&-
        done
    done 2>/dev/null"#;

#[test]
fn the_executable_of_the_runtime_cannot_be_overwritten_from_inside() {
    let runtime = Runtime::new();
    // A copy, so that an attack that succeeds harms nobody.
    let victim = runtime.path("victim");
    copy_program(&runtime_path(), &victim);
    let before = fs::read(&victim).expect("the copy");
    let mut bundle = runtime.shell(ATTACK);
    bundle.edit(|config| give(config, &MANY));
    let call = |args: &[&str]| {
        let mut command = Command::new(&victim);
        command.arg("--root").arg(runtime.root()).args(args);
        command
    };
    let attacker = finish(call(&["run", "--detach", "--bundle", bundle.dir(), &bundle.id]), None).success();
    for round in 1..=10 {
        // The process's own executable is the runtime: it waits for its input, so that the attacker has the time to open it.
        let mut exec = call(&["exec", &bundle.id, "/proc/self/exe", "update", "--resources", "-", "x"]);
        exec.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut exec = exec.spawn().expect("the runtime starts");
        poll("the attacker to open it", || {
            (attacker.stdout_now().matches("opened").count() >= round).then_some(())
        });
        drop(exec.stdin.take());
        exec.wait().expect("the runtime ends");
        poll("the attack to end", || {
            let seen = attacker.stdout_now();
            (seen.matches("refused").count() + seen.matches("written").count() >= round).then_some(())
        });
    }
    assert!(!attacker.stdout_now().contains("written"), "the attacker could write");
    assert_eq!(before, fs::read(&victim).expect("the copy"), "the runtime was changed");
    let _ = finish(call(&["delete", "--force", &bundle.id]), None).success();
    runtime.assert_nothing_left();
}
