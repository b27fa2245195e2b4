//! Every bad input: one line on standard error, a record in the log, an exit code, and nothing left behind.
mod common;

use common::{Bundle, Output, Runtime, last_log_error};
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;

/// Runs a command with a JSON log and requires that the failure is told once on standard error and in the log.
#[track_caller]
fn fails(runtime: &Runtime, args: &[&str], code: i32, needles: &[&str]) {
    let log = runtime.path("log.json");
    let mut command = runtime.command(&["--log", log.to_str().expect("UTF-8"), "--log-format", "json"]);
    command.args(args);
    let output = common::finish(command, None).fails_with(code, needles);
    assert_one_line(&output);
    let message = last_log_error(&log);
    for needle in needles {
        assert!(message.contains(needle), "'{needle}' is missing in the log: {message}");
    }
}

/// Requires one line on standard error. A foreign runtime may add warnings or its usage.
#[track_caller]
fn assert_one_line(output: &Output) {
    let lines: Vec<_> = output.stderr.lines().collect();
    assert!(lines.len() == 1 || common::is_foreign_runtime(), "not one line: {lines:#?}");
}

/// Requires that `create`, and after it `run`, of the bundle fail and leave nothing.
#[track_caller]
fn create_fails(runtime: &Runtime, bundle: &Bundle, needles: &[&str]) {
    for command in ["create", "run"] {
        fails(runtime, &[command, "--bundle", bundle.dir(), &bundle.id], 1, needles);
        runtime.assert_nothing_left();
    }
}

/// Requires that the default configuration, changed by `change`, is refused with `needles`.
#[track_caller]
fn config_fails(change: impl FnOnce(&mut Value), needles: &[&str]) {
    let runtime = Runtime::new();
    let mut bundle = runtime.sleeper();
    bundle.edit(change);
    create_fails(&runtime, &bundle, needles);
}

#[test]
fn a_missing_bundle_is_named() {
    let runtime = Runtime::new();
    let missing = runtime.path("nowhere");
    let missing = missing.to_str().expect("UTF-8");
    fails(&runtime, &["create", "--bundle", missing, "mkt-x"], 1, &[missing, "no such file or directory"]);
    runtime.assert_nothing_left();
}

#[test]
fn a_missing_config_is_named() {
    let runtime = Runtime::new();
    let bundle = runtime.bundle();
    fs::remove_file(bundle.path("config.json")).expect("the removal");
    create_fails(&runtime, &bundle, &["config.json", "not found"]);
}

#[test]
fn a_config_that_is_not_json_is_refused() {
    let runtime = Runtime::new();
    let bundle = runtime.bundle();
    for text in ["{", "", "[]", "nonsense", "{\"process\": {}} trailing"] {
        fs::write(bundle.path("config.json"), text).expect("the config");
        create_fails(&runtime, &bundle, &[]);
    }
}

#[test]
fn a_wrong_type_in_the_config_is_named_by_its_path() {
    config_fails(|config| config["process"]["user"]["uid"] = json!("zero"), &["process.user.uid"]);
    config_fails(|config| config["linux"]["resources"]["pids"] = json!({"limit": "x"}), &["pids.limit"]);
    config_fails(|config| config["process"]["args"] = json!("sh"), &["process.args"]);
}

#[test]
fn an_oversized_config_is_refused() {
    if common::is_foreign_runtime() {
        return; // runc has no limit.
    }
    config_fails(|config| config["annotations"] = json!({"a": "x".repeat(2 << 20)}), &["config.json"]);
}

#[test]
fn a_config_without_root_or_args_is_refused() {
    let remove = |key: &'static str| {
        move |config: &mut Value| {
            config.as_object_mut().expect("an object").remove(key);
        }
    };
    config_fails(remove("root"), &["root"]);
    config_fails(|config| config["process"]["args"] = json!([]), &["args must not be empty"]);
    config_fails(|config| config["process"]["cwd"] = json!("relative"), &["bsolute path"]);
}

