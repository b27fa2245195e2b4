//! Benchmark of pods: a pod of three containers against the same containers without a pod, and against `podman play kube`.
//!
//! ```text
//! cargo bench --bench pods -- [--rounds N] [--pods N] [--magikrun PATH]
//! ```
//!
//! It needs root and busybox-static; podman is measured if it is on PATH and can import an image. It runs in a mount namespace of
//! its own, in which state is in memory, as in /run; images are where temporary files are. Everything is interleaved, and
//! everything that it made is removed.

#[path = "../lifecycle/stats.rs"]
#[allow(dead_code, reason = "a part of what is said about samples is not said here")]
mod stats;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use serde_json::json;
use stats::Samples;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

/// Ends at once on SIGTERM, as a program that handles it does.
const SCRIPT: &str = "trap 'exit 0' TERM; sleep 600 & wait";

/// Podman with runc under it, on hosts where limits cannot be raised too.
const PODMAN_CONF: &str = r#"
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]
[engine]
runtime = "runc"
"#;

type Outcome<T> = Result<T, String>;

/// A module that waits for ten minutes, on the monotonic clock.
const SLEEPER: &str = r#"(module
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "_start")
    (i32.store (i32.const 16) (i32.const 1))
    (i64.store (i32.const 24) (i64.const 600000000000))
    (drop (call $poll (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 128)))))"#;

/// What is measured, in order.
const OPERATIONS: [&str; 8] = [
    "pod run",
    "4 x run --detach",
    "podman play kube",
    "pod delete",
    "4 x delete --force",
    "pod delete --force",
    "podman play kube --down",
    "pod run of three modules",
];

struct Bench {
    magikrun: PathBuf,
    dir: tempfile::TempDir,
    name: String,
    podman: bool,
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    // `cargo bench` passes --bench; `cargo test --benches` does not, and measures nothing.
    if !args.iter().any(|arg| arg == "--bench") {
        return;
    }
    if let Err(message) = measure(&args) {
        eprintln!("pods: {message}");
        std::process::exit(1);
    }
}

fn option(args: &[String], name: &str) -> Option<String> {
    args.iter().position(|arg| arg == name).and_then(|at| args.get(at + 1).cloned())
}

fn measure(args: &[String]) -> Outcome<()> {
    let number = |name: &str, default: usize| {
        option(args, name).map_or(Ok(default), |n| n.parse().map_err(|_| format!("{name} needs a number")))
    };
    let (rounds, pods) = (number("--rounds", 20)?, number("--pods", 100)?);
    let magikrun = option(args, "--magikrun").unwrap_or_else(|| env!("CARGO_BIN_EXE_magikrun").to_owned());
    let bench = Bench::new(PathBuf::from(magikrun))?;
    let mut samples: Vec<Samples> = OPERATIONS.iter().map(|_| Samples::default()).collect();
    for _ in 0..rounds {
        bench.round(&mut samples);
    }
    println!("{rounds} rounds, interleaved; milliseconds: median (p10)\n");
    for (name, values) in OPERATIONS.iter().zip(&samples) {
        match (values.median(), values.p10(), values.failure()) {
            (Some(median), Some(p10), _) => {
                println!("{name:<28} {median:8.1} ({p10:.1}){}", failures(values));
            }
            (.., Some(message)) => println!("{name:<28} failed: {message}"),
            _ => println!("{name:<28} -"),
        }
    }
    let ratios =
        [("run / podman", 0, 2), ("run / 4 x run", 0, 1), ("delete / podman", 3, 6), ("modules / run", 7, 0)];
    for (what, of, by) in ratios {
        if let (Some(of), Some(by)) = (samples[of].median(), samples[by].median()) {
            println!("{what:<28} {:8.2}", of / by);
        }
    }
    bench.in_sequence(pods)
}

fn failures(values: &Samples) -> String {
    if values.failures() == 0 {
        String::new()
    } else {
        format!("  {} of {} failed", values.failures(), values.tries())
    }
}

