//! The runtime under a real podman with its own storage, driven through the commands that people use.
mod common;

use common::{
    Engine, LIMITS, LISTENER, Output, finish, poll, remove_all, remove_cgroups, require_program,
    require_root, runtime_path, unique_name, write_busybox_archive,
};
use std::fs;
use std::process::Command;
use std::sync::OnceLock;
use tempfile::TempDir;

/// The settings that this machine needs: no systemd, no journal, and hard limits that cannot be raised.
fn settings() -> String {
    let runtime = runtime_path();
    let runtime = runtime.display();
    format!(
        "[containers]\ndefault_ulimits=[\"nofile=20000:20000\",\"nproc=32768:32768\"]\n\
         [engine]\ncgroup_manager=\"cgroupfs\"\nevents_logger=\"file\"\nruntime=\"tested\"\n\
         runtime_supports_json=[\"tested\"]\nruntime_supports_nocgroup=[\"tested\"]\n\
         [engine.runtimes]\ntested=[\"{runtime}\"]\n"
    )
}

/// A podman with an image called `box`; its containers and storage go away with it.
struct Podman {
    dir: TempDir,
    name: String,
}

impl Podman {
    fn new() -> Self {
        require_root();
        require_program("podman");
        require_program("conmon");
        let dir = tempfile::Builder::new().prefix("mkp").tempdir().expect("a temporary folder");
        fs::write(dir.path().join("containers.conf"), settings()).expect("containers.conf");
        let podman = Self { dir, name: unique_name() };
        // Its locks are of the whole machine: two that find none at the same time both make them, and one fails.
        static LOCKS: OnceLock<()> = OnceLock::new();
        LOCKS.get_or_init(|| drop(podman.ok(&["info"])));
        let archive = write_busybox_archive(podman.dir.path());
        podman.ok(&["import", archive.to_str().expect("UTF-8"), "box"]);
        podman
    }

    /// `podman run` without network, with `more` options, image and command.
    #[track_caller]
    fn run(&self, more: &[&str]) -> Output {
        let parent = format!("/{}", self.name);
        let mut args = vec!["run", "--network", "none", "--cgroup-parent", &parent];
        args.extend(more);
        self.call(&args)
    }

    /// Starts a container in the background and answers its name.
    #[track_caller]
    fn detached(&self, options: &[&str], script: &str) -> String {
        let name = format!("{}-d", self.name);
        let mut args = vec!["--detach", "--name", &name];
        args.extend(options);
        args.extend(["box", "sh", "-c", script]);
        self.run(&args).success();
        name
    }

    fn status(&self, name: &str) -> String {
        self.ok(&["inspect", "--format", "{{.State.Status}}", name]).stdout.trim().to_owned()
    }

    fn wait_status(&self, name: &str, status: &str) {
        poll(&format!("{name} to be {status}"), || (self.status(name) == status).then_some(()));
    }
}

impl Engine for Podman {
    fn command(&self, args: &[&str]) -> Command {
        let at = |name: &str| self.dir.path().join(name);
        let mut command = Command::new("podman");
        // conmon leaves a file 'oom' where it is started.
        command.current_dir(self.dir.path());
        command.env("CONTAINERS_CONF", at("containers.conf")).env("TMPDIR", self.dir.path());
        command.arg("--root").arg(at("root")).arg("--runroot").arg(at("run")).arg("--tmpdir").arg(at("tmp"));
        command.arg("--runtime").arg(runtime_path());
        command.args(["--storage-driver", "vfs", "--cgroup-manager", "cgroupfs"]).args(args);
        command
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        remove_all(self);
        remove_cgroups(&self.name);
    }
}

#[test]
fn run_prints_the_output_and_returns_the_exit_code() {
    let podman = Podman::new();
    let output = podman.run(&["--rm", "box", "sh", "-c", "echo out; echo err >&2; exit 3"]).exits(3);
    assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("out\n", "err\n"));
    podman.run(&["--rm", "box", "true"]).success();
}

#[test]
fn what_cannot_be_executed_gives_126_and_what_is_missing_127() {
    let podman = Podman::new();
    podman.run(&["--rm", "box", "/etc/passwd"]).fails_with(126, &["permission denied"]);
    podman.run(&["--rm", "box", "/bin/nosuch"]).fails_with(127, &["no such file or directory"]);
    podman.run(&["--rm", "box", "nosuch"]).fails_with(127, &["executable file not found"]);
    assert_eq!(podman.ok(&["ps", "--all", "--quiet"]).stdout, "");
}

