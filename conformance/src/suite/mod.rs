//! The suites of tests.

pub(crate) mod cargo;
mod containerd;
mod libtest;
pub(crate) mod microvm;
mod own;
mod runtime_tools;
mod tap;

use crate::environment::Environment;
use crate::runtime::Runtime;
use crate::verdict::Outcome;
use anyhow::Result;
use clap::ValueEnum;
use std::fmt;

/// A suite of tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Suite {
    /// The validation programs of the OCI runtime-tools.
    RuntimeTools,
    /// The black-box tests of this repository.
    Own,
    /// Those for microVMs, which only magikrun runs.
    Microvm,
    /// Those for containerd that need a whole machine.
    Containerd,
}

/// Every suite.
pub(crate) const ALL: [Suite; 4] = [Suite::RuntimeTools, Suite::Own, Suite::Microvm, Suite::Containerd];

impl fmt::Display for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RuntimeTools => "runtime-tools",
            Self::Own => "own",
            Self::Microvm => "microvm",
            Self::Containerd => "containerd",
        })
    }
}

/// Which tests of a suite run.
#[derive(Debug, Clone, Default)]
pub(crate) struct Selection {
    /// Those whose name contains this.
    pub(crate) only: Option<String>,
    /// Those of the committed subset.
    pub(crate) quick: bool,
    /// Those with these names, where names are given.
    pub(crate) names: Option<Vec<String>>,
}

impl Selection {
    /// The tests with these names.
    pub(crate) fn of(names: Vec<String>) -> Self {
        Self { names: Some(names), ..Self::default() }
    }

    /// Whether every test runs.
    pub(crate) fn is_everything(&self) -> bool {
        self.only.is_none() && !self.quick && self.names.is_none()
    }

    /// Whether a test runs; `slow` are those that the quick subset leaves out.
    fn has(&self, test: &str, slow: &[&str]) -> bool {
        if let Some(names) = &self.names {
            return names.iter().any(|name| name == test);
        }
        let left_out = self.quick && slow.contains(&test);
        !left_out && self.only.as_ref().is_none_or(|part| test.contains(part.as_str()))
    }
}

impl Suite {
    /// Runs the tests and says what became of each; downloads and builds the suite first where that is needed.
    pub(crate) fn run(
        self,
        runtime: &Runtime,
        environment: &dyn Environment,
        selection: &Selection,
    ) -> Result<Vec<Outcome>> {
        match self {
            Self::RuntimeTools => runtime_tools::run(runtime, environment, selection),
            Self::Own => own::run(runtime, environment, selection),
            Self::Microvm => microvm::run(environment, selection),
            Self::Containerd => containerd::run(environment, selection),
        }
    }
}
