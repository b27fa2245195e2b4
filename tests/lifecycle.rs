//! The life of a container through the runtime's commands.
mod common;

use common::{Bundle, Output, Runtime, is_alive, poll, signal, start, wait_dead};
use rustix::process::Signal;
use serde_json::Value;
use std::fs;

/// A shell that exits 42 on SIGTERM and 43 on SIGUSR1, and says when it listens.
const TRAPPER: &str = "trap 'exit 42' TERM; trap 'exit 43' USR1; echo ready; while :; do sleep 0.1; done";

fn listed(runtime: &Runtime, id: &str) -> Option<Value> {
    let list: Value = serde_json::from_str(&runtime.ok(&["list", "--format", "json"]).stdout).expect("JSON");
    list.as_array()?.iter().find(|entry| entry["id"] == id).cloned()
}

#[test]
fn a_container_is_created_started_entered_killed_and_deleted() {
    let runtime = Runtime::new();
    let bundle = runtime.sleeper();
    let id = bundle.id.as_str();
    runtime.create(&bundle);
    let state = runtime.state(id);
    assert_eq!(state["status"], "created");
    assert_eq!(state["id"], *id);
    assert_eq!(state["bundle"], bundle.dir());
    assert!(state["ociVersion"].as_str().is_some_and(|version| version.starts_with("1.")), "{state}");
    assert!(is_alive(runtime.pid(id)));

    runtime.ok(&["start", id]);
    assert_eq!(runtime.status(id), "running");
    assert_eq!(runtime.exec(id, "echo inside").success().stdout, "inside\n");

    let pid = runtime.pid(id);
    runtime.ok(&["kill", id, "KILL"]);
    runtime.wait_status(id, "stopped");
    assert!(!is_alive(pid));
    runtime.ok(&["delete", id]);
    runtime.call(&["state", id]).fails_with(1, &["container does not exist"]);
    runtime.assert_nothing_left();
}

#[test]
fn the_process_does_not_run_before_start() {
    let runtime = Runtime::new();
    let bundle = runtime.shell("echo ran > /tmp/ran");
    runtime.create(&bundle);
    assert!(!bundle.rootfs("tmp/ran").exists());
    runtime.ok(&["start", &bundle.id]);
    runtime.wait_status(&bundle.id, "stopped");
    assert_eq!(fs::read_to_string(bundle.rootfs("tmp/ran")).expect("the file"), "ran\n");
}

#[test]
fn the_state_carries_the_annotations_the_rootfs_and_the_time() {
    let runtime = Runtime::new();
    let mut bundle = runtime.sleeper();
    bundle.edit(|config| config["annotations"] = serde_json::json!({"org.example.key": "value"}));
    runtime.create(&bundle);
    let state = runtime.state(&bundle.id);
    assert_eq!(state["annotations"]["org.example.key"], "value");
    assert_eq!(state["rootfs"], bundle.path("rootfs").to_str().expect("UTF-8"));
    assert!(state["created"].as_str().is_some_and(|time| time.ends_with('Z')), "{state}");
}

#[test]
fn the_pid_file_holds_the_pid_and_nothing_else() {
    let runtime = Runtime::new();
    let bundle = runtime.sleeper();
    let file = runtime.path("pid");
    let file = file.to_str().expect("UTF-8");
    runtime.ok(&["create", "--bundle", bundle.dir(), "--pid-file", file, &bundle.id]);
    assert_eq!(fs::read_to_string(file).expect("the pid file"), runtime.pid(&bundle.id).to_string());
}

#[test]
fn the_exit_code_of_run_is_that_of_the_process() {
    let runtime = Runtime::new();
    for code in [0, 3, 255] {
        runtime.run(&runtime.shell(&format!("exit {code}"))).exits(code);
    }
    runtime.assert_nothing_left();
}

#[test]
fn a_process_that_a_signal_ends_gives_128_and_the_signal() {
    let runtime = Runtime::new();
    let bundle = runtime.shell("echo ready; while :; do sleep 0.1; done");
    let run = start(runtime.command(&["run", "--bundle", bundle.dir(), &bundle.id]), None);
    run.wait_stdout("ready");
    runtime.ok(&["kill", &bundle.id, "KILL"]);
    run.finish().exits(137);
    runtime.assert_nothing_left();
}

