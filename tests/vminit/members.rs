//! Containers that are made while the guest runs.

use crate::common::{DEADLINE, busybox_rootfs, poll};
use crate::machine::{Machine, container, follow, one, place, send, shell, wait_for};
use magikrun::vm::client::Started;
use magikrun::vm::protocol::message::{Exec, Request, Target};
use magikrun::vm::protocol::spec::Container;
use std::time::{Duration, Instant};

/// A guest with a first container, as the sandbox of a pod is one.
fn pod() -> Machine {
    Machine::ready(one("exec sleep 600"))
}

/// A container with a root of its own that is not in the specification of the guest.
fn member(machine: &Machine, name: &str, script: &str) -> Container {
    if !machine.dir().join(name).exists() {
        busybox_rootfs(&machine.dir().join(name));
    }
    let mut value = container(name, script);
    value["stdin"] = true.into();
    place(&mut value, machine.dir().to_str().expect("UTF-8"));
    serde_json::from_value(value).expect("a container")
}

fn run(machine: &Machine, name: &str, script: &str) -> Started {
    machine.guest().run(member(machine, name, script), DEADLINE).expect("the container runs")
}

#[test]
fn a_container_of_its_own_lives_with_its_connection() {
    let machine = pod();
    let script = "read line; echo $line; hostname; ls /; echo err >&2; test -e /file; echo $? $$; exit 7";
    std::fs::write(machine.dir().join("app/file"), "").expect("a file of the first container");
    let one = run(&machine, "one", script);
    send(&one, b"typed\n");
    let done = follow(one);
    assert_eq!((done.code, done.stderr.as_str()), (7, "err\n"));
    // A root and processes of its own, and the name that all have.
    assert!(done.stdout.starts_with("typed\nguest\n") && done.stdout.ends_with("\n1 1\n"), "{done:?}");
    // Its name is free again.
    assert_eq!(follow(run(&machine, "one", "kill -TERM $$; exit 3")).code, 3);
    let two = run(&machine, "two", "sleep 600 & exec sleep 601");
    let sleeps = || machine.guest().processes("two", DEADLINE).map_or(0, |all| all.len());
    poll("both processes", || (sleeps() == 2).then_some(()));
    drop(two);
    poll("the end of the container", || machine.guest().processes("two", DEADLINE).is_err().then_some(()));
    assert_eq!(machine.sh("echo alive").stdout, "alive\n");
}

#[test]
fn requests_reach_it_by_its_name_and_its_connection() {
    let machine = pod();
    let mut app =
        run(&machine, "web", "trap 'echo told; exit 9' TERM; echo ready; while :; do sleep 0.05; done");
    wait_for(&mut app, "ready");
    let exec = |script: &str| {
        let exec = Exec { container: "web".to_owned(), process: shell(script), stdin: false, detach: false };
        follow(machine.guest().exec(exec, DEADLINE).expect("the process starts"))
    };
    let done = exec("cat /proc/1/comm; exit 5");
    assert_eq!((done.code, done.stdout.as_str()), (5, "sh\n"));
    assert!(machine.guest().stats("web", DEADLINE).expect("statistics").pids > 0);
    let e = machine.guest().limit("web", [("../x".to_owned(), "1".to_owned())].into(), DEADLINE).unwrap_err();
    assert!(e.message().contains("no file of a cgroup"), "{e}");
    let e = machine.guest().run(member(&machine, "web", "true"), DEADLINE).unwrap_err();
    assert!(e.message().contains("is there already"), "{e}");
    let e = machine.guest().run(member(&machine, "app", "true"), DEADLINE).unwrap_err();
    assert!(e.message().contains("is there already"), "{e}");
    machine.guest().signal(Target::Container("nobody".to_owned()), 15, false, DEADLINE).unwrap_err();
    let request = Request::Signal { target: Target::This, signal: 15, all: false };
    app.connection.send_message(&request, Instant::now() + DEADLINE).expect("the signal is sent");
    let done = follow(app);
    assert_eq!((done.code, done.stdout.as_str()), (9, "told\n"));
}

#[test]
fn containers_share_the_pids_of_another_where_they_ask_for_it() {
    let machine = pod();
    let shares = |name: &str, other: &str, script: &str| {
        let pid_namespace = Some(other.to_owned());
        machine.guest().run(Container { pid_namespace, ..member(&machine, name, script) }, DEADLINE)
    };
    let commands = |name: &str| {
        let all = machine.guest().processes(name, DEADLINE).unwrap_or_default();
        // The first process of the namespace reaps nobody.
        all.into_iter().filter(|it| it.state != 'Z').map(|it| it.command).collect::<Vec<_>>()
    };
    let alone = || (commands("app") == ["sleep 600"]).then_some(());
    poll("the first container to be what it executes", alone);
    let script = "tr '\\0' ' ' </proc/1/cmdline; [ $$ != 1 ] && ls / | grep -c file";
    std::fs::write(machine.dir().join("app/file"), "").expect("a file of the first container");
    // The processes of the other, and none of its files.
    let done = follow(shares("one", "app", script).expect("it runs"));
    assert_eq!((done.code, done.stdout.as_str()), (1, "sleep 600 0\n"));
    let mut two = shares("two", "app", "sleep 777 & echo ready; wait").expect("it runs");
    wait_for(&mut two, "ready");
    poll("its processes", || {
        (commands("two") == ["sh -c sleep 777 & echo ready; wait", "sleep 777"]).then_some(())
    });
    assert_eq!(commands("app").len(), 3, "{:?}", commands("app"));
    // With its first process all of its own end, and nobody else's.
    drop(two);
    poll("the end of both, and of none else", alone);
    let e = shares("three", "nobody", "true").unwrap_err();
    assert!(e.message().contains("no container 'nobody'"), "{e}");
    // The end of the first process of the namespace is that of all in it.
    let mut three = run(&machine, "three", "echo ready; sleep 600");
    wait_for(&mut three, "ready");
    let mut four = shares("four", "three", "echo ready; sleep 600").expect("it runs");
    wait_for(&mut four, "ready");
    drop(three);
    assert_eq!(follow(four).code, 137);
}

#[test]
fn one_that_cannot_start_leaves_the_others_and_all_end_with_the_machine() {
    let machine = pod();
    let mut missing = member(&machine, "missing", "true");
    missing.process.args = vec!["no-such-program".to_owned()];
    let e = machine.guest().run(missing, DEADLINE).unwrap_err();
    assert_eq!(e.message(), "exec: \"no-such-program\": executable file not found in $PATH");
    let e =
        machine.guest().run(Container { name: "../x".to_owned(), ..member(&machine, "x", "true") }, DEADLINE);
    assert!(e.unwrap_err().message().contains("no name of a container"));
    let mut last =
        run(&machine, "last", "trap 'echo bye; exit 4' TERM; echo ready; while :; do sleep 0.05; done");
    wait_for(&mut last, "ready");
    // The first container does not hear the signal.
    machine.guest().stop(Duration::from_secs(10), DEADLINE).expect("the guest stops");
    let e = machine.guest().run(member(&machine, "late", "true"), DEADLINE).unwrap_err();
    assert!(e.message().contains("about to end") || e.message().contains("ended"), "{e}");
    let done = follow(last);
    assert_eq!((done.code, done.stdout.as_str()), (4, "bye\n"));
    machine.finish();
}
