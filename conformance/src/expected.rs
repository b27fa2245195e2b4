//! What is known to fail, by runtime, each with its reason.

use crate::environment::Place;
use crate::runtime::Runtime;
use crate::suite::Suite;
use crate::verdict::{Outcome, Verdict};
use anyhow::{Context as _, Result};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// The contents of a file in `expected/`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct File {
    /// The version that the file was written for; another one may do better or worse without failing the run.
    version: Option<String>,
    #[serde(default)]
    failure: Vec<Known>,
}

/// Tests that are known to fail for one reason.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Known {
    suite: Suite,
    tests: Vec<String>,
    /// Where they fail; everywhere if it is left out.
    environments: Option<Vec<Place>>,
    reason: String,
    /// They fail only sometimes, or only on some machines: both results are expected.
    #[serde(default)]
    sometimes: bool,
    /// This machine cannot do what they need, though a runtime that does not do it may pass.
    #[serde(default)]
    host_cannot: bool,
}

/// What is known to fail with a runtime.
#[derive(Debug, Default)]
pub(crate) struct Expectations {
    known: Vec<Known>,
    other_version: bool,
    unsupported: BTreeMap<String, Vec<String>>,
}

/// What is thought of a test's outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Judgement {
    /// It passed, as it should.
    Passed,
    /// It failed, and nobody knew that it would.
    Failed(String),
    /// It failed for the reason that is known.
    ExpectedFailure(String),
    /// It passed, although it is listed as failing for this reason.
    UnexpectedPass(String),
    /// It found a feature missing that the environment is listed to have.
    Missing(String),
    /// It did not apply.
    Skipped(String),
}

/// A test, what is thought of its outcome, and the features that it found missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Judged {
    pub(crate) test: String,
    pub(crate) judgement: Judgement,
    pub(crate) unsupported: Vec<String>,
    /// It needs what this machine cannot do.
    pub(crate) host_cannot: bool,
}

impl Judged {
    /// Whether the test passed, expected or not.
    pub(crate) fn passed(&self) -> bool {
        matches!(self.judgement, Judgement::Passed | Judgement::UnexpectedPass(_) | Judgement::Missing(_))
    }
}

/// The results of a suite.
#[derive(Debug, Default)]
pub(crate) struct Judgements {
    pub(crate) tests: Vec<Judged>,
    /// Names in the files that no test has.
    pub(crate) unknown: Vec<String>,
    /// The files were written for another version of the runtime.
    pub(crate) other_version: bool,
    /// Tests that failed and passed when they ran again.
    pub(crate) later_attempt: Vec<String>,
}

impl Judgements {
    /// The tests that failed and were not known to.
    pub(crate) fn failed(&self) -> Vec<String> {
        let failed = self.tests.iter().filter(|test| matches!(test.judgement, Judgement::Failed(_)));
        failed.map(|test| test.test.clone()).collect()
    }

    /// Takes the results of tests that ran again, where they passed.
    pub(crate) fn take_again(&mut self, again: Self) {
        for test in again.tests {
            if !test.passed() {
                continue;
            }
            self.later_attempt.push(test.test.clone());
            if let Some(first) = self.tests.iter_mut().find(|first| first.test == test.test) {
                *first = test;
            }
        }
    }
}

fn folder() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("expected")
}

fn read<T: Default + serde::de::DeserializeOwned>(name: &str) -> Result<T> {
    let path = folder().join(name);
    if !path.exists() {
        return Ok(T::default());
    }
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read '{}'", path.display()))?;
    toml::from_str(&text).with_context(|| format!("cannot parse '{}'", path.display()))
}

impl Expectations {
    /// Reads what is known of every runtime, and of this one.
    pub(crate) fn load(runtime: &Runtime) -> Result<Self> {
        let every: File = read("every.toml")?;
        let own: File = read(&format!("{}.toml", runtime.name))?;
        let other_version = own.version.is_some_and(|version| version != runtime.version);
        let known = every.failure.into_iter().chain(own.failure).collect();
        Ok(Self { known, other_version, unsupported: read("unsupported.toml")? })
    }

    fn find(&self, suite: Suite, place: Place, test: &str) -> Option<&Known> {
        self.known.iter().find(|known| {
            known.suite == suite
                && known.environments.as_ref().is_none_or(|places| places.contains(&place))
                && known.tests.iter().any(|name| name == test)
        })
    }

    /// Compares outcomes with what is known. `all` says that every test of the suite has run.
    pub(crate) fn judge(&self, suite: Suite, place: Place, outcomes: Vec<Outcome>, all: bool) -> Judgements {
        let mut unknown = Vec::new();
        if all {
            let names = self.known.iter().filter(|known| known.suite == suite).flat_map(|known| &known.tests);
            unknown = names.filter(|name| outcomes.iter().all(|o| o.test != **name)).cloned().collect();
        }
        let tests = outcomes.into_iter().map(|outcome| self.judge_one(suite, place, outcome)).collect();
        Judgements { tests, unknown, other_version: self.other_version, later_attempt: Vec::new() }
    }