impl Bench {
    fn new(magikrun: PathBuf) -> Outcome<Self> {
        let dir = tempfile::Builder::new().prefix("mkb").tempdir().map_err(|e| e.to_string())?;
        let name = format!("mkb-{}", std::process::id());
        let mut bench = Self { magikrun, dir, name, podman: false };
        state_in_memory(&bench.path("state"))?;
        bench.layout()?;
        call(bench.image(&["pull", &format!("oci:{}:1", bench.path("layout").display())]))?;
        fs::write(bench.path("pod.yaml"), manifest(&bench.name, "localhost/layout:1"))
            .map_err(|e| e.to_string())?;
        fs::write(bench.path("sleeper.wat"), SLEEPER).map_err(|e| e.to_string())?;
        call(bench.image(&["pull", &format!("wasm:{}", bench.path("sleeper.wat").display())]))?;
        fs::write(bench.path("modules.yaml"), modules(&bench.name)).map_err(|e| e.to_string())?;
        // From here on the code of the module is in the store.
        call(bench.run_pod(&bench.path("modules.yaml")))?;
        call(bench.pod(&["delete", "--force", &bench.name]))?;
        fs::write(bench.path("podman.yaml"), manifest(&bench.name, "localhost/mkb:1"))
            .map_err(|e| e.to_string())?;
        fs::write(bench.path("containers.conf"), PODMAN_CONF).map_err(|e| e.to_string())?;
        let imported = Command::new("sh")
            .arg("-c")
            .arg(format!(
                "tar -C {} -c . | podman import --change ENV=PATH=/bin - localhost/mkb:1",
                bench.path("root").display()
            ))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        bench.podman = imported.is_ok_and(|status| status.success());
        Ok(bench)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// An image of one layer with busybox, written by hand: a tar archive in the layout of the OCI image specification.
    fn layout(&self) -> Outcome<()> {
        let script = r#"
set -e
mkdir -p "$1/root/bin" "$1/layout/blobs/sha256"; cp /bin/busybox "$1/root/bin/"
for name in sh sleep true; do ln -s busybox "$1/root/bin/$name"; done
tar -C "$1/root" -cf "$1/layer.tar" .
blob() { digest=$(sha256sum "$1" | cut -d' ' -f1); cp "$1" "$dir/layout/blobs/sha256/$digest"; size=$(stat -c %s "$1"); }
dir=$1; blob "$1/layer.tar"; layer=$digest layer_size=$size
echo "{\"architecture\":\"amd64\",\"os\":\"linux\",\"config\":{\"Env\":[\"PATH=/bin\"]},\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[\"sha256:$layer\"]}}" > "$1/config"
blob "$1/config"; config=$digest config_size=$size
echo "{\"schemaVersion\":2,\"config\":{\"mediaType\":\"application/vnd.oci.image.config.v1+json\",\"digest\":\"sha256:$config\",\"size\":$config_size},\"layers\":[{\"mediaType\":\"application/vnd.oci.image.layer.v1.tar\",\"digest\":\"sha256:$layer\",\"size\":$layer_size}]}" > "$1/manifest"
blob "$1/manifest"
echo "{\"schemaVersion\":2,\"manifests\":[{\"mediaType\":\"application/vnd.oci.image.manifest.v1+json\",\"digest\":\"sha256:$digest\",\"size\":$size,\"annotations\":{\"org.opencontainers.image.ref.name\":\"1\"}}]}" > "$1/layout/index.json"
echo '{"imageLayoutVersion":"1.0.0"}' > "$1/layout/oci-layout"
"#;
        let status = Command::new("sh").args(["-c", script, "layout"]).arg(self.dir.path()).status();
        if status.is_ok_and(|status| status.success()) {
            Ok(())
        } else {
            Err("cannot make an image: is busybox-static installed?".to_owned())
        }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.magikrun);
        command.arg("--root").arg(self.path("state")).args(args);
        command
    }

    fn image(&self, args: &[&str]) -> Command {
        let store = self.path("store").display().to_string();
        self.command(&[&["image", "--storage", &store], args].concat())
    }

    fn pod(&self, args: &[&str]) -> Command {
        let store = self.path("store").display().to_string();
        self.command(&[&["pod", "--storage", &store], args].concat())
    }

    fn run_pod(&self, file: &Path) -> Command {
        self.pod(&["run", "--cgroup-parent", &format!("/{}", self.name), &file.display().to_string()])
    }

    /// Four containers without a pod: three as in the pod, and one more for what the infra container does.
    fn four(&self, verb: &str) -> Outcome<f64> {
        let store = self.path("store").display().to_string();
        let mut sum = 0.0;
        for number in 0..4 {
            let id = format!("{}-{number}", self.name);
            let args: Vec<&str> = match verb {
                "run" => vec![
                    "run",
                    "--storage",
                    &store,
                    "--image",
                    "localhost/layout:1",
                    "--detach",
                    &id,
                    "sh",
                    "-c",
                    SCRIPT,
                ],
                _ => vec!["delete", "--force", &id],
            };
            let mut command = self.command(&args);
            // What a detached container writes must not keep us waiting.
            command.stdout(Stdio::null()).stderr(Stdio::null());
            let began = Instant::now();
            let status = command.stdin(Stdio::null()).status().map_err(|e| e.to_string())?;
            sum += began.elapsed().as_secs_f64() * 1000.0;
            if !status.success() {
                return Err(format!("{verb} of a single container failed"));
            }
        }
        Ok(sum)
    }

    fn podman(&self, args: &[&str]) -> Outcome<f64> {
        if !self.podman {
            return Err("podman is not there, or cannot import an image".to_owned());
        }
        let mut command = Command::new("podman");
        // conmon leaves a file 'oom' where it is started.
        command.current_dir(self.path(""));
        command.env("CONTAINERS_CONF", self.path("containers.conf"));
        command.args(["play", "kube", "--network", "none"]).args(args).arg(self.path("podman.yaml"));
        call(command)
    }

