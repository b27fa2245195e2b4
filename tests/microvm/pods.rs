//! Pods whose containers share a microVM.

use crate::common::pods::{IMAGE, WAIT, container, lead_out, monitor};
use crate::common::{Pods, names_in, poll, signal};
use crate::is_passt;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;

/// Port of the emulated machine that leads to a pod.
const PORT: u16 = 8123;
/// What each container may use of memory: the emulated machine has little.
pub const MEMORY: &str = "resources: {limits: {memory: 32Mi}}";

/// A manifest of a pod in a microVM.
pub fn manifest(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n  annotations: {{krun.cpus: '1'}}\n\
         spec: {{runtimeClassName: microvm, {spec}}}\n---\n\
         apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: settings}}\ndata: {{key: value}}\n"
    )
}

/// Pods of their own, on an emulated machine that has what every host has.
pub fn pods() -> Pods {
    std::fs::create_dir_all("/mnt").expect("a folder");
    lead_out();
    Pods::new()
}

fn get(path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", PORT)).ok()?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    text.contains("200 OK").then_some(text)
}

#[test]
fn containers_share_a_kernel_files_and_a_network_and_have_limits_of_their_own() {
    let pods = pods();
    let name = pods.name("whole");
    let host = pods.runtime.path("host");
    std::fs::create_dir(&host).expect("a folder");
    std::fs::write(host.join("in"), "from the host\n").expect("a file");
    let data = "volumeMounts: [{name: data, mountPath: /data}]";
    let more = "volumeMounts: [{name: data, mountPath: /data}, {name: data, mountPath: /part, subPath: a/b}, {name: host, \
                mountPath: /host}, {name: settings, mountPath: /settings}]";
    let side = "echo side; while [ ! -e /data/again ]; do sleep 0.2; done; rm /data/again; exit 1";
    let web = format!("ports: [{{containerPort: 8080, hostPort: {PORT}}}], {data}, {MEMORY}");
    let probe = "readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1, timeoutSeconds: 20}, \
                 livenessProbe: {exec: {command: [test, -d, /data]}, periodSeconds: 5, timeoutSeconds: 60}";
    let spec = format!(
        "terminationGracePeriodSeconds: 20, initContainers: [{}, {}], containers: [{}, {}, {}], volumes: [{{name: data}}, {{name: host, hostPath: {{path: '{}'}}}}, \
         {{name: settings, configMap: {{name: settings}}}}]",
        container("first", "echo seed >/data/seed; echo first-done", &format!("{data}, {MEMORY}")),
        container("side", side, &format!("restartPolicy: Always, {data}, {MEMORY}")),
        container("web", "exec httpd -f -p 8080 -h /data", &format!("{web}, {probe}")),
        container(
            "peer",
            "trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.1; done",
            &format!("{more}, {MEMORY}")
        ),
        container("idle", WAIT, MEMORY),
        host.display()
    );
    let pod = pods.start(&manifest(&name, &spec));

    let status = pods.status(&pod);
    assert_eq!(status["phase"], "Running");
    let states: Vec<_> =
        status["containers"].as_array().expect("containers").iter().map(|c| c["state"].clone()).collect();
    assert_eq!(states, ["exited", "running", "running", "running", "running"]);
    assert_eq!(pods.ok(&["logs", &pod, "first"]), "first-done\n");
    pods.wait_log(&pod, "peer", "up");

    let release = pods.sh(&pod, "peer", "uname -r; hostname");
    let own = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("the release");
    assert_ne!(release.lines().next(), Some(own.trim()));
    assert_eq!(release.lines().nth(1), Some(name.as_str()));
    let output =
        pods.call(&["exec", "-c", "peer", &pod, "sh", "-c", "echo $FROM; echo oops >&2; exit 3"]).exits(3);
    assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("image\n", "oops\n"));

    // What two containers share is one file to their kernel.
    assert_eq!(
        pods.sh(
            &pod,
            "web",
            "cat /data/seed; mkfifo /data/fifo; (echo through >/data/fifo) >/dev/null 2>&1 &"
        ),
        "seed\n"
    );
    assert_eq!(
        pods.sh(
            &pod,
            "peer",
            "cat /data/fifo; cat /host/in /settings/key; echo out >/host/out; echo x >/part/c"
        ),
        "through\nfrom the host\nvalue"
    );
    assert_eq!(std::fs::read_to_string(host.join("out")).expect("the guest's file"), "out\n");
    assert_eq!(pods.sh(&pod, "web", "cat /data/a/b/c; ls /data"), "x\na\nfifo\nseed\n");
    pods.call(&["exec", "-c", "peer", &pod, "sh", "-c", "echo x >/settings/key"]).exits(1);

    let text = poll("the port of the machine to lead to the guest", || get("/seed"));
    assert!(text.ends_with("seed\n"), "{text}");
    // On this machine a profile of AppArmor holds passt, as on every Debian.
    let passt = machine_of(&name).into_iter().find(is_passt).expect("a passt");
    let profile = std::fs::read_to_string(format!("/proc/{passt}/attr/current")).expect("its profile");
    assert!(profile.trim().ends_with("(enforce)"), "{profile}");
    let ready = || pods.status(&pod)["containers"][2]["ready"].as_bool();
    poll("the probe over the network to succeed", || ready().filter(|ready| *ready));

    assert_eq!(pods.sh(&pod, "idle", "cat /sys/fs/cgroup/memory.max").trim(), (32 << 20).to_string());
    let stats: serde_json::Value =
        serde_json::from_str(&pods.ok(&["stats", "--format", "json", &pod])).expect("statistics");
    assert_eq!(stats["idle"]["memory"]["usage"]["limit"], 32 << 20);
    assert!(stats["idle"]["memory"]["usage"]["usage"].as_u64().is_some_and(|bytes| bytes > 0), "{stats}");

    let local = pods.runtime.path("local");
    let local = local.to_str().expect("a path in UTF-8");
    pods.ok(&["cp", "-c", "web", &format!("{pod}:/data/seed"), local]);
    assert_eq!(std::fs::read_to_string(local).expect("the copy"), "seed\n");
    pods.ok(&["cp", "-c", "idle", local, &format!("{pod}:/copied")]);
    assert_eq!(pods.sh(&pod, "idle", "cat /copied"), "seed\n");

    pods.sh(&pod, "web", "touch /data/again");
    poll("the sidecar to be started again", || {
        let side = pods.status(&pod)["containers"][1].clone();
        (side["restarts"] == 1 && side["state"] == "running").then_some(())
    });
    poll("its output", || (pods.ok(&["logs", &pod, "side"]) == "side\nside\n").then_some(()));

    pods.ok(&["stop", &pod]);
    let status = pods.status(&pod);
    assert_eq!(status["phase"], "Stopped", "{status}");
    assert_eq!(status["containers"][3]["exitCode"], 0, "{status}");
    assert!(pods.ok(&["logs", &pod, "peer"]).ends_with("bye\n"));
    pods.ok(&["delete", &pod]);
    pods.assert_nothing_left();
}

