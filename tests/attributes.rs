//! Further settings of a process and of its surroundings: scheduling, seccomp agents, mapped mounts, network devices,
//! readiness, pidfds.
mod common;

use common::{Bundle, Runtime, finish, readable, start};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead as _, BufReader, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::process::Command;

/// Accepts a connection; answers the text and the descriptor that come over it.
fn receive(listener: &UnixListener) -> (String, OwnedFd) {
    assert!(readable(listener), "nothing connected");
    let (stream, _) = listener.accept().expect("a connection");
    assert!(readable(&stream), "nothing came over the connection");
    let mut data = vec![0; 1 << 16];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut slices = [IoSliceMut::new(&mut data)];
    let message =
        rustix::net::recvmsg(&stream, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC).expect("a message");
    let fd = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    data.truncate(message.bytes);
    (String::from_utf8(data).expect("text"), fd.expect("a descriptor"))
}

fn number_after(text: &str, name: &str) -> i64 {
    let line =
        text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name} in {text}"));
    line.split(':').nth(1).and_then(|n| n.trim().parse().ok()).unwrap_or_else(|| panic!("{line}"))
}

#[test]
fn the_scheduling_policy_is_that_of_the_config() {
    let text = Runtime::new().inside("cat /proc/self/sched", |config| {
        config["process"]["scheduler"] = json!({"policy": "SCHED_BATCH", "nice": 5});
    });
    // SCHED_BATCH is 3, and nice 5 is priority 125.
    assert_eq!(number_after(&text, "policy"), 3, "{text}");
    assert_eq!(number_after(&text, "prio"), 125, "{text}");
}

#[test]
fn the_io_priority_is_that_of_the_config_and_nonsense_is_refused() {
    let runtime = Runtime::new();
    let text = runtime.inside("ionice -p $$", |config| {
        config["process"]["ioPriority"] = json!({"class": "IOPRIO_CLASS_BE", "priority": 6});
    });
    assert!(text.contains("best-effort: prio 6"), "{text}");
    let mut bundle = runtime.bundle();
    bundle
        .edit(|config| config["process"]["ioPriority"] = json!({"class": "IOPRIO_CLASS_BE", "priority": 9}));
    let _ = runtime.run(&bundle).fails_with(1, &["invalid ioPriority.Priority: 9"]);
}

#[test]
fn exec_runs_on_the_processors_it_is_told() {
    let runtime = Runtime::new();
    let bundle = runtime.sleeper();
    runtime.detach(&bundle);
    let process = bundle.process_file(
        "affinity.json",
        &["grep", "Cpus_allowed_list", "/proc/self/status"],
        |process| {
            process["execCPUAffinity"] = json!({"initial": "0", "final": "0"});
        },
    );
    let path = process.to_str().expect("UTF-8");
    let output = runtime.ok(&["exec", "--process", path, &bundle.id]);
    assert_eq!(output.stdout.split_whitespace().last(), Some("0"), "{}", output.stdout);
}

#[test]
fn a_seccomp_agent_gets_the_listener_and_the_state_for_run_and_for_exec() {
    let runtime = Runtime::new();
    let path = runtime.path("agent.sock");
    let listener = UnixListener::bind(&path).expect("the agent's socket");
    let mut bundle = runtime.sleeper();
    bundle.edit(|config| {
        config["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "listenerPath": path,
            "listenerMetadata": "for the agent",
            "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}],
        });
    });
    let detached = start(runtime.command(&["run", "--detach", "--bundle", bundle.dir(), &bundle.id]), None);
    let (text, _listener) = receive(&listener);
    let _ = detached.finish().success();
    let state: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(state["metadata"], "for the agent");
    assert_eq!(state["fds"], json!(["seccompFd"]));
    assert_eq!(state["state"]["id"], *bundle.id);
    assert_eq!(state["pid"], runtime.pid(&bundle.id));
    let exec = start(runtime.command(&["exec", &bundle.id, "true"]), None);
    let (text, _listener) = receive(&listener);
    let _ = exec.finish().success();
    assert_ne!(serde_json::from_str::<Value>(&text).expect("JSON")["pid"], state["pid"]);
}

