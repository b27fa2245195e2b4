//! What only our own containerd shim does: how it lives, dies, tells of events, moves output and shares a server.
mod common;

use common::{
    Containerd, Engine, IMAGE, LISTENER, Running, Shim, finish, is_alive, leftover_cgroups, poll, signal,
    start, wait_dead,
};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::process::Command;

/// Options of `ctr run` for a container of a group.
const GROUPED: [&str; 2] = ["--annotation", "io.containerd.runc.v2.group=pod"];
/// Most private memory of a server with one idle container, and for each further one, in KiB.
const IDLE_MEMORY: (u64, u64) = (2048, 307);

fn only_shim(containerd: &Containerd) -> i32 {
    let shims = containerd.shims();
    assert_eq!(shims.len(), 1, "{shims:?}");
    shims[0]
}

/// Private memory of a process in KiB: its anonymous pages. The others are those of the executable, which a second server shares, and
/// which are dirty too as long as a new executable is not on the disk.
fn private_memory(pid: i32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("the maps of the shim");
    let line = text.lines().find(|line| line.starts_with("Anonymous:")).expect("the anonymous memory");
    line.split_whitespace().nth(1).unwrap().parse().expect("a number")
}

/// The children of a process.
fn tasks_of(pid: i32) -> Vec<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().map(str::to_owned).collect()
}

fn threads(pid: i32) -> usize {
    common::names_in(Path::new(&format!("/proc/{pid}/task"))).len()
}

/// `ctr events` in the background.
fn events(containerd: &Containerd) -> Running {
    let running = start(containerd.command(&["events"]), None);
    // It says nothing when it listens; a namespace's label is an event of its own.
    poll("events to arrive", || {
        containerd.ok(&["namespace", "label", &containerd.name, "probe=1"]);
        (!running.stdout().is_empty()).then_some(())
    });
    running
}

/// The topics of tasks and what they are about, in their order.
fn tasks(text: &str) -> Vec<(String, Value)> {
    let line = |line: &str| {
        let (_, rest) = line.split_once(" /tasks/")?;
        let (topic, event) = rest.split_once(' ')?;
        Some((topic.to_owned(), serde_json::from_str(event).expect("an event is JSON")))
    };
    text.lines().filter_map(line).collect()
}

#[test]
fn events_come_in_the_order_of_what_happened() {
    let containerd = Containerd::new(Shim::Own);
    let events = events(&containerd);
    containerd.detached(&[], "box", "sleep 600");
    containerd.exec("box", "one", "exit 4").exits(4);
    containerd.ok(&["task", "pause", "box"]);
    containerd.ok(&["task", "resume", "box"]);
    containerd.ok(&["task", "kill", "--signal", "SIGKILL", "box"]);
    containerd.wait_status("box", "STOPPED");
    containerd.call(&["task", "delete", "box"]);
    poll("the last event", || {
        tasks(&events.stdout()).iter().any(|(topic, _)| topic == "delete").then_some(())
    });
    let found = tasks(&events.stdout());
    let topics: Vec<_> = found.iter().map(|(topic, _)| topic.as_str()).collect();
    let expected =
        ["create", "start", "exec-added", "exec-started", "exit", "paused", "resumed", "exit", "delete"];
    assert_eq!(topics, expected);
    assert_eq!((&found[4].1["id"], &found[4].1["exit_status"]), (&json!("one"), &json!(4)));
    assert_eq!((&found[7].1["id"], &found[7].1["exit_status"]), (&json!("box"), &json!(137)));
    assert_eq!(found[0].1["pid"], found[8].1["pid"]);
    signal(events.pid(), Signal::TERM);
}

#[test]
fn what_a_dead_shim_has_left_is_removed() {
    let containerd = Containerd::new(Shim::Own);
    containerd.detached(&[], "box", "sleep 600 & sleep 600");
    let (pid, _) = containerd.task("box").expect("a task");
    signal(only_shim(&containerd), Signal::KILL);
    wait_dead(pid);
    poll("the task to be gone", || containerd.task("box").is_none().then_some(()));
    poll("the state to be gone", || {
        common::names_in(&containerd.runtime_root()).iter().all(|name| name != "box").then_some(())
    });
    let left = leftover_cgroups(&containerd.name);
    assert!(!left.iter().any(|path| path.ends_with("box")), "{left:?}");
    containerd.ok(&["container", "delete", "box"]);
    containerd.script(&[], "box", "exit 0").success();
}

