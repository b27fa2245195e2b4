//! MicroVMs of podman, as people run them: with its network, storage and systemd's cgroups.

use crate::common::{
    Engine, finish, poll, remove_all, remove_cgroups, require_program, runtime_path, unique_name,
    write_busybox_archive,
};
use std::process::Command;
use tempfile::TempDir;

/// Port of the emulated machine that leads to the container.
const PORT: u16 = 8124;

/// A podman with an image called `box`; its containers and storage go away with it.
struct Podman {
    dir: TempDir,
    name: String,
}

impl Podman {
    fn new() -> Self {
        require_program("podman");
        let dir = tempfile::Builder::new().prefix("mkp").tempdir().expect("a temporary folder");
        let podman = Self { dir, name: unique_name() };
        let archive = write_busybox_archive(podman.dir.path());
        podman.ok(&["import", archive.to_str().expect("UTF-8"), "box"]);
        podman
    }
}

impl Engine for Podman {
    fn command(&self, args: &[&str]) -> Command {
        let at = |name: &str| self.dir.path().join(name);
        let mut command = Command::new("podman");
        command.current_dir(self.dir.path());
        command.arg("--root").arg(at("root")).arg("--runroot").arg(at("run")).arg("--tmpdir").arg(at("tmp"));
        command.arg("--runtime").arg(runtime_path());
        command.args(["--storage-driver", "vfs", "--events-backend", "file"]).args(args);
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
fn podman_runs_a_microvm_with_a_port_executes_in_it_and_stops_it() {
    let podman = Podman::new();
    let script = "trap 'echo bye; exit 42' TERM; mkdir /www; echo of-the-guest >/www/index.html; \
                  httpd -p 8080 -h /www; uname -r; echo ready; while :; do sleep 0.1; done";
    let port = format!("127.0.0.1:{PORT}:8080");
    let mut args = vec!["run", "--detach", "--name", &podman.name, "--publish", &port, "--memory", "256m"];
    args.extend(["--annotation", "run.oci.handler=krun", "--annotation", "krun.cpus=1"]);
    args.extend(["box", "sh", "-c", script]);
    podman.ok(&args);
    let logs = || podman.ok(&["logs", &podman.name]).stdout;
    poll("the program to be ready", || logs().contains("ready").then_some(()));
    let own = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("the release");
    let release = podman.ok(&["exec", &podman.name, "uname", "-r"]).stdout;
    assert_ne!(release.trim(), own.trim());
    assert!(logs().starts_with(&release), "{release} {}", logs());
    podman.call(&["exec", &podman.name, "sh", "-c", "exit 3"]).exits(3);
    let url = format!("http://127.0.0.1:{PORT}/");
    let page = poll("the published port to lead to the guest", || {
        let mut command = Command::new("wget");
        command.args(["-qO-", &url]);
        let output = finish(command, None);
        (output.code == 0).then_some(output.stdout)
    });
    assert_eq!(page, "of-the-guest\n");
    podman.ok(&["stop", "--time", "100", &podman.name]);
    assert!(logs().ends_with("bye\n"), "{}", logs());
    let code = podman.ok(&["inspect", "--format", "{{.State.ExitCode}}", &podman.name]).stdout;
    assert_eq!(code.trim(), "42");
    podman.ok(&["rm", &podman.name]);
}