#[test]
fn run_in_the_foreground_forwards_signals_and_removes_the_container() {
    let runtime = Runtime::new();
    for (number, code) in [(Signal::TERM, 42), (Signal::USR1, 43)] {
        let bundle = runtime.shell(TRAPPER);
        let run = start(runtime.command(&["run", "--bundle", bundle.dir(), &bundle.id]), None);
        run.wait_stdout("ready");
        signal(run.pid(), number);
        run.finish().exits(code);
    }
    runtime.assert_nothing_left();
}

#[test]
fn exec_in_the_foreground_forwards_signals() {
    let runtime = Runtime::new();
    let bundle = runtime.sleeper();
    runtime.detach(&bundle);
    let exec = start(runtime.command(&["exec", &bundle.id, "sh", "-c", TRAPPER]), None);
    exec.wait_stdout("ready");
    signal(exec.pid(), Signal::TERM);
    exec.finish().exits(42);
}

#[test]
fn run_passes_standard_input_and_both_outputs() {
    let runtime = Runtime::new();
    let bundle = runtime.shell("read line; echo \"out $line\"; echo \"err $line\" >&2");
    let command = runtime.command(&["run", "--bundle", bundle.dir(), &bundle.id]);
    let output = common::finish(command, Some(b"hello\n")).success();
    assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("out hello\n", "err hello\n"));
}

#[test]
fn run_takes_the_bundle_from_the_working_directory() {
    let runtime = Runtime::new();
    let bundle = runtime.shell("echo here");
    let mut command = runtime.command(&["run", &bundle.id]);
    command.current_dir(bundle.dir());
    assert_eq!(common::finish(command, None).success().stdout, "here\n");
}

#[test]
fn run_detached_returns_while_the_container_runs() {
    let runtime = Runtime::new();
    let bundle = runtime.sleeper();
    let file = runtime.path("pid");
    let file = file.to_str().expect("UTF-8");
    runtime.ok(&["run", "--detach", "--pid-file", file, "--bundle", bundle.dir(), &bundle.id]);
    assert_eq!(runtime.status(&bundle.id), "running");
    assert_eq!(fs::read_to_string(file).expect("the pid file"), runtime.pid(&bundle.id).to_string());
}

/// Its first process finds what is wrong when the container is visible already.
#[test]
fn a_run_that_fails_late_takes_back_the_pid_file_too() {
    let runtime = Runtime::new();
    let bundle = runtime.sleeper();
    fs::remove_dir(bundle.rootfs("proc")).expect("the removal");
    std::os::unix::fs::symlink("/tmp", bundle.rootfs("proc")).expect("a link");
    let file = runtime.path("pid");
    let name = file.to_str().expect("UTF-8");
    let ran = runtime.call(&["run", "--pid-file", name, "--bundle", bundle.dir(), &bundle.id]);
    let _ = ran.fails_with(1, &["must be mounted on ordinary directory"]);
    assert!(!file.exists());
    runtime.assert_nothing_left();
}

#[test]
fn run_with_keep_leaves_the_stopped_container() {
    let runtime = Runtime::new();
    let bundle = runtime.shell("exit 5");
    runtime.call(&["run", "--keep", "--bundle", bundle.dir(), &bundle.id]).exits(5);
    assert_eq!(runtime.status(&bundle.id), "stopped");
    runtime.ok(&["delete", &bundle.id]);
    runtime.assert_nothing_left();
}

#[test]
fn exec_returns_the_exit_code_and_the_output() {
    let runtime = Runtime::new();
    let bundle = runtime.sleeper();
    runtime.detach(&bundle);
    for code in [0, 3, 255] {
        runtime.exec(&bundle.id, &format!("exit {code}")).exits(code);
    }
    runtime.exec(&bundle.id, "kill -TERM $$").exits(143);
    let output =
        runtime.call(&["exec", "--cwd", "/tmp", "--env", "A=b", &bundle.id, "sh", "-c", "pwd; echo $A"]);
    assert_eq!(output.success().stdout, "/tmp\nb\n");
}

