//! Hooks: programs of the configuration that run at points of a container's life.

use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::runtime::container::Status;
use oci_spec::runtime::{Hook, Spec};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::MemfdFlags;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

/// How much of a failed hook's output goes into the error, in bytes.
const MAX_OUTPUT: u64 = 4096;

/// The points at which hooks run: the runtime specification, "POSIX-platform Hooks".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HookKind {
    /// Runtime namespace, after the container's environment exists (deprecated).
    Prestart,
    /// Runtime namespace, after prestart.
    CreateRuntime,
    /// Container namespace, before its root is entered.
    CreateContainer,
    /// Container namespace, before the user's program.
    StartContainer,
    /// Runtime namespace, after the user's program was started.
    Poststart,
    /// Runtime namespace, after the container was deleted.
    Poststop,
}

impl HookKind {
    fn name(self) -> &'static str {
        match self {
            Self::Prestart => "prestart",
            Self::CreateRuntime => "createRuntime",
            Self::CreateContainer => "createContainer",
            Self::StartContainer => "startContainer",
            Self::Poststart => "poststart",
            Self::Poststop => "poststop",
        }
    }
}

/// The hooks of a configuration.
#[derive(Debug, Clone, Default)]
pub struct Hooks {
    prestart: Vec<Hook>,
    create_runtime: Vec<Hook>,
    /// Run by the container's first process before it enters its root.
    pub create_container: Vec<Hook>,
    /// Run by the container's first process before the user's program.
    pub start_container: Vec<Hook>,
    poststart: Vec<Hook>,
    poststop: Vec<Hook>,
}

impl Hooks {
    /// Reads the configuration.
    #[allow(deprecated)] // prestart hooks are deprecated for configurations; runtimes must still run them.
    pub fn new(spec: &Spec) -> Self {
        let Some(hooks) = spec.hooks() else { return Self::default() };
        let list = |hooks: &Option<Vec<Hook>>| hooks.clone().unwrap_or_default();
        Self {
            prestart: list(hooks.prestart()),
            create_runtime: list(hooks.create_runtime()),
            create_container: list(hooks.create_container()),
            start_container: list(hooks.start_container()),
            poststart: list(hooks.poststart()),
            poststop: list(hooks.poststop()),
        }
    }

    /// True if there are hooks for the runtime namespace during creation.
    pub fn runtime(&self) -> bool {
        !(self.prestart.is_empty() && self.create_runtime.is_empty())
    }

    /// True if the configuration has hooks for after the deletion.
    pub fn has_poststop(spec: &Spec) -> bool {
        spec.hooks()
            .as_ref()
            .and_then(|hooks| hooks.poststop().as_ref())
            .is_some_and(|hooks| !hooks.is_empty())
    }

    /// True if the configuration has hooks for after the start.
    pub fn has_poststart(spec: &Spec) -> bool {
        spec.hooks()
            .as_ref()
            .and_then(|hooks| hooks.poststart().as_ref())
            .is_some_and(|hooks| !hooks.is_empty())
    }

    /// Runs the prestart and createRuntime hooks. Prestart hooks are from a time in which they ran at the start, and
    /// see a created container.
    pub fn run_runtime(&self, state: impl Fn(Status) -> Vec<u8>) -> Result<()> {
        if !self.prestart.is_empty() {
            run(HookKind::Prestart, &self.prestart, &state(Status::Created))?;
        }
        if !self.create_runtime.is_empty() {
            run(HookKind::CreateRuntime, &self.create_runtime, &state(Status::Creating))?;
        }
        Ok(())
    }

    /// Runs the poststart hooks. A failure is an error for configurations of version 1.3 on, as that version has it;
    /// before, it is a warning and the remaining hooks run.
    pub fn run_poststart(&self, state: &[u8], oci_version: &str) -> Result<()> {
        if fails_on_poststart(oci_version) {
            return run(HookKind::Poststart, &self.poststart, state);
        }
        run_leniently(HookKind::Poststart, &self.poststart, state);
        Ok(())
    }

    /// Runs the poststop hooks; failures are warnings.
    pub fn run_poststop(&self, state: &[u8]) {
        run_leniently(HookKind::Poststop, &self.poststop, state);
    }
}

fn fails_on_poststart(oci_version: &str) -> bool {
    let mut parts = oci_version.split(['.', '-', '+']).map(|part| part.parse::<u32>().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) >= (1, 3)
}

/// Runs hooks in order, each with `state` on its standard input. The first failure ends it.
pub fn run(kind: HookKind, hooks: &[Hook], state: &[u8]) -> Result<()> {
    for (index, hook) in hooks.iter().enumerate() {
        tracing::debug!("{} hook #{index}: '{}'", kind.name(), hook.path().display());
        run_one(hook, state)
            .or_kind(ErrorKind::HookFailed, || format!("error running {} hook #{index}", kind.name()))?;
    }
    Ok(())
}

