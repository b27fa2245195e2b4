//! Benchmark of images: pulling and unpacking against podman and skopeo with umoci, from a registry on loopback.
//!
//! ```text
//! cargo bench --bench images -- [--rounds N] [--magikrun PATH] [--image DIR]
//! ```
//!
//! It needs root and Debian's docker-registry, podman, skopeo and umoci. The image is made once of this machine's own files and
//! kept in DIR (a folder beside the build). Rounds are interleaved; each has empty stores.

mod image;

use image::Registry;
use nix::sys::resource::{UsageWho, getrusage};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

/// What one call cost.
#[derive(Debug, Clone, Copy, Default)]
struct Cost {
    /// Seconds on the clock.
    wall: f64,
    /// Seconds of processors.
    processor: f64,
    /// MB of the largest process.
    memory: f64,
}

struct Args {
    rounds: usize,
    magikrun: PathBuf,
    image: PathBuf,
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let result = match args.first().map(String::as_str) {
        Some("--measure") => measure_here(&args[1..]),
        _ => parse(&args).and_then(|args| run(&args)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("images: {message}");
            ExitCode::FAILURE
        }
    }
}

fn parse(args: &[String]) -> Result<Args, String> {
    let own = PathBuf::from(env!("CARGO_BIN_EXE_magikrun"));
    let image = own.parent().unwrap_or(Path::new(".")).join("bench-image");
    let mut parsed = Args { rounds: 3, magikrun: own, image };
    let mut args = args.iter();
    while let Some(name) = args.next() {
        let value = args.next().ok_or_else(|| format!("{name} needs a value"))?;
        match name.as_str() {
            "--rounds" => parsed.rounds = value.parse().map_err(|e| format!("--rounds: {e}"))?,
            "--magikrun" => parsed.magikrun = value.into(),
            "--image" => parsed.image = value.into(),
            _ => return Err(format!("unknown argument {name}")),
        }
    }
    Ok(parsed)
}

/// In a process of its own, so that the largest child is the one that is measured.
fn measure_here(command: &[String]) -> Result<(), String> {
    let [program, args @ ..] = command else { return Err("nothing to measure".to_owned()) };
    let start = Instant::now();
    let status = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .map_err(|e| format!("cannot execute {program}: {e}"))?;
    let wall = start.elapsed().as_secs_f64();
    if !status.success() {
        return Err(format!("{program} failed"));
    }
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).map_err(|e| e.to_string())?;
    let seconds = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    let processor = seconds(usage.user_time()) + seconds(usage.system_time());
    println!("{wall} {processor} {}", usage.max_rss() as f64 / 1000.0);
    Ok(())
}

fn measure(command: &[&str]) -> Result<Cost, String> {
    let own = std::env::current_exe().map_err(|e| e.to_string())?;
    let output = Command::new(own)
        .arg("--measure")
        .args(command)
        .stderr(Stdio::inherit())
        .output()
        .map_err(|e| e.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let numbers: Vec<f64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    match numbers.as_slice() {
        [wall, processor, memory] => Ok(Cost { wall: *wall, processor: *processor, memory: *memory }),
        _ => Err(format!("{} failed", command.join(" "))),
    }
}

fn run(args: &Args) -> Result<(), String> {
    let (compressed, unpacked) = image::make(&args.image)?;
    println!(
        "image: 5 layers, {} MB compressed, {} MB unpacked",
        compressed / 1_000_000,
        unpacked / 1_000_000
    );
    let scratch =
        tempfile::Builder::new().prefix("mkbench").tempdir_in(&args.image).map_err(|e| e.to_string())?;
    let registry = Registry::start(&scratch.path().join("registry"), &args.image)?;
    let name = registry.name.as_str();
    let program = args.magikrun.to_str().ok_or("the program's path is not UTF-8")?;
    let mut all: Vec<(&str, Vec<Cost>)> =
        ["magikrun", "podman", "skopeo+umoci", "again", "run", "run --image"]
            .map(|n| (n, Vec::new()))
            .to_vec();
    for round in 0..args.rounds {
        let dir = scratch.path().join(round.to_string());
        std::fs::create_dir(&dir).map_err(|e| e.to_string())?;
        let costs = one_round(&dir, name, program)?;
        for ((_, list), cost) in all.iter_mut().zip(costs) {
            list.push(cost);
        }
        std::fs::remove_dir_all(&dir).map_err(|e| e.to_string())?;
    }
    println!("{:<14}{:>10}{:>12}{:>10}", "", "wall s", "processor s", "peak MB");
    for (who, costs) in &all {
        let median = |of: fn(&Cost) -> f64| {
            let mut values: Vec<f64> = costs.iter().map(of).collect();
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        println!(
            "{who:<14}{:>10.3}{:>12.3}{:>10.1}",
            median(|c| c.wall),
            median(|c| c.processor),
            median(|c| c.memory)
        );
    }
    Ok(())
}

/// What a round measures, in the order of the table.
fn one_round(dir: &Path, name: &str, program: &str) -> Result<Vec<Cost>, String> {
    let path = |sub: &str| dir.join(sub).to_string_lossy().into_owned();
    let store = path("store");
    let pull = [program, "image", "--storage", &store, "pull", "--quiet", name];
    let ours = measure(&pull)?;
    let podman = measure(&[
        "podman",
        "--root",
        &path("podman"),
        "--runroot",
        &path("podman-run"),
        "pull",
        "--quiet",
        "--tls-verify=false",
        name,
    ])?;
    let script = format!(
        "skopeo --insecure-policy copy --quiet --src-tls-verify=false docker://{name} oci:{0}/layout:1 && umoci unpack --image {0}/layout:1 {0}/bundle",
        dir.display()
    );
    let skopeo = measure(&["sh", "-c", &script])?;
    let again = measure(&pull)?;
    let bundle = path("ready");
    let container = [
        program,
        "bundle",
        "--storage",
        &store,
        "--mount",
        "--volume",
        "/bin/busybox:/b:ro",
        "--entrypoint",
        "/b",
        name,
        &bundle,
        "true",
    ];
    measure(&container)?;
    let root = path("state");
    let run = measure(&[program, "--root", &root, "run", "--bundle", &bundle, "bench1"])?;
    let image = [
        program,
        "--root",
        &root,
        "run",
        "--storage",
        &store,
        "--image",
        name,
        "--volume",
        "/bin/busybox:/b:ro",
        "--entrypoint",
        "/b",
        "bench2",
        "true",
    ];
    let from_image = measure(&image)?;
    Ok(vec![ours, podman, skopeo, again, run, from_image])
}
