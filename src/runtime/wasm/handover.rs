//! From a process of a container to the program that it runs: what `execve` is to a native one.
//!
//! The process executes this program again, by a descriptor of its protected clone, with the arguments and the environment of
//! the container's process. So nothing of the runtime's memory is left in the container, security labels that take effect on
//! execve(2) do, and whoever waits for the start hears of it in the same way. What the program needs besides is in a file
//! in memory, whose number a variable of the environment tells: the [`Plan`].

use super::preopen::Preopen;
use super::program::{Kind, Program};
use super::settings::Settings;
use super::together::{self, Programs};
use super::view::{Procfs, View};
use crate::error::{Context as _, Result};
use crate::platform::{memory, selfexe};
use crate::runtime::native::program::Program as Process;
use nix::sys::signal::SigSet;
use rustix::io::{FdFlags, fcntl_setfd};
use serde::{Deserialize, Serialize};
use std::convert::Infallible;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

/// The variable that holds the number of the plan's descriptor.
pub const MARKER: &str = "_MAGIKRUN_WASM";

/// What the new program image is told.
#[derive(Debug, Serialize, Deserialize)]
pub enum Plan {
    /// To run a program.
    One(One),
    /// To run several.
    Several(together::Plan),
}

/// What it is told of its one program. Numbers are those of descriptors that it inherits.
#[derive(Debug, Serialize, Deserialize)]
pub struct One {
    /// Path of the module, for messages.
    pub path: String,
    /// What it is.
    pub kind: Kind,
    /// What was decided about it.
    pub settings: Settings,
    /// Working directory.
    pub cwd: String,
    /// Code of the module.
    pub code: RawFd,
    /// Root directory of the view.
    pub root: Option<RawFd>,
    /// The memory limit of the container's cgroup.
    pub memory_limit: Option<RawFd>,
    /// Directories of the host, in direct mode.
    pub preopens: Vec<Preopen>,
}

/// What is about to be handed over to.
#[derive(Debug)]
pub struct Handover {
    what: What,
    files: Files,
    exe: OwnedFd,
    plan: Option<File>,
}

/// A program, or several.
#[derive(Debug)]
enum What {
    One { program: Box<Program>, cwd: PathBuf, memory_limit: Option<File> },
    Several(Programs),
}

/// What a module sees of files.
#[derive(Debug)]
enum Files {
    /// Those of its container, once there is one.
    Container(Procfs),
    /// Those of its container.
    View(View),
    /// Directories of the host.
    Preopens(Vec<Preopen>),
}

impl Handover {
    /// Makes ready what only the parent can reach. With `preopens` the module sees these and not the files of a container.
    pub fn new(program: Program, cwd: &Path, preopens: Option<Vec<Preopen>>) -> Result<Self> {
        let files = match preopens {
            Some(preopens) => Files::Preopens(preopens),
            None => Files::Container(Procfs::open()?),
        };
        let what = What::One { program: Box::new(program), cwd: cwd.to_owned(), memory_limit: None };
        Ok(Self { what, files, exe: selfexe::open()?, plan: None })
    }

    /// Makes ready what only the parent can reach, for several programs.
    pub fn to_several(programs: Programs) -> Result<Self> {
        let files = Files::Container(Procfs::open()?);
        Ok(Self { what: What::Several(programs), files, exe: selfexe::open()?, plan: None })
    }

    /// Gives the program the file that holds the memory limit of its cgroup. Several know what each may have.
    pub fn set_memory_limit(&mut self, file: Option<File>) {
        if let What::One { memory_limit, .. } = &mut self.what {
            *memory_limit = file;
        }
    }

    /// In the container's root, while this process may still mount.
    pub fn in_root(&mut self) -> Result<()> {
        if let Files::Container(procfs) = &self.files {
            self.files = Files::View(View::open(procfs, None)?);
        }
        self.write_plan()
    }

    fn write_plan(&mut self) -> Result<()> {
        let root = self.view().map(|view| view.root.as_raw_fd());
        let plan = match &self.what {
            What::Several(programs) => Plan::Several(programs.plan(root.unwrap_or(-1))),
            What::One { program, cwd, memory_limit } => Plan::One(One {
                path: program.path.display().to_string(),
                kind: program.kind,
                settings: program.settings.clone(),
                cwd: cwd.display().to_string(),
                code: program.code.as_raw_fd(),
                root,
                memory_limit: memory_limit.as_ref().map(AsRawFd::as_raw_fd),
                preopens: match &self.files {
                    Files::Preopens(preopens) => preopens.clone(),
                    Files::Container(_) | Files::View(_) => Vec::new(),
                },
            }),
        };
        let mut file = memory::file()?;
        file.write_all(&serde_json::to_vec(&plan)?).context(|| "cannot write the plan of the module")?;
        self.plan = Some(memory::seal(file)?);
        Ok(())
    }

    fn view(&self) -> Option<&View> {
        match &self.files {
            Files::View(view) => Some(view),
            Files::Container(_) | Files::Preopens(_) => None,
        }
    }

    fn inherited(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let view = self.view().into_iter().flat_map(|view| [view.root.as_fd(), view.namespace.as_fd()]);
        let own: Vec<BorrowedFd<'_>> = match &self.what {
            What::One { program, memory_limit, .. } => {
                memory_limit.iter().map(AsFd::as_fd).chain([program.code.as_fd()]).collect()
            }
            What::Several(programs) => programs.descriptors().collect(),
        };
        view.chain(own).chain(self.plan.iter().map(AsFd::as_fd))
    }

    /// The descriptors that must stay open until the program runs.
    pub fn descriptors(&self) -> Vec<RawFd> {
        self.inherited().chain([self.exe.as_fd()]).map(|fd| fd.as_raw_fd()).collect()
    }

    /// Executes the program as `process`; returns only when that fails.
    pub fn execute(&self, process: &Process) -> Result<Infallible> {
        for fd in self.inherited() {
            fcntl_setfd(fd, FdFlags::empty()).context(|| "cannot pass a descriptor on")?;
        }
        // A signal that comes before the new image can handle it would be lost to the first process of a pid namespace.
        SigSet::all().thread_block().context(|| "cannot block signals")?;
        process.execute_descriptor(
            &self.exe,
            &format!("{MARKER}={}", self.plan.as_ref().map_or(-1, AsRawFd::as_raw_fd)),
        )
    }
}
