//! Nonsense on the control socket, from either side.

use crate::common::{DEADLINE, poll};
use crate::machine::{Machine, one};
use magikrun::limits::ANSWER_TIMEOUT;
use magikrun::vm::Guest;
use magikrun::vm::protocol::VERSION;
use magikrun::vm::protocol::frame::{Kind, MAX_DATA, MAX_MESSAGE, encode, encode_json};
use magikrun::vm::protocol::message::{Failure, FailureKind, Hello, Reply, Request};
use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

fn hello() -> Vec<u8> {
    encode_json(Kind::Hello, &Hello::new("a test")).unwrap()
}

/// Bytes that begin well and go on as nobody should.
fn nonsense(random: &mut fastrand::Rng) -> Vec<u8> {
    let length = random.usize(0..2000);
    let garbage: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(length).collect();
    let request = encode_json(Kind::Message, &Request::Ping).unwrap();
    let mut bytes = if random.bool() { hello() } else { Vec::new() };
    match random.u8(0..7) {
        0 => bytes.extend(garbage),
        1 => bytes.extend(&request[..random.usize(0..request.len())]),
        2 => bytes.extend([2, 0xff, 0xff, 0xff, 0xff]),
        3 => bytes.extend(encode(Kind::Message, &garbage).unwrap()),
        4 => bytes.extend(encode(Kind::Stdin, &garbage).unwrap()),
        5 => {
            let at = random.usize(0..request.len());
            bytes.extend(&request);
            let at = at.min(bytes.len() - 1);
            bytes[at] ^= 1 << random.u8(0..8);
        }
        _ => {
            let text = "[".repeat(random.usize(1..100_000));
            bytes.extend(encode(Kind::Message, text.as_bytes()).unwrap());
        }
    }
    bytes
}

#[test]
fn a_guest_that_is_sent_nonsense_goes_on() {
    let machine = Machine::ready(one("exec sleep 600"));
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut open = Vec::new();
    for _ in 0..300 {
        let mut stream = UnixStream::connect(machine.guest().path()).unwrap();
        let _ = stream.write_all(&nonsense(&mut random));
        if random.bool() {
            open.push(stream);
        }
    }
    assert_eq!(machine.sh("echo fine").stdout, "fine\n");
    drop(open);
    poll("the guest to answer", || machine.guest().ping(DEADLINE).ok());
}

#[test]
fn a_request_of_another_version_is_refused_with_both_versions() {
    let machine = Machine::ready(one("exec sleep 600"));
    let mut stream = UnixStream::connect(machine.guest().path()).unwrap();
    let newer = Hello { oldest: 40, newest: 41, program: "a test".to_owned() };
    stream.write_all(&encode_json(Kind::Hello, &newer).unwrap()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let expected = format!("the host speaks versions 40 to 41, this guest {VERSION}");
    assert!(answer.contains(&expected), "{answer:?}");
}

#[test]
fn more_input_than_the_window_ends_the_connection() {
    let machine = Machine::ready(one("exec sleep 600"));
    let mut started = machine.start(crate::machine::shell("exec sleep 600")).unwrap();
    let deadline = Instant::now() + DEADLINE;
    let e = loop {
        if let Err(e) = started.connection.send_data(Kind::Stdin, &vec![0; MAX_DATA], deadline) {
            break Some(e);
        }
        match started.connection.try_receive().unwrap() {
            magikrun::vm::connection::Received::Closed => break None,
            magikrun::vm::connection::Received::Frame(frame) => {
                if let Ok(Reply::Failed(failure)) = frame.parse() {
                    assert!(failure.message.contains("window"), "{failure:?}");
                    break None;
                }
            }
            magikrun::vm::connection::Received::Nothing => {}
        }
    };
    assert!(e.is_none_or(|e| e.is_hangup()));
    assert_eq!(machine.sh("echo fine").stdout, "fine\n");
}

/// A guest that answers every connection with these bytes, and then closes or waits.
fn hostile(bytes: Vec<u8>, close: bool) -> (tempfile::TempDir, Guest) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("control.sock");
    let listener = UnixListener::bind(&path).unwrap();
    std::thread::spawn(move || {
        let mut open = Vec::new();
        while let Ok((mut stream, _)) = listener.accept() {
            let bytes = bytes.clone();
            // A host that has heard enough closes.
            std::thread::spawn(move || {
                let _ = stream.write_all(&bytes);
                if !close {
                    let mut rest = Vec::new();
                    let _ = stream.read_to_end(&mut rest);
                }
            });
            open.push(());
        }
    });
    (dir, Guest::at(path))
}

