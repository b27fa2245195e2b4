//! The table of results, in Markdown, which reads well as it is.

use crate::environment::Place;
use crate::expected::{Judged, Judgement, Judgements};
use crate::runtime::Runtime;
use crate::suite::Suite;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// The runtime that must pass what any other passes.
pub(crate) const OURS: &str = "magikrun";

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
    places: Vec<String>,
    rows: Vec<Row>,
}

impl Table {
    /// A table of what is to come, with what identifies the run.
    pub(crate) fn new(runtimes: &[Runtime]) -> Self {
        let date = time::OffsetDateTime::now_utc().date();
        let names = runtimes.iter().map(|runtime| format!("{} {}", runtime.name, runtime.version));
        let names = names.collect::<Vec<_>>().join(", ");
        Self { head: format!("{date}: {names}"), places: Vec::new(), rows: Vec::new() }
    }

    /// Says what an environment is.
    pub(crate) fn describe(&mut self, place: Place, what: &str) {
        self.places.push(format!("{place}: {what}"));
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
        self.surprises().is_empty() && self.all_behind().is_empty()
    }

    /// The whole report.
    pub(crate) fn text(&self) -> String {
        let mut text = format!("{}\n\n", self.head);
        for place in &self.places {
            let _ = writeln!(text, "- {place}");
        }
        text.push('\n');
        text.push_str("| suite | environment | runtime | passed | failed | expected failures | unsupported | skipped |\n");
        text.push_str("|---|---|---|---:|---:|---:|---:|---:|\n");
        for row in &self.rows {
            text.push_str(&row.line());
        }
        section(&mut text, "Not as expected", &self.surprises());
        section(&mut text, "Passed by another runtime and not by magikrun", &self.all_behind());
        section(
            &mut text,
            "Expected failures",
            &self.reasons(|judgement| match judgement {
                Judgement::ExpectedFailure(reason) => Some(reason.clone()),
                _ => None,
            }),
        );
        section(&mut text, "Passed at a later attempt", &self.later_attempts());
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

    /// The tests of a suite that magikrun does not pass and another runtime passes in the same environment, with these
    /// runtimes; without those that need what the machine cannot do.
    pub(crate) fn behind(&self, suite: Suite, place: Place) -> BTreeMap<String, Vec<String>> {
        let rows = || self.results().filter(|(row, _)| (row.suite, row.place) == (suite, place));
        let Some((_, own)) = rows().find(|(row, _)| row.runtime == OURS) else { return BTreeMap::new() };
        let mut behind: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (row, results) in rows() {
            for test in results.tests.iter().filter(|test| test.passed()) {
                let is_ours = |own: &&Judged| own.test == test.test && !own.passed() && !own.host_cannot;
                if own.tests.iter().any(|own| is_ours(&own)) {
                    behind.entry(test.test.clone()).or_default().push(row.runtime.clone());
                }
            }
        }
        behind
    }

    fn all_behind(&self) -> Vec<String> {
        let groups: BTreeSet<_> = self.rows.iter().map(|row| (row.suite, row.place)).collect();
        let lines = groups.into_iter().flat_map(|(suite, place)| {
            let behind = self.behind(suite, place).into_iter();
            behind.map(move |(test, by)| format!("{suite} in {place}: `{test}`, passed by {}", by.join(", ")))
        });
        lines.collect()
    }

    /// The results of magikrun with a suite in an environment.
    pub(crate) fn ours(&mut self, suite: Suite, place: Place) -> Option<&mut Judgements> {
        let is_ours = |row: &&mut Row| (row.suite, row.place, row.runtime.as_str()) == (suite, place, OURS);
        self.rows.iter_mut().find(is_ours)?.results.as_mut().ok()
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

    fn later_attempts(&self) -> Vec<String> {
        let tests = self.results().flat_map(|(row, results)| {
            results.later_attempt.iter().map(|test| format!("{}: `{test}`", row.name()))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn row(runtime: &str, place: Place, tests: &[(&str, bool, bool)]) -> Row {
        let judged = |(test, passed, host_cannot): &(&str, bool, bool)| Judged {
            test: (*test).to_owned(),
            judgement: if *passed { Judgement::Passed } else { Judgement::ExpectedFailure("known".into()) },
            unsupported: Vec::new(),
            host_cannot: *host_cannot,
        };
        let tests = tests.iter().map(judged).collect();
        let results = Ok(Judgements { tests, ..Judgements::default() });
        Row { suite: Suite::Own, place, runtime: runtime.to_owned(), results }
    }

    fn table(rows: Vec<Row>) -> Table {
        Table { head: String::new(), places: Vec::new(), rows }
    }

    #[test]
    fn what_another_runtime_passes_in_the_same_environment_must_pass_even_if_its_failure_is_listed() {
        let own = [("a", false, false), ("b", false, true), ("c", true, false), ("d", false, false)];
        let table = table(vec![
            row("crun", Place::V2, &[("a", true, false), ("b", true, false), ("c", true, false)]),
            row(OURS, Place::V2, &own),
            row(OURS, Place::Host, &own),
            row("runc", Place::V2, &[("a", true, false), ("d", false, false)]),
        ]);
        let behind = table.behind(Suite::Own, Place::V2);
        assert_eq!(behind, [("a".to_owned(), vec!["crun".to_owned(), "runc".to_owned()])].into());
        assert!(table.behind(Suite::Own, Place::Host).is_empty());
        assert!(!table.is_as_expected());
    }

    #[test]
    fn a_pass_of_a_later_attempt_counts_and_is_named() {
        let mut table = table(vec![
            row("crun", Place::V2, &[("a", true, false)]),
            row(OURS, Place::V2, &[("a", false, false)]),
        ]);
        let again = row(OURS, Place::V2, &[("a", true, false)]).results.expect("results");
        table.ours(Suite::Own, Place::V2).expect("our results").take_again(again);
        assert!(table.is_as_expected());
        assert!(table.text().contains("Passed at a later attempt:\n\n- own with magikrun in v2: `a`"));
    }
}
