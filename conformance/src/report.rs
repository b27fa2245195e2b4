//! The table of results, in Markdown, which reads well as it is.

use crate::environment::Place;
use crate::expected::{Judgement, Judgements};
use crate::runtime::Runtime;
use crate::suite::Suite;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// One suite with one runtime in one environment.
#[derive(Debug)]
struct Row {
    suite: Suite,
    place: Place,
    runtime: String,
    /// The results, or why there are none.
    results: Result<Judgements, &'static str>,
}

/// The results of a run.
#[derive(Debug)]
pub(crate) struct Table {
    head: String,
    rows: Vec<Row>,
}

impl Table {
    /// A table of what is to come, with what identifies the run.
    pub(crate) fn new(runtimes: &[Runtime]) -> Self {
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let date = time::OffsetDateTime::now_utc().date();
        let names = runtimes.iter().map(|runtime| format!("{} {}", runtime.name, runtime.version));
        let names = names.collect::<Vec<_>>().join(", ");
        Self { head: format!("{date}, kernel {}: {names}", kernel.trim()), rows: Vec::new() }
    }

    /// Adds the results of a suite.
    pub(crate) fn add(&mut self, suite: Suite, runtime: &Runtime, place: Place, results: Judgements) {
        let row = Row { suite, place, runtime: runtime.name.clone(), results: Ok(results) };
        eprint!("{}", row.line());
        self.rows.push(row);
    }

    /// Notes that a suite was not run at all.
    pub(crate) fn skip(&mut self, suite: Suite, runtime: &Runtime, place: Place, reason: &'static str) {
        self.rows.push(Row { suite, place, runtime: runtime.name.clone(), results: Err(reason) });
    }

    /// Whether every result is the expected one, and magikrun passes whatever another runtime passes.
    pub(crate) fn is_as_expected(&self) -> bool {
        self.surprises().is_empty() && self.behind().is_empty()
    }

    /// The whole report.
    pub(crate) fn text(&self) -> String {
        let mut text = format!("{}\n\n", self.head);
        text.push_str("| suite | environment | runtime | passed | failed | expected failures | unsupported | skipped |\n");
        text.push_str("|---|---|---|---:|---:|---:|---:|---:|\n");
        for row in &self.rows {
            text.push_str(&row.line());
        }
        section(&mut text, "Not as expected", &self.surprises());
        section(&mut text, "Passed by another runtime and not by magikrun", &self.behind());
        section(
            &mut text,
            "Expected failures",
            &self.reasons(|judgement| match judgement {
                Judgement::ExpectedFailure(reason) => Some(reason.clone()),
                _ => None,
            }),
        );
        section(&mut text, "Passed at the second attempt", &self.second_attempts());
        section(&mut text, "Skipped", &self.skipped());
        section(&mut text, "Unsupported here", &self.unsupported());
        text
    }

    fn results(&self) -> impl Iterator<Item = (&Row, &Judgements)> {
        self.rows.iter().filter_map(|row| row.results.as_ref().ok().map(|results| (row, results)))
    }

    fn surprises(&self) -> Vec<String> {
        let mut found = Vec::new();
        for (row, results) in self.results() {
            if results.other_version {
                continue;
            }
            for test in &results.tests {
                let what = match &test.judgement {
                    Judgement::Failed(why) => format!("failed: {why}"),
                    Judgement::UnexpectedPass(reason) => format!("passed, but is listed to fail: {reason}"),
                    Judgement::Missing(feature) => format!("'{feature}' is not listed as unsupported"),
                    _ => continue,
                };
                found.push(format!("{}: `{}` {what}", row.name(), test.test));
            }
            found.extend(
                results.unknown.iter().map(|test| format!("{}: `{test}` does not exist", row.name())),
            );
        }
        found
    }

