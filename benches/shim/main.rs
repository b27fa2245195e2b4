//! Benchmark of our containerd shim, beside that of runc with runc, crun and magikrun under it.
//!
//! ```text
//! cargo bench --bench shim -- [--rounds N] [--containers N] [--execs N]
//! ```
//!
//! It needs root, busybox-static, containerd, runc and crun; a runtime that is not there is left out. `MAGIKRUN_BENCH_BINARY` and
//! `MAGIKRUN_BENCH_SHIM` name ready programs to measure instead of those of the build, `MAGIKRUN_BENCH_CRUN` another crun than that on PATH. It runs where /sys/fs/cgroup is a cgroup v2
//! alone, as not every runtime accepts the hybrid layout. Everything is interleaved, and everything that it made is removed.

#[path = "../../tests/common/mod.rs"]
mod common;
mod memory;
#[path = "../lifecycle/stats.rs"]
#[allow(dead_code, reason = "a part of what is said about samples is not said here")]
mod stats;

use common::{Containerd, Engine as _, IMAGE, Programs, Shim, runtime_path, shim_folder};
use stats::Samples;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

/// Gives the benchmark a view of cgroup v2 alone.
const VIEW: &str = "umount -R /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup && exec \"$@\"";

/// A shim, and the runtime under it.
struct Subject {
    name: &'static str,
    shim: Shim,
    runtime: PathBuf,
}

impl Subject {
    /// The container whose execs are measured.
    fn container(&self) -> String {
        format!("box-{}", self.name.replace(' ', "-").replace('\'', ""))
    }
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    // `cargo bench` passes --bench; `cargo test --benches` does not, and measures nothing.
    if !args.iter().any(|arg| arg == "--bench") {
        return;
    }
    if args.iter().any(|arg| arg == "--inside") {
        return measure(&args);
    }
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", VIEW, "sh"]);
    command.arg(std::env::current_exe().expect("this program")).arg("--inside").args(&args);
    panic!("cannot execute unshare: {}", command.exec());
}

fn number(args: &[String], name: &str, default: usize) -> usize {
    let value = args.iter().position(|arg| arg == name).and_then(|at| args.get(at + 1));
    value.map_or(default, |value| value.parse().unwrap_or_else(|_| panic!("{name} needs a number")))
}

/// The programs to measure.
fn programs() -> Programs {
    let named = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let runtime = named("MAGIKRUN_BENCH_BINARY").unwrap_or_else(runtime_path);
    let shim = named("MAGIKRUN_BENCH_SHIM").and_then(|path| Some(path.parent()?.to_owned()));
    Programs { runtime, shims: Some(shim.unwrap_or_else(shim_folder)) }
}

fn subjects(programs: &Programs) -> Vec<Subject> {
    let mut subjects = vec![
        Subject { name: "magikrun", shim: Shim::Own, runtime: programs.runtime.clone() },
        Subject { name: "runc's with magikrun", shim: Shim::Runc, runtime: programs.runtime.clone() },
    ];
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin";
    let find =
        |program| path.split(':').map(|folder| Path::new(folder).join(program)).find(|path| path.is_file());
    let crun = std::env::var_os("MAGIKRUN_BENCH_CRUN").map(PathBuf::from).or_else(|| find("crun"));
    for (name, runtime) in [("runc's with runc", find("runc")), ("runc's with crun", crun)] {
        match runtime {
            Some(runtime) => subjects.push(Subject { name, shim: Shim::Runc, runtime }),
            None => println!("{name}: not installed"),
        }
    }
    subjects
}

fn measure(args: &[String]) {
    let programs = programs();
    let mut subjects = subjects(&programs);
    let containerd = Containerd::with_programs(Shim::Own, programs);
    // A runtime that refuses this machine is left out, and said to be.
    subjects.retain(|subject| {
        let options = ["--detach", "--annotation", "magikrun.bench=1"];
        let args = run_args(&containerd, subject, &options, &subject.container(), &["sleep", "100000"]);
        let started = call(&containerd, &args);
        started.inspect_err(|e| println!("{}: {e}", subject.name)).is_ok()
    });
    let rounds = number(args, "--rounds", 40);
    let (mut run, mut exec) =
        (vec![Samples::default(); subjects.len()], vec![Samples::default(); subjects.len()]);
    for round in 0..rounds {
        for turn in 0..subjects.len() {
            let who = (turn + round) % subjects.len();
            let subject = &subjects[who];
            run[who].add(call(&containerd, &run_args(&containerd, subject, &["--rm"], "short", &["true"])));
            let id = format!("exec{round}");
            let words = ["task", "exec", "--exec-id", &id, &subject.container(), "true"];
            exec[who].add(call(&containerd, &words.map(str::to_owned)));
        }
    }
    println!("{rounds} rounds, interleaved; milliseconds: median (p10); ratio: ours to it\n");
    println!("{:<24} {:>24} {:>24}", "shim", "ctr run of true", "ctr task exec of true");
    for (who, subject) in subjects.iter().enumerate() {
        println!("{:<24} {:>24} {:>24}", subject.name, cell(&run, who), cell(&exec, who));
    }
    memory::report(&containerd, &subjects, number(args, "--containers", 10), number(args, "--execs", 1000));
}

/// The arguments of `ctr run` for a container of a subject.
fn run_args(
    containerd: &Containerd,
    subject: &Subject,
    options: &[&str],
    id: &str,
    command: &[&str],
) -> Vec<String> {
    // The view has no controllers.
    let options = [options, &["--cpu-shares", "0"]].concat();
    let mut args = containerd.run_args_of(subject.shim, &subject.runtime, &options);
    args.extend([IMAGE, id].iter().chain(command).map(|&word| word.to_owned()));
    args
}

/// Runs `ctr` to its end; answers the milliseconds that it took.
fn call(containerd: &Containerd, args: &[String]) -> Result<f64, String> {
    let mut command = containerd.command(&args.iter().map(String::as_str).collect::<Vec<_>>());
    let began = Instant::now();
    let output = command.stdin(Stdio::null()).output().map_err(|e| e.to_string())?;
    let took = began.elapsed().as_secs_f64() * 1000.0;
    if output.status.success() {
        Ok(took)
    } else {
        Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
    }
}

fn cell(samples: &[Samples], who: usize) -> String {
    let own = samples.first().and_then(Samples::median);
    match (samples[who].median(), samples[who].p10(), samples[who].failure()) {
        (Some(median), Some(p10), _) => {
            let ratio = own.map_or(0.0, |own| own / median);
            format!("{median:.1} ({p10:.1}) {ratio:.2}")
        }
        (.., failure) => failure.unwrap_or("-").to_owned(),
    }
}
