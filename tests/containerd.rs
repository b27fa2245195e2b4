//! The runtime under a real containerd with its own storage, driven through `ctr run --runc-binary`.
mod common;

use common::{
    Output, Running, busybox_rootfs, finish, poll, remove_cgroups, require_program, require_root,
    runtime_path, signal, start, unique_name, wait_dead,
};
use rustix::process::Signal;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

const IMAGE: &str = "example.org/box:1";

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn tar(dir: &Path, archive: &Path, names: &[&str]) {
    let mut command = Command::new("tar");
    command.arg("-C").arg(dir).arg("-cf").arg(archive).args(names);
    finish(command, None).success();
}

/// An archive in the format of `docker save` with one layer: the busybox root file system.
fn image_archive(dir: &Path) -> PathBuf {
    busybox_rootfs(&dir.join("rootfs"));
    let image = dir.join("image");
    fs::create_dir(&image).expect("a folder");
    tar(&dir.join("rootfs"), &image.join("layer.tar"), &["."]);
    let digest = hex(&Sha256::digest(fs::read(image.join("layer.tar")).expect("the layer")));
    let config = json!({
        "architecture": "amd64", "os": "linux",
        "config": {"Env": ["PATH=/bin"], "Cmd": ["sh"]},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]}
    });
    let manifest = json!([{"Config": "config.json", "RepoTags": [IMAGE], "Layers": ["layer.tar"]}]);
    fs::write(image.join("config.json"), config.to_string()).expect("the config");
    fs::write(image.join("manifest.json"), manifest.to_string()).expect("the manifest");
    let archive = dir.join("image.tar");
    tar(&image, &archive, &["manifest.json", "config.json", "layer.tar"]);
    archive
}

/// A containerd with the image; everything goes away with it.
struct Containerd {
    dir: TempDir,
    name: String,
    daemon: Option<Running>,
}

