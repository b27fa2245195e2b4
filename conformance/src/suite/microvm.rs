//! The tests of microVMs.

use super::{Selection, cargo, libtest};
use crate::environment::{self, Environment, Job};
use crate::microvm::{Programs, SYSTEM_TESTS, TESTS};
use crate::verdict::{Outcome, Verdict};
use anyhow::Result;
use std::time::{Duration, Instant};

/// How long a test may take on a machine whose guests boot in a quarter of a second: most boot one or two. A pod that is asked fifty
/// times takes the longest, and all of it on a host that has other work.
const LIMIT: Duration = Duration::from_mins(1);

/// Runs the selected tests.
pub(crate) fn run(environment: &dyn Environment, selection: &Selection) -> Result<Vec<Outcome>> {
    let programs = Programs::build(&[TESTS])?;
    let mut tests = cargo::list(&programs.path(TESTS))?;
    tests.retain(|test| selection.has(&format!("{TESTS}::{test}"), &[]));
    if tests.iter().any(|test| test.starts_with(SYSTEM_TESTS)) {
        programs.add_system()?;
    }
    let job = |test: &str| programs.job(programs.run_tests(TESTS, &["--exact", test]), LIMIT);
    each(environment, TESTS, tests.into_iter(), job)
}

/// Runs tests of a program, and says of each how long it took.
///
/// Each is a job of its own: one that hangs, or that the environment does not survive, fails by its name, and the others run.
pub(super) fn each(
    environment: &dyn Environment,
    program: &str,
    tests: impl Iterator<Item = String>,
    job: impl Fn(&str) -> Job,
) -> Result<Vec<Outcome>> {
    let mut outcomes = Vec::new();
    let mut is_broken = false;
    for test in tests {
        let begin = Instant::now();
        let result = match environment.run(&job(&test)) {
            // This is not about tests.
            Err(error) if is_broken => return Err(error),
            result => result,
        };
        is_broken = result.is_err();
        let outcome = judged(program, &test, result);
        eprintln!("{}: {} in {} s", outcome.test, outcome.verdict, begin.elapsed().as_secs());
        outcomes.push(outcome);
    }
    Ok(outcomes)
}

/// What became of a test, from what became of its job.
fn judged(program: &str, test: &str, job: Result<environment::Outcome>) -> Outcome {
    let failed = |why| Outcome::new(&format!("{program}::{test}"), Verdict::Failed(why));
    match job {
        Ok(outcome) if outcome.code.is_none() => failed("it did not end in time, and was killed".to_owned()),
        Ok(outcome) if outcome.stdout.is_empty() => {
            failed(format!("it did not begin: {}", outcome.stderr.trim()))
        }
        Ok(outcome) => libtest::outcomes(program, &[test.to_owned()], &outcome.stdout).remove(0),
        Err(error) => failed(format!("{error:#}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_that_hangs_or_breaks_its_machine_fails_by_its_name() {
        let of = |code, stdout: &str| {
            let (stdout, stderr) = (stdout.to_owned(), "no such program\n".to_owned());
            judged(TESTS, "a::b", Ok(environment::Outcome { code, stdout, stderr }))
        };
        let failed = |why: &str| Outcome::new("microvm::a::b", Verdict::Failed(why.to_owned()));
        let running = "\nrunning 1 test\ntest a::b ... ";
        assert_eq!(of(None, running), failed("it did not end in time, and was killed"));
        assert_eq!(of(Some(126), ""), failed("it did not begin: no such program"));
        assert_eq!(of(Some(137), running), failed("no result"));
        assert_eq!(judged(TESTS, "a::b", Err(anyhow::anyhow!("ended"))), failed("ended"));
        assert_eq!(of(Some(0), &format!("{running}ok\n")).verdict, Verdict::Passed);
    }
}
