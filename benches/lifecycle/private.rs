//! The memory that a command has for itself: what it has written, which is no page of a file that others may have too.

use crate::runtime::{TIMEOUT, status_field};
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How often the command is looked at.
const LOOK: Duration = Duration::from_micros(200);

/// Runs a command; returns the KiB of anonymous memory that it has when it ends, which nothing gives back before.
pub(crate) fn at_end(command: &Command, errors: &Path) -> Result<f64, String> {
    let file = File::create(errors).map_err(|e| format!("{}: {e}", errors.display()))?;
    // A shell waits to be traced, and becomes the command then.
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", r#"read -r _ && exec "$@" < /dev/null"#, "sh"]);
    shell.arg(command.get_program()).args(command.get_args());
    let mut child = shell
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(file)
        .spawn()
        .map_err(|e| format!("sh: {e}"))?;
    let pid = Pid::from_raw(i32::try_from(child.id()).map_err(|e| e.to_string())?);
    ptrace::seize(pid, Options::PTRACE_O_TRACEEXIT | Options::PTRACE_O_EXITKILL)
        .map_err(|e| format!("ptrace: {e}"))?;
    child.stdin.take().map(|mut go| go.write_all(b"\n")).transpose().map_err(|e| format!("sh: {e}"))?;
    let (mut memory, begin) = (Err("it was not seen to end".to_owned()), Instant::now());
    loop {
        match waitpid(pid, Some(WaitPidFlag::WNOHANG)).map_err(|e| format!("waitpid: {e}"))? {
            WaitStatus::StillAlive if begin.elapsed() > TIMEOUT => {
                let _ = kill(pid, Signal::SIGKILL);
            }
            WaitStatus::StillAlive => sleep(LOOK),
            WaitStatus::PtraceEvent(pid, _, libc::PTRACE_EVENT_EXIT) => {
                memory = anonymous(pid);
                let _ = ptrace::cont(pid, None);
            }
            WaitStatus::Stopped(pid, signal) => drop(ptrace::cont(pid, signal)),
            WaitStatus::Exited(_, 0) => return memory,
            WaitStatus::Exited(..) | WaitStatus::Signaled(..) => {
                let text = fs::read_to_string(errors).unwrap_or_default();
                return Err(text.lines().last().unwrap_or("it failed").to_owned());
            }
            _ => drop(ptrace::cont(pid, None)),
        }
    }
}

fn anonymous(pid: Pid) -> Result<f64, String> {
    let file = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(&file).map_err(|e| format!("{file}: {e}"))?;
    let kib = status_field(&text, "Anonymous:").ok_or_else(|| format!("{file}: no Anonymous"))?;
    Ok(kib as f64)
}
