//! Standard input and terminals of containers that are no console's.

use crate::common::DEADLINE;
use crate::machine::{Machine, container};
use magikrun::vm::connection::Connection;
use magikrun::vm::protocol::STDIN_WINDOW;
use magikrun::vm::protocol::frame::Kind;
use magikrun::vm::protocol::message::{Reply, Request, Target};
use magikrun::vm::protocol::spec::Size;
use serde_json::{Value, json};
use std::time::Instant;

/// A machine with one container that waits to be started, and these fields of it.
fn machine(script: &str, fields: Value) -> Machine {
    let mut app = container("app", script);
    (app["stdio"], app["onRequest"]) = (json!("followed"), json!(true));
    for (name, value) in fields.as_object().into_iter().flatten() {
        app[name] = value.clone();
    }
    Machine::ready(json!({"version": 1, "containers": [app], "end": "asked"}))
}

/// Starts the container; its output and its input.
fn start(machine: &Machine) -> (Connection, Connection) {
    machine.guest().start("app", DEADLINE).expect("it starts");
    let output = machine.guest().follow("app", DEADLINE).expect("its output");
    (output, machine.guest().input("app", DEADLINE).expect("its input"))
}

fn send(input: &Connection, data: &[u8]) {
    input.send_data(Kind::Stdin, data, Instant::now() + DEADLINE).expect("input is sent");
}

/// What is written until it is `needle`, or to the end.
fn read(output: &mut Connection, needle: Option<&str>) -> String {
    let mut said = String::new();
    while needle.is_none_or(|needle| !said.contains(needle)) {
        let frame =
            output.receive(Instant::now() + DEADLINE).expect("a frame").expect("no end before it is told");
        if frame.kind != Kind::Stdout {
            assert_eq!(frame.parse(), Ok(Reply::Done), "{said}");
            break;
        }
        said.push_str(&String::from_utf8_lossy(&frame.body));
    }
    said
}

fn reply(connection: &mut Connection) -> Reply {
    connection.reply(Instant::now() + DEADLINE).expect("an answer").expect("no end before it")
}

#[test]
fn a_container_gets_its_input_by_a_connection_and_each_time_it_is_started() {
    let machine = machine("cat; echo over", json!({"stdin": true}));
    for _ in 0..2 {
        let (mut output, mut input) = start(&machine);
        send(&input, b"one\n");
        assert_eq!(read(&mut output, Some("\n")), "one\n");
        assert_eq!(reply(&mut input), Reply::Taken { bytes: 4 });
        // Another takes its place, and its end is nobody's.
        let other = machine.guest().input("app", DEADLINE).expect("its input");
        assert_eq!(reply(&mut input), Reply::Done);
        drop(other);
        let mut input = machine.guest().input("app", DEADLINE).expect("its input");
        send(&input, b"two\n");
        assert_eq!(read(&mut output, Some("\n")), "two\n");
        send(&input, b"");
        assert_eq!(read(&mut output, None), "over\n");
        assert_eq!(reply(&mut input), Reply::Taken { bytes: 4 });
        assert_eq!(reply(&mut input), Reply::Done);
    }
}

#[test]
fn a_container_has_no_other_input_and_no_more_than_the_window() {
    let none = machine("cat; sleep 600", json!({}));
    none.guest().start("app", DEADLINE).expect("it starts");
    let mut input = none.guest().input("app", DEADLINE).expect("a connection");
    let e = input.reply(Instant::now() + DEADLINE).unwrap_err();
    assert!(e.message().contains("has no standard input"), "{e}");
    let machine = machine("sleep 600", json!({"stdin": true}));
    let (_output, mut input) = start(&machine);
    let piece = vec![b'x'; 32 << 10];
    // A pipe takes some of it.
    let refused = (0..3 * STDIN_WINDOW / piece.len()).find_map(|_| {
        let deadline = Instant::now() + DEADLINE;
        input.send_data(Kind::Stdin, &piece, deadline).err().map(|e| e.message().to_owned())
    });
    let told = loop {
        match input.reply(Instant::now() + DEADLINE) {
            Ok(Some(Reply::Taken { .. })) => {}
            Ok(_) => break refused,
            Err(e) => break Some(e.message().to_owned()),
        }
    };
    let told = told.expect("it is refused");
    assert!(told.contains("window") || told.contains("cannot send"), "{told}");
    assert_eq!(machine.sh("echo fine").stdout, "fine\n");
}

#[test]
fn a_terminal_of_a_container_has_its_input_and_a_size_that_changes() {
    let script = "tty; trap 'stty size' WINCH; read line; echo \"got $line\"; while :; do sleep 0.05; done";
    let mut process = container("app", script)["process"].take();
    process["terminal"] = json!(true);
    let machine = machine(script, json!({"stdin": true, "process": process}));
    let (mut output, input) = start(&machine);
    assert_eq!(read(&mut output, Some("/0")).trim(), "/dev/pts/0");
    send(&input, b"line\n");
    read(&mut output, Some("got line"));
    let resize = Request::Resize { target: Target::This, size: Size { columns: 20, rows: 10 } };
    input.send_message(&resize, Instant::now() + DEADLINE).expect("it is sent");
    read(&mut output, Some("10 20"));
    send(&input, b"\x03");
    read(&mut output, None);
    let code = machine.guest().ping(DEADLINE).expect("a status").containers[0].exit_code;
    assert_eq!(code, Some(130));
}
