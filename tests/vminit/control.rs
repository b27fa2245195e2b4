//! What the guest tells about itself.

use crate::common::{DEADLINE, poll};
use crate::machine::{Machine, one, shell, wait_for};
use magikrun::vm::protocol::frame::Kind;
use magikrun::vm::protocol::message::{ContainerState, Reply, Request};
use magikrun::vm::protocol::spec::Process;
use serde_json::json;
use std::time::Instant;

#[test]
fn a_ping_tells_of_the_containers() {
    let machine = Machine::ready(one("exec sleep 600"));
    let status = machine.guest().ping(DEADLINE).unwrap();
    assert!(status.ready && status.uptime > 0);
    assert_eq!(
        (status.containers[0].name.as_str(), status.containers[0].state),
        ("app", ContainerState::Running)
    );
    assert!(status.containers[0].pid > 1);
}

#[test]
fn processes_are_listed_with_their_terminals_and_no_others() {
    let machine = Machine::ready(one("exec sleep 600"));
    let mut started =
        machine.start(Process { terminal: true, uid: 1000, ..shell("echo ready; sleep 777") }).unwrap();
    wait_for(&mut started, "ready");
    let all = poll("the process", || {
        let all = machine.guest().processes("app", DEADLINE).unwrap();
        // Shells that become what they sleep with take a moment for it.
        let has = |command: &str| all.iter().any(|process| process.command == command);
        (has("sleep 777") && has("sleep 600")).then_some(all)
    });
    let sleep = all.iter().find(|process| process.command == "sleep 777").unwrap();
    assert_eq!((sleep.uid, sleep.tty.as_str()), (1000, "pts/0"));
    assert!(sleep.started > 1_600_000_000);
    assert!(all.iter().all(|process| !process.command.contains("vminit")), "{all:?}");
}

#[test]
fn statistics_count_what_a_container_uses() {
    let machine = Machine::ready(one("i=0; while [ $i -lt 30000 ]; do i=$((i+1)); done; exec sleep 600"));
    let stats = poll("some processor time", || {
        let stats = machine.guest().stats("app", DEADLINE).unwrap();
        (stats.cpu_usage > 0).then_some(stats)
    });
    assert!(stats.pids >= 1);
    assert!(machine.guest().stats("nobody", DEADLINE).unwrap_err().message().contains("'nobody'"));
}

#[test]
fn limits_are_refused_where_the_kernel_has_no_cgroups() {
    if crate::common::has_controllers(&["memory"]) && !std::path::Path::new("/sys/fs/cgroup/memory").exists()
    {
        // Version 2 alone: the limit is set in the emulated machine's own tests.
        println!("unsupported: hybrid cgroups");
        return;
    }
    let mut spec = one("true");
    spec["containers"][0]["cgroup"] = json!({"memory.max": "33554432"});
    let machine = Machine::boot(spec);
    let e = machine.guest().ready(DEADLINE, || true).unwrap_err();
    assert!(e.message().contains("memory.max"), "{e}");
}

#[test]
fn a_log_is_followed_without_a_gap_to_its_end() {
    // More than is kept, and more than pipes take: it waits for its reader.
    let mut spec = one("i=0; while [ $i -lt 60000 ]; do echo line $i; i=$((i+1)); done; exit 2");
    spec["containers"][0]["stdio"] = json!("followed");
    let machine = Machine::ready(spec);
    let deadline = Instant::now() + DEADLINE;
    let request = Request::Logs { container: "app".to_owned(), follow: true };
    let mut connection = machine.guest().connect(&request, deadline, || true).unwrap();
    let mut log = Vec::new();
    loop {
        let frame = connection.receive(deadline).unwrap().expect("no end before it is told");
        if frame.kind != Kind::Stdout {
            assert_eq!(frame.parse(), Ok(Reply::Done));
            break;
        }
        log.extend(frame.body);
    }
    let text = String::from_utf8(log).unwrap();
    assert_eq!(text.lines().count(), 60_000);
    assert!(text.lines().enumerate().all(|(number, line)| line == format!("line {number}")));
    assert_eq!(machine.finish().code, 2);
}

#[test]
fn who_watches_is_told_of_changes() {
    let mut spec = one("while [ ! -e /go ]; do sleep 0.02; done; exit 8");
    spec["end"] = json!("asked");
    let machine = Machine::ready(spec);
    let deadline = Instant::now() + DEADLINE;
    let mut connection = machine.guest().connect(&Request::Watch, deadline, || true).unwrap();
    let mut next = || match connection.reply(deadline).unwrap() {
        Some(Reply::Status(status)) => status.containers[0].clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(next().state, ContainerState::Running);
    std::fs::write(machine.dir().join("app/go"), "").unwrap();
    let container = next();
    assert_eq!((container.state, container.exit_code, container.pid), (ContainerState::Stopped, Some(8), 0));
}