#[test]
fn a_guest_that_says_nonsense_is_an_error_and_costs_no_memory() {
    let with_hello = |more: &[u8]| [hello(), more.to_vec()].concat();
    let reply = |reply: &Reply| encode_json(Kind::Message, reply).unwrap();
    let answers: Vec<Vec<u8>> = vec![
        b"HTTP/1.1 200 OK\r\n\r\n".to_vec(),
        vec![0; 100_000],
        encode_json(Kind::Hello, &Hello { oldest: 9, newest: 9, program: "x\u{1b}[2J".repeat(20) }).unwrap(),
        reply(&Reply::Done),
        with_hello(&[2, 0xff, 0xff, 0xff, 0xff]),
        with_hello(&encode(Kind::Message, &vec![b'['; MAX_MESSAGE]).unwrap()),
        with_hello(&encode(Kind::Stdout, &vec![b'x'; MAX_DATA]).unwrap().repeat(100)),
        with_hello(&reply(&Reply::Done)),
        with_hello(&hello()),
        with_hello(&reply(&Reply::Failed(Failure {
            kind: FailureKind::System,
            message: "\u{1b}]0;x\u{7}".repeat(9999),
        }))),
    ];
    for bytes in answers {
        let (_dir, guest) = hostile(bytes, false);
        let errors = [
            guest.ping(DEADLINE).unwrap_err(),
            guest.stats("", DEADLINE).unwrap_err(),
            guest
                .logs("", DEADLINE)
                .err()
                .unwrap_or_else(|| magikrun::Error::new(magikrun::ErrorKind::System, "none")),
            guest.exec(exec(), DEADLINE).unwrap_err(),
        ];
        for e in errors {
            assert!(!e.message().contains(['\u{1b}', '\u{7}', '\n']), "{e:?}");
            assert!(e.message().len() < 8000, "{} bytes", e.message().len());
        }
    }
}

fn exec() -> magikrun::vm::protocol::message::Exec {
    magikrun::vm::protocol::message::Exec {
        container: String::new(),
        process: crate::machine::shell("true"),
        stdin: false,
        detach: false,
    }
}

#[test]
fn random_answers_never_hang_or_panic() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    for _ in 0..40 {
        let (_dir, guest) = hostile(nonsense(&mut random), true);
        let _ = guest.ping(DEADLINE);
        let _ = guest.processes("", DEADLINE);
        let _ = guest.exec(exec(), DEADLINE);
    }
}

#[test]
fn a_guest_that_is_silent_is_given_up_at_the_deadline() {
    for bytes in [Vec::new(), hello(), [hello(), vec![2, 0, 0, 1, 0, b'{']].concat()] {
        let (_dir, guest) = hostile(bytes, false);
        let begin = Instant::now();
        let e = guest.ping(Duration::from_millis(100)).unwrap_err();
        assert_eq!(e.kind(), magikrun::ErrorKind::Timeout, "{e}");
        assert!(begin.elapsed() < ANSWER_TIMEOUT);
    }
}

#[test]
fn a_socket_that_closes_is_tried_again_until_the_guest_listens_or_the_machine_has_ended() {
    let (_dir, guest) = hostile(Vec::new(), true);
    let tries = std::cell::Cell::new(0);
    let going = || {
        tries.set(tries.get() + 1);
        tries.get() < 5
    };
    let e = guest.ready(DEADLINE, going).unwrap_err();
    assert!(e.message().contains("the virtual machine has ended"), "{e}");
    assert!(tries.get() >= 5);
    let nowhere = Guest::at("/nonexistent/control.sock");
    assert!(nowhere.ping(DEADLINE).unwrap_err().message().contains("the virtual machine has ended"));
}
