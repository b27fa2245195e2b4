//! Extensions that are programs: JSON lines on their standard input and output.
//!
//! They are told `start`, then `event`s, then `stop`, and may say `ready`, `log`, `error` and, before `ready`, `requestPort`.

use super::extension::{ExtensionResult, InfraContext, InfraEvent, InfraExtension, PodInfo};
use super::message::FromInfra;
use super::wire::{Wire, ready};
use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::limits::CONTAINER_START_TIMEOUT;
use rustix::event::PollFlags;
use serde::{Deserialize, Serialize};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

/// Longest line that a program may write, in bytes.
const MAX_LINE: u64 = 64 << 10;
/// How long a program may take to end after `stop`.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// To the program.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "camelCase", rename_all_fields = "camelCase")]
enum Told<'a> {
    Start { version: u32, pod: &'a PodInfo, state_directory: PathBuf },
    Event { event: &'a InfraEvent },
    Port { granted: bool, error: Option<String> },
    Stop,
}

/// From the program.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "camelCase", rename_all_fields = "camelCase")]
enum Said {
    Ready,
    Log { message: String },
    Error { message: String },
    RequestPort { protocol: Protocol, host_port: u16, container_port: u16 },
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Protocol {
    Tcp,
    Udp,
}

/// Version of what is said.
const VERSION: u32 = 1;

/// An extension that is a program.
pub struct External {
    name: String,
    program: PathBuf,
    log: Wire,
    running: Option<(Child, ChildStdin)>,
}

impl External {
    /// An extension that will execute `program`; what it says is sent over `log`.
    pub fn new(program: &Path, log: Wire) -> Self {
        let name = program.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        Self { name, program: program.to_owned(), log, running: None }
    }

    fn tell(&mut self, told: &Told<'_>) -> Result<()> {
        let Some((_, stdin)) = &mut self.running else { return Ok(()) };
        let mut line = serde_json::to_vec(told)?;
        line.push(b'\n');
        stdin.write_all(&line).context(|| "cannot write to the extension")
    }

    /// Follows the program until it is ready.
    fn follow(&mut self, output: &mut BufReader<ChildStdout>, context: &InfraContext<'_>) -> Result<()> {
        let deadline = Instant::now() + CONTAINER_START_TIMEOUT;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if output.buffer().is_empty() && !ready(output.get_ref().as_fd(), PollFlags::IN, Some(left))? {
                crate::bail!(Timeout, "it is not ready after {} s", CONTAINER_START_TIMEOUT.as_secs());
            }
            match read(output)?
                .ok_or_else(|| Error::new(ErrorKind::StartFailed, "it ended before it was ready"))?
            {
                Said::Ready => return Ok(()),
                Said::Log { message } => log(&self.log, &self.name, message),
                Said::Error { message } => crate::bail!(StartFailed, "{message}"),
                Said::RequestPort { protocol, host_port, container_port } => {
                    let udp = matches!(protocol, Protocol::Udp);
                    let error = context.ports.request(udp, host_port, container_port, &self.name).err();
                    let error = error.map(|e| e.message().to_owned());
                    self.tell(&Told::Port { granted: error.is_none(), error })?;
                }
            }
        }
    }
}

fn read(output: &mut BufReader<ChildStdout>) -> Result<Option<Said>> {
    let mut line = String::new();
    output.by_ref().take(MAX_LINE).read_line(&mut line).context(|| "cannot read from the extension")?;
    if line.is_empty() {
        return Ok(None);
    }
    let said = serde_json::from_str(&line);
    said.map(Some)
        .map_err(|e| Error::new(ErrorKind::System, format!("cannot parse what the extension said: {e}")))
}

fn log(to: &Wire, extension: &str, message: String) {
    let _ = to.send(&FromInfra::Log { extension: extension.to_owned(), message });
}

impl InfraExtension for External {
    fn name(&self) -> &str {
        &self.name
    }

    fn on_start(&mut self, context: &InfraContext<'_>) -> ExtensionResult<()> {
        let mut child = Command::new(&self.program)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context(|| format!("cannot execute '{}'", self.program.display()))?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            crate::bail!(System, "the extension has no standard streams");
        };
        self.running = Some((child, stdin));
        let mut output = BufReader::new(stdout);
        let state_directory = context.state_directory(&self.name)?;
        self.tell(&Told::Start { version: VERSION, pod: context.pod(), state_directory })?;
        self.follow(&mut output, context)?;
        let (wire, name) = (self.log.sender()?, self.name.clone());
        std::thread::Builder::new()
            .stack_size(super::process::THREAD_STACK)
            .spawn(move || {
                while let Ok(Some(said)) = read(&mut output) {
                    if let Said::Log { message } | Said::Error { message } = said {
                        log(&wire, &name, message);
                    }
                }
            })
            .context(|| "cannot make a thread")?;
        Ok(())
    }

    fn on_event(&mut self, event: &InfraEvent, _: &InfraContext<'_>) -> ExtensionResult<()> {
        self.tell(&Told::Event { event })
    }

    fn on_stop(&mut self, _: &InfraContext<'_>) -> ExtensionResult<()> {
        let _ = self.tell(&Told::Stop);
        let Some((mut child, stdin)) = self.running.take() else { return Ok(()) };
        drop(stdin);
        let deadline = Instant::now() + STOP_TIMEOUT;
        while let Ok(None) = child.try_wait() {
            if Instant::now() > deadline {
                child.kill().context(|| "cannot end the extension")?;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}