#[test]
fn a_missing_rootfs_is_named() {
    config_fails(
        |config| config["root"]["path"] = json!("nope"),
        &["rootfs", "nope", "no such file or directory"],
    );
}

#[test]
fn a_missing_mount_source_is_named() {
    let mount =
        json!({"destination": "/mnt", "type": "bind", "source": "/nonexistent/source", "options": ["bind"]});
    config_fails(
        |config| config["mounts"].as_array_mut().expect("mounts").push(mount),
        &["/nonexistent/source", "no such file or directory"],
    );
}

#[test]
fn an_unknown_file_system_is_named() {
    let mount = json!({"destination": "/mnt", "type": "nosuchfs", "source": "some-source"});
    config_fails(
        |config| config["mounts"].as_array_mut().expect("mounts").push(mount),
        &["/mnt", "no such device"],
    );
}

#[test]
fn an_unknown_rlimit_is_named() {
    config_fails(
        |config| config["process"]["rlimits"] = json!([{"type": "RLIMIT_FOO", "hard": 1, "soft": 1}]),
        &["RLIMIT_FOO"],
    );
}

#[test]
fn an_unknown_namespace_is_named() {
    config_fails(
        |config| config["linux"]["namespaces"].as_array_mut().expect("a list").push(json!({"type": "foo"})),
        &["foo"],
    );
}

#[test]
fn a_missing_namespace_path_is_named() {
    let runtime = Runtime::new();
    let mut bundle = runtime.sleeper();
    bundle.namespace("network", Some(json!({"type": "network", "path": "/nonexistent/netns"})));
    create_fails(&runtime, &bundle, &["/nonexistent/netns"]);
}

#[test]
fn an_unknown_id_is_refused_by_every_command() {
    let runtime = Runtime::new();
    let commands: [&[&str]; 9] = [
        &["state", "mkt-nobody"],
        &["start", "mkt-nobody"],
        &["kill", "mkt-nobody", "TERM"],
        &["delete", "mkt-nobody"],
        &["pause", "mkt-nobody"],
        &["resume", "mkt-nobody"],
        &["ps", "mkt-nobody"],
        &["update", "--pids-limit", "5", "mkt-nobody"],
        &["events", "--stats", "mkt-nobody"],
    ];
    for args in commands {
        fails(&runtime, args, 1, &["container does not exist"]);
    }
    fails(&runtime, &["exec", "mkt-nobody", "true"], 255, &["container does not exist"]);
    runtime.assert_nothing_left();
}

#[test]
fn an_id_in_use_is_refused_and_its_container_stays() {
    let runtime = Runtime::new();
    let bundle = runtime.sleeper();
    let pid = runtime.detach(&bundle);
    let needle = "container with given ID already exists";
    fails(&runtime, &["create", "--bundle", bundle.dir(), &bundle.id], 1, &[needle]);
    fails(&runtime, &["run", "--bundle", bundle.dir(), &bundle.id], 1, &[needle]);
    assert_eq!(runtime.pid(&bundle.id), pid);
    assert_eq!(runtime.status(&bundle.id), "running");
}

#[test]
fn a_bad_id_is_refused_and_cannot_leave_the_state_root() {
    let runtime = Runtime::new();
    let bundle = runtime.sleeper();
    for id in ["../escape", "a/b", "..", ".", "with space", "a\nb", "ä"] {
        fails(&runtime, &["create", "--bundle", bundle.dir(), id], 1, &["invalid container ID format"]);
    }
    fails(&runtime, &["create", "--bundle", bundle.dir(), ""], 1, &["container id cannot be empty"]);
    for args in [&["delete", "--force", "../state"][..], &["state", "../x"], &["kill", "..", "KILL"]] {
        let _ = runtime.call(args).exits(1);
    }
    runtime.assert_nothing_left();
}

#[test]
fn a_bare_name_that_is_not_in_the_path_is_not_found() {
    config_fails(
        |config| config["process"]["args"] = json!(["nosuch"]),
        &["exec: \"nosuch\": executable file not found in $PATH"],
    );
}

