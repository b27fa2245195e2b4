//! What the tests of microVMs need: the programs under test, the guest's kernel, and an emulated machine that can run guests.

use crate::cache;
use crate::debian::{Release, run as execute};
use crate::environment::Job;
use crate::scratch;
use crate::suite::cargo;
use crate::vm;
use anyhow::{Context as _, Result};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

/// The test program.
pub(crate) const TESTS: &str = "microvm";
/// The guest's kernel, which the stable release does not have.
const KERNEL_PACKAGE: &str = "libkrunfw5";
/// Where its package has it.
const KERNEL_FOLDER: &str = "usr/lib/x86_64-linux-gnu";
/// How long a guest may take to start in the emulated machine, in seconds.
const START_TIMEOUT: u32 = 400;
/// Makes of the emulated machine one on which microVMs are installed, and goes on with the arguments after the first, the folder of
/// the guest's kernel. What the tests use of busybox comes last on the path.
const INSTALL: &str = r#"set -e
modprobe kvm-amd
mkdir -p /etc/magikrun applets
cp config.toml /etc/magikrun
[ -e applets/tunctl ] || busybox --install -s applets
ln -sf "$1"/libkrunfw.so.* /usr/local/lib
ldconfig
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

    /// How many seconds the tests may take
    #[arg(long, value_name = "SECONDS", default_value_t = 3000)]
    limit: u64,
}

/// Runs the tests, or another command, and answers the exit code.
pub(crate) fn run(args: &Args) -> Result<u8> {
    let programs = Programs::build()?;
    let argv = if let Some(text) = &args.shell {
        ["sh", "-c", text].map(OsString::from).into()
    } else {
        let figures = args.figures.then(|| "--ignored".into());
        programs.run_tests(figures.into_iter().chain(args.only.clone().map(OsString::from)))
    };
    vm::once(&vm::Options::default(), &programs.job(argv, Duration::from_secs(args.limit)), None)
}

/// What is tested, in a folder of its own.
#[derive(Debug)]
pub(crate) struct Programs {
    folder: TempDir,
    /// The test program.
    pub(crate) tests: PathBuf,
    kernel: PathBuf,
}

impl Programs {
    /// Builds the programs, and downloads the guest's kernel where it is not there.
    pub(crate) fn build() -> Result<Self> {
        let kernel = cache::folder_of("krunfw", &[KERNEL_PACKAGE], |folder| {
            Release::open("sid")?.unpack(&[KERNEL_PACKAGE], folder)
        })?;
        let folder = scratch::folder()?;
        let mut built = cargo::tests(&[TESTS])?;
        built.extend(cargo::package("magikrun-krun", &[])?);
        built.extend(cargo::package("vminit", &["--bins", "--examples"])?);
        for name in ["magikrun", "magikrun-krun", "vminit", "hostile_guest"] {
            strip(&cargo::find(&built, name)?, &folder.path().join(name))?;
        }
        fs::write(folder.path().join("config.toml"), format!("[vm]\nstart_timeout = {START_TIMEOUT}\n"))?;
        Ok(Self { folder, tests: cargo::find(&built, TESTS)?, kernel: kernel.join(KERNEL_FOLDER) })
    }

    /// The command that runs tests. A guest takes all of the machine's processor.
    pub(crate) fn run_tests(&self, arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
        let fixed = ["--test-threads=1", "--show-output"].map(OsString::from);
        std::iter::once(self.tests.clone().into()).chain(fixed).chain(arguments).collect()
    }

    /// A job of a machine on which the programs are installed.
    pub(crate) fn job(&self, argv: Vec<OsString>, limit: Duration) -> Job {
        let folder = self.folder.path();
        let applets = folder.join("applets");
        let env = [
            ("MAGIKRUN_TEST_RUNTIME", folder.join("magikrun").into_os_string()),
            ("PATH", format!("/usr/sbin:/usr/bin:/sbin:/bin:{}", applets.display()).into()),
            ("TMPDIR", "/tmp".into()),
            ("RUST_BACKTRACE", "0".into()),
        ];
        let install = ["sh", "-c", INSTALL, "sh"].map(OsString::from);
        Job {
            argv: install.into_iter().chain([self.kernel.clone().into()]).chain(argv).collect(),
            env: env.map(|(name, value)| (name.into(), value)).into(),
            directory: folder.to_owned(),
            needs: vec![self.kernel.clone(), self.tests.clone()],
            limit,
        }
    }
}

/// Copies a program without what debuggers need: the emulated machine reads every page of it.
fn strip(program: &Path, target: &Path) -> Result<()> {
    execute(Command::new("strip").arg("-o").arg(target).arg(program))
        .with_context(|| format!("cannot copy '{}'", program.display()))?;
    Ok(())
}