#[test]
fn containers_outlive_containerd_and_are_found_again() {
    let mut containerd = Containerd::new(Shim::Own);
    let log = containerd.detached(&[], "box", LISTENER);
    containerd.detached(&[], "short", "while [ ! -e /end ]; do sleep 0.1; done; exit 7");
    let (short, _) = containerd.task("short").expect("a task");
    containerd.crash();
    // One ends while containerd is away.
    fs::write(format!("/proc/{short}/root/end"), "").expect("a file in the container");
    wait_dead(short);
    containerd.start();
    containerd.wait_status("short", "STOPPED");
    let deleted = containerd.ok(&["task", "delete", "short"]);
    assert!(deleted.stderr.contains("exit code 7"), "{deleted:?}");
    containerd.wait_status("box", "RUNNING");
    assert_eq!(containerd.exec("box", "after", "echo again").success().stdout, "again\n");
    containerd.ok(&["task", "kill", "--signal", "SIGTERM", "box"]);
    containerd.wait_status("box", "STOPPED");
    assert_eq!(fs::read_to_string(&log).expect("the log"), "ready\nterm\n");
    let deleted = containerd.ok(&["task", "delete", "box"]);
    assert!(deleted.stderr.contains("exit code 42"), "{deleted:?}");
    poll("the shims to end", || containerd.shims().is_empty().then_some(()));
}

#[test]
fn nothing_is_lost_while_containerd_does_not_answer() {
    let containerd = Containerd::new(Shim::Own);
    let events = events(&containerd);
    let names: Vec<_> = (0..6).map(|n| format!("box{n}")).collect();
    let pids: Vec<_> = names
        .iter()
        .map(|name| {
            containerd.detached(&GROUPED, name, "while [ ! -e /end ]; do sleep 0.1; done; exit $(cat /end)");
            containerd.task(name).expect("a task").0
        })
        .collect();
    signal(containerd.pid(), Signal::STOP);
    for (code, pid) in (10..).zip(&pids) {
        fs::write(format!("/proc/{pid}/root/end.new"), code.to_string()).expect("a file in the container");
        fs::rename(format!("/proc/{pid}/root/end.new"), format!("/proc/{pid}/root/end")).expect("its name");
        wait_dead(*pid);
    }
    signal(containerd.pid(), Signal::CONT);
    let exits = |text: &str| {
        let found = tasks(text).into_iter().filter(|(topic, _)| topic == "exit");
        found.map(|(_, event)| event["exit_status"].as_u64().expect("a status")).collect::<Vec<_>>()
    };
    poll("all events", || (exits(&events.stdout()).len() == names.len()).then_some(()));
    // In the order in which the processes ended, and each once.
    assert_eq!(exits(&events.stdout()), [10, 11, 12, 13, 14, 15]);
    signal(events.pid(), Signal::TERM);
}

#[test]
fn containerd_may_crash_again_and_again_under_load() {
    let mut containerd = Containerd::new(Shim::Own);
    let count = "i=0; while [ ! -e /end ]; do echo $i; i=$((i+1)); done; exit 9";
    let names: Vec<_> = (0..4).map(|n| format!("box{n}")).collect();
    let logs: Vec<_> = names.iter().map(|name| containerd.detached(&GROUPED, name, count)).collect();
    let shim = only_shim(&containerd);
    for round in 0..3 {
        let exec = |n| {
            let id = format!("exec{round}-{n}");
            start(containerd.command(&["task", "exec", "--exec-id", &id, "box0", "sleep", "0.2"]), None)
        };
        let execs: Vec<_> = (0..8).map(exec).collect();
        poll("execs to be under way", || {
            tasks_of(shim)
                .iter()
                .any(|pid| {
                    fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "sleep\n")
                })
                .then_some(())
        });
        containerd.crash();
        execs.into_iter().for_each(|exec| drop(exec.finish()));
        containerd.start();
        for name in &names {
            containerd.wait_status(name, "RUNNING");
        }
        assert_eq!(only_shim(&containerd), shim);
        let id = format!("after{round}");
        assert_eq!(containerd.exec("box1", &id, "echo fine").success().stdout, "fine\n");
    }
    for (name, log) in names.iter().zip(logs) {
        let (pid, _) = containerd.task(name).expect("a task");
        fs::write(format!("/proc/{pid}/root/end"), "").expect("a file in the container");
        containerd.wait_status(name, "STOPPED");
        let deleted = containerd.ok(&["task", "delete", name]);
        assert!(deleted.stderr.contains("exit code 9"), "{deleted:?}");
        // Not a line is missing.
        let text = fs::read_to_string(log).expect("the log");
        assert!(text.lines().enumerate().all(|(n, line)| line == n.to_string()), "{} bytes", text.len());
    }
    wait_dead(shim);
}

