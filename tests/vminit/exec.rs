//! Executing processes in a guest.

use crate::common::{DEADLINE, poll};
use crate::machine::{Machine, follow, follow_with, one, send, shell, wait_for};
use magikrun::vm::protocol::message::{Exec, Request, Target};
use magikrun::vm::protocol::spec::{Capabilities, Process, Rlimit, Size};
use std::time::Instant;

const SLEEP: &str = "exec sleep 600";

#[test]
fn output_and_exit_code_of_a_command_come_back() {
    let machine = Machine::ready(one(SLEEP));
    let done = machine.sh("echo out; echo err >&2; exit 7");
    assert_eq!((done.code, done.stdout.as_str(), done.stderr.as_str()), (7, "out\n", "err\n"));
    assert_eq!(machine.sh("kill -TERM $$").code, 128 + 15);
    assert_eq!(machine.sh("hostname; echo $HOME").stdout, "guest\n/root\n");
    poll("the first process to be the container's", || {
        (machine.sh("cat /proc/1/comm").stdout == "sleep\n").then_some(())
    });
}

#[test]
fn a_program_that_cannot_be_executed_is_an_error_in_the_words_of_runc() {
    let machine = Machine::ready(one(SLEEP));
    let of = |args: &[&str]| Process { args: args.iter().map(|a| (*a).to_owned()).collect(), ..shell("") };
    let e = machine.start(of(&["no-such-program"])).unwrap_err();
    assert_eq!(e.message(), "exec: \"no-such-program\": executable file not found in $PATH");
    let e = machine.start(of(&["/etc/passwd"])).unwrap_err();
    assert_eq!(e.message(), "exec: \"/etc/passwd\": permission denied");
    let e = machine.start(Process { cwd: "/nowhere".to_owned(), ..shell("true") }).unwrap_err();
    assert!(e.message().contains("chdir to cwd (\"/nowhere\")"), "{e}");
    assert!(machine.start(of(&[])).is_err());
}

#[test]
fn a_process_is_who_it_was_asked_to_be() {
    let machine = Machine::ready(one(SLEEP));
    let process = Process {
        uid: 1000,
        gid: 1001,
        groups: vec![7, 8],
        umask: Some(0o27),
        cwd: "/home".to_owned(),
        capabilities: Capabilities { bounding: 1 << 5, ..Capabilities::default() },
        no_new_privileges: true,
        rlimits: vec![Rlimit { kind: "RLIMIT_NOFILE".to_owned(), soft: 99, hard: 100 }],
        ..shell(
            "id -u; id -g; id -G; umask; pwd; ulimit -n; echo $HOME; grep -E 'CapBnd|CapPrm|NoNewPrivs' /proc/self/status",
        )
    };
    let done = machine.exec(process);
    let lines: Vec<_> = done.stdout.lines().collect();
    assert_eq!(lines[..4], ["1000", "1001", "1001 7 8", "0027"], "{done:?}");
    assert_eq!(lines[4..7], ["/home", "99", "/home"], "{done:?}");
    assert!(done.stdout.contains("CapPrm:\t0000000000000000\nCapBnd:\t0000000000000020\n"), "{done:?}");
    assert!(done.stdout.contains("NoNewPrivs:\t1"), "{done:?}");
}

#[test]
fn input_arrives_and_ends_also_when_it_is_more_than_fits_into_memory() {
    let machine = Machine::ready(one(SLEEP));
    let started = machine.start(shell("cat")).unwrap();
    send(&started, b"hello ");
    send(&started, b"there");
    send(&started, b"");
    assert_eq!(follow(started).stdout, "hello there");

    // Eight times the window, sent as it is taken.
    let total = magikrun::vm::protocol::STDIN_WINDOW * 8;
    let started = machine.start(shell("wc -c")).unwrap();
    let sender = magikrun::vm::connection::Connection::from(
        rustix::io::dup(&started.connection).expect("a copy of the connection"),
    );
    let piece = vec![b'x'; 16 << 10];
    let deadline = Instant::now() + DEADLINE;
    let mut left = total;
    let mut window = magikrun::vm::protocol::STDIN_WINDOW;
    let mut fill = |taken: usize| {
        window += taken;
        while left > 0 && window >= piece.len() {
            let kind = magikrun::vm::protocol::frame::Kind::Stdin;
            sender.send_data(kind, &piece, deadline).unwrap();
            left -= piece.len();
            window -= piece.len();
            if left == 0 {
                sender.send_data(kind, b"", deadline).unwrap();
            }
        }
    };
    fill(0);
    assert_eq!(follow_with(started, |bytes| fill(bytes as usize)).stdout.trim(), total.to_string());
}

