//! `pod attach`: standard input, terminals and output of containers, for one client and for many.
mod common;

use common::pods::{WAIT, at_once, container, in_terminal, manifest, monitor, resize_interrupt_and_leave};
use common::{Output, Pods, Running, is_alive, poll, signal, start};
use rustix::process::Signal;
use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::process::Stdio;

/// The pod with these containers, of which any may end.
fn of(name: &str, containers: &[String]) -> String {
    manifest(name, &format!("{{restartPolicy: Never, containers: [{}]}}", containers.join(", ")))
}

/// `pod attach ARGS`, with this as its whole input.
#[track_caller]
fn attach(pods: &Pods, args: &[&str], input: &str) -> Output {
    common::finish(pods.command(&[&["attach"], args].concat()), Some(input.as_bytes()))
}

/// `pod attach -i ARGS` whose input stays open, and its input.
fn attach_open(pods: &Pods, args: &[&str]) -> (Running, std::fs::File) {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).expect("a pipe");
    let running = common::start_with(pods.command(&[&["attach", "-i"], args].concat()), Stdio::from(read));
    (running, write.into())
}

#[test]
fn a_program_reads_what_clients_write_and_its_end_where_nobody_may() {
    let pods = Pods::new();
    let name = pods.name("open");
    let echo = "while read line; do echo \"got $line\"; done; echo over";
    let id = pods.start(&of(
        &name,
        &[
            container("once", echo, "stdin: true, stdinOnce: true"),
            container("read", &format!("{echo}; {WAIT}"), "stdin: true"),
            container("none", &format!("cat; {echo}; {WAIT}"), ""),
        ],
    ));
    pods.wait_log(&id, "none", "over");
    attach(&pods, &["-i", "-c", "none", &id], "x")
        .fails_with(1, &["container 'none' of pod", "'stdin: true'"]);
    for text in ["one\n", "two\n"] {
        let ended = attach(&pods, &["-i", "-c", "read", &id], text);
        ended.exits(0);
        pods.wait_log(&id, "read", &format!("got {}", text.trim()));
    }
    let (client, mut input) = attach_open(&pods, &["-c", "read", &id]);
    input.write_all(b"three\n").unwrap();
    client.wait_stdout("got three\n");
    assert!(!client.stdout().contains("got two"), "only what comes from now on: {}", client.stdout());
    drop(input);
    client.finish().exits(0);
    assert_eq!(pods.status(&id)["phase"], "Running", "the end of a client is not that of the container");
    assert!(!pods.ok(&["logs", &id, "read"]).contains("over"));
    // The first client's end is the container's.
    let whole = attach(&pods, &["-i", "-c", "once", &id], "a\nb\n").exits(0);
    assert_eq!(whole.stdout, "got a\ngot b\nover\n");
    assert!(pods.ok(&["logs", &id, "once"]).ends_with("got b\nover\n"));
    attach(&pods, &["-c", "once", &id], "").fails_with(1, &["container 'once' does not run"]);
    attach(&pods, &["-c", "absent", &id], "").fails_with(1, &["no container 'absent'"]);
    pods.ok(&["delete", "--force", &id]);
    pods.assert_nothing_left();
}

#[test]
fn one_client_has_the_input_that_is_for_one_and_its_death_is_the_end_of_it() {
    let pods = Pods::new();
    let name = pods.name("once");
    let id = pods.start(&of(
        &name,
        &[container(
            "a",
            &format!("trap 'exit 0' TERM; cat; echo over; {WAIT}"),
            "stdin: true, stdinOnce: true",
        )],
    ));
    let (client, mut input) = attach_open(&pods, &[&id]);
    input.write_all(b"hello\n").unwrap();
    client.wait_stdout("hello\n");
    attach(&pods, &["-i", &id], "x").fails_with(1, &["for one client, which has had it (stdinOnce)"]);
    let watcher = start(pods.command(&["attach", "-c", "a", &id]), None);
    poll("the second client to be shown what comes", || {
        input.write_all(b"look\n").unwrap();
        watcher.stdout().contains("look").then_some(())
    });
    signal(client.pid(), Signal::KILL);
    client.finish().exits(128 + 9);
    watcher.wait_stdout("over\n");
    pods.ok(&["stop", &id]);
    watcher.finish().exits(0);
    attach(&pods, &["-i", &id], "x").fails_with(1, &["the pod does not run"]);
    pods.ok(&["delete", &id]);
    pods.assert_nothing_left();
}

