//! What the containers of one microVM have in common, what each has of its own, and how they end.

use crate::common::pods::container;
use crate::common::{Pods, poll};
use crate::is_passt;
use crate::pods::{MEMORY, WAIT, machine_of, manifest, pods};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};

/// Port of the emulated machine that leads to a pod.
const PORT: u16 = 8123;
/// Volumes of a container that has all of them.
const ALL_VOLUMES: &str = "volumeMounts: [{name: data, mountPath: /data}, {name: data, mountPath: /part, subPath: a/b}, \
                           {name: host, mountPath: /host}, {name: settings, mountPath: /settings}]";
/// Volumes of the others.
const DATA: &str = "volumeMounts: [{name: data, mountPath: /data}]";
/// Probes of the web server.
const PROBES: &str = "readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1, timeoutSeconds: 60}, \
                      livenessProbe: {exec: {command: [test, -d, /data]}, periodSeconds: 10, timeoutSeconds: 100}";

/// A pod whose containers share a microVM.
struct Shared {
    pods: Pods,
    name: String,
    id: String,
    /// Directory of the host that is a volume.
    host: PathBuf,
}

/// The specification. Each container handles the signal that ends it: the first process of a pid namespace, as a web server would be,
/// ignores it otherwise, and is waited for until its time is over. That is more than a host with other work needs.
fn spec(host: &Path) -> String {
    let side =
        "trap 'exit 0' TERM; echo side; while [ ! -e /data/again ]; do sleep 1; done; rm /data/again; exit 1";
    let web = "trap 'exit 3' TERM; httpd -f -p 8080 -h /data & wait";
    let peer = "trap 'echo bye; exit 0' TERM; echo up; sleep 3000 & wait";
    let fields = format!("ports: [{{containerPort: 8080, hostPort: {PORT}}}], {DATA}, {MEMORY}, {PROBES}");
    let containers = [
        container("web", web, &fields),
        container("peer", peer, &format!("{ALL_VOLUMES}, {MEMORY}")),
        container("idle", WAIT, MEMORY),
    ];
    let first = [
        container("first", "echo seed >/data/seed; echo first-done", &format!("{DATA}, {MEMORY}")),
        container("side", side, &format!("restartPolicy: Always, {DATA}, {MEMORY}")),
    ];
    format!(
        "terminationGracePeriodSeconds: 300, initContainers: [{}], containers: [{}], volumes: [{{name: data}}, \
         {{name: host, hostPath: {{path: '{}'}}}}, {{name: settings, configMap: {{name: settings}}}}]",
        first.join(", "),
        containers.join(", "),
        host.display()
    )
}

impl Shared {
    fn start() -> Self {
        let pods = pods();
        let (name, host) = (pods.name("whole"), pods.runtime.path("host"));
        std::fs::create_dir(&host).expect("a folder");
        std::fs::write(host.join("in"), "from the host\n").expect("a file");
        let id = pods.start(&manifest(&name, &spec(&host)));
        Self { pods, name, id, host }
    }

    fn sh(&self, container: &str, script: &str) -> String {
        self.pods.sh(&self.id, container, script)
    }

