//! Pods as Kubernetes makes them: the CRI of a real containerd, with our shim, CNI plugins and a pause image.
mod client;
#[path = "../common/mod.rs"]
mod common;
mod krun;
mod sandbox;
mod systemd;
mod users;
mod volumes;
mod websocket;

use client::{
    Attach, Cri, Empty, Exec, Id, PodStatusAnswer, PortForward, Resources, StatsAnswer, StopContainer,
    Update, Url,
};
use common::{cgroup_value, is_alive, leftover_cgroups, poll, wait_dead};
use std::fs;
use websocket::WebSocket;

fn id(id: &str) -> Id {
    Id { id: id.to_owned() }
}

/// What a container has printed to a stream, out of its log.
fn printed(cri: &Cri, name: &str, stream: &str) -> String {
    let text = fs::read_to_string(cri.containerd.path("logs").join(name)).unwrap_or_default();
    let lines = text.lines().filter_map(|line| {
        let mut fields = line.splitn(4, ' ').skip(1);
        (fields.next()? == stream).then(|| fields.nth(1).unwrap_or_default().to_owned() + "\n")
    });
    lines.collect()
}

/// What a container has printed to standard output.
fn log(cri: &Cri, name: &str) -> String {
    printed(cri, name, "stdout")
}

#[test]
fn a_pod_lives_from_its_sandbox_to_its_removal() {
    let cri = Cri::new();
    let config = cri.pod_config("pod");
    let pod = cri.run_pod(&config);
    let status = cri.call::<PodStatusAnswer>("PodSandboxStatus", &id(&pod)).status.unwrap();
    assert_eq!(status.state, 0);
    assert!(status.network.unwrap().ip.starts_with("10.88.0."));
    let mut web =
        Cri::script("web", "hostname; ip addr show eth0 | grep -c 10.88.0; echo err >&2; sleep 600");
    web.linux = Some(client::ContainerLinux {
        resources: Some(Resources { memory_limit: 64 << 20, ..Resources::default() }),
        security: None,
    });
    let web = cri.start(&pod, &config, web);
    let short = cri.start(&pod, &config, Cri::script("short", "exit 4"));
    // One server for the sandbox and both containers. A child that it has just made for a command looks like a further one.
    let shims = poll("one shim", || Some(cri.containerd.shims()).filter(|shims| shims.len() == 1));
    poll("the end of the short one", || (cri.status(&short).state == 2).then_some(()));
    assert_eq!((cri.status(&short).exit_code, cri.status(&web).state), (4, 1));
    poll("the log", || (log(&cri, "web.log") == "pod\n1\n").then_some(()));
    poll("the log", || (printed(&cri, "web.log", "stderr") == "err\n").then_some(()));

    let answer = cri.exec(&web, "echo out; echo err >&2; exit 6");
    assert_eq!(
        (answer.stdout.as_slice(), answer.stderr.as_slice(), answer.exit_code),
        (&b"out\n"[..], &b"err\n"[..], 6)
    );
    let stats = cri.call::<StatsAnswer>("ContainerStats", &id(&web)).stats.unwrap();
    assert!(
        stats.memory.unwrap().working_set.unwrap().value > 0 && stats.cpu.unwrap().total.unwrap().value > 0
    );
    let limits = Resources { memory_limit: 128 << 20, ..Resources::default() };
    cri.call::<Empty>("UpdateContainerResources", &Update { id: web.clone(), linux: Some(limits) });
    let (pid, _) = cri.containerd.task(&web).expect("a task");
    assert_eq!(cgroup_value(pid, "memory", "memory.limit_in_bytes", "memory.max"), "134217728");

    cri.call::<Empty>("StopContainer", &StopContainer { id: web.clone(), timeout: 0 });
    assert_eq!((cri.status(&web).state, cri.status(&web).exit_code), (2, 137));
    // Stopping again is no error.
    cri.call::<Empty>("StopContainer", &StopContainer { id: web.clone(), timeout: 0 });
    cri.call::<Empty>("RemoveContainer", &id(&web));
    cri.remove_pod(&pod);
    wait_dead(shims[0]);
    let left = leftover_cgroups(&cri.cgroup);
    assert!(left.iter().all(|path| path.ends_with(&cri.cgroup)), "{left:?}");
    assert!(
        common::names_in(&cri.containerd.runtime_root()).iter().all(|name| !name.starts_with(&pod[..12]))
    );
}

