//! The tests of microVMs.

use super::{Selection, cargo, libtest};
use crate::environment::Environment;
use crate::microvm::{Programs, TESTS};
use crate::verdict::Outcome;
use anyhow::{Result, bail};
use std::ffi::OsString;
use std::time::Duration;

/// How long all tests may take on a machine whose guests boot in a quarter of a second.
const LIMIT: Duration = Duration::from_mins(3);

/// What the quick subset leaves out for its time: pods.
const SLOW: [&str; 3] = [
    "microvm::pods::a_pod_that_cannot_start_whole_leaves_nothing",
    "microvm::pods::containers_share_a_kernel_files_and_a_network_and_have_limits_of_their_own",
    "microvm::pods::the_pod_fails_with_its_machine_and_with_a_container",
];

/// Runs the selected tests.
pub(super) fn run(environment: &dyn Environment, selection: &Selection) -> Result<Vec<Outcome>> {
    let programs = Programs::build()?;
    let is_selected = |test: &String| selection.has(&format!("{TESTS}::{test}"), &SLOW);
    let tests: Vec<String> = cargo::list(&programs.tests)?.into_iter().filter(is_selected).collect();
    if tests.is_empty() {
        return Ok(Vec::new());
    }
    let names = std::iter::once("--exact".into()).chain(tests.iter().map(OsString::from));
    let outcome = environment.run(&programs.job(programs.run_tests(names), LIMIT))?;
    if outcome.stdout.is_empty() {
        bail!("the tests did not begin: {}", outcome.stderr.trim());
    }
    Ok(libtest::outcomes(TESTS, &tests, &outcome.stdout))
}
