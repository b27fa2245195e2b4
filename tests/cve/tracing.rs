//! Processes of the runtime that are in a container's namespaces already, and are looked at from there.

use crate::common::{Bundle, Runtime, inner_pid, is_alive, poll};
use serde_json::{Value, json};
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// An agent for seccomp notifications that accepts no connection. One finds a place in its queue; who comes after that waits,
/// and with it the process that has just loaded its filter: the last moment before it becomes the program.
struct SilentAgent {
    path: PathBuf,
    _socket: OwnedFd,
}

impl SilentAgent {
    fn listen(path: PathBuf) -> Self {
        use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, bind, listen, socket};
        let socket = socket(AddressFamily::UNIX, SocketType::STREAM, None).expect("a socket");
        bind(&socket, &SocketAddrUnix::new(&path).expect("an address")).expect("the agent's address");
        listen(&socket, 0).expect("the agent listens");
        Self { path, _socket: socket }
    }

    /// Takes the one place in the queue.
    fn occupy(&self) -> UnixStream {
        UnixStream::connect(&self.path).expect("a connection")
    }

    /// A profile that asks this agent.
    fn profile(&self) -> Value {
        json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "listenerPath": self.path,
            "syscalls": [{"names": ["swapon"], "action": "SCMP_ACT_NOTIFY"}]
        })
    }
}

/// What the attacker tries on process `$1`: everything that takes the right to read or to trace it.
const ATTACK: &str = r#"
    for link in exe cwd root ns/mnt fd/0; do readlink /proc/$1/$link && echo "READ $link"; done
    (: < /proc/$1/fd/0) && echo "READ fd"
    ls /proc/$1/root/ && echo "READ root"
    cat /proc/$1/environ && echo "READ environ"
    cat /proc/$1/auxv > /dev/null && echo "READ auxv"
    (: >> /proc/$1/mem) && echo "TRACED mem"
    exit 0"#;

/// The children of `pid`, and theirs.
fn descendants(pid: i32) -> Vec<i32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let children: Vec<i32> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    children.iter().flat_map(|child| descendants(*child)).chain(children.clone()).collect()
}

fn has_filter(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|status| status.contains("Seccomp:\t2"))
}

/// Waits until the runtime `child` has a process in the container `id` that has its filter, attacks it from inside, and
/// requires that nothing comes of it.
#[track_caller]
fn attack(runtime: &Runtime, id: &str, target: i32) {
    poll("the process to load its filter", || has_filter(target).then_some(()));
    let inner = inner_pid(target).expect("the process is in the container's pid namespace");
    let seen = runtime.ok(&["exec", id, "sh", "-c", "cat /proc/$1/comm", "sh", &inner]);
    assert!(!seen.stdout.is_empty(), "the attacker does not see the process");
    let output = runtime.ok(&["exec", id, "sh", "-c", ATTACK, "sh", &inner]);
    assert!(is_alive(target), "the process has ended too early");
    assert_eq!(output.stdout, "", "the attacker got at a process of the runtime");
}

/// A call of the runtime that waits for the agent, until it is dropped: it holds the lock of its container.
struct Waiting(Child);

impl Waiting {
    fn start(mut command: Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().expect("the runtime starts"))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_process_that_is_executed_cannot_be_traced_from_inside() {
    let runtime = Runtime::new();
    let agent = SilentAgent::listen(runtime.path("agent"));
    let bundle = runtime.sleeper();
    runtime.detach(&bundle);
    let victim = sharing(&runtime, &bundle, agent.profile());
    // Its first process takes the one place that the agent has.
    runtime.detach(&victim);
    let exec = Waiting::start(runtime.command(&["exec", &victim.id, "true"]));
    let caller = i32::try_from(exec.0.id()).expect("a pid");
    let target =
        poll("the process to be made", || descendants(caller).into_iter().find(|pid| has_filter(*pid)));
    attack(&runtime, &bundle.id, target);
    drop(exec);
    runtime.ok(&["delete", "--force", &victim.id]);
    runtime.ok(&["delete", "--force", &bundle.id]);
    runtime.assert_nothing_left();
}

/// A bundle whose container joins the pid namespace of that of `bundle`, with a profile.
fn sharing(runtime: &Runtime, bundle: &Bundle, profile: Value) -> Bundle {
    let pid = runtime.pid(&bundle.id);
    let mut second = runtime.sleeper();
    second.namespace("pid", Some(json!({"type": "pid", "path": format!("/proc/{pid}/ns/pid")})));
    second.edit(|config| config["linux"]["seccomp"] = profile);
    second
}

#[test]
fn the_first_process_of_a_container_cannot_be_traced_from_a_shared_pid_namespace() {
    let runtime = Runtime::new();
    let agent = SilentAgent::listen(runtime.path("agent"));
    let bundle = runtime.sleeper();
    runtime.detach(&bundle);
    let _place = agent.occupy();
    let second = sharing(&runtime, &bundle, agent.profile());
    runtime.create(&second);
    let target = runtime.pid(&second.id);
    // Until it is started it waits, for as long as the caller likes.
    let inner = inner_pid(target).expect("the process is in the first container's pid namespace");
    let output = runtime.ok(&["exec", &bundle.id, "sh", "-c", ATTACK, "sh", &inner]);
    assert_eq!(output.stdout, "", "the attacker got at a container that waits for its start");
    let start = Waiting::start(runtime.command(&["start", &second.id]));
    attack(&runtime, &bundle.id, target);
    drop(start);
    runtime.ok(&["delete", "--force", &second.id]);
    runtime.ok(&["delete", "--force", &bundle.id]);
    runtime.assert_nothing_left();
}
