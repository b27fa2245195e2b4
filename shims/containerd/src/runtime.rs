//! Executing the runtime: the command line that every runtime with runc's contract has.
//!
//! The runtime is executed, not linked: it may be upgraded under running containers, nothing of it stays in memory between calls,
//! and a process with threads must not make a container by cloning itself.

use crate::error::{Context as _, Error, Result};
use crate::options::Options;
use crate::reaper::Reaper;
use rustix::fs::MemfdFlags;
use serde::Deserialize;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

/// The name of our own runtime.
const PROGRAM: &str = "magikrun";

/// The runtime of one container.
#[derive(Clone)]
pub struct Runtime {
    reaper: Arc<Reaper>,
    program: PathBuf,
    root: PathBuf,
    systemd_cgroup: bool,
}

/// Standard input, output and error for the runtime, which it hands on to the container's process.
pub struct Streams(pub [Stdio; 3]);

impl Streams {
    /// Nothing to read, and nobody who reads.
    pub fn null() -> Self {
        Self([Stdio::null(), Stdio::null(), Stdio::null()])
    }
}

/// A file in memory that another process can open by its path.
pub struct MemoryFile(File);

impl MemoryFile {
    /// A file with contents.
    pub fn new(contents: &[u8]) -> Result<Self> {
        let fd = rustix::fs::memfd_create("magikrun-shim", MemfdFlags::CLOEXEC)
            .context(|| "cannot make a file in memory")?;
        let mut file = File::from(fd);
        file.write_all(contents).and_then(|()| file.rewind()).context(|| "cannot write to memory")?;
        Ok(Self(file))
    }

    /// The path, for as long as this exists.
    pub fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd()).into()
    }

    /// Where a process writes to it; all write at the same place.
    pub fn writer(&self) -> Result<Stdio> {
        self.0.try_clone().map(Stdio::from).context(|| "cannot copy a descriptor")
    }

    /// What is in it.
    pub fn text(&self) -> String {
        let mut bytes = Vec::new();
        let _ = (&self.0).rewind().and_then(|()| (&self.0).read_to_end(&mut bytes));
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn into_stdio(self) -> Stdio {
        self.0.into()
    }
}

/// A list of arguments.
pub fn arguments<const N: usize>(words: [&dyn AsRef<OsStr>; N]) -> Vec<OsString> {
    words.iter().map(|word| word.as_ref().to_owned()).collect()
}

impl Runtime {
    /// The runtime that the options name.
    pub fn new(options: &Options, namespace: &str, reaper: &Arc<Reaper>) -> Self {
        Self {
            reaper: Arc::clone(reaper),
            program: program(&options.binary_name),
            root: options.root(namespace),
            systemd_cgroup: options.systemd_cgroup,
        }
    }

    /// The state directory of a container.
    pub fn state(&self, id: &str) -> PathBuf {
        self.root.join(id)
    }

    fn command(&self, log: &Path, args: &[OsString]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--root").arg(&self.root).arg("--log").arg(log).args(["--log-format", "json"]);
        if self.systemd_cgroup {
            command.arg("--systemd-cgroup");
        }
        command.args(args);
        command
    }

    /// Runs a command to its end; `what` is the beginning of its error.
    pub fn run(&self, what: &str, args: &[OsString], streams: Streams) -> Result<()> {
        self.execute(what, args, streams).map(drop)
    }

    /// The document of what the runtime supports.
    pub fn features(&self) -> Result<String> {
        self.output("OCI runtime features failed", &arguments([&"features"]))
    }

    /// Runs a command that reads `input`.
    pub fn run_with_input(&self, what: &str, args: &[OsString], input: &[u8]) -> Result<()> {
        let [_, stdout, stderr] = Streams::null().0;
        let stdin = MemoryFile::new(input)?.into_stdio();
        self.run(what, args, Streams([stdin, stdout, stderr]))
    }

    /// Runs a command to its end, and answers what it printed.
    pub fn output(&self, what: &str, args: &[OsString]) -> Result<String> {
        let [stdin, _, stderr] = Streams::null().0;
        self.execute(what, args, Streams([stdin, Stdio::piped(), stderr]))
    }

    fn execute(&self, what: &str, args: &[OsString], streams: Streams) -> Result<String> {
        let log = MemoryFile::new(&[])?;
        let mut command = self.command(&log.path(), args);
        let [stdin, stdout, stderr] = streams.0;
        command.stdin(stdin).stdout(stdout).stderr(stderr);
        let spawned = self.reaper.spawn(&mut command);
        // Our ends of what the child has got must be closed before its end is waited for.
        drop(command);
        let (child, end) =
            spawned.context(|| format!("{what}: cannot execute '{}'", self.program.display()))?;
        let mut text = String::new();
        if let Some(mut stdout) = child.stdout {
            stdout.read_to_string(&mut text).context(|| format!("{what}: cannot read its output"))?;
        }
        let exit = end.recv().map_err(|_| Error::new(format!("{what}: the reaper is gone")))?;
        match last_error(&log.text()) {
            _ if exit.status == 0 => Ok(text),
            Some(message) => Err(Error::new(format!("{what}: {message}"))),
            None => Err(Error::new(format!("{what}: exit status {}", exit.status))),
        }
    }
}

/// The program to execute: as named, or `magikrun` beside this program, or on PATH.
fn program(name: &str) -> PathBuf {
    if !name.is_empty() {
        return name.into();
    }
    let beside = std::env::current_exe().ok().and_then(|own| Some(own.parent()?.join(PROGRAM)));
    beside.filter(|path| path.exists()).unwrap_or_else(|| PROGRAM.into())
}

/// A line of the runtime's log.
#[derive(Deserialize)]
struct Record {
    level: String,
    msg: String,
}

/// The message of the last error in a log; what is not an error goes into our own log.
fn last_error(log: &str) -> Option<String> {
    let mut last = None;
    for record in log.lines().filter_map(|line| serde_json::from_str::<Record>(line).ok()) {
        match record.level.as_str() {
            "error" | "fatal" | "panic" => last = Some(record.msg),
            "warning" => log::warn!("{}", record.msg),
            _ => log::debug!("{}", record.msg),
        }
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_the_one_of_the_contract() {
        let options = Options {
            binary_name: "/bin/rt".to_owned(),
            root: "/r".into(),
            systemd_cgroup: true,
            ..Options::default()
        };
        let runtime = Runtime::new(&options, "ns", &Arc::default());
        let command = runtime.command(Path::new("/log"), &arguments([&"start", &"box"]));
        let words: Vec<_> = command.get_args().map(|word| word.to_str().unwrap()).collect();
        let expected = "--root /r/ns --log /log --log-format json --systemd-cgroup start box";
        assert_eq!(words.join(" "), expected);
        assert_eq!(command.get_program(), "/bin/rt");
    }

    #[test]
    fn the_last_error_of_a_log_counts() {
        let log = "{\"level\":\"error\",\"msg\":\"a\"}\n{\"level\":\"warning\",\"msg\":\"b\"}\nnoise\n\
                   {\"level\":\"error\",\"msg\":\"c\",\"time\":\"t\"}\n";
        assert_eq!(last_error(log).as_deref(), Some("c"));
        assert_eq!(last_error(""), None);
    }
}