impl Containerd {
    fn new() -> Self {
        require_root();
        for program in ["containerd", "ctr", "containerd-shim-runc-v2", "tar"] {
            require_program(program);
        }
        let dir = tempfile::Builder::new().prefix("mkd").tempdir().expect("a temporary folder");
        let at = |name: &str| dir.path().join(name).display().to_string();
        let config = format!(
            "version = 2\nroot = '{}'\nstate = '{}'\ndisabled_plugins = ['io.containerd.grpc.v1.cri', \
             'io.containerd.internal.v1.opt']\n[grpc]\naddress = '{}'\n[ttrpc]\naddress = '{}'\n",
            at("root"),
            at("state"),
            at("sock"),
            at("ttrpc")
        );
        fs::write(dir.path().join("config.toml"), config).expect("config.toml");
        let archive = image_archive(dir.path());
        let mut command = Command::new("containerd");
        command.arg("--config").arg(dir.path().join("config.toml"));
        let daemon = start(command, None);
        let containerd = Self { dir, name: unique_name(), daemon: Some(daemon) };
        poll("containerd to answer", || (containerd.call(&["version"]).code == 0).then_some(()));
        let archive = archive.to_str().expect("UTF-8");
        containerd.ok(&["image", "import", "--snapshotter", "native", archive]);
        containerd
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("ctr");
        command
            .arg("--address")
            .arg(self.dir.path().join("sock"))
            .args(["--namespace", &self.name])
            .args(args);
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

    /// The arguments of `ctr run` up to the image.
    fn run_args(&self, options: &[&str]) -> Vec<String> {
        let runtime = runtime_path();
        let root = self.dir.path().join("runtime-root");
        let mut args = vec!["run".to_owned()];
        args.extend(["--runc-binary".to_owned(), runtime.display().to_string()]);
        args.extend(["--runc-root".to_owned(), root.display().to_string()]);
        args.extend(["--snapshotter".to_owned(), "native".to_owned()]);
        args.extend(options.iter().map(|&option| option.to_owned()));
        args
    }

    #[track_caller]
    fn run(&self, options: &[&str], rest: &[&str]) -> Output {
        let mut args = self.run_args(options);
        args.extend(rest.iter().map(|&word| word.to_owned()));
        self.call(&args.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// Runs a script in a container that is removed when it ends.
    #[track_caller]
    fn script(&self, options: &[&str], id: &str, script: &str) -> Output {
        let mut all = vec!["--rm"];
        all.extend(options);
        self.run(&all, &[IMAGE, id, "sh", "-c", script])
    }

    /// Starts a script in the background; its output goes to the answered file.
    #[track_caller]
    fn detached(&self, options: &[&str], id: &str, script: &str) -> PathBuf {
        let log = self.dir.path().join(format!("{id}.log"));
        let uri = format!("file://{}", log.display());
        let mut all = vec!["--detach", "--log-uri", &uri];
        all.extend(options);
        self.run(&all, &[IMAGE, id, "sh", "-c", script]).success();
        log
    }

    /// The pid and the status of a task, if there is one.
    fn task(&self, id: &str) -> Option<(i32, String)> {
        let list = self.ok(&["task", "list"]).stdout;
        let row = list.lines().find(|line| line.split_whitespace().next() == Some(id))?;
        let mut fields = row.split_whitespace().skip(1);
        Some((fields.next()?.parse().ok()?, fields.next()?.to_owned()))
    }

    fn wait_status(&self, id: &str, status: &str) {
        poll(&format!("task {id} to be {status}"), || self.task(id).filter(|task| task.1 == status));
    }

    fn exec(&self, id: &str, exec_id: &str, script: &str) -> Output {
        self.call(&["task", "exec", "--exec-id", exec_id, id, "sh", "-c", script])
    }

    /// Processes whose command line names the socket of this containerd: its shims.
    fn shims(&self) -> Vec<i32> {
        let socket = self.dir.path().join("sock").display().to_string();
        let pids =
            common::names_in(Path::new("/proc")).into_iter().filter_map(|name| name.parse::<i32>().ok());
        pids.filter(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line);
            line.contains("containerd-shim") && line.contains(&socket)
        })
        .collect()
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let ids = self.command(&["container", "list", "--quiet"]).output();
        for id in String::from_utf8_lossy(&ids.map(|output| output.stdout).unwrap_or_default()).lines() {
            let _ = self.command(&["task", "delete", "--force", id]).output();
            let _ = self.command(&["container", "delete", id]).output();
        }
        for pid in self.shims() {
            let _ = rustix::process::Pid::from_raw(pid)
                .map(|pid| rustix::process::kill_process(pid, Signal::KILL));
        }
        if let Some(daemon) = self.daemon.take() {
            signal(daemon.pid(), Signal::TERM);
            let _ = daemon.finish();
        }
        remove_cgroups(&self.name);
    }
}

const LISTENER: &str = "trap 'echo term; exit 42' TERM; echo ready; while :; do sleep 0.1; done";

#[test]
fn run_prints_the_output_and_returns_the_exit_code() {
    let containerd = Containerd::new();
    let output = containerd.script(&[], "one", "echo out; echo err >&2; exit 3").exits(3);
    assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("out\n", "err\n"));
    containerd.script(&[], "two", "exit 0").success();
    assert_eq!(containerd.ok(&["container", "list", "--quiet"]).stdout, "");
    let left = common::leftover_cgroups(&containerd.name);
    assert!(!left.iter().any(|path| path.ends_with("one") || path.ends_with("two")), "{left:?}");
}

#[test]
fn what_cannot_be_executed_is_told_in_the_words_of_runc() {
    let containerd = Containerd::new();
    let output = containerd.run(&["--rm"], &[IMAGE, "one", "nosuch"]).exits(1);
    assert!(output.stderr.contains("executable file not found in $PATH"), "{output:?}");
    let output = containerd.run(&["--rm"], &[IMAGE, "two", "/etc/passwd"]).exits(1);
    assert!(output.stderr.contains("permission denied"), "{output:?}");
    let output = containerd.run(&["--rm"], &[IMAGE, "three", "/bin/nosuch"]).exits(1);
    assert!(output.stderr.contains("no such file or directory"), "{output:?}");
    assert_eq!(containerd.ok(&["task", "list", "--quiet"]).stdout, "");
}

#[test]
fn exec_logs_kill_and_delete_work_on_a_detached_task() {
    let containerd = Containerd::new();
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
    assert_eq!(fs::read_to_string(&log).expect("the log"), "ready\nterm\n");
    let deleted = containerd.ok(&["task", "delete", "box"]);
    assert!(deleted.stderr.contains("exit code 42"), "{deleted:?}");
    containerd.ok(&["container", "delete", "box"]);
    assert_eq!(containerd.task("box"), None);
}