#[test]
fn a_container_that_is_out_of_memory_is_told_of() {
    let containerd = Containerd::new(Shim::Own);
    let events = events(&containerd);
    containerd.script(&["--memory-limit", "33554432"], "box", "tail /dev/zero; exit 3").exits(3);
    poll("the event", || tasks(&events.stdout()).iter().any(|(topic, _)| topic == "oom").then_some(()));
    signal(events.pid(), Signal::TERM);
}

#[test]
fn input_reaches_the_process_and_ends() {
    let containerd = Containerd::new(Shim::Own);
    let mut args = containerd.run_args(&["--rm"]);
    args.extend([IMAGE, "box", "sh", "-c", "cat; echo end"].map(str::to_owned));
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    let input = "line\n".repeat(50_000);
    let output = finish(containerd.command(&args), Some(input.as_bytes())).success();
    assert!(output.stdout == format!("{input}end\n"), "{} bytes", output.stdout.len());
}

#[test]
fn a_program_can_take_the_output() {
    let containerd = Containerd::new(Shim::Own);
    let (script, log) = (containerd.path("logger.sh"), containerd.path("taken"));
    let text = "#!/bin/sh\nexec 5>&-\necho \"$CONTAINER_NAMESPACE $CONTAINER_ID $1=$2\" > \"$2\"\n\
                cat <&3 >> \"$2\"\ncat <&4 >> \"$2\"\n";
    fs::write(&script, text).expect("a script");
    finish(
        {
            let mut c = Command::new("chmod");
            c.arg("755").arg(&script);
            c
        },
        None,
    )
    .success();
    let uri = format!("binary://{}?file={}", script.display(), log.display());
    let args = ["--detach", "--log-uri", &uri];
    containerd.run(&args, &[IMAGE, "box", "sh", "-c", "echo out; echo err >&2"]).success();
    containerd.wait_status("box", "STOPPED");
    let expected = format!("{} box file={}\nout\nerr\n", containerd.name, log.display());
    poll("the output", || fs::read_to_string(&log).ok().filter(|text| *text == expected));
}

#[test]
fn a_group_shares_one_small_server() {
    let containerd = Containerd::new(Shim::Own);
    containerd.detached(&GROUPED, "first", "sleep 600");
    let shim = only_shim(&containerd);
    let alone = private_memory(shim);
    let names = ["a", "b", "c", "d"];
    for name in names {
        containerd.detached(&GROUPED, name, "sleep 600");
    }
    assert_eq!(only_shim(&containerd), shim);
    let together = private_memory(shim);
    let each = together.saturating_sub(alone) / names.len() as u64;
    eprintln!("private memory of a shim: {alone} KiB, and {each} KiB for each further container");
    assert!(alone <= IDLE_MEMORY.0, "{alone} KiB");
    assert!(each <= IDLE_MEMORY.1, "{each} KiB");
    // One after the other is deleted, and the server ends with the last one.
    for name in names.iter().chain(&["first"]) {
        assert!(is_alive(shim));
        containerd.ok(&["task", "kill", "--signal", "SIGKILL", name]);
        containerd.wait_status(name, "STOPPED");
        containerd.call(&["task", "delete", name]);
    }
    wait_dead(shim);
}

/// Whether everything is tested that there is time for.
fn is_full() -> bool {
    std::env::var("MAGIKRUN_SHIM").is_ok_and(|value| value == "full")
}

#[test]
fn storms_of_execs_leave_nothing_behind() {
    let (at_once, storms) = if is_full() { (200, 6) } else { (24, 4) };
    let containerd = Containerd::new(Shim::Own);
    containerd.detached(&[], "box", "sleep 600");
    let shim = only_shim(&containerd);
    let descriptors = || common::names_in(Path::new(&format!("/proc/{shim}/fd"))).len();
    let storm = |number: usize| {
        let exec = |n: usize| {
            let id = format!("storm{number}-{n}");
            start(containerd.command(&["task", "exec", "--exec-id", &id, "box", "sh", "-c", "exit 5"]), None)
        };
        let running: Vec<_> = (0..at_once).map(exec).collect();
        running.into_iter().for_each(|exec| drop(exec.finish().exits(5)));
    };
    storm(0);
    let (memory, open) = (private_memory(shim), descriptors());
    (1..storms).for_each(storm);
    poll("the threads of the storms to end", || (threads(shim) < 30).then_some(()));
    poll("the descriptors to be closed", || (descriptors() <= open).then_some(()));
    let after = private_memory(shim);
    let all = at_once * storms;
    eprintln!("private memory of a shim after {at_once} execs: {memory} KiB, after {all}: {after} KiB");
    assert!(after <= memory + 256, "{memory} KiB, then {after} KiB");
    assert_eq!(containerd.exec("box", "last", "echo fine").success().stdout, "fine\n");
}