#[test]
fn a_pod_that_cannot_start_whole_leaves_nothing() {
    let pods = pods();
    let two = [container("a", WAIT, MEMORY), container("b", WAIT, MEMORY)].join(", ");
    let missing = "{name: c, image: 'localhost/nothing:1', imagePullPolicy: Never}";
    let spec = format!("containers: [{two}, {missing}]");
    pods.run(&[], &manifest(&pods.name("image"), &spec))
        .fails_with(1, &["container 'c'", "localhost/nothing:1"]);
    pods.assert_nothing_left();
    let nonsense = format!("{{name: c, image: '{IMAGE}', command: [nonsense], {MEMORY}}}");
    let spec = format!("containers: [{two}, {nonsense}]");
    pods.run(&[], &manifest(&pods.name("program"), &spec))
        .fails_with(1, &["cannot start container 'c'", "executable file not found in $PATH"]);
    pods.assert_nothing_left();
}

#[test]
fn the_pod_fails_with_its_machine_and_with_a_container() {
    let pods = pods();
    let name = pods.name("killed");
    let spec = format!("containers: [{}]", container("a", "echo there; sleep 600", MEMORY));
    let pod = pods.start(&manifest(&name, &spec));
    pods.wait_log(&pod, "a", "there");
    let machine = machine_of(&name).into_iter().find(|pid| !is_passt(pid)).expect("a machine");
    signal(machine, rustix::process::Signal::KILL);
    let status = pods.wait_phase(&pod, "Failed");
    assert!(
        status["reason"].as_str().is_some_and(|why| why.contains("the pod's microVM has ended")),
        "{status}"
    );
    pods.ok(&["delete", &pod]);
    pods.assert_nothing_left();

    let spec = format!(
        "containers: [{}, {}]",
        container("a", "while [ ! -e /go ]; do sleep 0.1; done; exit 7", MEMORY),
        container("b", WAIT, MEMORY)
    );
    let pod = pods.start(&manifest(&pods.name("code"), &spec));
    pods.sh(&pod, "a", "touch /go");
    let status = pods.wait_phase(&pod, "Failed");
    assert_eq!(status["containers"][0]["exitCode"], 7, "{status}");
    pods.call(&["wait", &pod]).exits(7);
    pods.ok(&["delete", &pod]);
    pods.assert_nothing_left();
}

/// The machine of a pod, and its passt: children of the first process of the container around it, which is a child of the monitor.
fn machine_of(name: &str) -> Vec<i32> {
    children(monitor(name).expect("a monitor")).into_iter().flat_map(children).collect()
}

/// The children of all threads of a process.
fn children(pid: i32) -> Vec<i32> {
    let tasks = Path::new("/proc").join(pid.to_string()).join("task");
    let of = |task: String| std::fs::read_to_string(tasks.join(task).join("children")).unwrap_or_default();
    let all = names_in(&tasks).into_iter().map(of).collect::<String>();
    all.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}
