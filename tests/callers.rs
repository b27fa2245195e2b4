//! The command lines of podman, buildah, containerd, Docker and CRI-O, as they really call an OCI runtime.
mod common;

use common::{Bundle, ConsoleSocket, Output, Runtime, finish, is_alive, last_log_error, wait_dead};
use serde_json::{Value, json};
use std::fs;
use std::process::Command;

/// A caller that gives no `--root`: the state is in the default root, from which the container is removed on drop.
struct Conmon {
    runtime: Runtime,
    bundle: Bundle,
}

impl Conmon {
    fn new(bundle: impl FnOnce(&Runtime) -> Bundle) -> Self {
        let runtime = Runtime::new();
        let bundle = bundle(&runtime);
        Self { runtime, bundle }
    }

    /// The runtime in conmon's environment.
    fn command(args: &[&str]) -> Command {
        let mut command = common::bare();
        command.args(args).env("XDG_RUNTIME_DIR", "").env("_OCI_SYNCPIPE", "3").env("_OCI_STARTPIPE", "4");
        command.env("_OCI_ATTACHPIPE", "5");
        command
    }

    fn call(args: &[&str]) -> Output {
        finish(Self::command(args), None)
    }

    fn path(&self, name: &str) -> String {
        self.runtime.path(name).to_str().expect("UTF-8").to_owned()
    }

    /// `create` as conmon calls it, with `more` options before the id.
    fn create(&self, more: &[&str]) -> Output {
        let (log, pid) = (self.path("log"), self.path("pidfile"));
        let mut args = vec!["--log-format=json", "--log", &log, "create", "--bundle", self.bundle.dir()];
        args.extend(["--pid-file", &pid]);
        args.extend(more);
        args.push(&self.bundle.id);
        Conmon::call(&args)
    }

    fn pid(&self) -> i32 {
        let text = fs::read_to_string(self.path("pidfile")).expect("the pid file");
        text.parse().expect("nothing but a number in the pid file")
    }

    fn status(&self) -> String {
        let state: Value = serde_json::from_str(&Conmon::call(&["state", &self.bundle.id]).success().stdout)
            .expect("state prints JSON");
        state["status"].as_str().expect("a status").to_owned()
    }

    fn wait_status(&self, status: &str) {
        common::poll(status, || (self.status() == status).then_some(()));
    }
}

impl Drop for Conmon {
    fn drop(&mut self) {
        let _ = Self::command(&["delete", "--force", &self.bundle.id]).status();
    }
}

#[test]
fn podman_creates_starts_kills_and_deletes() {
    let podman = Conmon::new(Runtime::sleeper);
    let id = podman.bundle.id.as_str();
    podman.create(&[]).success();
    let pid = podman.pid();
    assert_eq!(podman.status(), "created");
    Conmon::call(&["start", id]).success();
    assert_eq!(podman.status(), "running");
    Conmon::call(&["pause", id]).success();
    assert_eq!(podman.status(), "paused");
    Conmon::call(&["resume", id]).success();
    Conmon::call(&["kill", id, "9"]).success();
    podman.wait_status("stopped");
    Conmon::call(&["delete", "--force", id]).success();
    wait_dead(pid);
    Conmon::call(&["state", id]).fails_with(1, &["container does not exist"]);
    podman.runtime.assert_nothing_left();
}

#[test]
fn podman_creates_with_a_console_socket() {
    let podman = Conmon::new(|runtime| {
        let mut bundle = runtime.shell("tty; stty size; read line; echo \"got $line\"; exit 5");
        bundle.edit(|config| {
            config["process"]["terminal"] = json!(true);
            config["process"]["consoleSize"] = json!({"height": 33, "width": 77});
        });
        bundle
    });
    let socket = ConsoleSocket::listen(podman.runtime.dir(), "console.sock");
    podman.create(&["--console-socket", socket.path()]).success();
    let mut terminal = socket.terminal();
    Conmon::call(&["start", &podman.bundle.id]).success();
    assert!(terminal.read_until("33 77").contains("/dev/pts/0"));
    terminal.write("hello\n");
    terminal.read_until("got hello");
    podman.wait_status("stopped");
}