#[test]
fn exec_enters_a_running_container() {
    let podman = Podman::new();
    let name = podman.detached(&[], "sleep 600");
    let output = podman.call(&["exec", "--env", "A=b", &name, "sh", "-c", "echo $A; exit 4"]).exits(4);
    assert_eq!(output.stdout, "b\n");
    podman.call(&["exec", &name, "nosuch"]).exits(127);
    podman.call(&["exec", &name, "/etc/passwd"]).exits(126);
    podman.ok(&["exec", "--detach", &name, "touch", "/tmp/detached"]);
    poll("the detached exec", || {
        (podman.call(&["exec", &name, "test", "-e", "/tmp/detached"]).code == 0).then_some(())
    });
    assert!(podman.ok(&["exec", "--tty", &name, "tty"]).stdout.contains("/dev/pts/"));
}

#[test]
fn logs_show_what_was_printed() {
    let podman = Podman::new();
    let name = podman.detached(&[], "echo one; echo two >&2; exit 6");
    assert_eq!(podman.ok(&["wait", &name]).stdout.trim(), "6");
    let output = podman.ok(&["logs", &name]);
    assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("one\n", "two\n"));
    podman.ok(&["rm", &name]);
}

#[test]
fn stop_sends_sigterm_first_and_kill_sends_what_it_is_told() {
    let podman = Podman::new();
    let name = podman.detached(&[], LISTENER);
    poll("the trap", || podman.ok(&["logs", &name]).stdout.contains("ready").then_some(()));
    podman.ok(&["stop", "--time", "50", &name]);
    assert_eq!(podman.ok(&["inspect", "--format", "{{.State.ExitCode}}", &name]).stdout.trim(), "42");
    podman.ok(&["start", &name]);
    podman.ok(&["kill", "--signal", "KILL", &name]);
    podman.wait_status(&name, "exited");
    assert_eq!(podman.ok(&["inspect", "--format", "{{.State.ExitCode}}", &name]).stdout.trim(), "137");
    podman.ok(&["rm", &name]);
}

#[test]
fn stop_kills_what_does_not_listen() {
    let podman = Podman::new();
    let name = podman.detached(&[], "trap '' TERM; while :; do sleep 1; done");
    podman.ok(&["stop", "--time", "1", &name]);
    assert_eq!(podman.ok(&["inspect", "--format", "{{.State.ExitCode}}", &name]).stdout.trim(), "137");
}

#[test]
fn pause_and_unpause_change_the_status() {
    let podman = Podman::new();
    let name = podman.detached(&[], "sleep 600");
    podman.ok(&["pause", &name]);
    assert_eq!(podman.status(&name), "paused");
    podman.ok(&["unpause", &name]);
    assert_eq!(podman.status(&name), "running");
    podman.ok(&["exec", &name, "true"]);
}

#[test]
fn limits_are_read_back_from_inside_and_update_changes_them() {
    let podman = Podman::new();
    let name = podman.detached(&["--memory", "64m", "--pids-limit", "77"], "sleep 600");
    assert_eq!(podman.ok(&["exec", &name, "sh", "-c", LIMITS]).stdout, "67108864\n77\n");
    podman.ok(&["update", "--memory", "128m", &name]);
    assert_eq!(podman.ok(&["exec", &name, "sh", "-c", LIMITS]).stdout, "134217728\n77\n");
}

#[test]
fn a_process_over_its_memory_limit_is_killed() {
    let podman = Podman::new();
    let script = "head -c 200m /dev/zero | tail | wc -c";
    let output = podman.run(&["--rm", "--memory", "32m", "--memory-swap", "32m", "box", "sh", "-c", script]);
    assert_ne!(output.stdout.trim(), "209715200", "{output:?}");
}

#[test]
fn a_terminal_has_a_name_and_a_size() {
    let podman = Podman::new();
    let output = podman.run(&["--rm", "--tty", "box", "sh", "-c", "tty; exit 5"]).exits(5);
    assert!(output.stdout.contains("/dev/pts/0"), "{output:?}");
}

