//! The tests of microVMs, in the machine without a disk: the one place with a /dev/kvm that ordinary guests boot on.

use crate::cache;
use crate::debian::{Release, run as execute};
use crate::environment::Job;
use crate::suite::own;
use crate::vm;
use anyhow::{Context as _, Result, anyhow};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The test program.
const TESTS: &str = "microvm";
/// The guest's kernel, which the stable release does not have.
const KERNEL_PACKAGE: &str = "libkrunfw5";
/// The programs under test, and a guest that means harm.
const PROGRAMS: [&str; 4] = ["magikrun", "magikrun-krun", "vminit", "examples/hostile_guest"];
/// What else of this machine the tests need: the loader of dynamic programs, which is a link to the libraries, those, and the networks of
/// guests and pods.
const NEEDS: [&str; 4] = ["/lib64", "/lib/x86_64-linux-gnu", "/usr/bin/passt", "/usr/bin/pasta"];
/// How long a guest may take to start in the emulated machine, in seconds.
const START_TIMEOUT: u32 = 400;

/// What the command line says.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Directory with magikrun, magikrun-krun and vminit
    #[arg(long, value_name = "DIR", default_value = "target/debug")]
    programs: PathBuf,

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

/// Runs the tests and answers their exit code.
pub(crate) fn run(args: &Args) -> Result<u8> {
    let firmware = cache::folder_of("krunfw", &[KERNEL_PACKAGE], |folder| {
        Release::open("sid")?.unpack(&[KERNEL_PACKAGE], folder)
    })?;
    let folder = tempfile::Builder::new().prefix("microvm-").tempdir()?;
    // With the tests cargo builds magikrun itself.
    let tests = own::test_program(TESTS)?;
    gather(&args.programs, folder.path())?;
    let argv: Vec<OsString> = if let Some(text) = &args.shell {
        vec!["sh".into(), "-c".into(), text.into()]
    } else {
        let fixed = ["--test-threads=1", "--show-output"].map(OsString::from);
        std::iter::once(tests.clone().into())
            .chain(fixed)
            .chain(args.figures.then(|| "--ignored".into()))
            .chain(args.only.clone().map(OsString::from))
            .collect()
    };
    let needs = NEEDS.iter().map(PathBuf::from).chain([firmware.clone(), tests]).collect();
    let env = [
        ("MAGIKRUN_TEST_RUNTIME", folder.path().join("magikrun").into_os_string()),
        ("MAGIKRUN_CONFIG", folder.path().join("config.toml").into_os_string()),
        ("LD_LIBRARY_PATH", firmware.join("usr/lib/x86_64-linux-gnu").into_os_string()),
        ("PATH", "/bin:/usr/bin:/sbin:/usr/sbin".into()),
        ("TMPDIR", "/tmp".into()),
        ("RUST_BACKTRACE", "0".into()),
    ];
    let env = env.map(|(name, value)| (name.into(), value)).into();
    let limit = Duration::from_secs(args.limit);
    let job = Job { argv, env, directory: folder.path().to_owned(), needs, limit };
    vm::once(&vm::Options { bare: true, ..vm::Options::default() }, &job, None)
}

/// Copies the programs without what debuggers need: the emulated machine reads every page of them.
fn gather(from: &Path, to: &Path) -> Result<()> {
    for name in PROGRAMS {
        let source = from.join(name);
        if !source.exists() {
            return Err(anyhow!("there is no '{}': build it first, see the Makefile", source.display()));
        }
        let target = to.join(source.file_name().unwrap_or_default());
        execute(Command::new("strip").arg("-o").arg(target).arg(&source))
            .with_context(|| format!("cannot copy '{}'", source.display()))?;
    }
    fs::write(to.join("config.toml"), format!("[vm]\nstart_timeout = {START_TIMEOUT}\n"))?;
    Ok(())
}