#[test]
fn podman_executes_detached_with_a_process_file() {
    let podman = Conmon::new(Runtime::sleeper);
    let id = podman.bundle.id.as_str();
    podman.create(&[]).success();
    Conmon::call(&["start", id]).success();
    let file = podman.bundle.process_file("process.json", &["sh", "-c", "echo from exec; sleep 600"], |_| {});
    let (log, pid) = (podman.path("exec-log"), podman.path("exec-pid"));
    let file = file.to_str().expect("UTF-8");
    let args =
        ["--log-format=json", "--log", &log, "exec", "--pid-file", &pid, "--process", file, "--detach", id];
    Conmon::call(&args).success().wait_stdout("from exec");
    let pid: i32 = fs::read_to_string(&pid).expect("the pid file").parse().expect("a number");
    assert!(is_alive(pid));
    Conmon::call(&["kill", id, "9"]).success();
    wait_dead(pid);
}

#[test]
fn podman_executes_detached_with_a_terminal() {
    let podman = Conmon::new(Runtime::sleeper);
    let id = podman.bundle.id.as_str();
    podman.create(&[]).success();
    Conmon::call(&["start", id]).success();
    let file =
        podman.bundle.process_file("process.json", &["sh", "-c", "tty; read x; echo got $x"], |process| {
            process["terminal"] = json!(true);
        });
    let socket = ConsoleSocket::listen(podman.runtime.dir(), "exec.sock");
    let (log, pid) = (podman.path("exec-log"), podman.path("exec-pid"));
    let file = file.to_str().expect("UTF-8");
    let mut args = vec!["--log-format=json", "--log", &log, "exec", "--pid-file", &pid, "--process", file];
    args.extend(["--detach", "--tty", "--console-socket", socket.path(), id]);
    Conmon::call(&args).success();
    let mut terminal = socket.terminal();
    terminal.read_until("/dev/pts/");
    terminal.resize(20, 40);
    assert_eq!(terminal.size(), (20, 40));
    terminal.write("word\n");
    terminal.read_until("got word");
}

#[test]
fn podman_updates_with_a_resources_file() {
    if !common::has_controllers(&["cpu", "memory", "pids"]) {
        return;
    }
    let podman = Conmon::new(Runtime::sleeper);
    podman.create(&[]).success();
    let resources = json!({"memory": {"limit": 67_108_864}, "pids": {"limit": 44}, "cpu": {"shares": 512}});
    let file = podman.runtime.file("resources.json", resources.to_string());
    let option = format!("--resources={}", file.display());
    Conmon::call(&["update", &option, &podman.bundle.id]).success();
    assert_limits(podman.pid(), "67108864", "44");
}

#[test]
fn podman_reads_the_error_from_the_log() {
    let podman = Conmon::new(|runtime| {
        let mut bundle = runtime.bundle();
        bundle.args(&["nosuch"]);
        bundle
    });
    podman.create(&[]).exits(1);
    let message = last_log_error(&podman.runtime.path("log"));
    assert!(message.contains("executable file not found in $PATH"), "{message}");
    podman.runtime.assert_nothing_left();
}

#[test]
fn podman_probes_the_version_and_the_options_of_checkpoint() {
    let version = run_bare(&["--version"]).success().stdout;
    assert!(version.contains(" version ") && version.contains("\nspec: "), "{version}");
    let help = run_bare(&["checkpoint", "--help"]).success();
    for option in ["--image-path", "--work-path", "--leave-running", "--tcp-established", "--pre-dump"] {
        assert!(help.stdout.contains(option), "{option} is missing in: {}", help.stdout);
    }
}

#[test]
fn buildah_creates_with_a_name_starts_and_asks_for_the_state() {
    let buildah = Conmon::new(|runtime| runtime.shell("exit 3"));
    let id = buildah.bundle.id.as_str();
    let pid = buildah.path("pidfile");
    Conmon::call(&["create", "--bundle", buildah.bundle.dir(), "--pid-file", &pid, id]).success();
    Conmon::call(&["start", id]).success();
    buildah.wait_status("stopped");
    Conmon::call(&["delete", id]).success();
}

fn run_bare(args: &[&str]) -> Output {
    let mut command = common::bare();
    command.args(args);
    finish(command, None)
}

/// A caller that gives `--root DIR --log FILE --log-format json`, as the shim of containerd does.
struct Shim(Runtime);

