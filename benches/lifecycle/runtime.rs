//! The runtimes under test and how they are called.

use crate::bundle::{Scratch, which};
use crate::private;
use crate::stats::HANGS;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, WaitOptions, pidfd_open, waitpid};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::{Duration, Instant};

/// How long a call may take.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(20);
/// How long a killed container may take to be gone.
const GONE_WITHIN: Duration = Duration::from_secs(5);

/// A runtime under test.
#[derive(Debug)]
pub(crate) struct Runtime {
    pub(crate) name: String,
    pub(crate) program: PathBuf,
    pub(crate) root: PathBuf,
    pub(crate) version: String,
}

/// What is measured about a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Measure {
    /// Wall-clock time in milliseconds.
    Time,
    /// Peak resident memory of the largest process of the call, in KiB.
    Memory {
        /// What `busybox time` has to be divided by: some versions take the kernel's KiB for pages.
        divisor: u32,
    },
    /// Memory of the command alone, in KiB, when it ends.
    Private,
}

impl Runtime {
    /// Finds a runtime by name; the error says what is missing.
    pub(crate) fn find(scratch: &Scratch, name: &str, given: Option<&Path>) -> Result<Self, String> {
        let program = match given {
            Some(path) => fs::canonicalize(path).map_err(|e| format!("{name}: {}: {e}", path.display()))?,
            None => which(name).ok_or_else(|| format!("{name}: not on PATH"))?,
        };
        let output = Command::new(&program)
            .arg("--version")
            .output()
            .map_err(|e| format!("{name}: {} --version: {e}", program.display()))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let version = text.lines().next().unwrap_or("unknown version").trim().to_owned();
        let root = scratch.state_root(name, &program)?;
        Ok(Self { name: name.to_owned(), program, root, version })
    }

    /// Calls the runtime and measures it.
    pub(crate) fn call(&self, scratch: &Scratch, measure: Measure, args: &[&OsStr]) -> Result<f64, String> {
        static CALLS: AtomicU64 = AtomicU64::new(0);
        let number = CALLS.fetch_add(1, Ordering::Relaxed);
        let errors = scratch.file(&format!("stderr-{number}"));
        let memory = scratch.file(&format!("memory-{number}"));
        let mut command = match measure {
            Measure::Time | Measure::Private => Command::new(&self.program),
            Measure::Memory { .. } => {
                let mut command = Command::new(scratch.busybox());
                command.args(["time", "-f", "%M", "-o"]).arg(&memory).arg(&self.program);
                command
            }
        };
        command.arg("--root").arg(&self.root).args(args);
        let result = match measure {
            Measure::Time => timed(&mut command, &errors),
            Measure::Memory { divisor } => {
                timed(&mut command, &errors).and_then(|_| read_memory(&memory, divisor))
            }
            Measure::Private => private::at_end(&command, &errors),
        };
        // A container that lives on keeps its standard error: the file goes, the descriptor stays.
        let _ = fs::remove_file(&errors);
        let _ = fs::remove_file(&memory);
        result
    }
}

/// Calls a runtime for its effect only, as cleanups do.
pub(crate) fn call_quietly(program: &Path, root: &Path, args: &[&OsStr]) {
    let mut command = Command::new(program);
    command
        .arg("--root")
        .arg(root)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    if let Ok(mut child) = command.spawn() {
        wait_or_kill(&mut child).ok();
    }
}

/// Runs a command; returns the milliseconds it took, or what it said when it failed.
pub(crate) fn timed(command: &mut Command, errors: &Path) -> Result<f64, String> {
    let file = File::create(errors).map_err(|e| format!("{}: {e}", errors.display()))?;
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file);
    let begin = Instant::now();
    let mut child = command.spawn().map_err(|e| format!("{}: {e}", command.get_program().display()))?;
    let status = wait_or_kill(&mut child)?;
    let time = begin.elapsed().as_secs_f64() * 1000.0;
    if status.success() { Ok(time) } else { Err(describe(status, errors)) }
}

fn wait_or_kill(child: &mut std::process::Child) -> Result<ExitStatus, String> {
    let pidfd =
        pidfd_open(Pid::from_child(child), PidfdFlags::empty()).map_err(|e| format!("pidfd_open: {e}"))?;
    let timeout = Timespec { tv_sec: TIMEOUT.as_secs() as i64, tv_nsec: 0 };
    let ready = poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&timeout));
    if ready == Ok(0) {
        let _ = child.kill();
        let _ = child.wait();
        return Err(format!("{HANGS}killed after {} s", TIMEOUT.as_secs()));
    }
    child.wait().map_err(|e| format!("wait: {e}"))
}

