//! Benchmark of WebAssembly containers, beside native ones and the engine alone.
//!
//! ```text
//! cargo bench --bench wasm -- [--rounds N] [--instances N] [--magikrun PATH] [--markdown FILE]
//! ```
//!
//! It needs root, busybox-static, and Debian's clang, lld, wasi-libc and libclang-rt-14-dev-wasm32. All that it makes is in a
//! temporary folder and in cgroups of its own name, and is removed.

mod bundles;
#[path = "../lifecycle/stats.rs"]
#[allow(dead_code, reason = "the other benchmark uses more of it")]
mod stats;

use bundles::{Bundles, Kind};
use stats::Samples;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

struct Args {
    rounds: usize,
    instances: usize,
    magikrun: Option<PathBuf>,
    markdown: Option<PathBuf>,
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, module, store] = args.as_slice()
        && flag == "--engine"
    {
        println!("{}", engine(Path::new(module), Path::new(store)));
        return ExitCode::SUCCESS;
    }
    // `cargo bench` passes --bench; `cargo test --benches` does not, and measures nothing.
    if !args.iter().any(|arg| arg == "--bench") {
        println!("wasm: nothing measured, use `cargo bench --bench wasm`");
        return ExitCode::SUCCESS;
    }
    match parse(&args).and_then(|args| measure(&args)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("wasm: {message}");
            ExitCode::FAILURE
        }
    }
}

/// Rounds that do not count: the first compiles, the second remembers the digests of modules and code.
const WARM_UP: usize = 2;
/// What is younger than 3 s could change unseen, and so is read and hashed at each start: no image is as young for long.
const SETTLED: Duration = Duration::from_millis(3200);

fn parse(args: &[String]) -> Result<Args, String> {
    let mut parsed = Args { rounds: 40, instances: 100, magikrun: None, markdown: None };
    let mut args = args.iter().filter(|arg| *arg != "--bench");
    while let Some(name) = args.next() {
        let value = args.next().ok_or_else(|| format!("{name} needs a value"))?;
        let number = || value.parse::<usize>().map_err(|e| format!("{name} {value}: {e}"));
        match name.as_str() {
            "--rounds" => parsed.rounds = number()?.max(1),
            "--instances" => parsed.instances = number()?,
            "--magikrun" => parsed.magikrun = Some(value.into()),
            "--markdown" => parsed.markdown = Some(value.into()),
            _ => return Err(format!("unknown argument {name}")),
        }
    }
    Ok(parsed)
}

/// What the engine needs in a process of its own for a module from the store: from an open bundle to the end of the program.
/// In microseconds.
fn engine(module: &Path, store: &Path) -> u128 {
    use magikrun::runtime::wasm::execute::{self, Job};
    use magikrun::runtime::wasm::instance::Call;
    use magikrun::runtime::wasm::program::Program;
    use magikrun::runtime::wasm::settings::Settings;
    use magikrun::runtime::wasm::source::{self, Tree};
    use magikrun::storage::config::WasmLimits;
    let begin = Instant::now();
    let spec = serde_json::json!({"ociVersion": "1.0.0", "process": {"cwd": "/", "user": {"uid": 0, "gid": 0},
        "args": [module]}});
    let spec: oci_spec::runtime::Spec = serde_json::from_value(spec).expect("a configuration");
    let limits = WasmLimits { store: Some(store.to_owned()), ..WasmLimits::default() };
    let settings = Settings::from_spec(&spec, &limits).expect("settings");
    let tree = Tree::of_bundle(Path::new("/"), Path::new("/"), &spec).expect("a tree");
    let source = source::find(&tree, spec.process().as_ref().expect("a process")).expect("the module");
    let program = Program::prepare_here(&limits, settings, &source).expect("the program");
    let engine = magikrun::runtime::wasm::engine::running(program.settings.code).expect("an engine");
    let call = Call { args: vec!["hello".to_owned()], alone: true, ..Call::default() };
    let job = Job::new(program, call).expect("a job");
    let outcome = execute::run(&engine, job).expect("an outcome");
    assert_eq!(outcome.code, 0, "{outcome:?}");
    begin.elapsed().as_micros()
}