#[test]
fn a_path_that_does_not_exist_is_no_such_file() {
    config_fails(
        |config| config["process"]["args"] = json!(["/bin/nosuch"]),
        &["exec: \"/bin/nosuch\": ", "no such file or directory"],
    );
}

#[test]
fn a_file_that_is_not_executable_is_permission_denied() {
    for path in ["/etc/passwd", "/bin"] {
        let exec = format!("exec: \"{path}\": ");
        config_fails(|config| config["process"]["args"] = json!([path]), &[&exec, "permission denied"]);
    }
}

#[test]
fn exec_of_what_cannot_be_executed_exits_255() {
    let runtime = Runtime::new();
    let bundle = runtime.sleeper();
    runtime.detach(&bundle);
    let id = bundle.id.as_str();
    fails(&runtime, &["exec", id, "nosuch"], 255, &["exec: \"nosuch\": executable file not found in $PATH"]);
    fails(
        &runtime,
        &["exec", id, "/bin/nosuch"],
        255,
        &["exec: \"/bin/nosuch\": ", "no such file or directory"],
    );
    fails(&runtime, &["exec", id, "/etc/passwd"], 255, &["exec: \"/etc/passwd\": ", "permission denied"]);
    fails(
        &runtime,
        &["exec", "--cwd", "/nowhere", id, "true"],
        255,
        &["/nowhere", "no such file or directory"],
    );
    fails(&runtime, &["exec", id], 255, &["process args cannot be empty"]);
    let missing = runtime.path("missing.json");
    let missing = missing.to_str().expect("UTF-8");
    fails(&runtime, &["exec", "--process", missing, id], 255, &[missing, "no such file or directory"]);
    let broken = runtime.file("broken.json", "{\"user\": {\"uid\": \"x\"}}");
    fails(&runtime, &["exec", "--process", broken.to_str().expect("UTF-8"), id], 255, &["user.uid"]);
    assert_eq!(runtime.status(id), "running");
}

#[test]
fn exec_in_a_stopped_container_is_refused() {
    let runtime = Runtime::new();
    let bundle = runtime.bundle();
    runtime.create(&bundle);
    runtime.ok(&["start", &bundle.id]);
    runtime.wait_status(&bundle.id, "stopped");
    fails(&runtime, &["exec", &bundle.id, "true"], 255, &["cannot exec in a stopped container"]);
}

#[test]
fn a_bad_signal_is_named_and_not_sent() {
    let runtime = Runtime::new();
    let bundle = runtime.sleeper();
    runtime.detach(&bundle);
    fails(&runtime, &["kill", &bundle.id, "FOO"], 1, &["unknown signal \"FOO\""]);
    for number in ["999", "-1x", "99999999999"] {
        let _ = runtime.call(&["kill", &bundle.id, number]).exits(1);
    }
    assert_eq!(runtime.status(&bundle.id), "running");
}

#[test]
fn bad_resources_are_named_and_change_nothing() {
    if !common::has_controllers(&["memory", "pids"]) {
        return;
    }
    let runtime = Runtime::new();
    let mut bundle = runtime.sleeper();
    bundle.edit(|config| config["linux"]["resources"]["pids"] = json!({"limit": 33}));
    let pid = runtime.detach(&bundle);
    let id = bundle.id.as_str();
    fails(&runtime, &["update", "--memory", "lots", id], 1, &["memory", "lots"]);
    let missing = runtime.path("missing.json");
    let missing = missing.to_str().expect("UTF-8");
    fails(&runtime, &["update", "--resources", missing, id], 1, &[missing, "no such file or directory"]);
    let broken = runtime.file("broken.json", "{\"pids\": {\"limit\": \"x\"}}");
    fails(&runtime, &["update", "--resources", broken.to_str().expect("UTF-8"), id], 1, &["pids.limit"]);
    assert_eq!(common::cgroup_value(pid, "pids", "pids.max", "pids.max"), "33");
}

