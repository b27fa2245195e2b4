//! The runtime under a real Docker engine with its own storage, driven through the commands that people use.
mod common;

use common::{
    Output, Running, busybox_rootfs, finish, poll, require_program, require_root, runtime_path, signal, start,
};
use rustix::process::Signal;
use serde_json::json;
use std::fs;
use std::process::Command;
use tempfile::TempDir;

/// An engine with an image called `box`; everything goes away with it.
struct Docker {
    dir: TempDir,
    daemon: Option<Running>,
}

impl Docker {
    fn new() -> Self {
        require_root();
        for program in ["docker", "dockerd", "containerd", "tar"] {
            require_program(program);
        }
        let dir = tempfile::Builder::new().prefix("mkd").tempdir().expect("a temporary folder");
        let at = |name: &str| dir.path().join(name).display().to_string();
        let config = json!({
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
        fs::write(dir.path().join("daemon.json"), config.to_string()).expect("daemon.json");
        let mut command = Command::new("dockerd");
        command.arg("--config-file").arg(at("daemon.json"));
        let docker = Self { daemon: Some(start(command, None)), dir };
        poll("the engine to answer", || (docker.call(&["version"]).code == 0).then_some(()));
        let (rootfs, archive) = (docker.dir.path().join("rootfs"), docker.dir.path().join("rootfs.tar"));
        busybox_rootfs(&rootfs);
        let mut command = Command::new("tar");
        command.arg("-C").arg(&rootfs).arg("-cf").arg(&archive).arg(".");
        finish(command, None).success();
        docker.ok(&["import", archive.to_str().expect("UTF-8"), "box"]);
        docker
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("docker");
        command.env("DOCKER_CONFIG", self.dir.path());
        command.arg("--host").arg(format!("unix://{}", self.dir.path().join("sock").display())).args(args);
        command
    }

    #[track_caller]
    fn call(&self, args: &[&str]) -> Output {
        finish(self.command(args), None)
    }

    #[track_caller]
    fn ok(&self, args: &[&str]) -> Output {
        self.call(args).success()
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

/// Prints the limits from inside, on a host with cgroup v1 or v2.
const LIMITS: &str = "cd /sys/fs/cgroup; cat memory/memory.limit_in_bytes 2>/dev/null || cat memory.max; \
                      cat pids/pids.max 2>/dev/null || cat pids.max";

#[test]
fn a_running_container_is_entered_limited_paused_and_stopped() {
    let docker = Docker::new();
    let options = ["--detach", "--name", "first", "--memory", "64m", "--pids-limit", "77"];
    docker.run(&[&options[..], &["box", "sleep", "600"]].concat()).success();
    assert_eq!(docker.ok(&["exec", "first", "sh", "-c", LIMITS]).stdout, "67108864\n77\n");
    docker.call(&["exec", "--env", "A=7", "first", "sh", "-c", "exit $A"]).exits(7);
    let output = docker.call(&["exec", "first", "nosuch"]).exits(126);
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
    let output = docker.run(&[&options[..], &["sh", "-c", "head -c 100m /dev/zero | tail | wc -c"]].concat());
    assert_ne!(output.stdout.trim(), "104857600", "{output:?}");
    assert_eq!(docker.inspect("hungry", "{{.State.OOMKilled}}"), "true");
}