#[test]
fn a_container_with_a_terminal_is_used_as_one_and_left_running() {
    let pods = Pods::new();
    let name = pods.name("tty");
    let id = pods.start(&of(
        &name,
        &[
            container("shell", "exec sh -i", "stdin: true, stdinOnce: true, tty: true"),
            container("plain", WAIT, "stdin: true"),
        ],
    ));
    let (client, mut terminal) = in_terminal(pods.command(&["attach", "-it", &id]), 33, 111);
    terminal.read_until("ctrl-p ctrl-q");
    terminal.write("echo size $(stty size) $TERM; test -t 0 -a -t 1 -a -t 2 && echo all-three; tty\r");
    terminal.read_until("size 33 111 xterm");
    terminal.read_until("all-three");
    terminal.read_until("/dev/");
    resize_interrupt_and_leave(&pods, &id, client, &mut terminal);
    let log = pods.ok(&["logs", &id, "shell"]);
    assert!(log.contains("size 33 111 xterm") && log.contains("still here"), "{log}");
    // A terminal stays open, whoever goes.
    let (mut client, mut terminal) = in_terminal(pods.command(&["attach", "-i", "-c", "shell", &id]), 24, 80);
    terminal.read_until("ctrl-p ctrl-q");
    terminal.write("echo ba''ck; exit 7\r");
    terminal.read_until("back");
    assert_eq!(client.wait().unwrap().code(), Some(7));
    pods.wait_phase(&id, "Failed");
    pods.ok(&["delete", &id]);
    let id = pods.start(&of(&name, &[container("plain", WAIT, "stdin: true")]));
    let told = attach(&pods, &["-it", &id], "").exits(0);
    assert!(told.stderr.contains("'plain' has no terminal"), "{}", told.stderr);
    pods.ok(&["delete", "--force", &id]);
    pods.assert_nothing_left();
}

#[test]
fn a_client_that_takes_nothing_stops_nobody_for_long() {
    let pods = Pods::new();
    let name = pods.name("slow");
    let script =
        format!("until read word && [ $word = go ]; do echo here; done; seq 1 300000; echo the-end; {WAIT}");
    let id = pods.start(&of(&name, &[container("a", &script, "stdin: true")]));
    let all = start(pods.command(&["attach", "-c", "a", &id]), None);
    let asleep = start(pods.command(&["attach", "-c", "a", &id]), None);
    poll("two clients that are shown what comes", || {
        attach(&pods, &["-i", &id], "look\n").exits(0);
        [&all, &asleep].iter().all(|client| client.stdout().contains("here")).then_some(())
    });
    signal(asleep.pid(), Signal::STOP);
    attach(&pods, &["-i", &id], "go\n").exits(0);
    all.wait_stdout("the-end\n");
    let lines: Vec<String> = (1..=300_000).map(|n| n.to_string()).collect();
    assert!(
        all.stdout().trim_start_matches("here\n") == format!("{}\nthe-end\n", lines.join("\n")),
        "a client that takes everything has all of it"
    );
    signal(asleep.pid(), Signal::CONT);
    asleep.finish().fails_with(1, &["output was not taken for too long"]);
    pods.ok(&["delete", "--force", &id]);
    all.finish();
    pods.assert_nothing_left();
}