fn run_leniently(kind: HookKind, hooks: &[Hook], state: &[u8]) {
    for (index, hook) in hooks.iter().enumerate() {
        if let Err(e) = run_one(hook, state) {
            tracing::warn!("error running {} hook #{index}: {e}", kind.name());
        }
    }
}

fn run_one(hook: &Hook, state: &[u8]) -> Result<()> {
    let timeout = match hook.timeout() {
        Some(seconds @ ..=0) => crate::bail!(HookFailed, "timeout must be greater than zero, not {seconds}"),
        Some(seconds) => Some(Duration::from_secs(seconds.unsigned_abs())),
        None => None,
    };
    let mut output = memory_file("hook output")?;
    let mut command = command(hook, state, &output)?;
    let mut child =
        command.spawn().map_err(|e| Error::from(e).wrap(format!("exec {}", hook.path().display())))?;
    let waited = wait(&mut child, timeout);
    if waited.is_err() {
        let _ = child.kill();
        let _ = child.wait();
    }
    let status = waited?;
    if status.success() {
        return Ok(());
    }
    let mut text = String::new();
    output.seek(SeekFrom::Start(0))?;
    let _ = (&output).take(MAX_OUTPUT).read_to_string(&mut text);
    let output = text.trim().replace('\n', "; ");
    Err(Error::new(ErrorKind::HookFailed, format!("{}, output: {output}", describe(status))))
}

/// In the words of runc.
fn describe(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt as _;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("signal: {signal}"),
        (None, None) => status.to_string(),
    }
}

/// Input and output are files in memory and not pipes: a hook that does not read, writes without end, or leaves children
/// that hold the pipe, cannot make us wait.
fn command(hook: &Hook, state: &[u8], output: &File) -> Result<Command> {
    if !hook.path().is_absolute() {
        crate::bail!(HookFailed, "path '{}' must be absolute", hook.path().display());
    }
    let mut input = memory_file("hook state")?;
    input.write_all(state)?;
    input.seek(SeekFrom::Start(0))?;
    let mut command = Command::new(hook.path());
    if let Some((name, args)) = hook.args().as_ref().and_then(|args| args.split_first()) {
        command.arg0(name).args(args);
    }
    if let Some(env) = hook.env() {
        command.env_clear().envs(env.iter().filter_map(|pair| pair.split_once('=')));
    }
    command.stdin(input).stdout(output.try_clone()?).stderr(output.try_clone()?);
    Ok(command)
}

fn memory_file(name: &str) -> Result<File> {
    Ok(rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC).context(|| "cannot make a file in memory")?.into())
}

fn wait(child: &mut Child, timeout: Option<Duration>) -> Result<ExitStatus> {
    if let Some(timeout) = timeout {
        let pid = Pid::from_raw(child.id() as i32).ok_or_else(|| Error::from_errno(libc::ESRCH))?;
        let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
        let limit = Timespec { tv_sec: timeout.as_secs() as i64, tv_nsec: 0 };
        let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
        if rustix::io::retry_on_intr(|| poll(&mut fds, Some(&limit)))? == 0 {
            crate::bail!(HookFailed, "hook ran past specified timeout of {:.1}s", timeout.as_secs_f64());
        }
    }
    Ok(child.wait()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn hook(script: &str, timeout: Option<i64>) -> Hook {
        serde_json::from_value(
            json!({"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["A=b"], "timeout": timeout}),
        )
        .unwrap()
    }

    #[test]
    fn a_hook_gets_the_state_and_its_own_environment_only() {
        let hooks = [hook(r#"test "$(cat)" = state && test "$A" = b && test -z "$CARGO""#, None)];
        run(HookKind::CreateRuntime, &hooks, b"state").unwrap();
    }

    #[test]
    fn a_failing_hook_is_named_with_its_output_and_ends_the_row() {
        let hooks = [hook("true", None), hook("echo no good >&2; exit 3", None), hook("kill $PPID", None)];
        let e = run(HookKind::Prestart, &hooks, b"").unwrap_err();
        assert_eq!(e.kind(), ErrorKind::HookFailed);
        assert!(e.message().starts_with("error running prestart hook #1: exit status 3"), "{e}");
        assert!(e.message().contains("no good"));
    }

    #[test]
    fn a_hook_that_takes_too_long_is_ended() {
        let e = run(HookKind::Poststart, &[hook("exec sleep 60", Some(1))], b"").unwrap_err();
        assert!(e.message().contains("hook ran past specified timeout of 1.0s"), "{e}");
    }

    #[test]
    fn poststart_failures_count_from_version_1_3_on() {
        assert!(!fails_on_poststart("1.0.2"));
        assert!(!fails_on_poststart("1.2.1"));
        assert!(fails_on_poststart("1.3.0"));
    }
}
