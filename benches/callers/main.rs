//! Benchmark of whole engines: what `podman run` and `ctr run` of `true` take with each runtime under them.
//!
//! ```text
//! cargo bench --bench callers -- [--rounds N] [--magikrun PATH]
//! ```
//!
//! It needs root and busybox-static, and measures the engines and runtimes that are on PATH; `MAGIKRUN_BENCH_CRUN` names another crun. All is
//! interleaved. The containerd is one of its own, the shim runc's, and neither engine has an image: both are given a root file system.

#[path = "../images/containerd.rs"]
#[allow(dead_code, reason = "nothing is pulled here")]
mod containerd;
#[path = "../images/cost.rs"]
#[allow(dead_code, reason = "no processor time is measured here")]
mod cost;
#[path = "../lifecycle/stats.rs"]
#[allow(dead_code, reason = "a part of what is said about samples is not said here")]
mod stats;

use containerd::Containerd;
use stats::Samples;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

/// Podman on hosts where limits cannot be raised too.
const PODMAN_CONF: &str = "[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=4096:4096\"]\n";

type Outcome<T> = Result<T, String>;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    // `cargo bench` passes --bench; `cargo test --benches` does not, and measures nothing.
    if !args.iter().any(|arg| arg == "--bench") {
        return;
    }
    if let Err(message) = measure(&args) {
        eprintln!("callers: {message}");
        std::process::exit(1);
    }
}

fn option(args: &[String], name: &str) -> Option<String> {
    args.iter().position(|arg| arg == name).and_then(|at| args.get(at + 1).cloned())
}

/// Everything that the engines are given.
struct Bench {
    dir: tempfile::TempDir,
    containerd: Option<Containerd>,
    name: String,
}

fn measure(args: &[String]) -> Outcome<()> {
    let rounds =
        option(args, "--rounds").map_or(Ok(30), |n| n.parse().map_err(|_| "--rounds needs a number"))?;
    let magikrun = option(args, "--magikrun").unwrap_or_else(|| env!("CARGO_BIN_EXE_magikrun").to_owned());
    let crun = std::env::var("MAGIKRUN_BENCH_CRUN").ok().or_else(|| on_path("crun"));
    let runtimes: Vec<(&str, PathBuf)> =
        [("magikrun", Some(magikrun)), ("crun", crun), ("runc", on_path("runc"))]
            .into_iter()
            .filter_map(|(name, path)| Some((name, PathBuf::from(path?))))
            .collect();
    let bench = Bench::new()?;
    for (engine, command) in
        [("podman run", Bench::podman as fn(&Bench, &Path) -> Command), ("ctr run", Bench::ctr)]
    {
        let mut samples = vec![Samples::default(); runtimes.len()];
        // The first round does not count.
        for round in 0..=rounds {
            for ((_, path), samples) in runtimes.iter().zip(&mut samples) {
                let took = timed(&mut command(&bench, path));
                if round > 0 {
                    samples.add(took);
                }
            }
        }
        report(engine, &runtimes, &samples);
    }
    Ok(())
}

fn report(engine: &str, runtimes: &[(&str, PathBuf)], samples: &[Samples]) {
    println!("{engine}: milliseconds, median (p10), and magikrun's part of it");
    let own = samples.first().and_then(Samples::median);
    for ((name, _), samples) in runtimes.iter().zip(samples) {
        match (samples.median(), samples.p10(), own) {
            (Some(median), Some(p10), Some(own)) => {
                println!("{name:<10} {median:8.1} ({p10:.1}) {:8.2}", own / median);
            }
            _ => println!("{name:<10} failed: {}", samples.failure().unwrap_or("no samples")),
        }
    }
}

fn on_path(name: &str) -> Option<String> {
    let folders = std::env::var_os("PATH")?;
    let found = std::env::split_paths(&folders).map(|folder| folder.join(name)).find(|path| path.exists())?;
    found.to_str().map(str::to_owned)
}

/// Milliseconds that a command takes, which must succeed.
fn timed(command: &mut Command) -> Outcome<f64> {
    let begin = Instant::now();
    let output = command.stdin(Stdio::null()).output().map_err(|e| format!("{command:?}: {e}"))?;
    let took = begin.elapsed().as_secs_f64() * 1000.0;
    if output.status.success() {
        Ok(took)
    } else {
        Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
    }
}

impl Bench {
    fn new() -> Outcome<Self> {
        let dir = tempfile::Builder::new().prefix("mkb").tempdir().map_err(|e| e.to_string())?;
        let bin = dir.path().join("root/bin");
        fs::create_dir_all(&bin).map_err(|e| e.to_string())?;
        for folder in ["dev", "etc", "proc", "run", "sys", "tmp"] {
            fs::create_dir(dir.path().join("root").join(folder)).map_err(|e| e.to_string())?;
        }
        fs::copy("/bin/busybox", bin.join("true")).map_err(|e| format!("busybox-static: {e}"))?;
        fs::write(dir.path().join("containers.conf"), PODMAN_CONF).map_err(|e| e.to_string())?;
        let containerd =
            on_path("containerd").map(|_| Containerd::start(&dir.path().join("containerd"))).transpose()?;
        Ok(Self { name: format!("mkb-{}", std::process::id()), dir, containerd })
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    fn podman(&self, runtime: &Path) -> Command {
        let mut command = Command::new("podman");
        command.env("CONTAINERS_CONF", self.dir.path().join("containers.conf"));
        command.arg("--runtime").arg(runtime).args([
            "run",
            "--rm",
            "--network",
            "none",
            // Not every host has the controller.
            "--pids-limit",
            "-1",
            "--name",
            &self.name,
        ]);
        command.arg("--rootfs").arg(self.root()).arg("/bin/true");
        command
    }

    fn ctr(&self, runtime: &Path) -> Command {
        let socket = self.containerd.as_ref().map_or("none", |containerd| &containerd.socket);
        let mut command = Command::new("ctr");
        command.args([
            "--address",
            socket,
            "run",
            "--rm",
            "--runtime",
            "io.containerd.runc.v2",
            "--runc-binary",
        ]);
        command.arg(runtime).arg("--rootfs").arg(self.root()).args([self.name.as_str(), "/bin/true"]);
        command
    }
}
