//! Runs the same tests against any OCI runtime, in any of several environments, and prints what came of them as a table.
//!
//! A *suite* knows its tests and how to read their results, a *runtime* is an executable with a name, an *environment*
//! is a place where commands run. What is known to fail is listed in `expected/`, with the reason; whatever else fails,
//! and whatever is listed and passes, fails the run.

mod cache;
mod containerd;
mod debian;
mod engines;
mod environment;
mod expected;
mod microvm;
mod report;
mod runtime;
mod scratch;
mod suite;
mod verdict;
mod vm;

use anyhow::{Context as _, Result, bail};
use clap::{Parser, ValueEnum as _};
use environment::{Environment, Place};
use expected::{Expectations, Judgements};
use report::{OURS, Table};
use runtime::Runtime;
use scratch::Scratch;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
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

    /// Environments: host, v2, vm, vm-v1; vm=RUNTIME has only that runtime
    #[arg(long, value_delimiter = ',', default_value = "host,v2")]
    env: Vec<Where>,

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

/// An environment, and the only runtime to run in it, where one is named.
#[derive(Debug, Clone)]
struct Where {
    place: Place,
    only: Option<String>,
}

impl FromStr for Where {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let (place, only) = match text.split_once('=') {
            Some((place, only)) => (place, Some(only.to_owned())),
            None => (text, None),
        };
        Ok(Self { place: Place::from_str(place, false)?, only })
    }
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Runs a command in the machine of the environment `vm`
    Vm(vm::Args),
    /// Prints the folder with containerd and Docker of another release of Debian, after downloading them if need be
    Engines {
        /// The release: trixie or sid
        release: String,
    },
    /// Runs the tests of microVMs
    Microvm(microvm::Args),
    /// Runs the tests of containerd that need a whole machine
    Containerd(containerd::Args),
}

fn main() -> ExitCode {
    match execute(Args::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("conformance: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn execute(mut args: Args) -> Result<ExitCode> {
    let _scratch = Scratch::open()?;
    Ok(match args.command.take() {
        Some(Command::Vm(by_hand)) => vm::by_hand(by_hand)?.into(),
        Some(Command::Engines { release }) => {
            println!("{}", engines::folder(&release)?.display());
            ExitCode::SUCCESS
        }
        Some(Command::Microvm(args)) => microvm::run(&args)?.into(),
        Some(Command::Containerd(args)) => containerd::run(&args)?.into(),
        None if run(&args)? => ExitCode::SUCCESS,
        None => ExitCode::FAILURE,
    })
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
    for Where { place, only } in &args.env {
        let environment = place.open().with_context(|| format!("cannot open environment '{place}'"))?;
        table.describe(*place, &environment::describe(environment.as_ref())?);
        let runtimes: Vec<&Runtime> = runtimes
            .iter()
            .filter(|runtime| only.as_ref().is_none_or(|only| *only == runtime.name))
            .collect();
        for suite in &args.suite {
            let round = Round { suite: *suite, environment: environment.as_ref(), selection: &selection };
            for runtime in &runtimes {
                round.run(runtime, &mut table)?;
            }
            if let Some(ours) = runtimes.iter().find(|runtime| runtime.name == OURS) {
                round.catch_up(ours, &mut table)?;
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
const HEAD: &str =
    "# Conformance\n\nWritten by `make conformance-full`; [design.md](design.md) says how it works.\n\n";

/// Why a suite does not apply to a runtime or in an environment.
fn not_applicable(suite: Suite, runtime: &str, place: Place) -> Option<&'static str> {
    match suite {
        Suite::Microvm | Suite::Containerd if runtime != OURS => Some("a suite for magikrun"),
        Suite::Microvm | Suite::Containerd if place != Place::Vm => {
            Some("guests boot in the environment 'vm' only")
        }
        _ => None,
    }
}

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
/// How often magikrun tries what another runtime passes: a race in a program is not always won.
const ATTEMPTS: usize = 3;

/// A suite in an environment.
struct Round<'a> {
    suite: Suite,
    environment: &'a dyn Environment,
    selection: &'a Selection,
}

impl Round<'_> {
    fn run(&self, runtime: &Runtime, table: &mut Table) -> Result<()> {
        let place = self.environment.place();
        let left_out = || not_quick(self.suite, &runtime.name, place).filter(|_| self.selection.quick);
        let not_applicable = not_applicable(self.suite, &runtime.name, place);
        if let Some(reason) = not_applicable.or(runtime.cannot_run_in(place)).or_else(left_out) {
            table.skip(self.suite, runtime, place, reason);
            return Ok(());
        }
        let mut results = self.judged(runtime, self.selection)?;
        // Programs of the suites have limits of a second or two, which a busy machine may miss once.
        let failed = results.failed();
        if !failed.is_empty() && failed.len() <= MAX_AGAIN {
            results.take_again(self.judged(runtime, &Selection::of(failed))?);
        }
        table.add(self.suite, runtime, place, results);
        Ok(())
    }

    fn judged(&self, runtime: &Runtime, selection: &Selection) -> Result<Judgements> {
        let expectations = Expectations::load(runtime)?;
        let outcomes = self
            .suite
            .run(runtime, self.environment, selection)
            .with_context(|| format!("cannot run suite '{}' with '{}'", self.suite, runtime.name))?;
        Ok(expectations.judge(self.suite, self.environment.place(), outcomes, selection.is_everything()))
    }

    /// Runs again what another runtime has passed and magikrun not.
    fn catch_up(&self, ours: &Runtime, table: &mut Table) -> Result<()> {
        let place = self.environment.place();
        for _ in 0..ATTEMPTS {
            let behind: Vec<String> = table.behind(self.suite, place).into_keys().collect();
            if behind.is_empty() {
                break;
            }
            let again = self.judged(ours, &Selection::of(behind))?;
            if let Some(results) = table.ours(self.suite, place) {
                results.take_again(again);
            }
        }
        Ok(())
    }
}