impl Shim {
    fn command(&self, args: &[&str]) -> Command {
        let mut command = common::bare();
        command.arg("--root").arg(self.0.root()).arg("--log").arg(self.0.path("log.json"));
        command.args(["--log-format", "json"]).args(args);
        command
    }

    fn call(&self, args: &[&str]) -> Output {
        finish(self.command(args), None)
    }

    fn path(&self, name: &str) -> String {
        self.0.path(name).to_str().expect("UTF-8").to_owned()
    }

    fn create(&self, bundle: &Bundle, more: &[&str]) -> Output {
        let pid = self.path("init.pid");
        let mut args = vec!["create", "--bundle", bundle.dir(), "--pid-file", &pid];
        args.extend(more);
        args.push(&bundle.id);
        self.call(&args)
    }
}

fn assert_limits(pid: i32, memory: &str, pids: &str) {
    let read = common::cgroup_value(pid, "memory", "memory.limit_in_bytes", "memory.max");
    assert_eq!(read, memory);
    assert_eq!(common::cgroup_value(pid, "pids", "pids.max", "pids.max"), pids);
}

#[test]
fn containerd_runs_the_whole_life_of_a_container() {
    let shim = Shim(Runtime::new());
    let bundle = shim.0.sleeper();
    let id = bundle.id.as_str();
    shim.create(&bundle, &[]).success();
    let pid: i32 = fs::read_to_string(shim.path("init.pid")).expect("the pid file").parse().expect("a pid");
    shim.call(&["start", id]).success();
    let pids: Vec<i32> =
        serde_json::from_str(&shim.call(&["ps", "--format", "json", id]).success().stdout).expect("JSON");
    assert_eq!(pids, [pid]);
    shim.call(&["pause", id]).success();
    shim.call(&["resume", id]).success();
    shim.call(&["kill", id, "15"]).success();
    shim.call(&["kill", "--all", id, "9"]).success();
    wait_dead(pid);
    shim.call(&["delete", id]).success();
    shim.call(&["delete", "--force", id]).success();
    shim.0.assert_nothing_left();
}

#[test]
fn containerd_creates_with_no_pivot_and_no_new_keyring() {
    let shim = Shim(Runtime::new());
    let bundle = shim.0.shell("ls /; ls /proc/self/ns");
    let created = shim.create(&bundle, &["--no-pivot", "--no-new-keyring"]).success();
    shim.call(&["start", &bundle.id]).success();
    shim.0.wait_status(&bundle.id, "stopped");
    let text = created.stdout_now();
    assert!(text.contains("bin\n") && !text.contains("boot\n"), "{text}");
}

#[test]
fn containerd_creates_with_a_console_socket() {
    let shim = Shim(Runtime::new());
    let mut bundle = shim.0.shell("tty; test -c /dev/console && echo console");
    bundle.edit(|config| config["process"]["terminal"] = json!(true));
    let socket = ConsoleSocket::listen(shim.0.dir(), "pty.sock");
    shim.create(&bundle, &["--console-socket", socket.path()]).success();
    let mut terminal = socket.terminal();
    shim.call(&["start", &bundle.id]).success();
    assert!(terminal.read_until("console").contains("/dev/pts/0"));
}

#[test]
fn containerd_executes_with_a_process_file() {
    let shim = Shim(Runtime::new());
    let bundle = shim.0.sleeper();
    shim.0.detach(&bundle);
    let id = bundle.id.as_str();
    let file = bundle.process_file("exec.json", &["sh", "-c", "echo $A; pwd"], |process| {
        process["env"].as_array_mut().expect("env").push(json!("A=from env"));
        process["cwd"] = json!("/tmp");
    });
    let (file, pid) = (file.to_str().expect("UTF-8"), shim.path("exec.pid"));
    let output = shim.call(&["exec", "--process", file, "--detach", "--pid-file", &pid, id]).success();
    output.wait_stdout("from env\n/tmp\n");

    let file = bundle.process_file("tty.json", &["tty"], |process| process["terminal"] = json!(true));
    let socket = ConsoleSocket::listen(shim.0.dir(), "exec.sock");
    let mut args =
        vec!["exec", "--process", file.to_str().expect("UTF-8"), "--console-socket", socket.path()];
    args.extend(["--detach", "--pid-file", &pid, id]);
    shim.call(&args).success();
    socket.terminal().read_until("/dev/pts/");
}