#[test]
fn an_agent_that_is_not_there_fails_the_start_and_leaves_nothing() {
    let runtime = Runtime::new();
    let mut bundle = runtime.sleeper();
    bundle.edit(|config| {
        config["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "listenerPath": "/nonexistent/agent.sock",
            "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}],
        });
    });
    let _ = runtime.run(&bundle).fails_with(1, &["/nonexistent/agent.sock"]);
    runtime.assert_nothing_left();
}

#[test]
fn a_mount_is_mapped_to_other_ids() {
    let runtime = Runtime::new();
    let source = runtime.path("source");
    fs::create_dir(&source).expect("a folder");
    fs::write(source.join("file"), "x").expect("a file");
    std::os::unix::fs::chown(source.join("file"), Some(1000), Some(1000)).expect("the file's owner");
    let text = runtime.inside("stat -c '%u %g' /mnt/file", |config| {
        config["mounts"].as_array_mut().expect("mounts").push(json!({
            "destination": "/mnt", "type": "bind", "source": source, "options": ["bind"],
            "uidMappings": [{"containerID": 1000, "hostID": 5, "size": 1}],
            "gidMappings": [{"containerID": 1000, "hostID": 6, "size": 1}],
        }));
    });
    assert_eq!(text, "5 6\n");
}

#[test]
fn a_network_device_is_moved_into_the_container_with_its_address() {
    let runtime = Runtime::new();
    // Names of devices have at most 15 characters.
    let name = format!("mk{}", std::process::id() % 1_000_000);
    let ip = |args: &[&str]| {
        let status =
            Command::new("ip").args(args).status().expect("this test needs ip(8): Debian package iproute2");
        assert!(status.success(), "ip {args:?}");
    };
    ip(&["link", "add", &name, "type", "veth", "peer", "name", &format!("{name}p")]);
    ip(&["addr", "add", "10.99.1.2/24", "dev", &name]);
    let text = runtime.inside("ip -o addr show dev inside; ip link show dev inside | head -1", |config| {
        config["linux"]["netDevices"] = json!({ name.as_str(): {"name": "inside"} });
    });
    let _ = Command::new("ip")
        .args(["link", "del", &format!("{name}p")])
        .stderr(std::process::Stdio::null())
        .status();
    assert!(text.contains("10.99.1.2/24") && text.contains("UP"), "{text}");
}

#[test]
fn readiness_is_passed_on_with_the_container_s_pid() {
    let runtime = Runtime::new();
    let path = runtime.path("notify.sock");
    let manager = UnixDatagram::bind(&path).expect("the manager's socket");
    // busybox has no program for unix datagrams, so what the container does is done from outside, in its own socket.
    let mut bundle = runtime.shell("echo $NOTIFY_SOCKET; ls /run/notify; sleep 600");
    bundle.edit(|config| config["root"]["readonly"] = json!(false));
    let mut create = runtime.command(&["create", "--bundle", bundle.dir(), &bundle.id]);
    create.env("NOTIFY_SOCKET", &path);
    let created = finish(create, None).success();
    let mut command = runtime.command(&["start", &bundle.id]);
    command.env("NOTIFY_SOCKET", &path);
    let starting = start(command, None);
    let _ = created.wait_stdout("notify.sock\n");
    let inside = runtime.root().join(&bundle.id).join("notify/notify.sock");
    let container = UnixDatagram::unbound().expect("a socket");
    container.send_to(b"STATUS=nearly", &inside).expect("the message");
    container.send_to(b"READY=1\n", &inside).expect("the message");
    let _ = starting.finish().success();
    let mut buffer = [0; 256];
    assert!(readable(&manager), "nothing came for the manager");
    let length = manager.recv(&mut buffer).expect("a message for the manager");
    let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
    assert_eq!(text, format!("MAINPID={}\nREADY=1\n", runtime.pid(&bundle.id)));
}

