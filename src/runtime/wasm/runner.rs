//! The program image that a process of a container becomes: see [`super::handover`].

use super::execute::{self, Job};
use super::handover::{MARKER, One, Plan};
use super::instance::{Budget, Call};
use super::outcome::Outcome;
use super::passed::FIRST;
use super::preopen::Preopen;
use super::program::Kind;
use super::{engine, http, together, turns};
use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::platform::stdio;
use crate::platform::sys::{fd, signal};
use nix::sys::signal::SigSet;
use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::os::fd::{OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Runs the module of this process, if it was made to run one. Call it first; it looks at one variable.
pub fn main() -> Option<u8> {
    let number = std::env::var_os(MARKER)?;
    let outcome = number
        .to_str()
        .and_then(|number| number.parse().ok())
        .ok_or_else(|| Error::new(ErrorKind::Usage, format!("{MARKER} is for magikrun itself")))
        .and_then(run);
    let Outcome { code, message } = outcome.unwrap_or_else(|e| Outcome::failed(e.message()));
    let _ = std::io::stdout().flush();
    if let Some(message) = message {
        stdio::tell(format_args!("magikrun: {message}"));
    }
    Some(code)
}

fn run(plan: RawFd) -> Result<Outcome> {
    set_up_signals()?;
    let mut file = take(plan)?;
    let mut text = Vec::new();
    file.rewind().and_then(|()| file.read_to_end(&mut text)).context(|| "cannot read the plan")?;
    drop(file);
    match serde_json::from_slice::<Plan>(&text).context(|| "cannot read the plan")? {
        Plan::One(plan) => run_one(plan),
        Plan::Several(plan) => {
            set_name("wasm");
            enter(plan.root)?;
            together::runner::run(plan, take)
        }
    }
}

fn run_one(plan: One) -> Result<Outcome> {
    let One { path, kind, settings, cwd, code, root, memory_limit, preopens } = plan;
    set_name(&path);
    let mut preopens = preopens;
    if let Some(root) = root {
        enter(root)?;
        preopens.push(Preopen { path: PathBuf::from("."), name: "/".to_owned(), read_only: false });
    }
    let call = Call {
        args: std::env::args().collect(),
        env: std::env::vars().filter(|(name, _)| name != MARKER).collect(),
        cwd,
        preopens,
        sockets: settings.sockets,
        passed: if kind == Kind::Command { passed() } else { Vec::new() },
        stdin: kind != Kind::Proxy,
        streams: None,
        alone: true,
    };
    let job = Job {
        path,
        kind,
        code: take(code)?,
        budget: Budget::new(call, &settings, memory_limit.map(take).transpose()?),
        listener: settings.http.map(http::listen).transpose()?,
    };
    let engine = engine::running(settings.code)?;
    if settings.code.epochs {
        turns::begin(vec![engine.clone()])?;
    }
    execute::run(&engine, job)
}

/// As a native program has them, and what the kernel does for no first process of a pid namespace: end it.
fn set_up_signals() -> Result<()> {
    // Writing to a closed pipe is an error to the module.
    signal::ignore_sigpipe();
    if std::process::id() == 1 {
        signal::exit_on_fatal_signals();
        signal::ignore_children();
    }
    // They were blocked until now.
    SigSet::all().thread_unblock().context(|| "cannot unblock signals")
}

/// Takes a descriptor over by its number.
fn take(number: RawFd) -> Result<File> {
    fd::inherited(number).map(File::from)
}

/// The sockets that the caller passed, as many as a variable says. The other descriptors here are no sockets.
fn passed() -> Vec<Arc<OwnedFd>> {
    let count = std::env::var("LISTEN_FDS").ok().and_then(|count| count.parse::<u32>().ok()).unwrap_or(0);
    let numbers = FIRST..FIRST.saturating_add(count);
    numbers.map_while(|number| fd::inherited_socket(number as RawFd)).map(Arc::new).collect()
}

fn enter(root: RawFd) -> Result<()> {
    let root = take(root)?;
    rustix::process::fchdir(&root).context(|| "cannot enter the view of the module")
}

/// What `ps` shows as the command: the kernel would show a number, since the program was executed by descriptor.
fn set_name(path: &str) {
    let name =
        Path::new(path).file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    if let Ok(name) = std::ffi::CString::new(name) {
        let _ = rustix::thread::set_name(&name);
    }
}