#[test]
fn containerd_updates_from_standard_input() {
    if !common::has_controllers(&["memory", "pids"]) {
        return;
    }
    let shim = Shim(Runtime::new());
    let bundle = shim.0.sleeper();
    let pid = shim.0.detach(&bundle);
    let cases: [(&[&str], i64, i64); 2] =
        [(&["--resources", "-"], 67_108_864, 41), (&["--resources=-"], 134_217_728, 42)];
    for (option, memory, pids) in cases {
        let resources = json!({"memory": {"limit": memory}, "pids": {"limit": pids}}).to_string();
        let mut command = shim.command(&["update"]);
        command.args(option).arg(&bundle.id);
        finish(command, Some(resources.as_bytes())).success();
        assert_limits(pid, &memory.to_string(), &pids.to_string());
    }
}

#[test]
fn containerd_and_docker_read_the_error_from_the_last_record_of_the_log() {
    let shim = Shim(Runtime::new());
    let cases = [("/nosuch", "no such file or directory"), ("/etc/passwd", "permission denied")];
    for (program, words) in cases {
        let mut bundle = shim.0.bundle();
        bundle.args(&[program]);
        shim.create(&bundle, &[]).exits(1);
        let message = last_log_error(&shim.0.path("log.json"));
        assert!(message.contains(words) && message.contains(program), "{message}");
    }
    shim.0.assert_nothing_left();
}

#[test]
fn docker_and_crio_ask_for_the_features_without_options() {
    let features: Value =
        serde_json::from_str(&run_bare(&["features"]).success().stdout).expect("features are JSON");
    assert!(features["ociVersionMin"].is_string() && features["ociVersionMax"].is_string(), "{features}");
    for (pointer, needle) in [
        ("/hooks", "createRuntime"),
        ("/mountOptions", "rbind"),
        ("/linux/namespaces", "cgroup"),
        ("/linux/capabilities", "CAP_KILL"),
        ("/linux/seccomp/actions", "SCMP_ACT_ERRNO"),
    ] {
        let list = features.pointer(pointer).and_then(Value::as_array);
        assert!(list.is_some_and(|list| list.iter().any(|item| item == needle)), "{pointer}: {features}");
    }
    assert_eq!(features.pointer("/linux/cgroup/v1"), Some(&json!(true)));
}

/// CRI-O with its `runtime_root`. It calls the runtime in an environment with nothing but one variable, and conmon for what is watched.
struct Crio(Runtime);

impl Crio {
    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.0.command(args);
        // What measures the coverage of tests is kept.
        let kept = std::env::var_os("LLVM_PROFILE_FILE").map(|value| ("LLVM_PROFILE_FILE", value));
        command.env_clear().envs(kept).env("XDG_RUNTIME_DIR", "/run/user/0");
        command
    }

    fn call(&self, args: &[&str]) -> Output {
        finish(self.command(args), None)
    }

    /// As conmon calls it: the root is one word with its option.
    fn conmon(&self, args: &[&str]) -> Output {
        let root = format!("--root={}", self.0.root().display());
        let log = self.0.path("conmon-log").display().to_string();
        let mut command = Conmon::command(&["--log-format=json", "--log", &log, &root]);
        command.args(args);
        finish(command, None)
    }

    fn status(&self, id: &str) -> String {
        let state: Value = serde_json::from_str(&self.call(&["state", id]).success().stdout).expect("JSON");
        state["status"].as_str().expect("a status").to_owned()
    }
}

