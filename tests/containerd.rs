//! The runtime under a real containerd, driven through `ctr`: under the shim of runc, and under our own. Both behave the same.
mod common;

use common::{
    Containerd, Engine, IMAGE, LIMITS, LISTENER, Shim, finish, poll, require_program, runtime_path, wait_dead,
};
use serde_json::{Value, json};
use std::fs;
use std::process::Command;

/// Makes a test of each function under both shims.
macro_rules! under_both_shims {
    ($($name:ident)*) => {
        mod under_the_shim_of_runc {
            $(#[test] fn $name() { super::$name(&super::Containerd::new(super::Shim::Runc)); })*
        }
        mod under_our_own_shim {
            $(#[test] fn $name() { super::$name(&super::Containerd::new(super::Shim::Own)); })*
        }
    };
}

under_both_shims! {
    run_prints_the_output_and_returns_the_exit_code
    what_cannot_be_executed_is_told_in_the_words_of_runc
    exec_logs_kill_and_delete_work_on_a_detached_task
    kill_all_ends_every_process
    pause_and_resume_change_the_status
    the_metrics_of_a_task_are_read
    a_memory_limit_is_read_back_from_inside
    limits_of_a_config_are_read_back_from_inside
    a_terminal_reaches_the_process
    an_update_as_the_shim_makes_it_is_read_back_from_inside
    a_module_runs_where_an_annotation_asks_for_it
}

fn run_prints_the_output_and_returns_the_exit_code(containerd: &Containerd) {
    let output = containerd.script(&[], "one", "echo out; echo err >&2; exit 3").exits(3);
    assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("out\n", "err\n"));
    containerd.script(&[], "two", "exit 0").success();
    assert_eq!(containerd.ok(&["container", "list", "--quiet"]).stdout, "");
    let left = common::leftover_cgroups(&containerd.name);
    assert!(!left.iter().any(|path| path.ends_with("one") || path.ends_with("two")), "{left:?}");
}

fn what_cannot_be_executed_is_told_in_the_words_of_runc(containerd: &Containerd) {
    let output = containerd.run(&["--rm"], &[IMAGE, "one", "nosuch"]).exits(1);
    assert!(output.stderr.contains("executable file not found in $PATH"), "{output:?}");
    let output = containerd.run(&["--rm"], &[IMAGE, "two", "/etc/passwd"]).exits(1);
    assert!(output.stderr.contains("permission denied"), "{output:?}");
    let output = containerd.run(&["--rm"], &[IMAGE, "three", "/bin/nosuch"]).exits(1);
    assert!(output.stderr.contains("no such file or directory"), "{output:?}");
    assert_eq!(containerd.ok(&["task", "list", "--quiet"]).stdout, "");
}

fn exec_logs_kill_and_delete_work_on_a_detached_task(containerd: &Containerd) {
    let log = containerd.detached(&[], "box", LISTENER);
    poll("the output in the log", || fs::read_to_string(&log).ok().filter(|text| text == "ready\n"));
    let output = containerd.exec("box", "first", "echo in exec; exit 4").exits(4);
    assert_eq!(output.stdout, "in exec\n");
    let output = containerd.call(&["task", "exec", "--exec-id", "second", "box", "nosuch"]).exits(1);
    assert!(output.stderr.contains("executable file not found in $PATH"), "{output:?}");
    let (pid, status) = containerd.task("box").expect("a task");
    assert_eq!(status, "RUNNING");
    assert!(containerd.ok(&["task", "ps", "box"]).stdout.contains(&pid.to_string()));
    containerd.ok(&["task", "kill", "--signal", "SIGTERM", "box"]);
    containerd.wait_status("box", "STOPPED");
    wait_dead(pid);
    let deleted = containerd.ok(&["task", "delete", "box"]);
    assert!(deleted.stderr.contains("exit code 42"), "{deleted:?}");
    // The shim of runc waits for the output when it deletes, not before.
    assert_eq!(fs::read_to_string(&log).expect("the log"), "ready\nterm\n");
    containerd.ok(&["container", "delete", "box"]);
    assert_eq!(containerd.task("box"), None);
}

fn kill_all_ends_every_process(containerd: &Containerd) {
    containerd.detached(&[], "box", "sleep 600 & sleep 600");
    let (pid, _) = containerd.task("box").expect("a task");
    containerd.ok(&["task", "kill", "--all", "--signal", "SIGKILL", "box"]);
    containerd.wait_status("box", "STOPPED");
    wait_dead(pid);
    let deleted = containerd.ok(&["task", "delete", "box"]);
    assert!(deleted.stderr.contains("exit code 137"), "{deleted:?}");
}

fn pause_and_resume_change_the_status(containerd: &Containerd) {
    containerd.detached(&[], "box", "sleep 600");
    containerd.ok(&["task", "pause", "box"]);
    containerd.wait_status("box", "PAUSED");
    containerd.ok(&["task", "resume", "box"]);
    containerd.wait_status("box", "RUNNING");
    containerd.exec("box", "after", "true").success();
}

fn the_metrics_of_a_task_are_read(containerd: &Containerd) {
    containerd.detached(&["--memory-limit", "67108864"], "box", "tail /dev/zero; exec sleep 600");
    let metrics = poll("a process to be killed for want of memory", || {
        let metrics = containerd.metrics("box");
        let kills = metrics.pointer("/memory_oom_control/oom_kill");
        let kills = kills.or_else(|| metrics.pointer("/memory_events/oom_kill"));
        kills.and_then(Value::as_u64).is_some_and(|kills| kills >= 1).then_some(metrics)
    });
    assert_eq!(
        metrics.pointer("/memory/usage/limit").or_else(|| metrics.pointer("/memory/usage_limit")),
        Some(&json!(67_108_864))
    );
    assert!(
        metrics.pointer("/pids/current").and_then(Value::as_u64).is_some_and(|count| count >= 1),
        "{metrics}"
    );
}

fn a_memory_limit_is_read_back_from_inside(containerd: &Containerd) {
    // ctr itself mounts no cgroups.
    let mount = "type=cgroup,src=cgroup,dst=/sys/fs/cgroup,options=ro:nosuid:noexec:nodev";
    let options = ["--memory-limit", "67108864", "--mount", mount];
    let output = containerd.script(&options, "box", LIMITS).success();
    assert!(output.stdout.starts_with("67108864\n"), "{output:?}");
}

fn limits_of_a_config_are_read_back_from_inside(containerd: &Containerd) {
    let runtime = common::Runtime::new();
    let mut bundle = runtime.shell(LIMITS);
    let (rootfs, cgroup) = (bundle.path("rootfs"), format!("/{}/box", containerd.name));
    bundle.edit(|config| {
        config["root"]["path"] = json!(rootfs);
        config["linux"]["cgroupsPath"] = json!(cgroup);
        config["linux"]["resources"]["memory"] = json!({"limit": 134_217_728});
        config["linux"]["resources"]["pids"] = json!({"limit": 55});
    });
    let config = bundle.path("config.json");
    let output = containerd.run(&["--rm", "--config", config.to_str().expect("UTF-8")], &["box"]).success();
    assert_eq!(output.stdout, "134217728\n55\n");
}

fn a_terminal_reaches_the_process(containerd: &Containerd) {
    require_program("script");
    let mut args = containerd.run_args(&["--rm", "--tty"]);
    args.extend([IMAGE, "box", "tty"].map(str::to_owned));
    let ctr = containerd.command(&args.iter().map(String::as_str).collect::<Vec<_>>());
    let words: Vec<_> = std::iter::once(ctr.get_program()).chain(ctr.get_args()).collect();
    let words: Vec<_> = words.iter().map(|word| word.to_str().expect("UTF-8")).collect();
    let mut command = Command::new("script");
    command.args(["--quiet", "--return", "--command", &words.join(" "), "/dev/null"]);
    let output = finish(command, None);
    assert!(output.stdout.contains("/dev/pts/"), "{output:?}");
}

fn an_update_as_the_shim_makes_it_is_read_back_from_inside(containerd: &Containerd) {
    let mount = "type=cgroup,src=cgroup,dst=/sys/fs/cgroup,options=ro:nosuid:noexec:nodev";
    containerd.detached(&["--memory-limit", "67108864", "--mount", mount], "box", "sleep 600");
    // ctr 1.6 has no command for it. This is the call of the shim, on the state that the shim has made.
    let mut command = Command::new(runtime_path());
    command.arg("--root").arg(containerd.runtime_root());
    command.args(["update", "--resources", "-", "box"]);
    let resources = json!({"memory": {"limit": 134_217_728}, "pids": {"limit": 42}}).to_string();
    let _ = finish(command, Some(resources.as_bytes())).success();
    let output = containerd.exec("box", "limits", LIMITS).success();
    assert_eq!(output.stdout, "134217728\n42\n");
}

fn a_module_runs_where_an_annotation_asks_for_it(containerd: &Containerd) {
    let module = containerd.path("probe.wasm");
    common::compile("probe.c", &module);
    let mount = format!("type=bind,src={},dst=/probe.wasm,options=rbind:ro", module.display());
    let run = |options: &[&str], id: &str, args: &[&str]| {
        let wasm = ["--annotation", "run.oci.handler=wasm", "--mount", &mount];
        containerd.run(&[options, &wasm].concat(), &[&[IMAGE, id, "/probe.wasm"], args].concat())
    };
    assert_eq!(run(&["--rm"], "shows", &["show", "one"]).success().stdout.lines().nth(1), Some("arg one"));
    run(&["--rm"], "exits", &["exit", "7"]).exits(7);
    run(&["--detach"], "sleeps", &["sleep", "600"]).success();
    let exec = ["task", "exec", "--exec-id", "e", "sleeps", "/probe.wasm", "exit", "9"];
    containerd.call(&exec).exits(9);
    containerd.ok(&["task", "kill", "--signal", "SIGTERM", "sleeps"]);
    containerd.wait_status("sleeps", "STOPPED");
    containerd.ok(&["task", "delete", "sleeps"]);
    containerd.ok(&["container", "delete", "sleeps"]);
}
