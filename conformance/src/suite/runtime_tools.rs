//! The validation suite of the OCI runtime-tools, built from Debian alone or from a checkout.

use super::{Selection, tap};
use crate::cache;
use crate::debian::{Release, run as execute};
use crate::environment::{Environment, Job};
use crate::runtime::{Runtime, STATE, WRAPPER, executable};
use crate::scratch;
use crate::verdict::Outcome;
use anyhow::{Context as _, Result, anyhow};
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

/// Names a checkout of the runtime-tools to use in place of Debian's source.
const CHECKOUT: &str = "RUNTIME_TOOLS";
/// Where Debian's packages put the sources of Go libraries.
const LIBRARIES: &str = "/usr/share/gocode";
/// The package of the suite's source, and the release that has the newest.
const SOURCE: (&str, &str) = ("golang-github-opencontainers-runtime-tools", "trixie");
/// Our stand-in for a library that Debian lacks.
const TAP: &str = include_str!("../../tap-go/tap.go");
/// Programs that take more than five seconds, mostly asleep.
const SLOW: [&str; 5] = ["delete", "kill", "linux_cgroups_cpus", "linux_masked_paths", "pidfile"];
/// A program's own waits add up to half a minute.
const LIMIT: Duration = Duration::from_mins(3);

/// How the names of programs begin that choose the container's cgroup. They choose the same: only one may run.
const CHOOSE_A_CGROUP: [&str; 2] = ["delete_", "linux_cgroups_"];