#[test]
fn a_reader_that_does_not_read_stops_its_own_process_alone() {
    let machine = Machine::ready(one(SLEEP));
    let started = machine.start(shell("head -c 8000000 /dev/zero; echo written >&2")).unwrap();
    assert_eq!(machine.sh("echo others go on").stdout, "others go on\n");
    let done = follow(started);
    assert_eq!((done.stdout.len(), done.stderr.as_str(), done.code), (8_000_000, "written\n", 0));
}

#[test]
fn a_terminal_has_a_size_that_changes_and_passes_control_characters_on() {
    let machine = Machine::ready(one(SLEEP));
    let size = Some(Size { columns: 91, rows: 33 });
    let script = "tty; stty size; trap 'stty size' WINCH; trap 'echo interrupted; exit 3' INT; echo ready; \
                  while :; do sleep 0.05; done";
    let mut started = machine.start(Process { terminal: true, size, ..shell(script) }).unwrap();
    let said = wait_for(&mut started, "ready");
    assert!(said.starts_with("/dev/pts/0\r\n33 91\r\n"), "{said:?}");
    let resize = Request::Resize { target: Target::This, size: Size { columns: 20, rows: 10 } };
    started.connection.send_message(&resize, Instant::now() + DEADLINE).unwrap();
    wait_for(&mut started, "10 20");
    let resize = Request::Resize { target: Target::Exec(started.exec), size: Size { columns: 21, rows: 11 } };
    machine.guest().ask(&resize, DEADLINE).unwrap();
    wait_for(&mut started, "11 21");
    send(&started, b"\x03");
    let done = follow(started);
    assert!(done.stdout.contains("interrupted"), "{done:?}");
    assert_eq!(done.code, 3);
}

#[test]
fn signals_reach_an_exec_and_its_death_is_its_exit_code() {
    let machine = Machine::ready(one(SLEEP));
    let script = "trap 'echo told; exit 5' USR1; echo ready; while :; do sleep 0.05; done";
    let mut started = machine.start(shell(script)).unwrap();
    wait_for(&mut started, "ready");
    machine.guest().signal(Target::Exec(started.exec), 10, false, DEADLINE).unwrap();
    let done = follow(started);
    assert_eq!((done.stdout.as_str(), done.code), ("told\n", 5));
    let started = machine.start(shell(SLEEP)).unwrap();
    let kill = Request::Signal { target: Target::This, signal: 9, all: false };
    started.connection.send_message(&kill, Instant::now() + DEADLINE).unwrap();
    assert_eq!(follow(started).code, 137);
    let e = machine.guest().signal(Target::Exec(999), 9, false, DEADLINE).unwrap_err();
    assert!(e.message().contains("no exec 999"), "{e}");
}

#[test]
fn a_process_dies_with_its_connection_unless_it_is_detached() {
    let machine = Machine::ready(one(SLEEP));
    let count = |name: &str| {
        let all = machine.guest().processes("", DEADLINE).unwrap();
        all.iter().filter(|process| process.command.contains(name)).count()
    };
    let started = machine.start(shell("exec sleep 1111")).unwrap();
    // While a program is executed, the kernel shows no arguments for a moment.
    poll("the process", || (count("sleep 1111") == 1).then_some(()));
    drop(started);
    poll("the process without a connection to die", || (count("sleep 1111") == 0).then_some(()));
    let exec =
        Exec { container: "app".to_owned(), process: shell("exec sleep 2222"), stdin: false, detach: true };
    drop(machine.guest().exec(exec, DEADLINE).unwrap());
    for _ in 0..10 {
        machine.sh("true");
    }
    poll("the detached process", || (count("sleep 2222") == 1).then_some(()));
}

#[test]
fn a_hundred_processes_run_side_by_side() {
    let machine = Machine::ready(one(SLEEP));
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..100u8)
            .map(|number| {
                let machine = &machine;
                scope.spawn(move || machine.sh(&format!("echo {number}; sleep 0.2; exit {number}")))
            })
            .collect();
        for (number, thread) in threads.into_iter().enumerate() {
            let done = thread.join().unwrap();
            assert_eq!((done.code as usize, done.stdout), (number, format!("{number}\n")));
        }
    });
    assert_eq!(machine.guest().processes("", DEADLINE).unwrap().len(), 1);
}

#[test]
fn more_processes_than_the_limit_are_refused_and_their_ends_make_room() {
    let machine = Machine::ready(one(SLEEP));
    let mut running = Vec::new();
    let refused = loop {
        match machine.start(Process { args: vec!["sleep".to_owned(), "600".to_owned()], ..shell("") }) {
            Ok(started) => running.push(started),
            Err(e) => break e,
        }
        assert!(running.len() < 2000, "there is no limit");
    };
    assert!(refused.message().starts_with("more than "), "{refused}");
    drop(running);
    poll("room for another process", || machine.start(shell("true")).ok());
}