#[test]
fn a_pidfd_of_the_process_comes_over_its_socket() {
    let runtime = Runtime::new();
    let path = runtime.path("pidfd.sock");
    let listener = UnixListener::bind(&path).expect("the socket");
    let socket = path.to_str().expect("UTF-8");
    let bundle = runtime.sleeper();
    let args = ["run", "--detach", "--pidfd-socket", socket, "--bundle", bundle.dir(), &bundle.id];
    let running = start(runtime.command(&args), None);
    let (_, pidfd) = receive(&listener);
    let _ = running.finish().success();
    rustix::process::pidfd_send_signal(&pidfd, rustix::process::Signal::KILL).expect("the signal is sent");
    runtime.wait_status(&bundle.id, "stopped");
}

#[test]
fn a_terminal_in_the_foreground_has_the_size_of_ours_and_the_exit_code() {
    let runtime = Runtime::new();
    let mut bundle = runtime.shell("tty; stty size; exit 5");
    bundle.edit(|config| config["process"]["terminal"] = json!(true));
    let line = format!(
        "stty rows 33 cols 99; {} --root {} run --bundle {} {}",
        common::runtime_path().display(),
        runtime.root().display(),
        bundle.dir(),
        bundle.id
    );
    let mut command = Command::new("script");
    command.args(["-qec", &line, "/dev/null"]);
    let output = finish(command, None).exits(5);
    assert!(output.stdout.contains("/dev/pts/0") && output.stdout.contains("33 99"), "{}", output.stdout);
    runtime.assert_nothing_left();
}

#[test]
fn several_containers_are_killed_and_deleted_by_a_regular_expression() {
    let runtime = Runtime::new();
    let bundles: Vec<Bundle> = (0..3).map(|_| runtime.sleeper()).collect();
    for bundle in &bundles {
        runtime.detach(bundle);
    }
    let pattern = format!("^{}-c[01]$", runtime.name());
    runtime.ok(&["kill", "--regex", &pattern, "KILL"]);
    runtime.wait_status(&bundles[1].id, "stopped");
    assert_eq!(runtime.status(&bundles[2].id), "running");
    runtime.ok(&["delete", "--force", "--regex", &pattern]);
    assert_eq!(runtime.state_entries(), [bundles[2].id.as_str()]);
    let _ = runtime.call(&["kill", "--regex", "(", "KILL"]).fails_with(1, &["invalid regular expression"]);
}

#[test]
fn checkpoint_says_what_is_wrong_with_criu() {
    let runtime = Runtime::new();
    let bundle = runtime.sleeper();
    runtime.detach(&bundle);
    let images = runtime.path("images");
    let images = images.to_str().expect("UTF-8");
    let mut command = Command::new(common::runtime_path());
    command.arg("--criu").arg("/nonexistent/criu").arg("--root").arg(runtime.root());
    command.args(["checkpoint", "--image-path", images, "--leave-running", &bundle.id]);
    let _ = finish(command, None).fails_with(1, &["/nonexistent/criu", "install criu"]);
    let fake = runtime.path("criu");
    common::write_script(&fake, "#!/bin/sh\necho \"$@\" > \"$0.args\"\nexit 3\n");
    let mut command = Command::new(common::runtime_path());
    command.arg("--criu").arg(&fake).arg("--root").arg(runtime.root());
    command.args(["checkpoint", "--image-path", images, "--shell-job", &bundle.id]);
    let _ = finish(command, None).fails_with(1, &["criu failed: exit status: 3", "dump.log"]);
    let args = fs::read_to_string(runtime.path("criu.args")).expect("criu was called");
    assert!(args.starts_with("swrk "), "{args}");
    assert_eq!(runtime.status(&bundle.id), "running", "a failed checkpoint leaves the container running");
}