#[test]
fn exec_and_attach_stream_both_ways() {
    let cri = Cri::new();
    let config = cri.pod_config("pod");
    let pod = cri.run_pod(&config);
    let mut echo = Cri::script("echo", "while read line; do echo got $line; done");
    echo.stdin = true;
    let echo = cri.start(&pod, &config, echo);
    let attach = Attach { id: echo.clone(), stdin: true, stdout: true, stderr: true, tty: false };
    let mut stream = WebSocket::open(&cri.call::<Url>("Attach", &attach).url, cri.containerd.host_pid());
    stream.send(0, b"one\n");
    assert_eq!(stream.receive_until(1, "\n"), "got one\n");
    drop(stream);
    let script =
        "tty; until [ \"$(stty size)\" = '40 100' ]; do sleep 0.05; done; read line; echo $line; exit 3";
    let exec = Exec {
        id: echo,
        command: ["sh", "-c", script].map(str::to_owned).to_vec(),
        tty: true,
        stdin: true,
        stdout: true,
        stderr: false,
    };
    let mut stream = WebSocket::open(&cri.call::<Url>("Exec", &exec).url, cri.containerd.host_pid());
    assert!(stream.receive_until(1, "\n").starts_with("/dev/pts/"));
    // The size of the terminal.
    stream.send(4, br#"{"Width": 100, "Height": 40}"#);
    stream.send(0, b"typed\n");
    assert!(
        stream.receive_until(3, "}").contains("\"code\":3") || stream.text(3).contains("\"3\""),
        "{}",
        stream.text(3)
    );
    assert!(stream.text(1).contains("typed"), "{}", stream.text(1));
    cri.remove_pod(&pod);
}

#[test]
fn modules_are_pulled_and_run_as_the_containers_of_a_pod() {
    let cri = Cri::new();
    let (_registry, image) = cri.containerd.serve_module();
    let pull = client::PullImage { image: Some(client::Image { image: image.clone() }) };
    assert!(!cri.call::<client::Pulled>("PullImage", &pull).reference.is_empty());
    let config = cri.pod_config("pod");
    let pod = cri.run_pod_of("magikrun-wasm", &config);
    let module = |name: &str, args: &[&str]| client::ContainerConfig {
        image: Some(client::Image { image: image.clone() }),
        command: Vec::new(),
        args: args.iter().map(|&arg| arg.to_owned()).collect(),
        ..Cri::script(name, "")
    };
    // What the image says is enough.
    let shows = cri.start(&pod, &config, module("shows", &[]));
    poll("the end of the module", || (cri.status(&shows).state == 2).then_some(()));
    assert_eq!(cri.status(&shows).exit_code, 0);
    poll("the log", || (log(&cri, "shows.log").lines().nth(1) == Some("arg image")).then_some(()));
    let sleeps = cri.start(&pod, &config, module("sleeps", &["sleep", "600"]));
    let command = ["/probe.wasm", "exit", "9"].map(str::to_owned).to_vec();
    let exec = client::ExecSync { id: sleeps.clone(), command, timeout: 60 };
    assert_eq!(cri.call::<client::ExecSyncAnswer>("ExecSync", &exec).exit_code, 9);
    let stats = cri.call::<StatsAnswer>("ContainerStats", &id(&sleeps)).stats.unwrap();
    assert!(stats.memory.unwrap().working_set.unwrap().value > 0);
    cri.call::<Empty>("StopContainer", &StopContainer { id: sleeps.clone(), timeout: 60 });
    assert_eq!(cri.status(&sleeps).exit_code, 143);
    cri.remove_pod(&pod);
}

#[test]
fn ports_of_a_pod_are_forwarded() {
    let cri = Cri::new();
    let config = cri.pod_config("pod");
    let pod = cri.run_pod(&config);
    let web = cri.start(
        &pod,
        &config,
        Cri::script("web", "echo answer > /tmp/file; exec httpd -f -p 8080 -h /tmp"),
    );
    poll("the server to listen", || {
        (cri.exec(&web, "wget -q -O - http://127.0.0.1:8080/file").exit_code == 0).then_some(())
    });
    let url = cri.call::<Url>("PortForward", &PortForward { pod: pod.clone(), ports: vec![8080] }).url;
    let mut stream = WebSocket::open(&url, cri.containerd.host_pid());
    stream.send(0, b"GET /file HTTP/1.0\r\n\r\n");
    assert!(stream.receive_until(0, "answer\n").contains("answer\n"), "{}", stream.text(0));
    cri.remove_pod(&pod);
}

#[test]
fn a_pod_is_found_again_after_containerd_has_crashed() {
    let mut cri = Cri::new();
    let config = cri.pod_config("pod");
    let pod = cri.run_pod(&config);
    let container =
        cri.start(&pod, &config, Cri::script("one", "i=0; while :; do echo $i; i=$((i+1)); sleep 0.1; done"));
    poll("some output", || log(&cri, "one.log").contains("1\n").then_some(()));
    let (pid, _) = cri.containerd.task(&container).expect("a task");
    cri.containerd.crash();
    cri.containerd.start();
    poll("the CRI to answer", || cri.try_call::<PodStatusAnswer>("PodSandboxStatus", &id(&pod)).ok());
    assert!(is_alive(pid));
    assert_eq!(cri.status(&container).state, 1);
    let before = log(&cri, "one.log").lines().count();
    poll("more output", || (log(&cri, "one.log").lines().count() > before + 3).then_some(()));
    assert_eq!(cri.exec(&container, "exit 5").exit_code, 5);
    cri.remove_pod(&pod);
    assert!(!is_alive(pid));
}

#[test]
fn many_pods_live_side_by_side_and_leave_nothing() {
    let (pods, at_a_time) = (100, 10);
    let cri = Cri::new();
    let parallel = |work: &(dyn Fn(usize) -> String + Sync)| -> Vec<String> {
        std::thread::scope(|scope| {
            let share =
                |thread| scope.spawn(move || (thread..pods).step_by(at_a_time).map(work).collect::<Vec<_>>());
            let threads: Vec<_> = (0..at_a_time).map(share).collect();
            threads.into_iter().flat_map(|thread| thread.join().expect("a thread's pods")).collect()
        })
    };
    let ids = parallel(&|n| {
        let config = cri.pod_config(&format!("pod{n}"));
        let pod = cri.run_pod(&config);
        let container = cri.start(&pod, &config, Cri::script(&format!("box{n}"), "hostname; sleep 600"));
        poll("the log", || (log(&cri, &format!("box{n}.log")) == format!("pod{n}\n")).then_some(()));
        assert_eq!(cri.exec(&container, "hostname").stdout, format!("pod{n}\n").as_bytes());
        pod
    });
    assert_eq!(cri.containerd.shims().len(), pods);
    let _ = parallel(&|n| {
        cri.remove_pod(&ids[n]);
        String::new()
    });
    poll("the shims to end", || cri.containerd.shims().is_empty().then_some(()));
    let left = leftover_cgroups(&cri.cgroup);
    assert!(left.iter().all(|path| path.ends_with(&cri.cgroup)), "{left:?}");
}
