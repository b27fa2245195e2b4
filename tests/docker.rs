//! The runtime under a real Docker engine with its own storage, driven through the commands that people use.
mod common;

use common::{
    Engine, LIMITS, Output, Running, engine_path, engine_program, finish, poll, require_root, runtime_path,
    shim_folder, signal, start, write_busybox_archive,
};
use rustix::process::Signal;
use serde_json::json;
use std::fs;
use std::process::Command;
use tempfile::TempDir;

/// Our own shim, as containerd calls it.
const SHIM: &str = "io.containerd.magikrun.v2";

/// Whether the engine takes other shims than that of runc: from version 23 on.
fn has_shims() -> bool {
    let mut command = Command::new(engine_program("dockerd"));
    command.arg("--version");
    let text = finish(command, None).success().stdout;
    let version =
        text.strip_prefix("Docker version ").and_then(|rest| rest.split('.').next()?.parse::<u32>().ok());
    version.expect("a version") >= 23
}

/// An engine with an image called `box`; everything goes away with it.
struct Docker {
    dir: TempDir,
    daemon: Option<Running>,
}

impl Docker {
    fn new() -> Self {
        require_root();
        ["docker", "dockerd", "containerd"].into_iter().for_each(|name| drop(engine_program(name)));
        let dir = tempfile::Builder::new().prefix("mkd").tempdir().expect("a temporary folder");
        let at = |name: &str| dir.path().join(name).display().to_string();
        let mut config = json!({
            "runtimes": {"tested": {"path": runtime_path()}},
            "default-runtime": "tested",
            "data-root": at("data"),
            "exec-root": at("exec"),
            "pidfile": at("pid"),
            "hosts": [format!("unix://{}", at("sock"))],
            "bridge": "none",
            "iptables": false,
            "storage-driver": "vfs",
        });
        if has_shims() {
            let options = dir.path().join("shim.toml");
            fs::write(&options, format!("Root = '{}'\n", at("runtime-root"))).expect("shim.toml");
            config["runtimes"]["with-options"] =
                json!({"runtimeType": SHIM, "options": {"TypeUrl": "magikrun", "ConfigPath": options}});
        }
        fs::write(dir.path().join("daemon.json"), config.to_string()).expect("daemon.json");
        let mut command = Command::new(engine_program("dockerd"));
        command.arg("--config-file").arg(at("daemon.json"));
        // Where the engine finds its containerd, and that our own shim.
        command.env("PATH", format!("{}:{}", shim_folder().display(), engine_path()));
        let docker = Self { daemon: Some(start(command, None)), dir };
        poll("the engine to answer", || (docker.call(&["version"]).code == 0).then_some(()));
        let archive = write_busybox_archive(docker.dir.path());
        docker.ok(&["import", archive.to_str().expect("UTF-8"), "box"]);
        docker
    }

    /// `docker run` without network, with `more` options, image and command.
    #[track_caller]
    fn run(&self, more: &[&str]) -> Output {
        let mut args = vec!["run", "--network", "none"];
        args.extend(more);
        self.call(&args)
    }

    fn inspect(&self, name: &str, format: &str) -> String {
        self.ok(&["inspect", "--format", format, name]).stdout.trim().to_owned()
    }
}

impl Engine for Docker {
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(engine_program("docker"));
        command.env("DOCKER_CONFIG", self.dir.path());
        command.arg("--host").arg(format!("unix://{}", self.dir.path().join("sock").display())).args(args);
        command
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        if let Ok(list) = self.command(&["ps", "--all", "--quiet"]).output() {
            let ids = String::from_utf8_lossy(&list.stdout).into_owned();
            for id in ids.lines() {
                let _ = self.command(&["rm", "--force", id]).output();
            }
        }
        if let Some(daemon) = self.daemon.take() {
            signal(daemon.pid(), Signal::TERM);
            let _ = daemon.finish();
        }
    }
}

#[test]
fn output_exit_codes_and_failures_are_those_that_docker_tells_apart() {
    let docker = Docker::new();
    let output = docker.run(&["--rm", "box", "sh", "-c", "echo out; echo err >&2; exit 3"]).exits(3);
    assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("out\n", "err\n"));
    docker.run(&["--rm", "box", "nosuch"]).fails_with(127, &["executable file not found in $PATH"]);
    docker.run(&["--rm", "box", "/bin/nosuch"]).fails_with(127, &["no such file or directory"]);
    docker.run(&["--rm", "box", "/etc"]).fails_with(126, &["permission denied"]);
    assert!(docker.run(&["--rm", "--tty", "box", "tty"]).success().stdout.contains("/dev/pts/"));
    let options = ["--rm", "--read-only", "--user", "5:6", "--cap-drop", "ALL", "--init", "box"];
    let script = ["sh", "-c", "touch /x; id -u; id -g; grep CapEff /proc/self/status"];
    let output = docker.run(&[&options[..], &script[..]].concat()).success().stdout;
    assert_eq!(output, "5\n6\nCapEff:\t0000000000000000\n");
    assert_eq!(docker.ok(&["ps", "--all", "--quiet"]).stdout, "");
}