    /// Tests that magikrun does not pass and another runtime passes in the same environment, but for those that it
    /// fails on purpose.
    fn behind(&self) -> Vec<String> {
        let mut passed: BTreeMap<(Suite, Place, &str), BTreeSet<&str>> = BTreeMap::new();
        for (row, results) in self.results() {
            for test in results.tests.iter().filter(|test| test.passed() || test.deliberate) {
                passed.entry((row.suite, row.place, &test.test)).or_default().insert(&row.runtime);
            }
        }
        let ran = |suite, place| {
            self.results()
                .any(|(row, _)| (row.suite, row.place, row.runtime.as_str()) == (suite, place, "magikrun"))
        };
        let behind = passed
            .into_iter()
            .filter(|((suite, place, _), by)| ran(*suite, *place) && !by.contains("magikrun"));
        let line = |((suite, place, test), by): ((Suite, Place, &str), BTreeSet<&str>)| {
            format!(
                "{suite} in {place}: `{test}`, passed by {}",
                by.into_iter().collect::<Vec<_>>().join(", ")
            )
        };
        behind.map(line).collect()
    }

    /// For each reason the tests, by suite, runtime and environment.
    fn reasons(&self, reason: impl Fn(&Judgement) -> Option<String>) -> Vec<String> {
        let mut groups: BTreeMap<(String, String), Vec<&str>> = BTreeMap::new();
        for (row, results) in self.results() {
            for test in &results.tests {
                if let Some(reason) = reason(&test.judgement) {
                    groups.entry((row.name(), reason)).or_default().push(&test.test);
                }
            }
        }
        let line = |((name, reason), tests): ((String, String), Vec<&str>)| {
            format!("{name}: {reason}: `{}`", tests.join("`, `"))
        };
        groups.into_iter().map(line).collect()
    }

    fn second_attempts(&self) -> Vec<String> {
        let tests = self.results().flat_map(|(row, results)| {
            results.second_attempt.iter().map(|test| format!("{}: `{test}`", row.name()))
        });
        tests.collect()
    }

    fn skipped(&self) -> Vec<String> {
        let whole = |row: &Row| row.results.as_ref().err().map(|reason| format!("{}: {reason}", row.name()));
        let mut found: Vec<String> = self.rows.iter().filter_map(whole).collect();
        found.extend(self.reasons(|judgement| match judgement {
            Judgement::Skipped(reason) => Some(reason.clone()),
            _ => None,
        }));
        found
    }

    fn unsupported(&self) -> Vec<String> {
        let mut found = BTreeSet::new();
        for (row, results) in self.results() {
            for test in &results.tests {
                found.extend(test.unsupported.iter().map(|feature| format!("{}: {feature}", row.place)));
            }
        }
        found.into_iter().collect()
    }
}

impl Row {
    fn name(&self) -> String {
        format!("{} with {} in {}", self.suite, self.runtime, self.place)
    }

    fn line(&self) -> String {
        let start = format!("| {} | {} | {} |", self.suite, self.place, self.runtime);
        let Ok(results) = &self.results else {
            return format!("{start} | | | | all |\n");
        };
        let count =
            |is: fn(&Judgement) -> bool| results.tests.iter().filter(|test| is(&test.judgement)).count();
        let unsupported = results.tests.iter().filter(|test| !test.unsupported.is_empty()).count();
        format!(
            "{start} {} | {} | {} | {unsupported} | {} |\n",
            results.tests.iter().filter(|test| test.passed()).count(),
            count(|judgement| matches!(judgement, Judgement::Failed(_))),
            count(|judgement| matches!(judgement, Judgement::ExpectedFailure(_))),
            count(|judgement| matches!(judgement, Judgement::Skipped(_))),
        )
    }
}

fn section(text: &mut String, title: &str, lines: &[String]) {
    if lines.is_empty() {
        return;
    }
    let _ = writeln!(text, "\n{title}:\n");
    for line in lines {
        let _ = writeln!(text, "- {line}");
    }
}