#[test]
fn exec_detached_returns_at_once_and_writes_the_pid_file() {
    let runtime = Runtime::new();
    let bundle = runtime.sleeper();
    runtime.detach(&bundle);
    let file = runtime.path("exec-pid");
    let file = file.to_str().expect("UTF-8");
    runtime.ok(&["exec", "--detach", "--pid-file", file, &bundle.id, "sleep", "600"]);
    let pid: i32 = fs::read_to_string(file).expect("the pid file").parse().expect("a number");
    assert!(is_alive(pid));
    runtime.ok(&["delete", "--force", &bundle.id]);
    wait_dead(pid);
}

#[test]
fn a_created_container_can_be_entered_before_start() {
    let runtime = Runtime::new();
    let bundle = runtime.sleeper();
    runtime.create(&bundle);
    assert_eq!(runtime.exec(&bundle.id, "echo early").success().stdout, "early\n");
}

#[test]
fn a_running_container_is_not_deleted_without_force() {
    let runtime = Runtime::new();
    let bundle = runtime.sleeper();
    let pid = runtime.detach(&bundle);
    let words = format!("cannot delete container {} that is not stopped: running", bundle.id);
    runtime.call(&["delete", &bundle.id]).fails_with(1, &[&words]);
    assert!(is_alive(pid));
    runtime.ok(&["delete", "--force", &bundle.id]);
    wait_dead(pid);
    runtime.assert_nothing_left();
}

#[test]
fn a_created_container_is_deleted_without_force() {
    let runtime = Runtime::new();
    let bundle = runtime.sleeper();
    runtime.create(&bundle);
    let pid = runtime.pid(&bundle.id);
    runtime.ok(&["delete", &bundle.id]);
    wait_dead(pid);
    runtime.assert_nothing_left();
}

#[test]
fn a_started_container_is_not_started_again() {
    let runtime = Runtime::new();
    let bundle = runtime.sleeper();
    runtime.detach(&bundle);
    runtime.call(&["start", &bundle.id]).fails_with(1, &["cannot start an already running container"]);
    runtime.ok(&["kill", &bundle.id, "KILL"]);
    runtime.wait_status(&bundle.id, "stopped");
    runtime.call(&["start", &bundle.id]).fails_with(1, &["cannot start a container that has stopped"]);
}

#[test]
fn kill_takes_a_number_a_name_and_a_full_name() {
    let runtime = Runtime::new();
    let cases = [("TERM", 42), ("SIGTERM", 42), ("15", 42), ("term", 42), ("10", 43)];
    for (name, code) in cases {
        let bundle = runtime.shell(TRAPPER);
        let run = start(runtime.command(&["run", "--bundle", bundle.dir(), &bundle.id]), None);
        run.wait_stdout("ready");
        runtime.ok(&["kill", &bundle.id, name]);
        run.finish().exits(code);
    }
}

#[test]
fn kill_without_a_signal_sends_sigterm() {
    let runtime = Runtime::new();
    let bundle = runtime.shell(TRAPPER);
    let run = start(runtime.command(&["run", "--bundle", bundle.dir(), &bundle.id]), None);
    run.wait_stdout("ready");
    runtime.ok(&["kill", &bundle.id]);
    run.finish().exits(42);
}

#[test]
fn kill_of_a_stopped_container_says_that_it_is_not_running() {
    let runtime = Runtime::new();
    let bundle = runtime.bundle();
    runtime.create(&bundle);
    runtime.ok(&["start", &bundle.id]);
    runtime.wait_status(&bundle.id, "stopped");
    runtime.call(&["kill", &bundle.id, "TERM"]).fails_with(1, &["container not running"]);
}