/// Milliseconds that a command takes, which must succeed.
fn timed(command: &mut Command) -> Result<f64, String> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let begin = Instant::now();
    let output = command.output().map_err(|e| format!("{command:?}: {e}"))?;
    let time = begin.elapsed().as_secs_f64() * 1000.0;
    if !output.status.success() {
        return Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim()));
    }
    Ok(time)
}

fn measure(args: &Args) -> Result<(), String> {
    let program = args
        .magikrun
        .clone()
        .or_else(|| option_env!("CARGO_BIN_EXE_magikrun").map(PathBuf::from))
        .ok_or("no magikrun: give --magikrun")?;
    let bundles = Bundles::make(&program)?;
    let own = std::env::current_exe().map_err(|e| e.to_string())?;
    let mut rows: Vec<(&str, Samples)> =
        ["native true", "hello", "module of 1 MB", "engine alone, hello", "engine alone, 1 MB"]
            .map(|name| (name, Samples::default()))
            .into();
    for round in 0..args.rounds + WARM_UP {
        let engine = |kind: Kind| -> Result<f64, String> {
            let output =
                Command::new(&own).arg("--engine").arg(bundles.module(kind)).arg(bundles.store()).output();
            let output = output.map_err(|e| e.to_string())?;
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            // The program prints too; the time is the last line.
            let last = text.lines().last().unwrap_or_default().to_owned();
            last.parse::<f64>()
                .map(|us| us / 1000.0)
                .map_err(|_| String::from_utf8_lossy(&output.stderr).into_owned())
        };
        let all = [
            timed(&mut bundles.run(Kind::True)),
            timed(&mut bundles.run(Kind::Hello)),
            timed(&mut bundles.run(Kind::Large)),
            engine(Kind::Hello),
            engine(Kind::Large),
        ];
        for (row, outcome) in rows.iter_mut().zip(all) {
            let time = outcome?;
            if round >= WARM_UP {
                row.1.add(Ok(time));
            }
        }
        if round == 0 {
            std::thread::sleep(SETTLED);
        }
    }
    let mut text = format!(
        "### WebAssembly, milliseconds: median (p10), {} rounds, interleaved\n\n| | |\n|---|---:|\n",
        args.rounds
    );
    for (name, samples) in &rows {
        let (median, p10) = (samples.median().unwrap_or_default(), samples.p10().unwrap_or_default());
        text.push_str(&format!("| {name} | {median:.2} ({p10:.2}) |\n"));
    }
    let median = |row: usize| rows[row].1.median().unwrap_or_default();
    text.push_str(&format!("| hello / native true | {:.2} |\n", median(1) / median(0)));
    text.push_str(&format!(
        "| hello - native true - engine alone | {:.2} |\n",
        median(1) - median(0) - median(3)
    ));
    text.push_str(&format!("| module of 1 MB - hello | {:.2} |\n", median(2) - median(1)));
    text.push_str(&format!(
        "| private memory of {} instances, KiB each | {} |\n",
        args.instances,
        memory(&bundles, args.instances)?
    ));
    println!("{text}");
    match &args.markdown {
        Some(file) => std::fs::write(file, text).map_err(|e| format!("{}: {e}", file.display())),
        None => Ok(()),
    }
}

/// Starts `count` containers of one sleeping module side by side, and returns the mean private memory of their processes in
/// KiB.
fn memory(bundles: &Bundles, count: usize) -> Result<u64, String> {
    let mut total = 0;
    let ids: Vec<String> = (0..count).map(|n| format!("i{n}")).collect();
    for id in &ids {
        timed(&mut bundles.detach(id)?)?;
    }
    std::thread::sleep(Duration::from_millis(200));
    for id in &ids {
        let pid = bundles.pid(id)?;
        let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).map_err(|e| e.to_string())?;
        total += text
            .lines()
            .filter(|line| line.starts_with("Private_"))
            .filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok())
            .sum::<u64>();
    }
    Ok(total / count.max(1) as u64)
}