#[test]
fn a_running_container_is_entered_limited_paused_and_stopped() {
    let docker = Docker::new();
    let options = ["--detach", "--name", "first", "--memory", "64m", "--pids-limit", "77"];
    docker.run(&[&options[..], &["box", "sleep", "600"]].concat()).success();
    assert_eq!(docker.ok(&["exec", "first", "sh", "-c", LIMITS]).stdout, "67108864\n77\n");
    docker.call(&["exec", "--env", "A=7", "first", "sh", "-c", "exit $A"]).exits(7);
    let output = docker.call(&["exec", "first", "nosuch"]);
    // Later engines tell what is missing from what cannot be executed.
    assert!([126, 127].contains(&output.code), "{output:?}");
    assert!(output.stdout.contains("executable file not found in $PATH"), "{output:?}");
    docker.ok(&["update", "--memory", "128m", "--memory-swap", "256m", "first"]);
    assert_eq!(docker.ok(&["exec", "first", "sh", "-c", LIMITS]).stdout, "134217728\n77\n");
    assert!(docker.ok(&["top", "first"]).stdout.contains("sleep 600"));
    docker.ok(&["pause", "first"]);
    assert_eq!(docker.inspect("first", "{{.State.Status}}"), "paused");
    docker.ok(&["unpause", "first"]);
    docker.ok(&["stop", "--time", "1", "first"]);
    assert_eq!(docker.inspect("first", "{{.State.ExitCode}}"), "137");
    docker.ok(&["start", "first"]);
    docker.ok(&["kill", "--signal", "KILL", "first"]);
    docker.ok(&["rm", "first"]);
}

#[test]
fn an_out_of_memory_kill_is_seen() {
    let docker = Docker::new();
    let options = ["--name", "hungry", "--memory", "16m", "--memory-swap", "16m", "box"];
    // The shim of older engines tells of the kill and of the end at the same time, and a kill after the end is not noted.
    let script = "head -c 100m /dev/zero | tail | wc -c; sleep 1";
    let output = docker.run(&[&options[..], &["sh", "-c", script]].concat());
    assert_ne!(output.stdout.trim(), "104857600", "{output:?}");
    assert_eq!(docker.inspect("hungry", "{{.State.OOMKilled}}"), "true");
}

#[test]
fn our_own_shim_runs_containers_of_the_engine() {
    if !has_shims() {
        eprintln!("unsupported: shims of Docker");
        return;
    }
    let docker = Docker::new();
    let options = ["--detach", "--runtime", "with-options", "--name", "configured"];
    docker.run(&[&options[..], &["box", "sleep", "600"]].concat()).success();
    let root = docker.dir.path().join("runtime-root/moby");
    assert!(common::names_in(&root).contains(&docker.inspect("configured", "{{.Id}}")), "{}", root.display());
    docker.ok(&["rm", "--force", "configured"]);
    let runtime = ["--runtime", SHIM];
    let run = |more: &[&str]| docker.run(&[&runtime[..], more].concat());
    let output = run(&["--rm", "box", "sh", "-c", "echo out; echo err >&2; exit 3"]).exits(3);
    assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("out\n", "err\n"));
    run(&["--rm", "box", "nosuch"]).fails_with(127, &["executable file not found in $PATH"]);
    run(&["--rm", "box", "/etc"]).fails_with(126, &["permission denied"]);
    assert!(run(&["--rm", "--tty", "box", "tty"]).success().stdout.contains("/dev/pts/"));
    run(&["--detach", "--name", "first", "--memory", "64m", "box", "sh", "-c", "echo hi; sleep 600"])
        .success();
    assert_eq!(docker.ok(&["exec", "first", "echo", "in exec"]).stdout, "in exec\n");
    assert!([126, 127].contains(&docker.call(&["exec", "first", "nosuch"]).code));
    let stats = docker.ok(&["stats", "--no-stream", "--format", "{{.MemUsage}}", "first"]).stdout;
    assert!(stats.contains("/ 64MiB"), "{stats}");
    docker.ok(&["pause", "first"]);
    docker.ok(&["unpause", "first"]);
    docker.ok(&["stop", "--time", "0", "first"]);
    assert_eq!(docker.inspect("first", "{{.State.ExitCode}}"), "137");
    assert_eq!(docker.ok(&["logs", "first"]).stdout, "hi\n");
    docker.ok(&["rm", "first"]);
}
