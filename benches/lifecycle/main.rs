//! Benchmark of the life cycle of containers: magikrun against the other OCI runtimes on PATH.
//!
//! ```text
//! cargo bench --bench lifecycle -- [--rounds N] [--containers N] [--runtimes a,b] [--magikrun PATH] [--markdown FILE]
//!     [--devices on|off|auto] [--seccomp on|off] [--scale N,N...] [--cgroups v2|host]
//! ```
//!
//! It needs root, busybox-static and unshare(1). It runs in a mount namespace of its own in which /sys/fs/cgroup is a
//! cgroup v2 alone, since not every runtime accepts the hybrid layout (`--cgroups host` leaves it as it is), and state, as in /run, and bundles are in a tmpfs,
//! and it removes all that it made, also when it is interrupted. `MAGIKRUN_BENCH_CRUN` names another crun than the one on PATH.

mod bulk;
mod bundle;
mod floor;
mod log;
mod private;
mod profile;
mod report;
mod rounds;
mod runtime;
mod scale;
mod stats;

use bundle::Scratch;
use floor::Floor;
use report::{Show, Table};
use rounds::{Bench, Mode, OPERATIONS, Results};
use runtime::{Measure, Runtime};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// Shows a cgroup v2 alone.
const V2_ALONE: &str = "umount -R /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup || exit 1";

/// What the outer process asks for, in a mount namespace of its own: a private place, the benchmark, and the sweep whatever becomes of the benchmark.
const WRAPPER: &str = r#"
mkdir "$3" && mount -t tmpfs none "$3" || exit 1
trap : INT TERM HUP
program=$1 pid=$2 directory=$3
shift 3
"$program" --inside "$pid" "$@"
code=$?
"$program" --sweep "$pid" || exit 1
umount "$directory" && rmdir "$directory"
exit $code
"#;

/// The arguments of the benchmark.
#[derive(Debug)]
struct Args {
    rounds: usize,
    containers: usize,
    runtimes: Vec<String>,
    magikrun: Option<PathBuf>,
    markdown: Option<PathBuf>,
    /// Whether the containers have a rule for devices; `None`: if every runtime copes with it.
    devices: Option<bool>,
    /// Whether the containers have the seccomp profile of container engines.
    seccomp: bool,
    /// The containers are in a cgroup v2 alone, instead of in what the host has.
    v2: bool,
    /// With which numbers of containers there each operation is measured, instead of everything else.
    scale: Vec<usize>,
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let result = match args.first().map(String::as_str) {
        Some("--own-peak") => {
            println!("{}", runtime::own_peak().unwrap_or(0));
            return ExitCode::SUCCESS;
        }
        Some("--inside") => pid_of(args.get(1)).and_then(|pid| inside(Scratch::of_pid(pid), &args[2..])),
        Some("--sweep") => pid_of(args.get(1)).and_then(|pid| sweep(&Scratch::of_pid(pid))),
        // `cargo bench` passes --bench; `cargo test --benches` does not, and measures nothing.
        _ if !args.iter().any(|arg| arg == "--bench") => {
            println!("lifecycle: nothing measured, use `cargo bench --bench lifecycle`");
            return ExitCode::SUCCESS;
        }
        _ => outside(&args),
    };
    match result {
        Ok(code) => code,
        Err(message) => {
            eprintln!("lifecycle: {message}");
            ExitCode::FAILURE
        }
    }
}

fn pid_of(arg: Option<&String>) -> Result<u32, String> {
    arg.and_then(|arg| arg.parse().ok()).ok_or_else(|| "no pid given".to_owned())
}