#[test]
fn crio_runs_the_whole_life_of_a_container() {
    let crio = Crio(Runtime::new());
    let mut bundle = crio.0.shell("trap 'echo asked' TERM; echo ready; while :; do sleep 0.1; done");
    bundle.edit(|config| config["annotations"] = json!({"io.kubernetes.cri-o.ContainerType": "container"}));
    let id = bundle.id.as_str();
    let file = crio.0.path("pidfile").display().to_string();
    let created = crio.conmon(&["create", "--bundle", bundle.dir(), "--pid-file", &file, id]).success();
    let pid: i32 = fs::read_to_string(&file).expect("the pid file").parse().expect("a pid");
    assert_eq!(crio.status(id), "created");
    crio.call(&["start", id]).success();
    assert_eq!(crio.status(id), "running");
    // A signal for which there is no trap yet is discarded.
    created.wait_stdout("ready");
    crio.call(&["pause", id]).success();
    assert_eq!(crio.status(id), "paused");
    crio.call(&["resume", id]).success();
    let process = bundle.process_file("probe.json", &["sh", "-c", "echo probed; sleep 600"], |_| {});
    let file = crio.0.path("exec-pidfile").display().to_string();
    let process = process.to_str().expect("UTF-8");
    let probe = crio.conmon(&["exec", "--pid-file", &file, "--process", process, "--detach", id]).success();
    probe.wait_stdout("probed");
    let probe: i32 = fs::read_to_string(&file).expect("the pid file").parse().expect("a pid");
    crio.call(&["kill", id, "TERM"]).success();
    created.wait_stdout("asked");
    crio.call(&["kill", "-a", id, "9"]).success();
    wait_dead(pid);
    wait_dead(probe);
    common::poll("the end", || (crio.status(id) == "stopped").then_some(()));
    // CRI-O takes these words for a container that is gone.
    let error = crio.call(&["kill", id, "KILL"]).exits(1).stderr;
    assert!(error.contains("container not running"), "{error}");
    crio.call(&["delete", "--force", id]).success();
    crio.0.assert_nothing_left();
}

#[test]
fn crio_executes_attached_with_a_process_file() {
    let runtime = Runtime::new();
    let bundle = runtime.sleeper();
    runtime.detach(&bundle);
    let file = bundle.process_file("exec.json", &["sh", "-c", "echo probed; exit 4"], |_| {});
    let output = runtime.call(&["exec", "--process", file.to_str().expect("UTF-8"), &bundle.id]).exits(4);
    assert_eq!(output.stdout, "probed\n");
}

#[test]
fn crio_updates_kills_by_name_and_deletes_by_force() {
    if !common::has_controllers(&["memory", "pids"]) {
        return;
    }
    let runtime = Runtime::new();
    let bundle = runtime.sleeper();
    let pid = runtime.detach(&bundle);
    let resources = json!({"memory": {"limit": 33_554_432}, "pids": {"limit": 40}}).to_string();
    finish(runtime.command(&["update", "--resources", "-", &bundle.id]), Some(resources.as_bytes()))
        .success();
    assert_limits(pid, "33554432", "40");
    runtime.ok(&["kill", &bundle.id, "KILL"]);
    wait_dead(pid);
    runtime.ok(&["delete", "--force", &bundle.id]);
    runtime.assert_nothing_left();
}

#[test]
fn options_after_the_id_belong_to_the_process_of_exec() {
    let runtime = Runtime::new();
    let bundle = runtime.sleeper();
    runtime.detach(&bundle);
    let args = ["exec", &bundle.id, "echo", "--detach", "-e", "--pid-file=x", "--", "-t"];
    assert_eq!(runtime.ok(&args).stdout.trim(), "--detach -e --pid-file=x -- -t");
}

#[test]
fn both_forms_of_the_log_options_are_taken() {
    let runtime = Runtime::new();
    let forms: [[String; 2]; 2] = [
        ["--log-format=json".to_owned(), format!("--log={}", runtime.path("log0").display())],
        [format!("--log={}", runtime.path("log1").display()), "--log-format=json".to_owned()],
    ];
    for (number, form) in forms.iter().enumerate() {
        let mut args: Vec<&str> = form.iter().map(String::as_str).collect();
        args.extend(["state", "mkt-nobody"]);
        runtime.call(&args).exits(1);
        let message = last_log_error(&runtime.path(&format!("log{number}")));
        assert_eq!(message, "container does not exist");
    }
}

#[test]
fn an_empty_xdg_runtime_dir_is_an_unset_one() {
    let conmon = Conmon::new(Runtime::sleeper);
    conmon.create(&[]).success();
    let mut command = common::bare();
    command.args(["state", &conmon.bundle.id]).env_remove("XDG_RUNTIME_DIR");
    finish(command, None).success();
}