/// Runs a program, and removes what it leaves behind: containers, and the cgroups whose names it chose.
const SCRIPT: &str = r#"
program=$1 chooses_cgroup=$2
"$program"
code=$?
for folder in state/*; do
    [ ! -d "$folder" ] || "$RUNTIME" delete --force "$(basename "$folder")"
done >/dev/null 2>&1
if $chooses_cgroup; then
    find /sys/fs/cgroup -depth -type d \( -path '*/testdir' -o -path '*/testdir/*' -o -name cgrouptest \) \
        -exec rmdir {} + 2>/dev/null
fi
exit $code
"#;

/// Runs the selected programs, several at a time: they sleep more than they work.
pub(super) fn run(
    runtime: &Runtime,
    environment: &dyn Environment,
    selection: &Selection,
) -> Result<Vec<Outcome>> {
    let suite = built()?;
    let selected = programs(&suite)?.into_iter().filter(|program| selection.has(&name(program), &SLOW));
    let (in_turn, others): (Vec<_>, Vec<_>) = selected.partition(|program| chooses_cgroup(program));
    let mut groups: Vec<Vec<PathBuf>> = others.into_iter().map(|program| vec![program]).collect();
    // The longest first.
    groups.push(in_turn);
    let groups = Mutex::new(groups);
    let next = || groups.lock().ok().and_then(|mut groups| groups.pop());
    let worker = || -> Result<Vec<Outcome>> {
        let mut outcomes = Vec::new();
        while let Some(group) = next() {
            for program in group {
                outcomes.push(run_one(&suite, &program, runtime, environment)?);
            }
        }
        Ok(outcomes)
    };
    let mut outcomes = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..environment.jobs_at_once()).map(|_| scope.spawn(worker)).collect();
        let results =
            workers.into_iter().map(|worker| worker.join().map_err(|_| anyhow!("a thread panicked"))?);
        Ok::<_, anyhow::Error>(results.collect::<Result<Vec<_>>>()?.concat())
    })?;
    outcomes.sort_by(|a, b| a.test.cmp(&b.test));
    Ok(outcomes)
}

fn name(program: &Path) -> String {
    program.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn chooses_cgroup(program: &Path) -> bool {
    CHOOSE_A_CGROUP.iter().any(|start| name(program).starts_with(start))
}

fn run_one(
    suite: &Path,
    program: &Path,
    runtime: &Runtime,
    environment: &dyn Environment,
) -> Result<Outcome> {
    let work = scratch::folder()?;
    fs::set_permissions(work.path(), fs::Permissions::from_mode(0o755))?;
    prepare(work.path(), suite, runtime)?;
    let name = name(program);
    let mut argv: Vec<OsString> = ["sh", "-c", SCRIPT, "sh"].map(OsString::from).into();
    argv.push(program.into());
    argv.push(chooses_cgroup(program).to_string().into());
    let mut needs = vec![suite.to_owned(), runtime.program.clone()];
    needs.extend_from_slice(&runtime.needs);
    let job = Job {
        argv,
        env: vec![
            ("RUNTIME".into(), work.path().join(WRAPPER).into()),
            ("TMPDIR".into(), work.path().join("tmp").into()),
        ],
        directory: work.path().to_owned(),
        needs,
        limit: LIMIT,
    };
    let outcome = environment.run(&job)?;
    Ok(Outcome::new(&name, tap::verdict(outcome.code, &outcome.stdout, &outcome.stderr)))
}

/// Fills the working directory: what the programs look for there, and the runtime with a state root of its own.
fn prepare(work: &Path, suite: &Path, runtime: &Runtime) -> Result<()> {
    for entry in fs::read_dir(suite)? {
        let path = entry?.path();
        // Copies: the programs copy a link as a link.
        if path.is_file() {
            fs::copy(&path, work.join(path.file_name().unwrap_or_default()))?;
        }
    }
    fs::create_dir(work.join("tmp"))?;
    fs::create_dir(work.join(STATE))?;
    let script = format!(
        "#!/bin/sh\nexec '{}' --root '{}' \"$@\"\n",
        runtime.program.display(),
        work.join(STATE).display()
    );
    executable(&work.join(WRAPPER), &script)
}

fn programs(suite: &Path) -> Result<Vec<PathBuf>> {
    let mut found =
        fs::read_dir(suite.join("bin"))?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    found.sort();
    Ok(found)
}

/// The folder with the root file system, runtimetest, and the programs in `bin`.
fn built() -> Result<PathBuf> {
    if let Some(checkout) = std::env::var_os(CHECKOUT).filter(|value| !value.is_empty()) {
        let checkout = PathBuf::from(checkout);
        let commit = execute(Command::new("git").args(["rev-parse", "HEAD"]).current_dir(&checkout))?;
        return cache::folder_of("runtime-tools-checkout", &[&commit], |folder| {
            build(&checkout, &["-mod=mod"], &[], folder)
        });
    }
    cache::folder_of("runtime-tools", &[SOURCE.0, SOURCE.1, TAP], |folder| {
        let path = scratch::folder()?;
        let source = path.path().join("src/github.com/opencontainers/runtime-tools");
        Release::open(SOURCE.1)?.unpack_source(SOURCE.0, &source)?;
        let stand_in = path.path().join("src/github.com/mndrix/tap-go");
        fs::create_dir_all(&stand_in)?;
        fs::write(stand_in.join("tap.go"), TAP)?;
        let mut gopath = path.path().as_os_str().to_owned();
        gopath.push(":");
        gopath.push(LIBRARIES);
        build(&source, &[], &[("GO111MODULE", "off".into()), ("GOPATH", gopath)], folder)
    })
}

/// Builds the programs of `source` into `folder`.
fn build(source: &Path, flags: &[&str], env: &[(&str, OsString)], folder: &Path) -> Result<()> {
    fs::create_dir(folder.join("bin"))?;
    for (target, packages) in [("runtimetest", "./cmd/runtimetest"), ("bin/", "./validation/...")] {
        let mut go = Command::new("go");
        // Static, so that they run in any root file system.
        go.arg("build").args(flags).env("CGO_ENABLED", "0").envs(env.iter().map(|(k, v)| (k, v)));
        go.env("GOCACHE", folder.join("gocache")).env("GOFLAGS", "");
        go.arg("-o").arg(folder.join(target)).arg(packages).current_dir(source);
        execute(&mut go)
            .context("cannot build the runtime-tools: they need Debian's golang-go and its libraries")?;
    }
    fs::remove_dir_all(folder.join("gocache"))?;
    for entry in fs::read_dir(source)? {
        let name = entry?.file_name();
        if name.to_string_lossy().starts_with("rootfs-") {
            fs::copy(source.join(&name), folder.join(&name))?;
        }
    }
    Ok(())
}