/// Executes the benchmark again in a view of its own.
fn outside(args: &[String]) -> Result<ExitCode, String> {
    let view = if parse(args)?.v2 { V2_ALONE } else { "" };
    let own = std::env::current_exe().map_err(|e| format!("own executable: {e}"))?;
    let status = Command::new("unshare")
        .args(["-m", "--propagation", "private", "sh", "-c", &format!("{view}\n{WRAPPER}"), "lifecycle"])
        .arg(own)
        .arg(std::process::id().to_string())
        .arg(Scratch::of_pid(std::process::id()).dir())
        .args(args)
        .status()
        .map_err(|e| format!("unshare: {e}"))?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn sweep(scratch: &Scratch) -> Result<ExitCode, String> {
    let problems = scratch.sweep();
    if problems.is_empty() {
        Ok(ExitCode::SUCCESS)
    } else {
        Err(format!("left behind: {}", problems.join(", ")))
    }
}

fn parse(args: &[String]) -> Result<Args, String> {
    let mut parsed = Args {
        rounds: 30,
        containers: 100,
        runtimes: Vec::new(),
        magikrun: None,
        markdown: None,
        devices: None,
        seccomp: true,
        scale: Vec::new(),
        v2: true,
    };
    let mut args = args.iter().filter(|arg| *arg != "--bench");
    while let Some(arg) = args.next() {
        let (name, value) = match arg.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (arg.as_str(), args.next().map(String::as_str)),
        };
        let value = value.ok_or_else(|| format!("{name} needs a value"))?;
        let number = || value.parse::<usize>().map_err(|e| format!("{name} {value}: {e}"));
        match name {
            "--rounds" => parsed.rounds = number()?.max(1),
            "--containers" => parsed.containers = number()?,
            "--runtimes" => parsed.runtimes = value.split(',').map(str::to_owned).collect(),
            "--scale" => {
                let numbers = value.split(',').map(str::parse);
                parsed.scale =
                    numbers.collect::<Result<_, _>>().map_err(|e| format!("{name} {value}: {e}"))?;
            }
            "--magikrun" => parsed.magikrun = Some(value.into()),
            "--markdown" => parsed.markdown = Some(value.into()),
            "--devices" => {
                parsed.devices = match value {
                    "on" => Some(true),
                    "off" => Some(false),
                    "auto" => None,
                    _ => return Err(format!("{name} {value}: neither on, off nor auto")),
                }
            }
            "--cgroups" => {
                parsed.v2 = match value {
                    "v2" => true,
                    "host" => false,
                    _ => return Err(format!("{name} {value}: neither v2 nor host")),
                }
            }
            "--seccomp" => {
                parsed.seccomp = match value {
                    "on" => true,
                    "off" => false,
                    _ => return Err(format!("{name} {value}: neither on nor off")),
                }
            }
            _ => return Err(format!("unknown argument {name}")),
        }
    }
    if parsed.runtimes.is_empty() {
        parsed.runtimes = ["magikrun", "crun", "runc", "youki"].map(str::to_owned).into();
    }
    Ok(parsed)
}