#[test]
fn a_reader_that_does_not_read_stops_only_its_own_container() {
    use std::io::Read as _;
    let containerd = Containerd::new(Shim::Own);
    // The answer of `ctr run` goes into a pipe that nobody reads.
    let mut args = containerd.run_args(&GROUPED);
    args.extend([IMAGE, "loud", "sh", "-c", "while :; do echo 0123456789; done"].map(str::to_owned));
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    let mut command = containerd.command(&args);
    let mut client = command.stdout(std::process::Stdio::piped()).spawn().expect("ctr runs");
    let mut first = [0; 10];
    client.stdout.as_mut().unwrap().read_exact(&mut first).expect("some output");
    let log = containerd.detached(&GROUPED, "quiet", "echo fine; sleep 600");
    only_shim(&containerd);
    poll("the other's output", || fs::read_to_string(&log).ok().filter(|t| t == "fine\n"));
    assert_eq!(containerd.exec("quiet", "one", "echo fine").success().stdout, "fine\n");
    containerd.ok(&["task", "kill", "--signal", "SIGKILL", "loud"]);
    containerd.wait_status("loud", "STOPPED");
    client.kill().expect("ctr ends");
    client.wait().expect("ctr ends");
    containerd.call(&["task", "delete", "loud"]);
    assert_eq!(containerd.task("loud"), None);
}

#[test]
fn a_slow_reader_misses_nothing_of_a_process_that_has_ended() {
    use std::io::Read as _;
    // Less than there is room for on the way to the reader, so that the process ends before a byte of it was read; more than `ctr`, which
    // stops to copy when it hears of the end, takes out of its FIFO.
    const LENGTH: usize = 200_000;
    let containerd = Containerd::new(Shim::Own);
    let script = format!("head -c {LENGTH} /dev/zero; while [ ! -e /end ]; do sleep 0.05; done; echo last");
    let mut args = containerd.run_args(&["--rm"]);
    args.extend([IMAGE, "box", "sh", "-c", &script].map(str::to_owned));
    let mut command = containerd.command(&args.iter().map(String::as_str).collect::<Vec<_>>());
    let mut client = command.stdout(std::process::Stdio::piped()).spawn().expect("ctr runs");
    let (pid, _) = poll("the task to run", || containerd.task("box").filter(|task| task.1 == "RUNNING"));
    fs::write(format!("/proc/{pid}/root/end"), "").expect("a file in the container");
    wait_dead(pid);
    // Time for `ctr` to hear of the end, if it were told.
    std::thread::sleep(std::time::Duration::from_millis(500));
    let mut output = Vec::new();
    client.stdout.take().unwrap().read_to_end(&mut output).expect("the output");
    assert!(client.wait().expect("ctr ends").success());
    assert!(output.ends_with(b"\0last\n"), "the last of {} bytes is missing", output.len());
    assert_eq!(output.len(), LENGTH + b"last\n".len());
}

#[test]
fn without_a_pid_namespace_the_end_of_the_first_process_ends_all() {
    let containerd = Containerd::new(Shim::Own);
    let options = ["--with-ns", "pid:/proc/self/ns/pid"];
    let output = containerd.script(&options, "box", "sleep 600 & echo $!; exit 3").exits(3);
    wait_dead(output.stdout.trim().parse().expect("a pid"));
}

#[test]
fn the_shim_is_static_and_tells_what_it_is() {
    let shim = common::shim_folder().join("containerd-shim-magikrun-v2");
    let bytes = fs::read(&shim).expect("the shim");
    assert_eq!(bytes[0x10], 2, "it is position independent");
    let mut command = Command::new(&shim);
    command.arg("-v");
    assert!(finish(command, None).success().stdout.starts_with("containerd-shim-magikrun-v2 version "));
    let mut command = Command::new(&shim);
    command.arg("-info");
    let info = finish(command, None).success().stdout;
    assert!(info.contains("io.containerd.magikrun.v2") && info.contains("ociVersionMax"), "{info}");
    let mut command = Command::new(&shim);
    command.args(["-namespace", "x", "start"]);
    finish(command, None).fails_with(1, &["-id"]);
}
