//! The black-box tests of this repository, which take any runtime from the environment.

use super::{Selection, cargo, libtest};
use crate::environment::{Environment, Job};
use crate::runtime::Runtime;
use crate::scratch;
use crate::verdict::Outcome;
use anyhow::Result;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
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

fn build() -> Result<Vec<Program>> {
    let names: Vec<&str> = PROGRAMS.into_iter().chain([MACHINE]).collect();
    let built = cargo::tests(&names)?;
    let find = |name: &str| -> Result<Program> {
        let path = cargo::find(&built, name)?;
        Ok(Program { name: name.to_owned(), tests: cargo::list(&path)?, path })
    };
    names.into_iter().map(find).collect()
}
