//! The tests of containerd that need a whole machine.

use super::{Selection, cargo, microvm};
use crate::containerd::{TESTS, programs, run_in, use_engines};
use crate::engines;
use crate::environment::Environment;
use crate::verdict::Outcome;
use anyhow::Result;
use std::time::Duration;

/// The release whose containerd it is: one that leaves sandboxes to shims.
const RELEASE: &str = "sid";
/// How long a test may take on a machine whose guests boot in a quarter of a second.
const LIMIT: Duration = Duration::from_mins(1);
/// What the quick subset leaves out: the tests of a host have it too, with the cgroups that that has.
const SLOW: [&str; 1] = ["shim::events::a_container_that_is_out_of_memory_is_told_of"];

/// Runs the selected tests.
pub(crate) fn run(environment: &dyn Environment, selection: &Selection) -> Result<Vec<Outcome>> {
    let programs = programs()?;
    let engines = engines::folder(RELEASE)?;
    let mut outcomes = Vec::new();
    for (program, parts) in TESTS {
        let tests = cargo::list(&programs.path(program))?.into_iter();
        let selected = |test: &String| {
            parts.iter().any(|part| test.contains(part))
                && selection.has(&format!("{program}::{test}"), &SLOW)
        };
        let job = |test: &str| {
            let argv = programs.run_tests(program, &["--include-ignored", "--exact", test]);
            let mut job = run_in(programs.job(argv, LIMIT));
            use_engines(&mut job, engines.clone());
            job
        };
        outcomes.extend(microvm::each(environment, program, tests.filter(selected), job)?);
    }
    Ok(outcomes)
}