    fn judge_one(&self, suite: Suite, place: Place, outcome: Outcome) -> Judged {
        let known = self.find(suite, place, &outcome.test);
        let host_cannot = known.is_some_and(|known| known.host_cannot);
        let listed = self.unsupported.get(&place.to_string());
        let missing =
            outcome.unsupported.iter().find(|name| listed.is_none_or(|listed| !listed.contains(name)));
        let judgement = match (outcome.verdict, known, missing) {
            (Verdict::Skipped(reason), _, _) => Judgement::Skipped(reason),
            (Verdict::Failed(_), Some(known), _) => Judgement::ExpectedFailure(known.reason.clone()),
            (Verdict::Failed(why), None, _) => Judgement::Failed(why),
            (Verdict::Passed, Some(known), _) if !known.sometimes => {
                Judgement::UnexpectedPass(known.reason.clone())
            }
            (Verdict::Passed, _, Some(feature)) => Judgement::Missing(feature.clone()),
            (Verdict::Passed, _, None) => Judgement::Passed,
        };
        Judged { test: outcome.test, judgement, unsupported: outcome.unsupported, host_cannot }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expectations() -> Expectations {
        let file: File = toml::from_str(
            "[[failure]]\nsuite = 'own'\ntests = ['a', 'gone']\nenvironments = ['host']\nreason = 'no a'\n\
             [[failure]]\nsuite = 'own'\ntests = ['b']\nreason = 'race'\nsometimes = true\n",
        )
        .expect("TOML");
        let unsupported = [("host".to_owned(), vec!["checkpoints".to_owned()])].into();
        Expectations { known: file.failure, other_version: false, unsupported }
    }

    fn judge(place: Place, test: &str, verdict: Verdict, unsupported: &[&str]) -> Judgement {
        let unsupported = unsupported.iter().map(|name| (*name).to_owned()).collect();
        let outcome = Outcome { test: test.to_owned(), verdict, unsupported };
        expectations().judge(Suite::Own, place, vec![outcome], false).tests.remove(0).judgement
    }

    #[test]
    fn a_known_failure_is_expected_and_its_pass_is_not() {
        let failed = || Verdict::Failed("x".into());
        assert_eq!(judge(Place::Host, "a", failed(), &[]), Judgement::ExpectedFailure("no a".into()));
        assert_eq!(judge(Place::Host, "a", Verdict::Passed, &[]), Judgement::UnexpectedPass("no a".into()));
        assert_eq!(judge(Place::V2, "a", failed(), &[]), Judgement::Failed("x".into()));
        assert_eq!(judge(Place::V2, "a", Verdict::Passed, &[]), Judgement::Passed);
    }

    #[test]
    fn what_fails_only_sometimes_may_pass() {
        assert_eq!(judge(Place::V2, "b", Verdict::Passed, &[]), Judgement::Passed);
        assert_eq!(
            judge(Place::V2, "b", Verdict::Failed("x".into()), &[]),
            Judgement::ExpectedFailure("race".into())
        );
    }

    #[test]
    fn a_missing_feature_must_be_listed_for_its_environment() {
        assert_eq!(judge(Place::Host, "c", Verdict::Passed, &["checkpoints"]), Judgement::Passed);
        let missing = Judgement::Missing("checkpoints".into());
        assert_eq!(judge(Place::V2, "c", Verdict::Passed, &["checkpoints"]), missing);
    }

    #[test]
    fn a_listed_test_that_does_not_exist_is_noticed_where_everything_ran() {
        let outcome =
            || vec![Outcome::new("a", Verdict::Failed("x".into())), Outcome::new("b", Verdict::Passed)];
        assert_eq!(expectations().judge(Suite::Own, Place::Host, outcome(), true).unknown, ["gone"]);
        assert!(expectations().judge(Suite::Own, Place::Host, outcome(), false).unknown.is_empty());
    }

    #[test]
    fn every_file_is_well_formed_and_every_failure_has_a_reason() {
        for entry in fs::read_dir(folder()).expect("the folder") {
            let name = entry.expect("an entry").file_name().into_string().expect("UTF-8");
            if name == "unsupported.toml" {
                let _: BTreeMap<Place, Vec<String>> = read(&name).expect("a list of each environment");
                continue;
            }
            let file: File = read(&name).unwrap_or_else(|error| panic!("{error:#}"));
            assert!(file.failure.iter().all(|known| !known.reason.is_empty()), "{name}");
        }
    }
}