#[test]
fn kill_all_reaches_every_process_of_the_container() {
    let runtime = Runtime::new();
    let bundle = runtime.sleeper();
    runtime.detach(&bundle);
    let file = runtime.path("exec-pid");
    runtime.ok(&["exec", "-d", "--pid-file", file.to_str().expect("UTF-8"), &bundle.id, "sleep", "600"]);
    let pid: i32 = fs::read_to_string(file).expect("the pid file").parse().expect("a number");
    runtime.ok(&["kill", "--all", &bundle.id, "KILL"]);
    wait_dead(pid);
    runtime.wait_status(&bundle.id, "stopped");
}

#[test]
fn killing_a_container_without_a_pid_namespace_ends_all_of_it() {
    let runtime = Runtime::new();
    let mut bundle = runtime.shell("sleep 600 & echo child $!; sleep 601");
    bundle.namespace("pid", None);
    let output = runtime.create(&bundle);
    runtime.ok(&["start", &bundle.id]);
    let text = output.wait_stdout("\n");
    let child: i32 = text.trim().trim_start_matches("child ").parse().expect("the pid of the child");
    assert!(is_alive(child));
    runtime.ok(&["delete", "--force", &bundle.id]);
    wait_dead(child);
    runtime.assert_nothing_left();
}

fn table_row<'a>(output: &'a Output, id: &str) -> Vec<&'a str> {
    let row = output.stdout.lines().find(|line| line.starts_with(id)).expect("a row of the container");
    row.split_whitespace().collect()
}

#[test]
fn list_prints_a_table_json_and_ids() {
    let runtime = Runtime::new();
    assert_eq!(runtime.ok(&["list", "--format", "json"]).stdout.trim(), "null");
    let (first, second) = (runtime.sleeper(), runtime.sleeper());
    let pid = runtime.detach(&first);
    runtime.create(&second);

    let table = runtime.ok(&["list"]);
    let header: Vec<_> = table.stdout.lines().next().expect("a header").split_whitespace().collect();
    assert_eq!(header, ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]);
    let row = table_row(&table, &first.id);
    assert_eq!(row[..4], [&first.id, &pid.to_string(), "running", first.dir()]);
    assert_eq!(row[5], "root");

    let entry = listed(&runtime, &second.id).expect("the container is listed");
    assert_eq!(entry["status"], "created");
    assert_eq!(entry["bundle"], second.dir());
    assert_eq!(entry["owner"], "root");
    assert!(entry["ociVersion"].is_string() && entry["rootfs"].is_string() && entry["created"].is_string());

    let quiet = runtime.ok(&["list", "--quiet"]).stdout;
    assert_eq!(quiet, format!("{}\n{}\n", first.id, second.id));
    assert_eq!(runtime.ok(&["list", "-q", "-f", "table"]).stdout, quiet);
    runtime.call(&["list", "--format", "xml"]).fails_with(1, &["xml", "--format"]);
}

#[test]
fn ps_prints_a_table_and_json() {
    let runtime = Runtime::new();
    let bundle = runtime.sleeper();
    let pid = runtime.detach(&bundle);
    let json: Vec<i32> =
        serde_json::from_str(&runtime.ok(&["ps", "--format", "json", &bundle.id]).stdout).expect("JSON");
    assert_eq!(json, [pid]);
    let table = runtime.ok(&["ps", &bundle.id]).stdout;
    let mut lines = table.lines();
    assert!(lines.next().is_some_and(|header| header.contains("PID") && header.contains("CMD")), "{table}");
    let rows: Vec<_> = lines.collect();
    assert!(
        rows.len() == 1 && rows[0].contains("sleep 600") && rows[0].contains(&pid.to_string()),
        "{table}"
    );
}

#[test]
fn a_paused_container_stands_still_until_it_is_resumed() {
    let runtime = Runtime::new();
    let bundle = runtime.shell("while :; do echo tick; sleep 0.02; done");
    let output = runtime.ok(&["run", "--detach", "--bundle", bundle.dir(), &bundle.id]);
    output.wait_stdout("tick");
    runtime.ok(&["pause", &bundle.id]);
    assert_eq!(runtime.status(&bundle.id), "paused");
    assert_eq!(listed(&runtime, &bundle.id).expect("listed")["status"], "paused");
    runtime.call(&["exec", &bundle.id, "true"]).fails_with(255, &["paused"]);
    let before = output.stdout_now().len();
    runtime.ok(&["resume", &bundle.id]);
    assert_eq!(runtime.status(&bundle.id), "running");
    poll("output after the resume", || (output.stdout_now().len() > before).then_some(()));
}

