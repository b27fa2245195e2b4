//! Where commands run: the host as it is, or a view or machine made for the purpose.

use crate::vm::{Options, Vm};
use anyhow::{Context as _, Result, anyhow};
use clap::ValueEnum;
use std::ffi::OsString;
use std::fmt;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;
use wait_timeout::ChildExt as _;

/// The kinds of environments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Place {
    /// This machine as it is.
    Host,
    /// This machine, with cgroup v2 alone.
    V2,
    /// An emulated machine with a kernel and a systemd of its own.
    Vm,
    /// That machine with cgroup v1.
    VmV1,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Host => "host",
            Self::V2 => "v2",
            Self::Vm => "vm",
            Self::VmV1 => "vm-v1",
        })
    }
}

impl Place {
    /// Whether it is an emulated machine.
    pub(crate) fn is_machine(self) -> bool {
        matches!(self, Self::Vm | Self::VmV1)
    }

    /// Makes the environment; dropping it ends it.
    pub(crate) fn open(self) -> Result<Box<dyn Environment>> {
        match self {
            Self::Host | Self::V2 => Ok(Box::new(Local { place: self })),
            Self::Vm => Ok(Box::new(Vm::boot(self, Options::default())?)),
            Self::VmV1 => {
                let kernel = vec![CGROUP_V1.to_owned()];
                Ok(Box::new(Vm::boot(self, Options { kernel, ..Options::default() })?))
            }
        }
    }
}

/// A command for an environment.
#[derive(Debug, Clone)]
pub(crate) struct Job {
    /// The program and its arguments.
    pub(crate) argv: Vec<OsString>,
    /// Variables beside those that the environment has.
    pub(crate) env: Vec<(OsString, OsString)>,
    /// The working directory.
    pub(crate) directory: PathBuf,
    /// Files and folders of this machine that the command needs at the same path; it may write to none of them but
    /// the working directory.
    pub(crate) needs: Vec<PathBuf>,
    /// How long the command may take on an idle machine; environments that are slower give it more.
    pub(crate) limit: Duration,
}

/// What became of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// The exit code, or 128 + the signal that ended it; `None` if it took too long and was killed.
    pub(crate) code: Option<i32>,
    /// Standard output.
    pub(crate) stdout: String,
    /// Standard error.
    pub(crate) stderr: String,
}

/// A place where commands run.
pub(crate) trait Environment: Sync {
    /// Which one it is.
    fn place(&self) -> Place;

    /// How many commands may usefully run at the same time.
    fn jobs_at_once(&self) -> usize;

    /// Runs a command to its end. An error is one of the environment; what the command does is in the outcome.
    fn run(&self, job: &Job) -> Result<Outcome>;
}

/// The option of the kernel with which systemd mounts the controllers as cgroup v1.
const CGROUP_V1: &str = "systemd.unified_cgroup_hierarchy=0";

/// Prints the kernel, the service manager if there is one, and how cgroups are mounted.
const DESCRIBE: &str = r#"
printf 'kernel %s' "$(uname -r | sed 's/[^0-9.].*//')"
[ ! -d /run/systemd/system ] || printf ', systemd %s' "$(systemctl --version | sed -n '1s/[^0-9]*\([0-9]*\).*/\1/p')"
if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
    printf ', cgroup v2 with "%s"' "$(cat /sys/fs/cgroup/cgroup.controllers)"
elif [ -d /sys/fs/cgroup/unified ]; then
    printf ', cgroups of both versions'
else
    printf ', cgroup v1'
fi
"#;

/// What an environment is, in a few words.
pub(crate) fn describe(environment: &dyn Environment) -> Result<String> {
    let job = Job {
        argv: ["sh", "-c", DESCRIBE].map(OsString::from).into(),
        env: Vec::new(),
        directory: "/".into(),
        needs: Vec::new(),
        limit: Duration::from_mins(1),
    };
    Ok(environment.run(&job)?.stdout)
}

/// Makes a view of `/sys/fs/cgroup` that is a cgroup v2 alone, and executes its arguments in it.
const V2_VIEW: &str = r#"umount -R /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup && exec "$@""#;

/// This machine, as it is or with cgroup v2 alone.
#[derive(Debug)]
struct Local {
    place: Place,
}

impl Environment for Local {
    fn place(&self) -> Place {
        self.place
    }

    fn jobs_at_once(&self) -> usize {
        2 * std::thread::available_parallelism().map_or(1, usize::from)
    }

    fn run(&self, job: &Job) -> Result<Outcome> {
        // Some tests mount without a namespace of their own, and do not unmount.
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private"]);
        if self.place == Place::V2 {
            command.args(["sh", "-c", V2_VIEW, "sh"]);
        }
        command.args(&job.argv).current_dir(&job.directory).envs(job.env.iter().map(|(k, v)| (k, v)));
        execute(command, job.limit)
    }
}

/// Runs a command in a process group of its own, which is killed when the time is over.
///
/// Its output goes to files, not pipes: a container that the command leaves behind keeps them open.
pub(crate) fn execute(mut command: Command, limit: Duration) -> Result<Outcome> {
    let (mut stdout, mut stderr) = (tempfile::tempfile()?, tempfile::tempfile()?);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(stdout.try_clone()?)
        .stderr(stderr.try_clone()?)
        .process_group(0)
        .spawn()
        .with_context(|| format!("cannot start '{}'", command.get_program().display()))?;
    let status = child.wait_timeout(limit)?;
    if status.is_none() {
        let group = nix::unistd::Pid::from_raw(i32::try_from(child.id())?);
        nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL)?;
        child.wait()?;
    }
    let text = |file: &mut std::fs::File| -> Result<String> {
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(0))?;
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    Ok(Outcome {
        code: status.map(code).transpose()?,
        stdout: text(&mut stdout)?,
        stderr: text(&mut stderr)?,
    })
}

fn code(status: ExitStatus) -> Result<i32> {
    status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal))
        .ok_or_else(|| anyhow!("a command ended without a status"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, limit: Duration) -> Outcome {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        execute(command, limit).expect("sh runs")
    }

    #[test]
    fn the_code_and_both_outputs_come_back() {
        let outcome = shell("echo out; echo err >&2; exit 3", Duration::from_mins(1));
        assert_eq!(outcome, Outcome { code: Some(3), stdout: "out\n".into(), stderr: "err\n".into() });
        assert_eq!(shell("kill -TERM $$", Duration::from_mins(1)).code, Some(143));
    }

    #[test]
    fn a_command_that_takes_too_long_is_killed_with_its_children() {
        let outcome = shell("echo $$; sleep 600 & wait", Duration::from_millis(200));
        assert_eq!(outcome.code, None);
        // The limit may be over before the shell has printed anything.
        let Ok(group) = outcome.stdout.trim().parse() else { return };
        let group = nix::unistd::Pid::from_raw(group);
        let end = std::time::Instant::now() + Duration::from_mins(1);
        while nix::sys::signal::killpg(group, None).is_ok() {
            assert!(std::time::Instant::now() < end, "the children live on");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
