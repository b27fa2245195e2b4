//! Executing a plugin.

use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::limits::CONTAINER_START_TIMEOUT;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::MemfdFlags;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::Deserialize;
use serde_json::Value;
use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Most that is read of what a plugin writes, in bytes.
const MAX_OUTPUT: u64 = 1 << 20;

/// An error as plugins print it.
#[derive(Deserialize)]
struct Failure {
    code: u32,
    #[serde(default)]
    msg: String,
    #[serde(default)]
    details: String,
}

/// Executes a plugin, and returns what it answers; null for nothing.
///
/// `started` is called with its process id before it gets its configuration, so before it does anything.
pub(super) fn execute(
    program: &Path,
    environment: &[(&str, String)],
    configuration: &Value,
    started: &dyn Fn(i32) -> Result<()>,
) -> Result<Value> {
    let (mut output, mut errors) = (memory_file()?, memory_file()?);
    // Files in memory and not pipes: a plugin that leaves children behind cannot make us wait.
    let mut child = Command::new(program)
        .env_clear()
        .envs(environment.iter().map(|(name, value)| (*name, value.as_str())))
        .stdin(Stdio::piped())
        .stdout(output.try_clone()?)
        .stderr(errors.try_clone()?)
        .spawn()
        .context(|| format!("cannot execute '{}'", program.display()))?;
    let done = feed(&mut child, configuration, started).and_then(|()| wait(&mut child));
    if done.is_err() {
        let _ = child.kill();
        let _ = child.wait();
    }
    let success = done?;
    let text = read(&mut output)?;
    if !success {
        return Err(failure(&text, &read(&mut errors)?));
    }
    if text.trim().is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_str(&text)
        .map_err(|e| Error::new(ErrorKind::StartFailed, format!("cannot parse what it answers: {e}")))
}

fn feed(child: &mut Child, configuration: &Value, started: &dyn Fn(i32) -> Result<()>) -> Result<()> {
    started(child.id() as i32)?;
    let Some(mut stdin) = child.stdin.take() else { return Ok(()) };
    match stdin.write_all(&serde_json::to_vec(configuration)?) {
        // What it says for itself tells more.
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        written => written.context(|| "cannot tell it its configuration"),
    }
}

/// Waits until it has ended; true for success.
fn wait(child: &mut Child) -> Result<bool> {
    let pid = Pid::from_raw(child.id() as i32).ok_or_else(|| Error::from_errno(libc::ESRCH))?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
    let limit = Timespec { tv_sec: CONTAINER_START_TIMEOUT.as_secs() as i64, tv_nsec: 0 };
    let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
    if rustix::io::retry_on_intr(|| poll(&mut fds, Some(&limit)))? == 0 {
        crate::bail!(Timeout, "it takes longer than {} s", CONTAINER_START_TIMEOUT.as_secs());
    }
    Ok(child.wait()?.success())
}

fn memory_file() -> Result<File> {
    Ok(rustix::fs::memfd_create("cni", MemfdFlags::CLOEXEC)
        .context(|| "cannot make a file in memory")?
        .into())
}

fn read(file: &mut File) -> Result<String> {
    let mut text = Vec::new();
    file.rewind()?;
    file.take(MAX_OUTPUT).read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// One line of what a plugin has said.
fn failure(output: &str, errors: &str) -> Error {
    let line = |text: &str| text.trim().lines().map(str::trim).collect::<Vec<_>>().join("; ");
    let message = match serde_json::from_str::<Failure>(output) {
        Ok(failure) if failure.details.is_empty() => {
            format!("{} (code {})", line(&failure.msg), failure.code)
        }
        Ok(failure) => format!("{}: {} (code {})", line(&failure.msg), line(&failure.details), failure.code),
        Err(_) => format!("it has failed: {}", line(&format!("{output}\n{errors}"))),
    };
    Error::new(ErrorKind::StartFailed, message)
}

/// Makes a plugin of a script, for tests. Another process writes it: of a file that this one had open for writing the child of another
/// thread may have a copy still, and such a file cannot be executed.
#[cfg(test)]
pub(super) fn make(path: &Path, script: &str) {
    let text = path.with_extension("sh");
    std::fs::write(&text, format!("#!/bin/sh\n{script}\n")).unwrap();
    let made = Command::new("install").args(["-m", "755"]).args([&text, path]).status();
    assert!(made.unwrap().success());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plugin(script: &str) -> Result<Value> {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("plugin");
        make(&path, script);
        let environment = [("CNI_COMMAND", "ADD".to_owned())];
        execute(&path, &environment, &serde_json::json!({"name": "n"}), &|_| Ok(()))
    }

    #[test]
    fn what_a_plugin_answers_is_returned_and_its_failure_is_one_line() {
        assert_eq!(plugin(r#"test "$CNI_COMMAND" = ADD && cat"#).unwrap(), serde_json::json!({"name": "n"}));
        assert_eq!(plugin("true").unwrap(), Value::Null);
        let e =
            plugin(r#"printf '%s' '{"code": 7, "msg": "no", "details": "bad\nvalue"}'; exit 1"#).unwrap_err();
        assert_eq!(e.message(), "no: bad; value (code 7)");
        let e = plugin("echo oops >&2; exit 1").unwrap_err();
        assert_eq!(e.message(), "it has failed: oops");
        assert!(plugin("echo '{'").unwrap_err().message().starts_with("cannot parse what it answers"));
    }
}
