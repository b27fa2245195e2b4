//! The tests of containerd that need a whole machine, for pods of microVMs and for the events of cgroup v2: containerd, its plugins and what
//! they load are those of this machine, in the emulated one.

use crate::engines;
use crate::environment::Job;
use crate::microvm::Programs;
use crate::suite::cargo;
use crate::vm;
use anyhow::Result;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// The shim.
const SHIM: &str = "containerd-shim-magikrun-v2";
/// The test programs, and what the names of those tests contain that need the machine.
pub(crate) const TESTS: [(&str, &[&str]); 2] =
    [("cri", &["krun::", "systemd::"]), ("shim", &["out_of_memory", "checkpoint::"])];
/// What else of this machine the tests need.
const NEEDS: [&str; 5] = [
    "/usr/bin/containerd",
    "/usr/bin/ctr",
    "/usr/bin/containerd-shim-runc-v2",
    "/usr/bin/curl",
    "/usr/lib/cni",
];
/// Libraries of `curl`, where the emulated machine sees those of this one.
const LIBRARIES: &str = "/host/usr/lib/x86_64-linux-gnu";
/// Drivers that nothing loads when they are wanted, and then a command.
const DRIVERS: &str = "modprobe -a vsock fuse tun veth overlay && exec \"$@\"";
/// The tests, one program after the other.
const SCRIPT: &str = r#"status=0
while [ $# -gt 0 ]; do
    "$1" --test-threads=1 --show-output --include-ignored $2 || status=$?
    shift 2
done
exit $status"#;

/// What the command line says.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A shell command to run instead of the tests, in the folder of the programs
    #[arg(long)]
    shell: Option<String>,

    /// Another release of Debian whose containerd is used: trixie or sid
    #[arg(long, value_name = "RELEASE")]
    engines: Option<String>,

    /// How many seconds the tests may take
    #[arg(long, value_name = "SECONDS", default_value_t = 3000)]
    limit: u64,
}

/// Runs the tests and answers their exit code.
pub(crate) fn run(args: &Args) -> Result<u8> {
    let programs = programs()?;
    let script = args.shell.as_deref().unwrap_or(SCRIPT);
    let mut argv: Vec<OsString> = ["sh", "-c", script, "sh"].map(Into::into).into();
    for (name, parts) in TESTS {
        argv.extend([programs.path(name).into(), parts.join(" ").into()]);
    }
    let mut job = run_in(programs.job(argv, Duration::from_secs(args.limit)));
    if let Some(release) = &args.engines {
        use_engines(&mut job, engines::folder(release)?);
    }
    vm::once(&vm::Options::default(), &job, None)
}

/// Builds what is tested.
pub(crate) fn programs() -> Result<Programs> {
    let programs = Programs::build(&TESTS.map(|(name, _)| name))?;
    programs.add(SHIM, &cargo::package("containerd-shim-magikrun", &[])?)?;
    Ok(programs)
}

/// Gives a job the engines of a folder instead of those of this machine.
pub(crate) fn use_engines(job: &mut Job, folder: PathBuf) {
    job.env.push(("MAGIKRUN_TEST_ENGINES".into(), folder.clone().into()));
    job.needs.push(folder);
}

/// Gives a job of a machine on which microVMs are installed containerd, and what that needs.
pub(crate) fn run_in(mut job: Job) -> Job {
    let command = ["sh", "-c", DRIVERS, "sh"].map(OsString::from);
    job.argv.splice(0..0, command);
    job.needs.extend(NEEDS.map(PathBuf::from));
    job.env.push(("LD_LIBRARY_PATH".into(), LIBRARIES.into()));
    job
}