    fn run_on_one_kernel(&self) {
        let status = self.pods.status(&self.id);
        assert_eq!(status["phase"], "Running");
        let all = status["containers"].as_array().expect("containers");
        let states: Vec<_> = all.iter().map(|container| container["state"].clone()).collect();
        assert_eq!(states, ["exited", "running", "running", "running", "running"]);
        assert_eq!(self.pods.ok(&["logs", &self.id, "first"]), "first-done\n");
        self.pods.wait_log(&self.id, "peer", "up");
        let kernel = self.sh("peer", "uname -r; hostname");
        let own = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("the release");
        assert_ne!(kernel.lines().next(), Some(own.trim()));
        assert_eq!(kernel.lines().nth(1), Some(self.name.as_str()));
        let exec = ["exec", "-c", "peer", &self.id, "sh", "-c", "echo $FROM; echo oops >&2; exit 3"];
        let output = self.pods.call(&exec).exits(3);
        assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("image\n", "oops\n"));
    }

    /// What two containers share is one file to their kernel.
    fn share_files(&self) {
        let fifo = "cat /data/seed; mkfifo /data/fifo; (echo through >/data/fifo) >/dev/null 2>&1 &";
        assert_eq!(self.sh("web", fifo), "seed\n");
        let read = "cat /data/fifo; cat /host/in /settings/key; echo out >/host/out; echo x >/part/c";
        assert_eq!(self.sh("peer", read), "through\nfrom the host\nvalue");
        let out = std::fs::read_to_string(self.host.join("out"));
        assert_eq!(out.expect("the guest's file"), "out\n");
        assert_eq!(self.sh("web", "cat /data/a/b/c; ls /data"), "x\na\nfifo\nseed\n");
        self.pods.call(&["exec", "-c", "peer", &self.id, "sh", "-c", "echo x >/settings/key"]).exits(1);
    }

    fn are_reached_by_network(&self) {
        let text = poll("the port of the machine to lead to the guest", || get("/seed"));
        assert!(text.ends_with("seed\n"), "{text}");
        // On this machine a profile of AppArmor holds passt, as on every Debian.
        let passt = machine_of(&self.name).into_iter().find(|pid| is_passt(*pid)).expect("a passt");
        let profile = std::fs::read_to_string(format!("/proc/{passt}/attr/current")).expect("its profile");
        assert!(profile.trim().ends_with("(enforce)"), "{profile}");
        let ready = || self.pods.status(&self.id)["containers"][2]["ready"].as_bool();
        poll("the probe over the network to succeed", || ready().filter(|ready| *ready));
    }

    fn have_limits(&self) {
        let limit = self.sh("idle", "cat /sys/fs/cgroup/memory.max");
        assert_eq!(limit.trim(), (32 << 20).to_string());
        let stats = self.pods.ok(&["stats", "--format", "json", &self.id]);
        let stats: serde_json::Value = serde_json::from_str(&stats).expect("statistics");
        assert_eq!(stats["idle"]["memory"]["usage"]["limit"], 32 << 20);
        assert_eq!(stats["idle"]["memory"]["events"]["oom_kill"], 0, "{stats}");
        assert!(stats["idle"]["memory"]["raw"]["inactive_file"].is_u64(), "{stats}");
        assert!(stats["idle"]["memory"]["usage"]["usage"].as_u64().is_some_and(|bytes| bytes > 0), "{stats}");
    }

    fn are_copied_from_and_to(&self) {
        let local = self.pods.runtime.path("local");
        let local = local.to_str().expect("a path in UTF-8");
        self.pods.ok(&["cp", "-c", "web", &format!("{}:/data/seed", self.id), local]);
        assert_eq!(std::fs::read_to_string(local).expect("the copy"), "seed\n");
        self.pods.ok(&["cp", "-c", "idle", local, &format!("{}:/copied", self.id)]);
        assert_eq!(self.sh("idle", "cat /copied"), "seed\n");
    }

    fn are_started_again(&self) {
        self.sh("web", "touch /data/again");
        poll("the sidecar to be started again", || {
            let side = self.pods.status(&self.id)["containers"][1].clone();
            (side["restarts"] == 1 && side["state"] == "running").then_some(())
        });
        self.pods.wait_log(&self.id, "side", "side\nside\n");
    }

    /// All that handle the signal end by themselves, before their time is over.
    fn end(self) {
        let Self { pods, id, .. } = self;
        pods.ok(&["stop", &id]);
        let status = pods.status(&id);
        assert_eq!(status["phase"], "Stopped", "{status}");
        let codes: Vec<_> = (1..5).map(|number| status["containers"][number]["exitCode"].clone()).collect();
        assert_eq!(codes, [0, 3, 0, 0], "{status}");
        assert!(pods.ok(&["logs", &id, "peer"]).ends_with("bye\n"));
        pods.ok(&["delete", &id]);
        pods.assert_nothing_left();
    }
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
    let shared = Shared::start();
    shared.run_on_one_kernel();
    shared.share_files();
    shared.are_reached_by_network();
    shared.have_limits();
    shared.are_copied_from_and_to();
    shared.are_started_again();
    shared.end();
}