#[test]
fn kill_all_ends_every_process() {
    let containerd = Containerd::new();
    containerd.detached(&[], "box", "sleep 600 & sleep 600");
    let (pid, _) = containerd.task("box").expect("a task");
    containerd.ok(&["task", "kill", "--all", "--signal", "SIGKILL", "box"]);
    containerd.wait_status("box", "STOPPED");
    wait_dead(pid);
    let deleted = containerd.ok(&["task", "delete", "box"]);
    assert!(deleted.stderr.contains("exit code 137"), "{deleted:?}");
}

#[test]
fn pause_and_resume_change_the_status() {
    let containerd = Containerd::new();
    containerd.detached(&[], "box", "sleep 600");
    containerd.ok(&["task", "pause", "box"]);
    containerd.wait_status("box", "PAUSED");
    containerd.ok(&["task", "resume", "box"]);
    containerd.wait_status("box", "RUNNING");
    containerd.exec("box", "after", "true").success();
}

#[test]
fn the_metrics_of_a_task_are_read() {
    let containerd = Containerd::new();
    containerd.detached(&["--memory-limit", "67108864"], "box", "sleep 600");
    let text = containerd.ok(&["task", "metrics", "--format", "json", "box"]).stdout;
    let metrics: Value = serde_json::from_str(&text).expect("the metrics are JSON");
    assert_eq!(
        metrics.pointer("/memory/usage/limit").or_else(|| metrics.pointer("/memory/usage_limit")),
        Some(&json!(67_108_864))
    );
    assert!(
        metrics.pointer("/pids/current").and_then(Value::as_u64).is_some_and(|count| count >= 1),
        "{text}"
    );
}

/// Prints the limits from inside, on a host with cgroup v1 or v2.
const LIMITS: &str = "cd /sys/fs/cgroup; cat memory/memory.limit_in_bytes 2>/dev/null || cat memory.max; \
                      cat pids/pids.max 2>/dev/null || cat pids.max";

#[test]
fn a_memory_limit_is_read_back_from_inside() {
    let containerd = Containerd::new();
    // ctr itself mounts no cgroups.
    let mount = "type=cgroup,src=cgroup,dst=/sys/fs/cgroup,options=ro:nosuid:noexec:nodev";
    let options = ["--memory-limit", "67108864", "--mount", mount];
    let output = containerd.script(&options, "box", LIMITS).success();
    assert!(output.stdout.starts_with("67108864\n"), "{output:?}");
}

#[test]
fn limits_of_a_config_are_read_back_from_inside() {
    let containerd = Containerd::new();
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

#[test]
fn a_terminal_reaches_the_process() {
    let containerd = Containerd::new();
    require_program("script");
    let mut words = vec!["ctr".to_owned(), "--address".to_owned()];
    words.push(containerd.dir.path().join("sock").display().to_string());
    words.extend(["--namespace".to_owned(), containerd.name.clone()]);
    words.extend(containerd.run_args(&["--rm", "--tty"]));
    words.extend([IMAGE.to_owned(), "box".to_owned(), "tty".to_owned()]);
    let mut command = Command::new("script");
    command.args(["--quiet", "--return", "--command", &words.join(" "), "/dev/null"]);
    let output = finish(command, None);
    assert!(output.stdout.contains("/dev/pts/"), "{output:?}");
}

#[test]
fn an_update_as_the_shim_makes_it_is_read_back_from_inside() {
    let containerd = Containerd::new();
    let mount = "type=cgroup,src=cgroup,dst=/sys/fs/cgroup,options=ro:nosuid:noexec:nodev";
    containerd.detached(&["--memory-limit", "67108864", "--mount", mount], "box", "sleep 600");
    // ctr 1.6 has no command for it. This is the call of the shim, on the state that the shim has made.
    let mut command = Command::new(runtime_path());
    command.arg("--root").arg(containerd.dir.path().join("runtime-root").join(&containerd.name));
    command.args(["update", "--resources", "-", "box"]);
    let resources = json!({"memory": {"limit": 134_217_728}, "pids": {"limit": 42}}).to_string();
    let _ = finish(command, Some(resources.as_bytes())).success();
    let output = containerd.exec("box", "limits", LIMITS).success();
    assert_eq!(output.stdout, "134217728\n42\n");
}

#[test]
fn a_module_runs_where_an_annotation_asks_for_it() {
    let containerd = Containerd::new();
    let module = containerd.dir.path().join("probe.wasm");
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
    poll("the task to stop", || containerd.ok(&["task", "ls"]).stdout.contains("STOPPED").then_some(()));
    containerd.ok(&["task", "delete", "sleeps"]);
    containerd.ok(&["container", "delete", "sleeps"]);
}
