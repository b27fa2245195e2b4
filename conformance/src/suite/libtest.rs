//! Reads what Rust's test harness prints with `--show-output`.

use crate::verdict::{Outcome, Verdict};
use std::collections::BTreeMap;

/// The word in a test's output that names a feature that it left out.
const UNSUPPORTED: &str = "unsupported: ";

/// The outcome of each test that should have run, from the output of one test program.
pub(crate) fn outcomes(program: &str, tests: &[String], stdout: &str) -> Vec<Outcome> {
    let results: BTreeMap<&str, &str> = stdout.lines().filter_map(result).collect();
    let said = outputs(stdout);
    let one = |test: &String| {
        let said = said.get(test.as_str()).map(String::as_str).unwrap_or_default();
        let verdict = match results.get(test.as_str()).copied() {
            Some("ok") => Verdict::Passed,
            Some(word) if word.starts_with("ignored") => Verdict::Skipped(word.to_owned()),
            // It ended, or was ended, with its program.
            Some("") | None => Verdict::Failed("no result".to_owned()),
            Some(_) => Verdict::Failed(reason(said)),
        };
        let unsupported = said.lines().filter_map(|line| line.trim().strip_prefix(UNSUPPORTED));
        Outcome {
            test: format!("{program}::{test}"),
            verdict,
            unsupported: unsupported.map(str::to_owned).collect(),
        }
    };
    tests.iter().map(one).collect()
}

/// The name and the result in a line `test NAME ... RESULT`.
fn result(line: &str) -> Option<(&str, &str)> {
    let (name, result) = line.strip_prefix("test ")?.split_once(" ... ")?;
    Some((name.trim_end_matches(" - should panic"), result))
}

/// What each test printed, from the blocks that begin with `---- NAME stdout ----`.
fn outputs(stdout: &str) -> BTreeMap<&str, String> {
    let mut found: BTreeMap<&str, String> = BTreeMap::new();
    let mut current = None;
    for line in stdout.lines() {
        if let Some(name) = line.strip_prefix("---- ").and_then(|rest| rest.strip_suffix(" stdout ----")) {
            current = Some(name);
        } else if matches!(line, "successes:" | "failures:") {
            current = None;
        } else if let Some(name) = current {
            let text = found.entry(name).or_default();
            text.push_str(line);
            text.push('\n');
        }
    }
    found
}

/// The message of a panic, on one line.
fn reason(said: &str) -> String {
    let mut lines = said.lines().skip_while(|line| !line.contains("panicked at"));
    lines.next();
    let words = lines.take_while(|line| !line.starts_with("note:")).flat_map(str::split_whitespace);
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\nrunning 3 tests\ntest a ... ok\ntest b ... FAILED\ntest c ... ignored, no use\n\nsuccesses:\n\n\
        ---- a stdout ----\nunsupported: checkpoints\n\n\nsuccesses:\n    a\n\nfailures:\n\n---- b stdout ----\n\n\
        thread 'b' (1) panicked at tests/x.rs:1:2:\nassertion failed\n  left: 1\nnote: run with\n\n\nfailures:\n    b\n\n\
        test result: FAILED.\n";

    #[test]
    fn results_reasons_and_missing_features_are_read() {
        let tests = ["a", "b", "c", "d"].map(str::to_owned);
        let verdicts = outcomes("x", &tests, TEXT);
        assert_eq!(verdicts[0].test, "x::a");
        assert_eq!(verdicts[0].verdict, Verdict::Passed);
        assert_eq!(verdicts[0].unsupported, ["checkpoints"]);
        assert_eq!(verdicts[1].verdict, Verdict::Failed("assertion failed left: 1".into()));
        assert_eq!(verdicts[2].verdict, Verdict::Skipped("ignored, no use".into()));
        assert_eq!(verdicts[3].verdict, Verdict::Failed("no result".into()));
    }
}
