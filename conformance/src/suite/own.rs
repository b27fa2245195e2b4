//! The black-box tests of this repository, which take any runtime from the environment.

use super::{Selection, libtest};
use crate::debian::run as execute;
use crate::environment::{Environment, Job};
use crate::runtime::Runtime;
use crate::scratch;
use crate::verdict::Outcome;
use anyhow::{Context as _, Result, anyhow};
use serde_json::Value;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

/// The test programs that hold the contract of an OCI runtime, and nothing that only magikrun has.
const PROGRAMS: [&str; 11] = [
    "attributes",
    "callers",
    "cgroups",
    "checkpoint",
    "errors",
    "filesystem",
    "hooks",
    "lifecycle",
    "namespaces",
    "process",
    "rootless",
];
/// The program for what only an emulated machine has, most of it of magikrun's own.
const MACHINE: &str = "machine";
/// How long one test program may take.
const LIMIT: Duration = Duration::from_mins(10);

/// A built test program and the names of its tests.
#[derive(Debug, Clone)]
struct Program {
    name: String,
    path: PathBuf,
    tests: Vec<String>,
}

/// Runs the selected tests.
pub(super) fn run(
    runtime: &Runtime,
    environment: &dyn Environment,
    selection: &Selection,
) -> Result<Vec<Outcome>> {
    let work = scratch::folder()?;
    fs::set_permissions(work.path(), fs::Permissions::from_mode(0o755))?;
    let mut outcomes = Vec::new();
    let (machine, quick) = (environment.place().is_machine(), selection.quick);
    let runs = |program: &&Program| {
        let special = program.name == MACHINE;
        // Elsewhere the rest runs in less time.
        if special { machine } else { !(machine && quick) }
    };
    for program in built()?.iter().filter(runs) {
        let is_selected = |test: &&String| selection.has(&format!("{}::{test}", program.name), &[]);
        let tests: Vec<String> = program.tests.iter().filter(is_selected).cloned().collect();
        if tests.is_empty() {
            continue;
        }
        let mut argv = vec![program.path.clone().into(), "--show-output".into(), "--exact".into()];
        argv.extend(tests.iter().map(OsString::from));
        let mut needs = vec![program.path.clone(), runtime.program.clone()];
        needs.extend_from_slice(&runtime.needs);
        let job = Job {
            argv,
            env: vec![
                ("MAGIKRUN_TEST_RUNTIME".into(), runtime.program.clone().into()),
                ("RUST_BACKTRACE".into(), "0".into()),
                ("TMPDIR".into(), work.path().into()),
            ],
            directory: work.path().to_owned(),
            needs,
            limit: LIMIT,
        };
        let outcome = environment.run(&job)?;
        outcomes.extend(libtest::outcomes(&program.name, &tests, &outcome.stdout));
    }
    Ok(outcomes)
}

/// The test programs, built once.
fn built() -> Result<&'static [Program]> {
    static BUILT: OnceLock<Vec<Program>> = OnceLock::new();
    if let Some(programs) = BUILT.get() {
        return Ok(programs);
    }
    let programs = build()?;
    Ok(BUILT.get_or_init(|| programs))
}

/// Builds one test program and answers its path.
pub(crate) fn test_program(name: &str) -> Result<PathBuf> {
    let built = compile(&[name])?;
    built
        .into_iter()
        .map(|(_, path)| path)
        .next()
        .ok_or_else(|| anyhow!("cargo did not build the test '{name}'"))
}

/// Builds test programs: their names and paths.
fn compile(names: &[&str]) -> Result<Vec<(String, PathBuf)>> {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."));
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // The features of `make test`, so that nothing is built a second time.
    cargo.args(["test", "--locked", "--all-features", "--no-run", "--message-format=json"]);
    cargo.args(names.iter().flat_map(|name| ["--test", name])).current_dir(repository);
    let messages = execute(&mut cargo).context("cannot build the tests")?;
    Ok(messages.lines().filter_map(executable).filter(|(name, _)| names.contains(&name.as_str())).collect())
}

fn build() -> Result<Vec<Program>> {
    let names: Vec<&str> = PROGRAMS.into_iter().chain([MACHINE]).collect();
    let paths = compile(&names)?;
    let find = |name: &str| -> Result<Program> {
        let (_, path) = paths
            .iter()
            .find(|(target, _)| target == name)
            .ok_or_else(|| anyhow!("cargo did not build the test '{name}'"))?;
        Ok(Program { name: name.to_owned(), path: path.clone(), tests: list(path)? })
    };
    names.into_iter().map(find).collect()
}

/// The name and the path of a test program in one of cargo's messages.
fn executable(message: &str) -> Option<(String, PathBuf)> {
    let message: Value = serde_json::from_str(message).ok()?;
    let path = message["executable"].as_str()?;
    Some((message["target"]["name"].as_str()?.to_owned(), path.into()))
}

/// The names of the tests in a program.
fn list(program: &Path) -> Result<Vec<String>> {
    let text = execute(Command::new(program).args(["--list", "--format", "terse"]))?;
    Ok(text.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect())
}