/// Puts a failure into one line: the last one of standard error, without the fields of a log record.
fn describe(status: ExitStatus, errors: &Path) -> String {
    let text = fs::read(errors).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let last = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
    let message = match last.split_once("msg=") {
        Some((_, message)) => message.trim_matches('"').replace("\\\"", "\""),
        None => last.trim().to_owned(),
    };
    let how = match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => status.to_string(),
    };
    if message.is_empty() { how } else { message }
}

fn read_memory(file: &Path, divisor: u32) -> Result<f64, String> {
    let text = fs::read_to_string(file).map_err(|e| format!("{}: {e}", file.display()))?;
    let value = text.trim().lines().last().and_then(|line| line.parse::<f64>().ok());
    value.map(|value| value / f64::from(divisor)).ok_or_else(|| format!("busybox time says {text:?}"))
}

/// Finds out by how much this busybox exaggerates memory, with a process that knows its own peak.
pub(crate) fn memory_measure(scratch: &Scratch) -> Result<Measure, String> {
    let own = std::env::current_exe().map_err(|e| format!("own executable: {e}"))?;
    let file = scratch.file("calibration");
    let output = Command::new(scratch.busybox())
        .args(["time", "-f", "%M", "-o"])
        .arg(&file)
        .arg(own)
        .arg("--own-peak")
        .output()
        .map_err(|e| format!("busybox time: {e}"))?;
    let peak: f64 = String::from_utf8_lossy(&output.stdout)
        .trim()
        .parse()
        .map_err(|e| format!("calibration of busybox time: {e}"))?;
    let said = read_memory(&file, 1)?;
    Ok(Measure::Memory { divisor: if said > 2.0 * peak { 4 } else { 1 } })
}

/// The peak resident memory of this process in KiB.
pub(crate) fn own_peak() -> Option<u64> {
    status_field(&fs::read_to_string("/proc/self/status").ok()?, "VmHWM:")
}

/// What a container holds in memory, in KiB.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Held {
    /// Its share of what it has with others, and what is its own.
    pub(crate) proportional: f64,
    /// What nothing else has.
    pub(crate) private: f64,
}

/// The memory of all processes of a container: those in its cgroup, and its first one.
pub(crate) fn held_memory(cgroup: &Path, first: Option<u32>) -> Result<Held, String> {
    let mut pids = Vec::new();
    collect_pids(cgroup, &mut pids);
    if let Some(first) = first
        && !pids.contains(&first)
    {
        pids.push(first);
    }
    let mut held = Held::default();
    for pid in pids {
        let file = format!("/proc/{pid}/smaps_rollup");
        let text = fs::read_to_string(&file).map_err(|e| format!("{file}: {e}"))?;
        let field = |name| {
            status_field(&text, name).map(|kib| kib as f64).ok_or_else(|| format!("{file}: no {name}"))
        };
        held.proportional += field("Pss:")?;
        held.private += field("Private_Clean:")? + field("Private_Dirty:")?;
    }
    Ok(held)
}

fn collect_pids(cgroup: &Path, pids: &mut Vec<u32>) {
    let text = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    pids.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()));
    for entry in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            collect_pids(&entry.path(), pids);
        }
    }
}

/// The number after a name at the beginning of a line.
pub(crate) fn status_field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Reaps the first process of a container as soon as it dies, as conmon or a shim does.
#[derive(Debug)]
pub(crate) struct Reaper {
    pub(crate) pid: u32,
    thread: JoinHandle<()>,
}

impl Reaper {
    /// Starts to wait for the process whose pid is in this file.
    pub(crate) fn of_pid_file(file: &Path) -> Result<Self, String> {
        let text = fs::read_to_string(file).map_err(|e| format!("{}: {e}", file.display()))?;
        let raw: i32 = text.trim().parse().map_err(|e| format!("{}: {e}", file.display()))?;
        let pid = Pid::from_raw(raw).ok_or_else(|| format!("{}: no pid", file.display()))?;
        let thread = spawn(move || {
            let _ = waitpid(Some(pid), WaitOptions::empty());
        });
        Ok(Self { pid: raw.unsigned_abs(), thread })
    }

    /// Waits until the process is gone.
    pub(crate) fn gone(&self) -> Result<(), String> {
        let begin = Instant::now();
        let proc = format!("/proc/{}", self.pid);
        while !self.thread.is_finished() || Path::new(&proc).exists() {
            if begin.elapsed() > GONE_WITHIN {
                return Err(format!("process {} lives on after a kill", self.pid));
            }
            sleep(Duration::from_micros(500));
        }
        Ok(())
    }
}
