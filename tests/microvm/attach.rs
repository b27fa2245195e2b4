//! Standard input and terminals of containers in a pod's microVM.

use crate::common::pods::{container, in_terminal, resize_interrupt_and_leave};
use crate::common::{Pods, finish};
use crate::pods::{MEMORY, manifest, pods};

/// `pod attach -i ARGS`, with this as its whole input.
#[track_caller]
fn attach(pods: &Pods, args: &[&str], input: &str) -> crate::common::Output {
    finish(pods.command(&[&["attach", "-i"], args].concat()), Some(input.as_bytes()))
}

#[test]
fn containers_in_a_guest_have_input_and_terminals_as_any_others() {
    let pods = pods();
    let echo = "while read line; do echo \"got $line\"; done; echo over";
    let spec = format!(
        "restartPolicy: Never, containers: [{}, {}, {}]",
        container("shell", "exec sh -i", &format!("stdin: true, tty: true, {MEMORY}")),
        container("read", &format!("{echo}; sleep 600"), &format!("stdin: true, {MEMORY}")),
        container(
            "once",
            "cat >/data; wc -c </data; echo over",
            &format!("stdin: true, stdinOnce: true, {MEMORY}")
        ),
    );
    let id = pods.start(&manifest(&pods.name("attach"), &spec));

    // The end of a client is that of the container only where it is for one client.
    for text in ["one\n", "two\n"] {
        attach(&pods, &["-c", "read", &id], text).exits(0);
        pods.wait_log(&id, "read", &format!("got {}", text.trim()));
    }
    // More than the guest has room for at once.
    let many = "0123456789".repeat(50_000);
    let whole = attach(&pods, &["-c", "once", &id], &many).exits(0);
    assert_eq!(whole.stdout, "500000\nover\n");
    attach(&pods, &["-c", "once", &id], "").fails_with(1, &["container 'once' does not run"]);
    assert!(!pods.ok(&["logs", &id, "read"]).contains("over"));

    let (client, mut terminal) = in_terminal(pods.command(&["attach", "-it", "-c", "shell", &id]), 33, 111);
    terminal.read_until("ctrl-p ctrl-q");
    terminal.write("test -t 0 -a -t 1 -a -t 2 && echo all-thr''ee; tty\r");
    terminal.read_until("all-three");
    terminal.read_until("/dev/");
    terminal.write("while test \"$(stty size)\" != '33 111'; do sleep 0.1; done; echo si''zed\r");
    terminal.read_until("sized");
    resize_interrupt_and_leave(&pods, &id, client, &mut terminal);

    // A command of its own, with a terminal too.
    let (mut client, mut terminal) =
        in_terminal(pods.command(&["exec", "-it", "-c", "read", &id, "sh", "-i"]), 24, 80);
    terminal.write("echo size $(stty size)\r");
    terminal.read_until("size 24 80");
    terminal.write("exit 5\r");
    assert_eq!(client.wait().expect("the client").code(), Some(5));

    let (mut client, mut terminal) = in_terminal(pods.command(&["attach", "-i", "-c", "shell", &id]), 24, 80);
    terminal.read_until("ctrl-p ctrl-q");
    terminal.write("echo ba''ck; exit 7\r");
    terminal.read_until("back");
    assert_eq!(client.wait().expect("the client").code(), Some(7));
    // The pod fails with the first container that does.
    let status = pods.wait_phase(&id, "Failed");
    assert_eq!(status["containers"][0]["exitCode"], 7, "{status}");
    pods.call(&["wait", &id]).exits(7);
    pods.ok(&["delete", &id]);
    pods.assert_nothing_left();
}
