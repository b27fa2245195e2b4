//! Runs the same tests against any OCI runtime, in any of several environments, and prints what came of them as a table.
//!
//! A *suite* knows its tests and how to read their results, a *runtime* is an executable with a name, an *environment*
//! is a place where commands run. What is known to fail is listed in `expected/`, with the reason; whatever else fails,
//! and whatever is listed and passes, fails the run.

mod cache;
mod debian;
mod environment;
mod expected;
mod report;
mod runtime;
mod suite;
mod verdict;
mod vm;

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use environment::{Environment, Place};
use expected::Expectations;
use report::Table;
use runtime::Runtime;
use std::path::PathBuf;
use std::process::ExitCode;
use suite::{Selection, Suite};

/// Runs conformance suites against OCI runtimes.
#[derive(Debug, Parser)]
#[command(name = "conformance", args_conflicts_with_subcommands = true)]
struct Args {
    #[command(subcommand)]
    command: Option<Command>,

    /// Runtimes: magikrun, runc, crun, runc-sid, or paths
    #[arg(long, value_delimiter = ',', default_value = "magikrun,runc,crun")]
    runtime: Vec<String>,

    /// Suites
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = suite::ALL)]
    suite: Vec<Suite>,

    /// Environments
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Place::Host, Place::V2])]
    env: Vec<Place>,

    /// Runs only the tests whose name contains this
    #[arg(long)]
    only: Option<String>,

    /// Runs the committed subset that continuous integration has time for
    #[arg(long)]
    quick: bool,

    /// The magikrun to test
    #[arg(long, default_value = "target/release/magikrun")]
    magikrun: PathBuf,

    /// Writes the table to this file too
    #[arg(long)]
    output: Option<PathBuf>,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Runs a command in the machine of the environment `vm`
    Vm(vm::Args),
}

fn main() -> ExitCode {
    let mut args = Args::parse();
    let result = match args.command.take() {
        Some(Command::Vm(by_hand)) => vm::by_hand(by_hand).map(ExitCode::from),
        None => run(&args).map(|expected| if expected { ExitCode::SUCCESS } else { ExitCode::FAILURE }),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("conformance: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs what the arguments ask for; answers whether every result is the expected one.
fn run(args: &Args) -> Result<bool> {
    if !nix::unistd::geteuid().is_root() {
        bail!("cannot run the suites: they make containers and need root");
    }
    let runtimes =
        args.runtime.iter().map(|name| Runtime::find(name, &args.magikrun)).collect::<Result<Vec<_>>>()?;
    let selection = Selection { only: args.only.clone(), quick: args.quick, names: None };
    let mut table = Table::new(&runtimes);
    for place in &args.env {
        let environment = place.open().with_context(|| format!("cannot open environment '{place}'"))?;
        for suite in &args.suite {
            for runtime in &runtimes {
                run_one(*suite, runtime, environment.as_ref(), &selection, &mut table)?;
            }
        }
    }
    print!("{}", table.text());
    if let Some(path) = &args.output {
        std::fs::write(path, format!("{HEAD}{}", table.text()))
            .with_context(|| format!("cannot write '{}'", path.display()))?;
    }
    Ok(table.is_as_expected())
}

/// What a file with the table begins with.
const HEAD: &str = "# Conformance\n\nWritten by `make conformance-full`; design.md says how it works.\n\n";

/// Why the quick subset leaves out a suite with a runtime in an environment.
fn not_quick(suite: Suite, runtime: &str, place: Place) -> Option<&'static str> {
    match (suite, runtime, place) {
        (Suite::Own, "magikrun", Place::Host) => Some("these tests are those of `cargo test`"),
        (Suite::Own, "magikrun", _) => None,
        (Suite::Own, _, _) => Some("in the full run only"),
        (_, "runc", Place::V2) => Some("crun is enough to compare with where it runs"),
        _ => None,
    }
}

/// More failures than these are no accident, and nothing runs again.
const MAX_AGAIN: usize = 5;

fn run_one(
    suite: Suite,
    runtime: &Runtime,
    environment: &dyn Environment,
    selection: &Selection,
    table: &mut Table,
) -> Result<()> {
    let place = environment.place();
    let left_out = selection.quick.then(|| not_quick(suite, &runtime.name, place)).flatten();
    if let Some(reason) = runtime.cannot_run_in(place).or(left_out) {
        table.skip(suite, runtime, place, reason);
        return Ok(());
    }
    let expectations = Expectations::load(runtime)?;
    let run = |selection: &Selection| {
        let outcomes = suite
            .run(runtime, environment, selection)
            .with_context(|| format!("cannot run suite '{suite}' with '{}'", runtime.name))?;
        Ok::<_, anyhow::Error>(expectations.judge(suite, place, outcomes, selection.is_everything()))
    };
    let mut results = run(selection)?;
    // Programs of the suites have limits of a second or two, which a busy machine may miss once.
    let failed = results.failed();
    if !failed.is_empty() && failed.len() <= MAX_AGAIN {
        results.take_again(run(&Selection { names: Some(failed), ..Selection::default() })?);
    }
    table.add(suite, runtime, place, results);
    Ok(())
}
