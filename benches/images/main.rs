//! Benchmark of images: pulling and unpacking against podman, skopeo with umoci, and containerd's ctr, from a registry on
//! loopback; and what a container of an image costs over one of a ready bundle.
//!
//! ```text
//! cargo bench --bench images -- [--rounds N] [--magikrun PATH] [--image DIR]
//! ```
//!
//! It needs root and Debian's docker-registry, podman, skopeo, umoci and containerd. The image is made once of this machine's own
//! files and kept in DIR (a folder beside the build). Rounds are interleaved; each has empty stores. `MAGIKRUN_BENCH_BINARY` names
//! another magikrun than the one that cargo has built.

mod containerd;
mod cost;
mod image;

use containerd::Containerd;
use cost::{Cost, measure, median};
use image::Registry;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// How often a container is run of the image and of a ready bundle.
const CONTAINERS: usize = 20;

struct Args {
    rounds: usize,
    magikrun: PathBuf,
    image: PathBuf,
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let result = match args.first().map(String::as_str) {
        Some("--measure") => cost::measure_here(&args[1..]),
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
    let built = PathBuf::from(env!("CARGO_BIN_EXE_magikrun"));
    let image = built.parent().unwrap_or(Path::new(".")).join("bench-image");
    let own = std::env::var_os("MAGIKRUN_BENCH_BINARY").map_or(built, PathBuf::from);
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

/// Rows of a table: who or what, and what each time cost.
type Rows<'a> = Vec<(&'a str, Vec<Cost>)>;

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
    let bench = Bench {
        name: &registry.name,
        program: args.magikrun.to_str().ok_or("the program's path is not UTF-8")?,
    };
    let mut pulls: Rows<'_> = ["magikrun", "podman", "skopeo+umoci", "ctr", "magikrun again"]
        .map(|name| (name, Vec::new()))
        .to_vec();
    let mut containers: Rows<'_> =
        ["run", "run --image", "bundle --mount"].map(|name| (name, Vec::new())).to_vec();
    for round in 0..args.rounds {
        let dir = scratch.path().join(round.to_string());
        std::fs::create_dir(&dir).map_err(|e| e.to_string())?;
        bench.pulls(&dir, &mut pulls)?;
        if round + 1 == args.rounds {
            print(&pulls, true);
            bench.containers(&dir, &mut containers)?;
        }
        std::fs::remove_dir_all(&dir).map_err(|e| e.to_string())?;
    }
    print(&containers, false);
    Ok(())
}

/// Medians, and the share of the second row where there is something to compare with.
fn print(rows: &Rows<'_>, compared: bool) {
    println!("{:<16}{:>10}{:>14}{:>10}", "", "wall s", "processor s", "peak MB");
    let columns: [fn(&Cost) -> f64; 3] = [|c| c.wall, |c| c.processor, |c| c.memory];
    for (who, costs) in rows {
        let [wall, processor, memory] = columns.map(|of| median(costs, of));
        println!("{who:<16}{wall:>10.4}{processor:>14.4}{memory:>10.1}");
    }
    if compared {
        let share = |of: fn(&Cost) -> f64| median(&rows[0].1, of) / median(&rows[1].1, of);
        println!(
            "magikrun has {:.2} of podman's wall time and {:.2} of its processor time\n",
            share(columns[0]),
            share(columns[1])
        );
    }
}

struct Bench<'a> {
    /// Name of the image in the registry.
    name: &'a str,
    /// Path of magikrun.
    program: &'a str,
}

impl Bench<'_> {
    /// One pull by each, and another of ours of what has not changed.
    fn pulls(&self, dir: &Path, rows: &mut Rows<'_>) -> Result<(), String> {
        let path = |sub: &str| dir.join(sub).to_string_lossy().into_owned();
        let name = self.name;
        let store = path("store");
        let ours = [self.program, "image", "--storage", &store, "pull", "--quiet", name];
        rows[0].1.push(measure(&ours)?);
        let root = path("podman");
        // podman takes at most 50 characters.
        let runroot = tempfile::tempdir_in("/run").map_err(|e| e.to_string())?;
        let runroot = runroot.path().to_string_lossy();
        let podman =
            ["podman", "--root", &root, "--runroot", &runroot, "pull", "--quiet", "--tls-verify=false"];
        rows[1].1.push(measure(&[&podman[..], &[name]].concat())?);
        let script = format!(
            "skopeo --insecure-policy copy --quiet --src-tls-verify=false docker://{name} oci:{0}/layout:1 \
             && umoci unpack --image {0}/layout:1 {0}/bundle",
            dir.display()
        );
        rows[2].1.push(measure(&["sh", "-c", &script])?);
        let containerd = Containerd::start(&dir.join("containerd"))?;
        rows[3].1.push(containerd.pull(name)?);
        drop(containerd);
        rows[4].1.push(measure(&ours)?);
        Ok(())
    }

    /// Containers of the image that was pulled to `dir`, and of a bundle that was made of it before.
    fn containers(&self, dir: &Path, rows: &mut Rows<'_>) -> Result<(), String> {
        let path = |sub: &str| dir.join(sub).to_string_lossy().into_owned();
        let (store, root) = (path("store"), path("state"));
        let from_store = ["--storage", &store];
        // The image has no program that runs without others of this machine's.
        let program = ["--volume", "/bin/busybox:/busybox:ro", "--entrypoint", "/busybox"];
        let bundle = |path: &str| {
            let start = [self.program, "bundle", "--mount"];
            measure(&[&start[..], &from_store, &program, &[self.name, path, "true"]].concat())
        };
        let ready = path("ready");
        bundle(&ready)?;
        for number in 0..CONTAINERS {
            let run = [self.program, "--root", &root, "run"];
            rows[0].1.push(measure(&[&run[..], &["--bundle", &ready, "bench1"]].concat())?);
            let image = [&run[..], &from_store, &program, &["--image", self.name, "bench2", "true"]].concat();
            rows[1].1.push(measure(&image)?);
            rows[2].1.push(bundle(&path(&format!("bundle{number}")))?);
        }
        Ok(())
    }
}