/// Measures and reports; the caller sweeps.
fn inside(mut scratch: Scratch, args: &[String]) -> Result<ExitCode, String> {
    let args = parse(args)?;
    // Processes whose parent, a runtime, has gone become ours, as they become those of conmon or a shim.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(|e| format!("child subreaper: {e}"))?;
    scratch.make()?;
    if args.seccomp {
        scratch.seccomp = Some(profile::read(&bundle::CAPABILITIES)?);
    }
    let (runtimes, missing) = find_runtimes(&scratch, &args);
    let mut lines = report::conditions(&runtimes, &missing, args.rounds);
    if runtimes.is_empty() {
        return Err(format!("no runtime found: {}", missing.join("; ")));
    }
    let memory = runtime::memory_measure(&scratch)?;
    lines.push(choose_device_rules(&mut scratch, &runtimes, memory, args.devices));
    lines.push(format!(
        "seccomp profile: {}",
        if args.seccomp { "that of container engines" } else { "none" }
    ));
    let (message, span) = log::off();
    lines.push(format!("log: a message that is off takes {message:.2} ns, a span {span:.2} ns"));
    println!("{}\n", lines.join("\n"));
    let floor = Floor::make(&scratch, runtimes.iter().find(|runtime| runtime.name == "magikrun"))?;
    let bench = Bench { memory, floor: Some(&floor), ..Bench::of(&scratch, &runtimes) };
    let tables = measure(&bench, &args);
    if let Some(file) = &args.markdown {
        let list = format!("- {}\n", lines.join("\n- "));
        let tables: String = tables.iter().map(Table::markdown).collect();
        std::fs::write(file, format!("{list}\n{tables}")).map_err(|e| format!("{}: {e}", file.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn find_runtimes(scratch: &Scratch, args: &Args) -> (Vec<Runtime>, Vec<String>) {
    let crun = std::env::var_os("MAGIKRUN_BENCH_CRUN").map(PathBuf::from);
    let built = option_env!("CARGO_BIN_EXE_magikrun").map(PathBuf::from);
    let (mut found, mut missing) = (Vec::new(), Vec::new());
    for name in &args.runtimes {
        let given: Option<&Path> = match name.as_str() {
            "magikrun" => args.magikrun.as_deref().or(built.as_deref()),
            "crun" => crun.as_deref(),
            _ => None,
        };
        match Runtime::find(scratch, name, given) {
            Ok(runtime) => found.push(runtime),
            Err(message) => missing.push(message),
        }
    }
    (found, missing)
}

/// Decides whether the containers have a rule for devices, which some runtimes cannot load without CAP_SYS_RESOURCE.
fn choose_device_rules(
    scratch: &mut Scratch,
    runtimes: &[Runtime],
    memory: Measure,
    wanted: Option<bool>,
) -> String {
    let run_all = |scratch: &Scratch| -> Vec<String> {
        let bench = Bench { memory, ..Bench::of(scratch, runtimes) };
        let run = |runtime| bench.run(runtime, "probe", Mode::Busy).err();
        runtimes.iter().filter_map(|runtime| run(runtime).map(|e| format!("{}: {e}", runtime.name))).collect()
    };
    if let Some(wanted) = wanted {
        scratch.device_rules = wanted;
        return format!("device rules: {}", if wanted { "on" } else { "off" });
    }
    let with = run_all(scratch);
    if with.is_empty() {
        return "device rules: on".to_owned();
    }
    scratch.device_rules = false;
    if run_all(scratch).len() < with.len() {
        return format!("device rules: off, since they fail in {}", with.join("; "));
    }
    scratch.device_rules = true;
    format!("device rules: on, but a probe fails in {}", with.join("; "))
}

/// Does all rounds and prints each table as soon as it is there.
fn measure(bench: &Bench<'_>, args: &Args) -> Vec<Table> {
    if !args.scale.is_empty() {
        let tables = bench.scale(&args.scale, args.rounds);
        tables.iter().for_each(|table| println!("{}", table.text()));
        return tables;
    }
    let count = bench.runtimes.len();
    let [mut busy, mut paused, mut memory, mut private] = [(); 4].map(|()| Results::new(count));
    for number in 0..args.rounds {
        bench.round(number, Mode::Busy, &mut busy);
        bench.round(number, Mode::Paused, &mut paused);
    }
    bench.beside_others(|| {
        for number in 0..args.rounds.min(5) {
            bench.round(number, Mode::Memory, &mut memory);
            bench.round(number, Mode::Private, &mut private);
        }
    });
    let lists = match args.containers {
        0 => None,
        containers => Some(bench.list_many(containers, args.rounds.min(20))),
    };
    let mut tables = Vec::new();
    let mut show = |table: Table| {
        println!("{}", table.text());
        tables.push(table);
    };
    let titles = [
        "Milliseconds without a pause: median (p10)",
        "Milliseconds, 40 ms pause before each operation: median (p10)",
        "Resident memory in KiB of the largest process of a call, at its peak: median",
        "Memory in KiB that a call has for itself, at its end: median",
    ];
    for (i, (title, results)) in titles.into_iter().zip([&busy, &paused, &memory, &private]).enumerate() {
        let digits = if i >= 2 { Show::Median(0) } else { Show::MedianAndP10(1) };
        let mut table = Table::new(title.to_owned(), "operation", bench.runtimes);
        for (operation, samples) in OPERATIONS.iter().zip(&results.operations) {
            table.row(operation, samples, bench.runtimes, digits);
            if *operation == "run" && i < 2 {
                table.floor(operation, &results.floor, samples, bench.runtimes, digits);
            }
        }
        if let Some(lists) = &lists {
            table.row(&format!("list of {}", args.containers), &lists[i], bench.runtimes, digits);
        }
        if i == 2 {
            let [proportional, _] = &memory.left_by_create;
            table.row("left by create, one of two (PSS)", proportional, bench.runtimes, Show::Median(0));
        }
        if i == 3 {
            let [_, own] = &memory.left_by_create;
            table.row("left by create, one of two", own, bench.runtimes, Show::Median(0));
        }
        show(table);
    }
    if args.containers > 0 {
        let title = format!("Seconds for {} containers: create, start, delete --force", args.containers);
        let mut table = Table::new(title, "how", bench.runtimes);
        table.row("in sequence", &bench.many(args.containers, 1), bench.runtimes, Show::Sum(2));
        let parallel = bench.many(args.containers, bulk::AT_A_TIME);
        table.row(&format!("{} at a time", bulk::AT_A_TIME), &parallel, bench.runtimes, Show::Sum(2));
        show(table);
    }
    tables
}