#[test]
fn wrong_usage_fails_and_names_the_argument() {
    let runtime = Runtime::new();
    let bundle = runtime.sleeper();
    let text = |args: &[&str]| {
        let output = runtime.call(args);
        assert_ne!(output.code, 0, "{args:?} succeeded");
        format!("{}{}", output.stdout, output.stderr)
    };
    assert!(text(&["--nosuch", "list"]).contains("nosuch"));
    assert!(text(&["nosuchcommand"]).contains("nosuchcommand"));
    assert!(text(&["state", "--nosuch", "x"]).contains("nosuch"));
    assert!(text(&["--log-format", "xml", "list"]).contains("xml"));
    for args in [&["state"][..], &["create", "--bundle", bundle.dir()], &["state", "a", "b"], &["start"]] {
        assert!(!text(args).is_empty());
    }
    runtime.assert_nothing_left();
}

#[test]
fn a_pid_file_that_cannot_be_written_undoes_the_create() {
    let runtime = Runtime::new();
    let bundle = runtime.sleeper();
    let file = "/nonexistent/folder/pid";
    fails(
        &runtime,
        &["create", "--bundle", bundle.dir(), "--pid-file", file, &bundle.id],
        1,
        &["/nonexistent/folder/", "no such file or directory"],
    );
    runtime.assert_nothing_left();
}

#[test]
fn a_terminal_without_a_console_socket_is_refused_by_create() {
    let runtime = Runtime::new();
    let mut bundle = runtime.sleeper();
    bundle.edit(|config| config["process"]["terminal"] = json!(true));
    let args = ["create", "--bundle", bundle.dir(), &bundle.id];
    fails(&runtime, &args, 1, &["cannot allocate tty if", "will detach without setting console socket"]);
    runtime.assert_nothing_left();
}

#[test]
fn a_console_socket_without_a_terminal_or_a_listener_is_refused() {
    let runtime = Runtime::new();
    let mut bundle = runtime.sleeper();
    let socket = runtime.path("nobody.sock");
    let (dir, id) = (bundle.dir().to_owned(), bundle.id.clone());
    let args = ["create", "--bundle", &dir, "--console-socket", socket.to_str().expect("UTF-8"), &id];
    fails(&runtime, &args, 1, &["cannot use console socket if", "will not detach or allocate tty"]);
    runtime.assert_nothing_left();
    bundle.edit(|config| config["process"]["terminal"] = json!(true));
    fails(&runtime, &args, 1, &["nobody.sock", "no such file or directory"]);
    runtime.assert_nothing_left();
}

#[test]
fn a_failing_hook_fails_the_create_and_leaves_nothing() {
    let hook = json!({"path": "/bin/sh", "args": ["sh", "-c", "echo moo >&2; exit 7"]});
    config_fails(|config| config["hooks"] = json!({"createRuntime": [hook]}), &["exit status 7", "moo"]);
}

#[test]
fn a_log_that_cannot_be_opened_is_named() {
    let runtime = Runtime::new();
    let output = runtime.call(&["--log", "/nonexistent/folder/log", "list"]);
    let _ = output.fails_with(1, &["/nonexistent/folder/log", "no such file or directory"]);
}

#[test]
fn a_text_log_carries_the_same_message_and_is_appended_to() {
    let runtime = Runtime::new();
    let log: PathBuf = runtime.file("log.txt", "kept\n");
    let _ = runtime.call(&["--log", log.to_str().expect("UTF-8"), "state", "mkt-nobody"]).exits(1);
    let text = fs::read_to_string(&log).expect("the log");
    assert!(text.starts_with("kept\n") && text.contains("level=error"), "{text}");
    assert!(text.contains("msg=\"container does not exist\""), "{text}");
}

#[test]
fn success_writes_no_error_record() {
    let runtime = Runtime::new();
    let log = runtime.path("log.json");
    runtime.ok(&["--log", log.to_str().expect("UTF-8"), "--log-format", "json", "list"]);
    let errors = common::log_records(&log).into_iter().filter(|record| record["level"] == "error").count();
    assert_eq!(errors, 0);
}