#[test]
fn spec_writes_a_configuration_that_runs_and_never_overwrites_one() {
    let runtime = Runtime::new();
    let bundle = runtime.bundle();
    let path = std::path::Path::new(bundle.dir()).join("config.json");
    fs::remove_file(&path).expect("the bundle's own configuration");
    runtime.ok(&["spec", "--bundle", bundle.dir()]);
    let mut config: Value = serde_json::from_slice(&fs::read(&path).expect("config.json")).expect("JSON");
    assert_eq!(config["ociVersion"], "1.3.0");
    let _ = runtime.call(&["spec", "--bundle", bundle.dir()]).fails_with(1, &["File config.json exists"]);
    config["process"]["terminal"] = json!(false);
    config["process"]["args"] = json!(["hostname"]);
    config["linux"]["cgroupsPath"] = json!(format!("/{}/{}", runtime.name(), bundle.id));
    fs::write(&path, config.to_string()).expect("config.json");
    let own = runtime.output(&bundle);
    assert_eq!(own, "magikrun\n");
}

#[test]
fn a_process_killed_for_want_of_memory_is_an_event() {
    if !common::has_controllers(&["memory"]) {
        return;
    }
    let runtime = Runtime::new();
    let mut bundle = runtime.sleeper();
    bundle.edit(|config| {
        config["linux"]["resources"]["memory"] = json!({"limit": 20_000_000, "swap": 20_000_000});
    });
    runtime.detach(&bundle);
    let mut events = runtime
        .command(&["events", "--interval", "1h", &bundle.id])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("events starts");
    let stdout = events.stdout.take().expect("a pipe");
    let reader = std::thread::spawn(move || BufReader::new(stdout).lines().next());
    // When the watch is there cannot be seen, so memory is asked for until an event comes.
    common::poll("an event", || {
        let _ = runtime.exec(&bundle.id, "head -c 200000000 /dev/zero | tail > /dev/null");
        reader.is_finished().then_some(())
    });
    let _ = events.kill();
    let _ = events.wait();
    let line = reader.join().expect("the reader").expect("a line").expect("text");
    let event: Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!(event, json!({"type": "oom", "id": *bundle.id}));
}

#[test]
fn what_the_kernel_lacks_is_refused_in_one_line() {
    let runtime = Runtime::new();
    let rows: [(&str, &str, Value, &str); 2] = [
        ("/sys/fs/selinux/enforce", "/process/selinuxLabel", json!("system_u:object_r:x_t:s0"), "selinux"),
        ("/sys/fs/resctrl/schemata", "/linux/intelRdt", json!({"closID": "x"}), "Intel RDT"),
    ];
    for (probe, pointer, value, word) in rows {
        if std::path::Path::new(probe).exists() {
            println!("this kernel has {word}");
            continue;
        }
        let mut bundle = runtime.bundle();
        let (parent, name) = pointer.rsplit_once('/').expect("a pointer");
        bundle.edit(|config| config.pointer_mut(parent).expect("the object")[name] = value);
        let output = runtime.run(&bundle).fails_with(1, &[word]);
        assert_eq!(output.stderr.lines().count(), 1, "{}", output.stderr);
        runtime.assert_nothing_left();
    }
}

#[test]
fn a_profile_of_apparmor_is_a_warning_where_the_kernel_has_none_unless_exec_asks_for_it() {
    if fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.starts_with('Y')) {
        println!("this kernel has AppArmor");
        return;
    }
    let runtime = Runtime::new();
    let mut bundle = runtime.sleeper();
    bundle.edit(|config| config["process"]["apparmorProfile"] = json!("some-profile"));
    let output = runtime.ok(&["run", "--detach", "--bundle", bundle.dir(), &bundle.id]);
    assert!(output.stderr.contains("not confined by 'some-profile'"), "{}", output.stderr);
    let output = runtime.ok(&["exec", &bundle.id, "echo", "here"]);
    assert_eq!(output.stdout, "here\n");
    let exec = runtime.call(&["exec", "--apparmor", "another-profile", &bundle.id, "true"]);
    let _ = exec.fails_with(255, &["another-profile", "apparmor"]);
    runtime.ok(&["delete", "--force", &bundle.id]);
    runtime.assert_nothing_left();
}