#[test]
fn interactive_input_reaches_the_process() {
    let podman = Podman::new();
    let parent = format!("/{}", podman.name);
    let command = podman.command(&[
        "run",
        "--rm",
        "--network",
        "none",
        "--cgroup-parent",
        &parent,
        "--interactive",
        "box",
        "cat",
    ]);
    assert_eq!(finish(command, Some(b"through\n")).success().stdout, "through\n");
}

#[test]
fn options_of_podman_reach_the_process() {
    let podman = Podman::new();
    let script = "id -u; hostname; pwd; touch /x 2>&1; cat /secret";
    let secret = podman.dir.path().join("secret");
    fs::write(&secret, "mounted\n").expect("a file");
    let volume = format!("{}:/secret:ro", secret.display());
    let options = ["--rm", "--user", "1000", "--hostname", "named", "--workdir", "/tmp", "--read-only"];
    let mut args = options.to_vec();
    args.extend(["--volume", &volume, "box", "sh", "-c", script]);
    let output = podman.run(&args).success().stdout;
    assert_eq!(output, "1000\nnamed\n/tmp\ntouch: /x: Read-only file system\nmounted\n");
}

#[test]
fn removal_by_force_ends_the_processes() {
    let podman = Podman::new();
    let name = podman.detached(&[], "trap '' TERM; while :; do sleep 1; done");
    let pid = podman.ok(&["inspect", "--format", "{{.State.Pid}}", &name]).stdout;
    let pid: i32 = pid.trim().parse().expect("a pid");
    assert!(common::is_alive(pid));
    podman.ok(&["rm", "--force", "--time", "0", &name]);
    common::wait_dead(pid);
    assert_eq!(podman.ok(&["ps", "--all", "--quiet"]).stdout, "");
}

#[test]
fn a_container_can_share_the_namespaces_of_another() {
    let podman = Podman::new();
    let name = podman.detached(&[], "sleep 600");
    let target = format!("container:{name}");
    let args = [
        "run",
        "--rm",
        "--network",
        &target,
        "--pid",
        &target,
        "box",
        "sh",
        "-c",
        "ps | grep -c 'sleep 600$'",
    ];
    assert_eq!(podman.ok(&args).stdout.trim(), "1");
}

#[test]
fn a_module_runs_where_an_annotation_asks_for_it() {
    let podman = Podman::new();
    let wasm = ["--annotation", "run.oci.handler=wasm"];
    let build = podman.dir.path().join("build");
    fs::create_dir(&build).expect("a folder");
    common::compile("probe.c", &build.join("probe.wasm"));
    fs::write(build.join("Containerfile"), "FROM scratch\nCOPY probe.wasm /\nENTRYPOINT [\"/probe.wasm\"]\n")
        .expect("a recipe");
    podman.ok(&["build", "--tag", "module", build.to_str().expect("UTF-8")]);
    let run = |args: &[&str]| podman.run(&[&["--rm"], &wasm[..], &["module"], args].concat());
    assert_eq!(run(&["show", "one"]).success().stdout.lines().nth(1), Some("arg one"));
    run(&["exit", "7"]).exits(7);
    run(&["trap"]).fails_with(110, &["trapped"]);
    let output =
        podman.run(&[&["--rm", "--memory", "64m"], &wasm[..], &["module", "memory", "100"]].concat());
    assert!(output.exits(3).stdout.contains("no more after 5"));
    // A plain container of the same image cannot be executed, and is not run as anything else.
    podman.run(&["--rm", "module", "show"]).exits(126);

    let name = format!("{}-w", podman.name);
    podman.run(&[&["--detach", "--name", &name], &wasm[..], &["module", "sleep", "600"]].concat()).success();
    poll("the module", || podman.ok(&["logs", &name]).stdout.contains("sleeping").then_some(()));
    assert_eq!(podman.ok(&["exec", &name, "/probe.wasm", "show"]).stdout.lines().next(), Some("arg show"));
    podman.ok(&["pause", &name]);
    podman.ok(&["unpause", &name]);
    podman.ok(&["stop", "--time", "50", &name]);
    assert_eq!(podman.ok(&["inspect", "--format", "{{.State.ExitCode}}", &name]).stdout.trim(), "143");
}