#[test]
fn many_clients_garbage_and_deaths_leave_a_pod_that_works_or_none() {
    let pods = Pods::new();
    let name = pods.name("many");
    let script = format!("while read line; do echo \"got $line\"; done; {WAIT}");
    let id = pods.start(&of(&name, &[container("a", &script, "stdin: true")]));
    let socket = pods.runtime.root().join("~pods/pods").join(&id).join("monitor.sock");
    let mut garbage = Vec::new();
    for bytes in [&b"\xff\xff\xff\xff"[..], b"GET / HTTP/1.0\r\n\r\n", b"\0\0\0\x02{}", b"\0\0\0\x01", b""] {
        let mut stream = UnixStream::connect(&socket).expect("the monitor listens");
        stream.write_all(bytes).unwrap();
        garbage.push(stream);
    }
    // With the writers they must not be more than a pod has at once.
    let watchers: Vec<Running> =
        (0..10).map(|_| start(pods.command(&["attach", "-c", "a", &id]), None)).collect();
    poll("all watchers to be shown what comes", || {
        attach(&pods, &["-i", &id], "look\n").exits(0);
        watchers.iter().all(|watcher| watcher.stdout().contains("got look")).then_some(())
    });
    let writers = (0..20).map(|_| pods.command(&["attach", "-i", &id])).collect();
    for written in at_once(writers) {
        written.exits(0);
    }
    let (client, mut input) = attach_open(&pods, &[&id]);
    input.write_all(b"last\n").unwrap();
    for watcher in &watchers {
        watcher.wait_stdout("got last\n");
    }
    for watcher in watchers {
        signal(watcher.pid(), Signal::KILL);
        watcher.finish();
    }
    input.write_all(b"later\n").unwrap();
    client.wait_stdout("got later\n");
    drop(garbage);
    assert_eq!(pods.status(&id)["phase"], "Running");
    signal(monitor(&name).unwrap(), Signal::KILL);
    client.finish().fails_with(1, &["the monitor of the pod has closed the connection: it was killed"]);
    pods.wait_phase(&id, "Failed");
    pods.ok(&["delete", &id]);
    pods.assert_nothing_left();
}

#[test]
fn clients_that_only_hold_connections_keep_nobody_else_out() {
    let pods = Pods::new();
    let name = pods.name("full");
    let ticks = "trap 'exit 0' TERM; while :; do echo tick; sleep 0.1; done";
    let id = pods.start(&of(&name, &[container("a", ticks, "")]));
    let socket = pods.runtime.root().join("~pods/pods").join(&id).join("monitor.sock");
    let idle: Vec<UnixStream> =
        (0..80).map(|_| UnixStream::connect(&socket).expect("the monitor listens")).collect();
    let watchers: Vec<Running> =
        (0..32).map(|_| start(pods.command(&["attach", "-c", "a", &id]), None)).collect();
    for watcher in &watchers {
        watcher.wait_stdout(
            "tick
",
        );
    }
    attach(&pods, &["-c", "a", &id], "").fails_with(1, &["32 clients are attached to the pod already"]);
    pods.ok(&["stop", &id]);
    for watcher in watchers {
        watcher.finish().exits(0);
    }
    drop(idle);
    pods.ok(&["delete", &id]);
    pods.assert_nothing_left();
}

#[test]
fn fifty_pods_are_attached_to_and_left_at_once() {
    let pods = Pods::new();
    let names: Vec<String> = (0..50).map(|number| pods.name(&format!("p{number}"))).collect();
    let script = format!("read line; echo \"got $line\"; {WAIT}");
    let all: Vec<String> =
        names.iter().map(|name| of(name, &[container("a", &script, "stdin: true")])).collect();
    for ten in all.chunks(10) {
        pods.start(&ten.join("---\n"));
    }
    let clients: Vec<(Running, std::fs::File)> =
        names.iter().map(|name| attach_open(&pods, &[name])).collect();
    for ((client, mut input), name) in clients.into_iter().zip(&names) {
        input.write_all(format!("{name}\n").as_bytes()).unwrap();
        client.wait_stdout(&format!("got {name}\n"));
        drop(input);
        client.finish().exits(0);
    }
    for name in &names {
        assert!(is_alive(monitor(name).expect("the monitor")));
    }
    at_once(
        names
            .chunks(10)
            .map(|ten| {
                let mut args = vec!["delete", "--force"];
                args.extend(ten.iter().map(String::as_str));
                pods.command(&args)
            })
            .collect(),
    );
    pods.assert_nothing_left();
}
