//! Reads the Test Anything Protocol as the runtime-tools write it.
//!
//! A reader that believes the plan believes too much: programs that fail before their first test print the plan `1..0`,
//! which means that there was nothing to test, and hide the failure in a block of YAML.

use crate::verdict::Verdict;

/// What a program printed.
#[derive(Debug, Default, PartialEq, Eq)]
struct Report {
    passed: usize,
    failed: Vec<String>,
    skipped: Vec<String>,
    planned: Option<usize>,
    /// Errors in blocks that belong to no result.
    errors: Vec<String>,
}

/// What became of a program: from its exit code (`None` if it took too long) and its outputs.
pub(crate) fn verdict(code: Option<i32>, stdout: &str, stderr: &str) -> Verdict {
    let report = read(stdout);
    let said: Vec<&str> = stderr.trim().lines().collect();
    let said = said[said.len().saturating_sub(2)..].join(", ");
    let results = report.passed + report.failed.len() + report.skipped.len();
    let failure = if let Some(failed) = report.failed.first() {
        Some(format!("{} of {results}: {failed}", report.failed.len()))
    } else if let Some(error) = report.errors.first() {
        Some(error.clone())
    } else if report.planned.is_some_and(|planned| planned != results) {
        Some(format!("{results} results of {}", report.planned.unwrap_or_default()))
    } else {
        match code {
            Some(0) => None,
            Some(code) => Some(format!("exit code {code}")),
            None => Some("took too long".to_owned()),
        }
    };
    match failure {
        Some(failure) if said.is_empty() => Verdict::Failed(failure),
        Some(failure) => Verdict::Failed(format!("{failure}: {said}")),
        None if report.passed == 0 && !report.skipped.is_empty() => {
            Verdict::Skipped(report.skipped.join(", "))
        }
        None => Verdict::Passed,
    }
}

fn read(stdout: &str) -> Report {
    let mut report = Report::default();
    // A block follows the result that it is about.
    let mut after_result = false;
    for line in stdout.lines() {
        if let Some(count) = line.strip_prefix("1..") {
            // A program that runs several sets of tests prints a plan for each.
            *report.planned.get_or_insert(0) += count.trim().parse().unwrap_or(0);
        } else if let Some(rest) = line.strip_prefix("not ok") {
            after_result = true;
            report.failed.push(description(rest));
        } else if let Some(rest) = line.strip_prefix("ok ") {
            after_result = true;
            match rest.split_once("# SKIP") {
                Some((_, reason)) => report.skipped.push(reason.trim().to_owned()),
                None => report.passed += 1,
            }
        } else if line.trim() == "..." {
            after_result = false;
        } else if let Some(error) = line.trim_start().strip_prefix("\"error\":")
            && !after_result
        {
            report.errors.push(error.trim().trim_matches([',', '"']).replace("\\n", ", "));
        }
    }
    report
}

/// The text of a result without its number.
fn description(rest: &str) -> String {
    rest.trim_start_matches(|c: char| c.is_ascii_digit() || matches!(c, ' ' | '-')).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(verdict: Verdict) -> String {
        match verdict {
            Verdict::Failed(why) => why,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn results_that_are_all_ok_pass() {
        let text = "TAP version 13\nok 1 - one\n  ---\n  {\n    \"error\": \"exit status 1\"\n  }\n  ...\nok 2 # SKIP two\n1..2\n";
        assert_eq!(verdict(Some(0), text, ""), Verdict::Passed);
        assert_eq!(verdict(Some(0), "1..2\nok 1 - a\nok 2 - b\n1..0\n", ""), Verdict::Passed);
    }

    #[test]
    fn an_error_behind_an_empty_plan_fails() {
        let text = "TAP version 13\n  ---\n  {\n    \"error\": \"hooks MUST be called\\nRefer to: x\"\n  }\n  ...\n1..0\n";
        assert_eq!(failure(verdict(Some(0), text, "")), "hooks MUST be called, Refer to: x");
    }

    #[test]
    fn an_error_after_the_block_of_a_result_fails() {
        let text = "ok 1 - a\n  ---\n  {}\n  ...\n  ---\n  {\n    \"error\": \"late\"\n  }\n  ...\n1..1\n";
        assert_eq!(failure(verdict(Some(0), text, "")), "late");
    }

    #[test]
    fn an_empty_plan_without_an_error_passes_as_does_silence() {
        assert_eq!(verdict(Some(0), "TAP version 13\n1..0\n", ""), Verdict::Passed);
        assert_eq!(verdict(Some(0), "", ""), Verdict::Passed);
    }

    #[test]
    fn a_result_that_is_not_ok_fails_with_its_text() {
        let text = "ok 1 - a\nnot ok 2 - b is c\n1..2\n";
        assert_eq!(failure(verdict(Some(0), text, "first\nlast\n")), "1 of 2: b is c: first, last");
    }

    #[test]
    fn results_missing_from_the_plan_fail() {
        assert_eq!(failure(verdict(Some(0), "1..3\nok 1 - a\n", "")), "1 results of 3");
    }

    #[test]
    fn an_exit_code_or_a_timeout_fails() {
        assert_eq!(failure(verdict(Some(1), "ok 1 - a\n1..1\n", "why")), "exit code 1: why");
        assert_eq!(failure(verdict(None, "", "")), "took too long");
    }

    #[test]
    fn a_program_that_skips_everything_is_skipped_with_its_reasons() {
        assert_eq!(verdict(Some(0), "1..1\nok 1 # SKIP no cpu\n", ""), Verdict::Skipped("no cpu".into()));
    }
}
