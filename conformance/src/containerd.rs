//! The tests of containerd that need a whole machine, for pods of microVMs and for the events of cgroup v2: containerd, its plugins and what
//! they load are those of this machine, in the emulated one.

use crate::microvm::Programs;
use crate::suite::cargo;
use crate::vm;
use anyhow::Result;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// The shim.
const SHIM: &str = "containerd-shim-magikrun-v2";
/// The test programs, and what of them runs here.
const TESTS: [(&str, &[&str]); 2] = [("cri", &["--ignored", "krun::"]), ("shim", &["out_of_memory"])];
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
/// Drivers that nothing loads when they are wanted, and then the tests.
const SCRIPT: &str = r#"modprobe -a vsock fuse tun veth overlay
status=0
while [ $# -gt 0 ]; do
    "$1" --test-threads=1 --show-output $2 || status=$?
    shift 2
done
exit $status"#;

/// What the command line says.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A shell command to run instead of the tests, in the folder of the programs
    #[arg(long)]
    shell: Option<String>,

    /// How many seconds the tests may take
    #[arg(long, value_name = "SECONDS", default_value_t = 3000)]
    limit: u64,
}

/// Runs the tests and answers their exit code.
pub(crate) fn run(args: &Args) -> Result<u8> {
    let programs = Programs::build(&TESTS.map(|(name, _)| name))?;
    programs.add(SHIM, &cargo::package("containerd-shim-magikrun", &[])?)?;
    let script = args.shell.as_deref().unwrap_or(SCRIPT);
    let mut argv: Vec<OsString> = ["sh", "-c", script, "sh"].map(Into::into).into();
    for (name, selection) in TESTS {
        argv.extend([programs.path(name).into(), selection.join(" ").into()]);
    }
    let mut job = programs.job(argv, Duration::from_secs(args.limit));
    job.needs.extend(NEEDS.map(PathBuf::from));
    job.env.push(("LD_LIBRARY_PATH".into(), LIBRARIES.into()));
    vm::once(&vm::Options::default(), &job, None)
}
