//! Further processes in a running microVM.

use crate::common::pods::in_terminal;
use crate::common::{ConsoleSocket, Runtime, finish, is_alive, poll, signal, start};
use crate::microvm;
use serde_json::Value;

#[test]
fn exec_goes_into_the_guest() {
    let runtime = Runtime::new();
    let bundle = microvm(&runtime, "echo mine >/tmp/mark; sleep 600");
    runtime.detach(&bundle);
    let id = bundle.id.as_str();
    runtime.exec(id, "until [ -s /tmp/mark ]; do sleep 0.1; done").success();
    let output = runtime.exec(id, "uname -r; cat /tmp/mark; echo oops >&2; exit 3").exits(3);
    let host = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("the release");
    assert_ne!(output.stdout.lines().next().expect("a release"), host.trim());
    assert!(output.stdout.ends_with("mine\n"), "{}", output.stdout);
    assert_eq!(output.stderr, "oops\n");
    let output = finish(runtime.command(&["exec", id, "cat"]), Some(b"through\n")).success();
    assert_eq!(output.stdout, "through\n");
    runtime.call(&["exec", id, "nonsense"]).fails_with(255, &["executable file not found in $PATH"]);
    let who = ["exec", "--user", "1000:1001", "--cwd", "/tmp", "--env", "X=a b", id, "sh", "-c"];
    let output = runtime.ok(&[&who[..], &["id -u; id -g; pwd; echo \"$X\""]].concat());
    assert_eq!(output.stdout, "1000\n1001\n/tmp\na b\n");
    let table = runtime.ok(&["ps", id]).stdout;
    assert!(table.contains("sleep 600"), "{table}");
    let stats: Value =
        serde_json::from_str(&runtime.ok(&["events", "--stats", id]).stdout).expect("statistics");
    let used = stats["data"]["memory"]["usage"]["usage"].as_u64();
    assert!(used.is_some_and(|bytes| bytes > 10 << 20), "{stats}");
    runtime.call(&["update", "--memory", "300000000", id]).fails_with(1, &["microVM"]);
    a_terminal_of_its_own(&runtime, id);
    one_whose_stand_in_is_killed(&runtime, id);
    those_that_are_killed_in_the_guest(&runtime, id);
    runtime.ok(&["pause", id]);
    runtime.call(&["exec", id, "true"]).fails_with(255, &["paused"]);
    runtime.call(&["ps", id]).fails_with(1, &["paused"]);
    runtime.ok(&["delete", "--force", id]);
    runtime.assert_nothing_left();
}

fn a_terminal_of_its_own(runtime: &Runtime, id: &str) {
    let console = ConsoleSocket::listen(runtime.dir(), "exec");
    let options = ["exec", "--tty", "--detach", "--console-socket", console.path(), id, "sh", "-c"];
    // A shell that waits hears the key at once; a child that it is just making could hear it in its stead.
    let script = "trap 'echo got-int' INT; tty; echo ready; read x; stty size; sleep 600 & wait; echo over";
    runtime.ok(&[&options[..], &[script]].concat());
    let mut terminal = console.terminal();
    let said = terminal.read_until("ready");
    assert!(said.contains("/dev/pts/"), "{said}");
    terminal.resize(44, 111);
    terminal.write("go\n");
    terminal.read_until("44 111");
    terminal.write("\u{3}");
    terminal.read_until("got-int");
}

fn one_whose_stand_in_is_killed(runtime: &Runtime, id: &str) {
    let file = runtime.path("pid");
    let file = file.to_str().expect("a path");
    runtime.ok(&["exec", "--detach", "--pid-file", file, id, "sleep", "500"]);
    assert!(runtime.ok(&["ps", id]).stdout.contains("sleep 500"));
    let pid = std::fs::read_to_string(file).expect("the pid file").parse().expect("a pid");
    assert!(is_alive(pid));
    signal(pid, rustix::process::Signal::KILL);
    poll("the process in the guest to be killed", || {
        (!runtime.ok(&["ps", id]).stdout.contains("sleep 500")).then_some(())
    });
}

/// Whoever waits on the host hears of it as natively, whatever they leave behind there.
fn those_that_are_killed_in_the_guest(runtime: &Runtime, id: &str) {
    // What it leaves holds its output open.
    let output = runtime.exec(id, "sleep 501 & echo left; kill -KILL $$").exits(137);
    assert_eq!(output.stdout, "left\n");
    let script = "echo $$ >/tmp/pid; echo up; exec sleep 502";
    let waiting = start(runtime.command(&["exec", id, "sh", "-c", script]), None);
    waiting.wait_stdout("up");
    runtime.exec(id, "kill -KILL $(cat /tmp/pid)").success();
    assert_eq!(waiting.finish().exits(137).stdout, "up\n");
    let (mut client, mut terminal) =
        in_terminal(runtime.command(&["exec", "--tty", id, "sh", "-c", script]), 24, 80);
    terminal.read_until("up");
    runtime.exec(id, "kill -KILL $(cat /tmp/pid)").success();
    assert_eq!(client.wait().expect("the client").code(), Some(137));
    assert!(!runtime.ok(&["ps", id]).stdout.contains("sleep 502"));
}