#[test]
fn a_paused_container_is_killed_and_deleted_by_force() {
    let runtime = Runtime::new();
    let bundle = runtime.sleeper();
    let pid = runtime.detach(&bundle);
    runtime.ok(&["pause", &bundle.id]);
    runtime.ok(&["delete", "--force", &bundle.id]);
    wait_dead(pid);
    runtime.assert_nothing_left();
}

#[test]
fn pause_and_resume_of_the_wrong_state_are_refused() {
    let runtime = Runtime::new();
    let bundle = runtime.sleeper();
    runtime.detach(&bundle);
    runtime.call(&["resume", &bundle.id]).fails_with(1, &["container not paused"]);
    runtime.ok(&["kill", &bundle.id, "9"]);
    runtime.wait_status(&bundle.id, "stopped");
    runtime.call(&["pause", &bundle.id]).fails_with(1, &["container not running"]);
}

#[test]
fn two_containers_run_at_once_and_do_not_see_each_other() {
    let runtime = Runtime::new();
    let (first, second) = (runtime.sleeper(), runtime.sleeper());
    runtime.detach(&first);
    let pid = runtime.detach(&second);
    let count = runtime.exec(&first.id, "ps | grep -c 'sleep 600$'").success().stdout;
    assert_eq!(count.trim(), "1");
    runtime.ok(&["delete", "--force", &first.id]);
    assert!(is_alive(pid));
    assert_eq!(runtime.status(&second.id), "running");
}

#[test]
fn of_four_creates_with_one_id_exactly_one_wins() {
    let runtime = Runtime::new();
    let bundles: Vec<Bundle> = (0..4).map(|_| runtime.sleeper()).collect();
    let id = bundles[0].id.as_str();
    let running: Vec<_> = bundles
        .iter()
        .map(|bundle| start(runtime.command(&["create", "--bundle", bundle.dir(), id]), None))
        .collect();
    let outputs: Vec<Output> = running.into_iter().map(common::Running::finish).collect();
    let winners = outputs.iter().filter(|output| output.code == 0).count();
    assert_eq!(winners, 1, "{outputs:?}");
    for output in outputs.into_iter().filter(|output| output.code != 0) {
        output.fails_with(1, &["container with given ID already exists"]);
    }
    assert_eq!(runtime.status(id), "created");
    runtime.ok(&["delete", "--force", id]);
    runtime.assert_nothing_left();
}

#[test]
fn delete_by_force_of_an_unknown_id_succeeds_quietly() {
    let runtime = Runtime::new();
    let output = runtime.ok(&["delete", "--force", "mkt-nobody"]);
    assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("", ""));
}

#[test]
fn a_container_whose_caller_dies_goes_on() {
    let runtime = Runtime::new();
    let bundle = runtime.sleeper();
    let pid = runtime.detach(&bundle);
    assert!(is_alive(pid));
    let parent = fs::read_to_string(format!("/proc/{pid}/status")).expect("the status");
    assert!(!parent.contains(&format!("PPid:\t{}\n", std::process::id())), "{parent}");
}

#[test]
fn a_container_without_a_process_is_created_and_ends_when_it_is_started() {
    let runtime = Runtime::new();
    let mut bundle = runtime.bundle();
    bundle.edit(|config| {
        config.as_object_mut().expect("an object").remove("process");
    });
    let _ = runtime.run(&bundle).fails_with(1, &["process"]);
    runtime.assert_nothing_left();
    runtime.create(&bundle);
    assert_eq!(runtime.status(&bundle.id), "created");
    let output = runtime.ok(&["start", &bundle.id]);
    assert!(output.stderr.contains("process"), "{}", output.stderr);
    runtime.wait_status(&bundle.id, "stopped");
    runtime.ok(&["delete", &bundle.id]);
    runtime.assert_nothing_left();
}
