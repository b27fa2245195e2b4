//! What the tests of microVMs need: the programs under test, the guest's kernel, and an emulated machine that can run guests.

use crate::cache;
use crate::debian::{Release, run as execute};
use crate::environment::{Job, Place};
use crate::scratch;
use crate::suite::cargo::{self, Program};
use crate::suite::{Selection, microvm};
use crate::verdict::Verdict;
use crate::vm;
use anyhow::{Context as _, Result};
use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

/// The test program.
pub(crate) const TESTS: &str = "microvm";
/// The folder with the program for a libkrun of the system, and that.
const SYSTEM: &str = "system";
/// What is in it.
const SYSTEM_FILES: [&str; 2] = ["magikrun-krun", "libkrun.so.1"];
/// The tests that need it.
pub(crate) const SYSTEM_TESTS: &str = "system::";
/// What is measured: packages, and what of them is built.
const MEASURED: [(&str, &[&str]); 3] =
    [("magikrun", &[]), ("magikrun-krun", &["--bins", "--example", "bare_krun"]), ("vminit", &[])];
/// Its programs.
const MEASURED_PROGRAMS: [&str; 4] = ["magikrun", "magikrun-krun", "vminit", "bare_krun"];
/// The guest's kernel, which the stable release does not have.
const KERNEL_PACKAGE: &str = "libkrunfw5";
/// Where its package has it.
const KERNEL_FOLDER: &str = "usr/lib/x86_64-linux-gnu";
/// How long guests may take in the emulated machine, on a host that has other work.
const CONFIG: &str = "[vm]\nstart_timeout = 400\nanswer_timeout = 120\n";
/// Makes of the emulated machine one on which microVMs are installed, and goes on with the arguments after the first, the folder of
/// the guest's kernel. What the tests use of busybox comes last on the path.
const INSTALL: &str = r#"set -e
if ! [ -e /etc/magikrun/config.toml ]; then
    modprobe kvm-amd
    mkdir -p /etc/magikrun /opt/applets
    busybox --install -s /opt/applets
    ln -s "$1"/libkrunfw.so.* /usr/local/lib
    ldconfig
    cp config.toml /etc/magikrun
fi
shift
exec "$@"
"#;

/// What the command line says.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only the tests whose name contains this
    #[arg(long)]
    only: Option<String>,

    /// Prints what microVMs cost instead of running the tests
    #[arg(long, conflicts_with_all = ["only", "shell"])]
    figures: bool,

    /// A shell command to run instead of the tests, in the folder of the programs
    #[arg(long)]
    shell: Option<String>,

    /// How many seconds the command or the measurements may take
    #[arg(long, value_name = "SECONDS", default_value_t = 3000)]
    limit: u64,
}

/// Runs the tests, or another command, and answers the exit code.
pub(crate) fn run(args: &Args) -> Result<u8> {
    if args.figures || args.shell.is_some() {
        let programs = Programs::build(&[TESTS])?;
        if args.figures {
            programs.add_measured()?;
        }
        let argv = match &args.shell {
            Some(text) => ["sh", "-c", text].map(OsString::from).into(),
            None => programs.run_tests(TESTS, &["--ignored"]),
        };
        let job = programs.job(argv, Duration::from_secs(args.limit));
        return vm::once(&vm::Options::default(), &job, None);
    }
    let selection = Selection { only: args.only.clone(), ..Selection::default() };
    let outcomes = microvm::run(Place::Vm.open()?.as_ref(), &selection)?;
    let failed = outcomes.iter().filter(|outcome| matches!(outcome.verdict, Verdict::Failed(_))).count();
    println!("{} of {} tests failed", failed, outcomes.len());
    Ok(u8::from(failed > 0 || outcomes.is_empty()))
}

/// What is tested, in a folder of its own.
#[derive(Debug)]
pub(crate) struct Programs {
    folder: TempDir,
    kernel: PathBuf,
}

impl Programs {
    /// Builds the programs and the tests with these names, and downloads the guest's kernel where it is not there.
    pub(crate) fn build(tests: &[&str]) -> Result<Self> {
        let kernel = cache::folder_of("krunfw", &[KERNEL_PACKAGE], |folder| {
            Release::open("sid")?.unpack(&[KERNEL_PACKAGE], folder)
        })?;
        let folder = scratch::folder()?;
        let mut built = cargo::tests(tests)?;
        built.extend(cargo::package("magikrun-krun", &[])?);
        built.extend(cargo::package("vminit", &["--bins", "--examples"])?);
        fs::write(folder.path().join("config.toml"), CONFIG)?;
        let programs = Self { folder, kernel: kernel.join(KERNEL_FOLDER) };
        for name in ["magikrun", "magikrun-krun", "vminit", "hostile_guest"].iter().chain(tests) {
            programs.add(name, &built)?;
        }
        Ok(programs)
    }

    /// Adds one of the programs that cargo has built, without what debuggers need: the emulated machine reads every page of it. The
    /// copy stays as it is when cargo builds again.
    pub(crate) fn add(&self, name: &str, built: &[Program]) -> Result<()> {
        let program = cargo::find(built, name)?;
        execute(Command::new("strip").arg("-o").arg(self.path(name)).arg(&program))
            .with_context(|| format!("cannot copy '{}'", program.display()))?;
        Ok(())
    }

    /// Puts what is released into the place of the programs that are tested, beside one that is libkrun alone: what they cost is measured.
    pub(crate) fn add_measured(&self) -> Result<()> {
        let built = MEASURED.map(|(package, targets)| cargo::released(package, targets));
        let built = built.into_iter().collect::<Result<Vec<_>>>()?.concat();
        MEASURED_PROGRAMS.iter().try_for_each(|name| self.add(name, &built))
    }

    /// Adds what runs microVMs by a libkrun of the system, in a folder of its own.
    pub(crate) fn add_system(&self) -> Result<()> {
        let folder = self.path(SYSTEM);
        cargo::with_system_libkrun(&folder)?;
        execute(Command::new("strip").args(SYSTEM_FILES.map(|name| folder.join(name)))).map(drop)
    }

    /// A program in the folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The command that runs tests. A guest takes all of the machine's processor.
    pub(crate) fn run_tests(&self, name: &str, arguments: &[&str]) -> Vec<OsString> {
        let fixed = ["--test-threads=1", "--show-output"];
        let arguments = fixed.iter().chain(arguments).map(OsString::from);
        std::iter::once(self.path(name).into()).chain(arguments).collect()
    }

    /// A job of a machine on which the programs are installed.
    pub(crate) fn job(&self, argv: Vec<OsString>, limit: Duration) -> Job {
        let folder = self.folder.path();
        let env = [
            ("MAGIKRUN_TEST_RUNTIME", self.path("magikrun").into_os_string()),
            ("PATH", "/usr/sbin:/usr/bin:/sbin:/bin:/opt/applets".into()),
            ("TMPDIR", "/tmp".into()),
            ("RUST_BACKTRACE", "0".into()),
        ];
        let install = ["sh", "-c", INSTALL, "sh"].map(OsString::from);
        Job {
            argv: install.into_iter().chain([self.kernel.clone().into()]).chain(argv).collect(),
            env: env.map(|(name, value)| (name.into(), value)).into(),
            directory: folder.to_owned(),
            needs: vec![self.kernel.clone()],
            limit,
        }
    }
}
