//! The floor of `run`: a program that does only what the kernel must do, without a runtime.

use crate::bundle::Scratch;
use crate::rounds::Bench;
use crate::runtime::{Measure, Runtime, timed};
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const SOURCE: &str = include_str!("floor.c");

/// The compiled program, and the seccomp filter that it loads.
#[derive(Debug)]
pub(crate) struct Floor {
    program: PathBuf,
    filter: Option<PathBuf>,
}

impl Floor {
    /// Compiles the program. The filter is the one that `magikrun`, if it is there, makes of the benchmark's profile.
    pub(crate) fn make(scratch: &Scratch, magikrun: Option<&Runtime>) -> Result<Self, String> {
        let cgroup = scratch.own_cgroup();
        fs::create_dir_all(&cgroup).map_err(|e| format!("mkdir {}: {e}", cgroup.display()))?;
        let program = scratch.file("floor");
        compile(&program).map_err(|e| format!("floor: {e}"))?;
        let filter = match magikrun {
            Some(runtime) if scratch.seccomp.is_some() => Some(filter_of(scratch, runtime)?),
            _ => None,
        };
        Ok(Self { program, filter })
    }

    /// Runs a container once; the result is in milliseconds.
    pub(crate) fn run(&self, scratch: &Scratch) -> Result<f64, String> {
        let mut command = Command::new(&self.program);
        command.arg(scratch.file("rootfs")).arg(scratch.own_cgroup().join("floor")).args(&self.filter);
        timed(&mut command, &scratch.file("stderr-floor"))
    }
}

fn compile(program: &Path) -> Result<(), String> {
    let mut compiler = Command::new("cc")
        .args(["-O2", "-static", "-x", "c", "-o"])
        .arg(program)
        .arg("-")
        .stdin(Stdio::piped())
        .spawn()
        .map_err(|e| format!("cc: {e}"))?;
    let written = compiler.stdin.take().map(|mut stdin| stdin.write_all(SOURCE.as_bytes()));
    let status = compiler.wait().map_err(|e| format!("cc: {e}"))?;
    match written {
        Some(Ok(())) if status.success() => Ok(()),
        _ => Err(format!("cc: {status}")),
    }
}

/// The instructions that a runtime keeps for a container with the profile.
fn filter_of(scratch: &Scratch, runtime: &Runtime) -> Result<PathBuf, String> {
    let id = "filter";
    let bench = Bench::of(scratch, std::slice::from_ref(runtime));
    let (_, reaper) = bench.create(runtime, id, Measure::Time)?;
    let kept = runtime.root.join(id).join("seccomp.bpf");
    let file = scratch.file("floor-filter");
    let copied = fs::copy(&kept, &file).map_err(|e| format!("{}: {e}", kept.display()));
    bench.delete_by_force(runtime, id)?;
    scratch.drop_bundle(runtime, id);
    reaper.gone()?;
    copied.map(|_| file)
}
