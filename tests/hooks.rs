//! The six kinds of hooks: when and where they run, what they are told, and what happens when they fail.
mod common;

use common::{Bundle, Runtime};
use serde_json::{Value, json};
use std::fs;

/// Adds a hook that runs `script` in a shell.
fn add(bundle: &mut Bundle, kind: &str, script: &str) {
    let hook =
        json!({"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin", "FROM=hook"]});
    bundle.edit(|config| {
        if config["hooks"][kind].is_null() {
            config["hooks"][kind] = json!([]);
        }
        config["hooks"][kind].as_array_mut().expect("a list").push(hook);
    });
}

fn record(path: &std::path::Path) -> Value {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).expect("the state is JSON")
}

#[test]
fn all_six_hooks_run_and_get_the_state_on_standard_input() {
    let runtime = Runtime::new();
    let mut bundle = runtime.sleeper();
    let of_host = ["prestart", "createRuntime", "createContainer", "poststart", "poststop"];
    for kind in of_host {
        let script = format!(
            "cat > {0}; echo {kind} >> {1}",
            bundle.path(kind).display(),
            bundle.path("order").display()
        );
        add(&mut bundle, kind, &script);
    }
    add(&mut bundle, "startContainer", "cat > /tmp/startContainer");
    runtime.create(&bundle);
    assert!(!bundle.rootfs("tmp/startContainer").exists(), "startContainer ran before start");
    assert!(!bundle.path("poststart").exists(), "poststart ran before start");
    let pid = runtime.pid(&bundle.id);
    runtime.ok(&["start", &bundle.id]);
    assert!(!bundle.path("poststop").exists(), "poststop ran before delete");
    runtime.ok(&["delete", "--force", &bundle.id]);

    let order = fs::read_to_string(bundle.path("order")).expect("the order");
    assert_eq!(order, of_host.map(|kind| format!("{kind}\n")).concat());
    for (kind, status) in [("createRuntime", "creating"), ("poststart", "running"), ("poststop", "stopped")] {
        let state = record(&bundle.path(kind));
        assert_eq!(state["id"], *bundle.id, "{kind}");
        assert_eq!(state["bundle"], bundle.dir(), "{kind}");
        assert_eq!(state["status"], status, "{kind}");
        assert!(kind == "poststop" || state["pid"] == pid, "{kind}: {state}");
    }
    assert_eq!(record(&bundle.rootfs("tmp/startContainer"))["id"], *bundle.id);
    runtime.assert_nothing_left();
}

#[test]
fn hooks_run_in_their_namespaces_and_with_their_environment() {
    let runtime = Runtime::new();
    let mut bundle = runtime.sleeper();
    for kind in ["createRuntime", "createContainer"] {
        let script = format!("(readlink /proc/self/ns/mnt; env) > {}", bundle.path(kind).display());
        add(&mut bundle, kind, &script);
    }
    let pid = runtime.detach(&bundle);
    let namespace = |pid: &str| {
        fs::read_link(format!("/proc/{pid}/ns/mnt")).expect("a namespace").to_string_lossy().into_owned()
    };
    let of_runtime = fs::read_to_string(bundle.path("createRuntime")).expect("a file");
    let of_container = fs::read_to_string(bundle.path("createContainer")).expect("a file");
    assert!(of_runtime.starts_with(&namespace("self")), "{of_runtime}");
    assert!(of_container.starts_with(&namespace(&pid.to_string())), "{of_container}");
    assert!(of_runtime.contains("FROM=hook\n") && !of_runtime.contains("CARGO"), "{of_runtime}");
}

#[test]
fn a_failing_hook_before_start_undoes_the_create() {
    for kind in ["prestart", "createRuntime", "createContainer"] {
        let runtime = Runtime::new();
        let mut bundle = runtime.sleeper();
        add(&mut bundle, kind, "echo why >&2; exit 9");
        let stop = format!("touch {}", bundle.path("stopped").display());
        add(&mut bundle, "poststop", &stop);
        let output = runtime.call(&["create", "--bundle", bundle.dir(), &bundle.id]);
        let _ = output.fails_with(1, &["exit status 9"]);
        runtime.assert_nothing_left();
    }
}

#[test]
fn a_failing_start_container_hook_ends_the_container() {
    let runtime = Runtime::new();
    let mut bundle = runtime.sleeper();
    add(&mut bundle, "startContainer", "exit 9");
    runtime.create(&bundle);
    let _ = runtime.call(&["start", &bundle.id]);
    runtime.wait_status(&bundle.id, "stopped");
    runtime.ok(&["delete", &bundle.id]);
    runtime.assert_nothing_left();
}

#[test]
fn a_hook_over_its_timeout_is_ended() {
    let runtime = Runtime::new();
    let mut bundle = runtime.sleeper();
    let hook = json!({"path": "/bin/sleep", "args": ["sleep", "50"], "timeout": 1});
    bundle.edit(|config| config["hooks"] = json!({"createRuntime": [hook]}));
    let output = runtime.call(&["create", "--bundle", bundle.dir(), &bundle.id]);
    let _ = output.fails_with(1, &["ran past specified timeout"]);
    runtime.assert_nothing_left();
}

#[test]
fn a_missing_hook_is_named() {
    let runtime = Runtime::new();
    let mut bundle = runtime.sleeper();
    bundle.edit(|config| config["hooks"] = json!({"createRuntime": [{"path": "/nonexistent/hook"}]}));
    let output = runtime.call(&["create", "--bundle", bundle.dir(), &bundle.id]);
    let _ = output.fails_with(1, &["/nonexistent/hook", "no such file or directory"]);
    runtime.assert_nothing_left();
}

#[test]
fn run_calls_the_hooks_of_a_container_that_ends() {
    let runtime = Runtime::new();
    let mut bundle = runtime.shell("exit 4");
    let stop = format!("cat > {}", bundle.path("stopped").display());
    add(&mut bundle, "poststop", &stop);
    runtime.run(&bundle).exits(4);
    assert_eq!(record(&bundle.path("stopped"))["status"], "stopped");
}

#[test]
fn a_failing_poststart_hook_is_a_warning_until_version_1_3_makes_it_an_error() {
    for (version, code) in [("1.0.2", 0), ("1.3.0", 1)] {
        let runtime = Runtime::new();
        let mut bundle = runtime.sleeper();
        bundle.edit(|config| config["ociVersion"] = json!(version));
        add(&mut bundle, "poststart", "exit 9");
        let next = format!("touch {}", bundle.path("next").display());
        add(&mut bundle, "poststart", &next);
        runtime.create(&bundle);
        let output = runtime.call(&["start", &bundle.id]).exits(code);
        assert!(output.stderr.contains("exit status 9"), "{output:?}");
        assert_eq!(bundle.path("next").exists(), code == 0, "{version}: hooks go on after a warning only");
        runtime.ok(&["delete", "--force", &bundle.id]);
        runtime.assert_nothing_left();
    }
}

#[test]
fn a_failing_poststop_hook_is_a_warning_and_the_container_is_gone() {
    let runtime = Runtime::new();
    let mut bundle = runtime.sleeper();
    add(&mut bundle, "poststop", "exit 9");
    let next = format!("touch {}", bundle.path("next").display());
    add(&mut bundle, "poststop", &next);
    runtime.create(&bundle);
    let output = runtime.ok(&["delete", "--force", &bundle.id]);
    assert!(output.stderr.contains("exit status 9"), "{output:?}");
    assert!(bundle.path("next").exists(), "the hook after a failing one did not run");
    runtime.assert_nothing_left();
}
