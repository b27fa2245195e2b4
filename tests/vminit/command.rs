//! `magikrun exec` into a guest: the record of a container says that it is a microVM, and `vminit` answers where its machine would.

use crate::common::{
    Bundle, ConsoleSocket, Running, Runtime, finish, is_alive, poll, signal, start, wait_dead,
};
use crate::machine::{one, place, vminit};
use rustix::process::Signal;
use serde_json::Value;
use std::process::Command;

/// A container whose processes are in a guest.
struct Inside {
    guest: Option<Running>,
    bundle: Bundle,
    runtime: Runtime,
}

impl Inside {
    fn new() -> Self {
        let runtime = Runtime::new();
        let bundle = runtime.sleeper();
        runtime.detach(&bundle);
        let state = runtime.root().join(&bundle.id);
        let record = state.join("state.json");
        let mut value: Value =
            serde_json::from_slice(&std::fs::read(&record).expect("a record")).expect("JSON");
        value["backend"] = "krun".into();
        std::fs::write(&record, value.to_string()).expect("the record");
        std::fs::create_dir(state.join("vm")).expect("a folder");
        let mut spec = one("exec sleep 600");
        spec["containers"][0]["root"] = "@/rootfs".into();
        place(&mut spec, bundle.dir());
        let path = runtime.file("spec.json", spec.to_string());
        let mut command = Command::new("unshare");
        command.args([
            "--pid",
            "--fork",
            "--kill-child",
            "--mount",
            "--mount-proc",
            "--net",
            "--uts",
            "--ipc",
        ]);
        command.arg(vminit()).arg("--spec").arg(path).arg("--listen").arg(state.join("vm/control.sock"));
        let guest = Some(start(command, None));
        let inside = Self { guest, bundle, runtime };
        poll("the guest to be ready", || (inside.exec(&[], "true").code == 0).then_some(()));
        inside
    }

    fn exec(&self, options: &[&str], script: &str) -> crate::common::Output {
        finish(self.command(options, script), None)
    }

    fn command(&self, options: &[&str], script: &str) -> Command {
        let mut args = vec!["exec"];
        args.extend(options);
        args.extend([self.bundle.id.as_str(), "sh", "-c", script]);
        self.runtime.command(&args)
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        if let Some(guest) = self.guest.take() {
            signal(guest.pid(), Signal::KILL);
            let _ = guest.finish();
        }
    }
}

#[test]
fn exec_goes_into_the_guest_with_streams_user_and_exit_code() {
    let inside = Inside::new();
    let done = inside.exec(
        &["--user", "1000:1000", "--env", "A=b", "--cwd", "/home"],
        "hostname; id -u; pwd; echo $A >&2; exit 6",
    );
    assert_eq!((done.code, done.stdout.as_str(), done.stderr.as_str()), (6, "guest\n1000\n/home\n", "b\n"));
    let long = "x".repeat(300_000);
    let done = finish(inside.command(&[], "cat; exit 2"), Some(long.as_bytes()));
    assert_eq!((done.code, done.stdout.len()), (2, 300_000));
    let done = inside.runtime.call(&["exec", &inside.bundle.id, "no-such-program"]);
    done.fails_with(
        255,
        &["exec failed: unable to start container process", "executable file not found in $PATH"],
    );
    inside.exec(&["--cgroup", "x"], "true").fails_with(255, &["--cgroup has no effect in a microVM"]);
}

#[test]
fn signals_go_to_the_process_in_the_guest_and_so_does_the_death_of_who_passes_them_on() {
    let inside = Inside::new();
    let script = "trap 'echo told; exit 4' TERM; echo ready; while :; do sleep 0.05; done";
    let running = start(inside.command(&[], script), None);
    running.wait_stdout("ready");
    signal(running.pid(), Signal::TERM);
    let done = running.finish();
    assert_eq!((done.code, done.stdout.as_str()), (4, "ready\ntold\n"));

    let pid_file = inside.runtime.path("pid");
    let options = ["--detach", "--pid-file", pid_file.to_str().expect("UTF-8")];
    inside.exec(&options, "echo $$ > /pid; exec sleep 4321").success();
    let pid: i32 = std::fs::read_to_string(&pid_file).expect("a pid file").parse().expect("a pid");
    assert!(is_alive(pid));
    let lives = || inside.exec(&[], "ps | grep -c '[s]leep 4321'").stdout.trim() == "1";
    poll("the detached process", || lives().then_some(()));
    signal(pid, Signal::KILL);
    wait_dead(pid);
    poll("the process in the guest to die too", || (!lives()).then_some(()));
}

#[test]
fn a_terminal_goes_through_with_its_size_and_its_input() {
    let inside = Inside::new();
    let socket = ConsoleSocket::listen(inside.runtime.dir(), "console.sock");
    let script = "tty; trap 'stty size' WINCH; echo ready; \
                  until read line && [ -n \"$line\" ]; do :; done; echo got $line; exit 5";
    let command = inside.command(&["--tty", "--detach", "--console-socket", socket.path()], script);
    let running = start(command, None);
    let mut terminal = socket.terminal();
    terminal.read_until("ready");
    terminal.resize(22, 77);
    terminal.read_until("22 77");
    terminal.write("word\r");
    terminal.read_until("got word");
    assert_eq!(running.finish().code, 0);
}

#[test]
fn the_end_of_the_machine_is_the_end_of_what_runs_in_it() {
    let mut inside = Inside::new();
    let running = start(inside.command(&[], "echo ready; exec sleep 600"), None);
    running.wait_stdout("ready");
    let guest = inside.guest.take().expect("the guest");
    signal(guest.pid(), Signal::KILL);
    let _ = guest.finish();
    assert_eq!(running.finish().code, 137);
    inside.exec(&[], "true").fails_with(255, &["cannot reach the guest"]);
}
