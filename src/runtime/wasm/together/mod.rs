//! Several programs together in one process, each in a thread and a store of its own: what a pod of modules is.
//!
//! They see nothing of each other: each is given a directory of its own, which holds its container's files, its own standard
//! streams, and its own share of memory. The process is that of one container around all of them; whoever has made it says over a
//! socket when each is to run and to end ([`control`]), and hears how it has ended. All of them are compiled before the container
//! is made, and instantiated before one of them runs ([`runner`]).

pub mod control;
pub mod runner;

use super::bandwidth::Bandwidth;
use super::program::{Kind, Program};
use super::settings::Settings;
use super::source::{self, Tree};
use crate::error::{Context as _, Result};
use crate::runtime::native::program::Program as Process;
use crate::runtime::{spec, validate};
use crate::storage::config::WasmLimits;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::sync::Arc;

/// Programs that are to be in one process.
#[derive(Debug, Clone)]
pub struct Together {
    /// The programs.
    pub parts: Vec<Part>,
    /// The end of the socket that their process gets.
    pub control: Arc<OwnedFd>,
}

/// One of them.
#[derive(Debug, Clone)]
pub struct Part {
    /// Its name, for messages.
    pub name: String,
    /// Its bundle, with a configuration as a container of its own would have it.
    pub bundle: PathBuf,
    /// Its root, below that of the container around all.
    pub root: String,
    /// Most bytes of memory, if they are limited.
    pub memory: Option<u64>,
    /// Most processor time, if it is limited.
    pub processor: Option<Bandwidth>,
}

/// What the process is told of one. Numbers are those of descriptors that it inherits.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PartPlan {
    /// Its name.
    pub name: String,
    /// Path of the module, for messages.
    pub path: String,
    /// What it is.
    pub kind: Kind,
    /// What was decided about it.
    pub settings: Settings,
    /// Arguments.
    pub args: Vec<String>,
    /// Environment: names and values.
    pub env: Vec<(String, String)>,
    /// Working directory.
    pub cwd: String,
    /// Its root, relative to the view.
    pub root: String,
    /// Most bytes of memory.
    pub memory: Option<u64>,
    /// Most processor time.
    pub processor: Option<Bandwidth>,
    /// Code of the module.
    pub code: RawFd,
}

/// What the process is told.
#[derive(Debug, Serialize, Deserialize)]
pub struct Plan {
    /// The programs, in the order in which orders count them.
    pub parts: Vec<PartPlan>,
    /// Root directory of the view.
    pub root: RawFd,
    /// The socket over which orders come.
    pub control: RawFd,
}

/// Programs that are compiled.
#[derive(Debug)]
pub struct Programs {
    parts: Vec<(PartPlan, File)>,
    control: Arc<OwnedFd>,
}

impl Programs {
    /// Finds and compiles all of them. One that cannot be compiled or linked is an error.
    pub fn prepare(config: &WasmLimits, together: &Together) -> Result<Self> {
        let of = |part: &Part| {
            prepare(config, part).context(|| format!("cannot create container '{}'", part.name))
        };
        let parts = together.parts.iter().map(of).collect::<Result<_>>()?;
        Ok(Self { parts, control: Arc::clone(&together.control) })
    }

    /// What their process is told; `root` is the number of the view's root.
    pub fn plan(&self, root: RawFd) -> Plan {
        let parts = self.parts.iter().map(|(plan, _)| plan.clone()).collect();
        Plan { parts, root, control: self.control.as_raw_fd() }
    }

    /// The descriptors that the process inherits.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.parts.iter().map(|(_, code)| code.as_fd()).chain([self.control.as_fd()])
    }
}

fn prepare(config: &WasmLimits, part: &Part) -> Result<(PartPlan, File)> {
    let (spec, _) = spec::load(&part.bundle.join(spec::CONFIG_NAME))?;
    let process = spec.process().as_ref().ok_or_else(validate::no_process)?;
    let rootfs = part.bundle.join(spec.root().as_ref().map(|root| root.path().clone()).unwrap_or_default());
    let mut settings = Settings::from_spec(&spec, config)?;
    // A thread cannot be ended from outside.
    settings.code.epochs = true;
    let source = source::find(&Tree::of_bundle(&part.bundle, &rootfs, &spec)?, process)?;
    let Program { path, kind, code, settings } = Program::prepare(config, settings, &source)?;
    let called = Process::new(process, &[])?;
    let plan = PartPlan {
        name: part.name.clone(),
        path: path.display().to_string(),
        kind,
        settings,
        args: called.args().to_vec(),
        env: called.env().map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
        cwd: process.cwd().display().to_string(),
        root: part.root.trim_start_matches('/').to_owned(),
        memory: part.memory,
        processor: part.processor,
        code: code.as_raw_fd(),
    };
    Ok((plan, code))
}