    fn round(&self, samples: &mut [Samples]) {
        let file = self.path("pod.yaml");
        samples[0].add(call(self.run_pod(&file)));
        samples[3].add(call(self.pod(&["delete", &self.name])));
        samples[1].add(self.four("run"));
        samples[4].add(self.four("delete"));
        if !samples[2].hopeless() {
            samples[2].add(self.podman(&[]));
            samples[6].add(self.podman(&["--down"]));
        }
        samples[7].add(call(self.run_pod(&self.path("modules.yaml"))));
        let _ = call(self.pod(&["delete", "--force", &self.name]));
        if call(self.run_pod(&file)).is_ok() {
            samples[5].add(call(self.pod(&["delete", "--force", &self.name])));
        }
    }

    /// Many pods one after the other: what the first and the last cost, and the memory of what looks after one.
    fn in_sequence(&self, count: usize) -> Outcome<()> {
        let mut took = Vec::new();
        for number in 0..count {
            let file = self.path("many.yaml");
            let name = format!("{}-{number}", self.name);
            fs::write(&file, manifest(&name, "localhost/layout:1")).map_err(|e| e.to_string())?;
            took.push(call(self.run_pod(&file))?);
        }
        let median = |part: &[f64]| {
            let mut samples = Samples::default();
            part.iter().for_each(|value| samples.add(Ok(*value)));
            samples.median().unwrap_or_default()
        };
        let tenth = (count / 10).max(1);
        println!(
            "\n{count} pods in sequence: the first {tenth} cost {:.1} ms each, the last {tenth} {:.1} ms",
            median(&took[..tenth]),
            median(&took[count - tenth..])
        );
        println!(
            "private memory of a pod: monitor {} KiB, infra container {} KiB",
            private("magikrun-pod"),
            private("magikrun-infra")
        );
        let names: Vec<String> = (0..count).map(|number| format!("{}-{number}", self.name)).collect();
        let mut args = vec!["delete"];
        args.extend(names.iter().map(String::as_str));
        call(self.pod(&args)).map(drop)
    }
}

/// Makes a directory in memory, which only this process and those that it starts see.
fn state_in_memory(directory: &Path) -> Outcome<()> {
    fs::create_dir(directory).map_err(|e| format!("{}: {e}", directory.display()))?;
    let nothing = None::<&str>;
    unshare(CloneFlags::CLONE_NEWNS)
        .and_then(|()| mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing))
        .and_then(|()| mount(Some("none"), directory, Some("tmpfs"), MsFlags::empty(), Some("mode=0700")))
        .map_err(|e| format!("cannot mount a tmpfs on {}: {e}", directory.display()))
}

/// Runs a command to its end; answers the milliseconds that it took.
fn call(mut command: Command) -> Outcome<f64> {
    let began = Instant::now();
    let output = command.stdin(Stdio::null()).output().map_err(|e| format!("{command:?}: {e}"))?;
    let took = began.elapsed().as_secs_f64() * 1000.0;
    if output.status.success() {
        Ok(took)
    } else {
        Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
    }
}

/// Median of the private memory of all processes with this name, in KiB.
fn private(name: &str) -> u64 {
    let mut all = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let read = |file: &str| fs::read_to_string(entry.path().join(file)).unwrap_or_default();
        if read("cmdline").split('\0').next() == Some(name) {
            let rollup = read("smaps_rollup");
            let lines = rollup.lines().filter(|line| line.starts_with("Private_"));
            all.push(lines.filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).sum());
        }
    }
    all.sort_unstable();
    all.get(all.len() / 2).copied().unwrap_or(0)
}

fn manifest(name: &str, image: &str) -> String {
    let container =
        |container: &str| json!({"name": container, "image": image, "command": ["sh", "-c", SCRIPT]});
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"containers": [container("a"), container("b"), container("c")]},
    })
    .to_string()
}

/// A pod of three modules.
fn modules(name: &str) -> String {
    let container = |container: &str| json!({"name": container, "image": "localhost/sleeper", "imagePullPolicy": "Never"});
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"containers": [container("a"), container("b"), container("c")]},
    })
    .to_string()
}

impl Drop for Bench {
    fn drop(&mut self) {
        let output = self.pod(&["list", "--quiet"]).output();
        for id in output
            .map(|o| String::from_utf8_lossy(&o.stdout).into_owned())
            .unwrap_or_default()
            .split_whitespace()
        {
            let _ = call(self.pod(&["delete", "--force", id]));
        }
        let _ = self.four("delete");
        if self.podman {
            let _ = self.podman(&["--down"]);
            let _ = Command::new("podman").args(["rmi", "localhost/mkb:1"]).stdout(Stdio::null()).status();
        }
        // Below it may be mounts of what has just ended.
        let _ = umount2(&self.path("state"), MntFlags::MNT_DETACH);
        for hierarchy in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            let _ = fs::remove_dir(hierarchy.path().join(&self.name));
        }
    }
}
