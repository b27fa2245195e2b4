//! Programs that take the output of a container (`binary://`): descriptor 3 is its standard output, 4 its standard error,
//! and the program closes 5, or writes to it, when it is ready.

use super::pipe;
use crate::error::{Context as _, Error, Result};
use crate::serve::Shim;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::FdFlags;
use std::ffi::OsString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

/// The first argument of this program when it is to become such a program.
pub const ARGUMENT: &str = "become-logger";
/// What the word that something is wrong begins with: no program says in this way that it is ready.
const REFUSAL: u8 = 0;
/// How long a program may take until it is ready.
const READY_DEADLINE: Timespec = Timespec { tv_sec: 30, tv_nsec: 0 };

/// Starts a program, and waits until it is ready.
///
/// A child gets its first three descriptors only, so that this program is in between, and moves them to 3, 4 and 5.
pub fn start(shim: &Shim, program: &Path, args: &[String], id: &str, streams: [OwnedFd; 2]) -> Result<()> {
    if !program.is_file() {
        return Err(Error::invalid(format!("cannot execute '{}': no such file", program.display())));
    }
    let (ready, signal) = pipe()?;
    let [out, err] = streams;
    let own = std::env::current_exe().context(|| "cannot find this program")?;
    let mut command = Command::new(own);
    command.arg(ARGUMENT).arg(program).args(args).process_group(0);
    command.env("CONTAINER_ID", id).env("CONTAINER_NAMESPACE", &shim.namespace);
    command.stdin(out).stdout(err).stderr(Stdio::from(signal));
    let child = shim.reaper.spawn(&mut command);
    drop(command);
    child.context(|| format!("cannot execute '{}'", program.display()))?;
    let mut fds = [PollFd::new(&ready, PollFlags::IN)];
    let count = rustix::io::retry_on_intr(|| poll(&mut fds, Some(&READY_DEADLINE)))
        .context(|| "cannot wait for the logger")?;
    if count == 0 {
        return Err(Error::new(format!("'{}' is not ready for output", program.display())));
    }
    let mut word = [0; 512];
    let length = rustix::io::retry_on_intr(|| rustix::io::read(&ready, &mut word))
        .context(|| "cannot hear from the logger")?;
    match word[..length].split_first() {
        Some((&REFUSAL, cause)) => Err(Error::new(format!(
            "cannot execute '{}': {}",
            program.display(),
            String::from_utf8_lossy(cause)
        ))),
        _ => Ok(()),
    }
}

/// Turns this process into the program that takes the output. Comes back with an error only, which whoever waits for the program hears too.
pub fn become_logger(words: impl Iterator<Item = OsString>) -> Error {
    let streams = [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()]
        .map(|stream| rustix::io::fcntl_dupfd_cloexec(stream, 3));
    match streams {
        [Ok(out), Ok(err), Ok(signal)] => {
            let e = execute(words, [&out, &err, &signal]);
            let word = [&[REFUSAL], e.to_string().as_bytes()].concat();
            let _ = rustix::io::write(&signal, &word);
            e
        }
        _ => Error::new("cannot copy a descriptor"),
    }
}

/// Executes the program with these descriptors, which must be the first after the standard streams.
fn execute(mut words: impl Iterator<Item = OsString>, streams: [&OwnedFd; 3]) -> Error {
    let Some(program) = words.next() else { return Error::invalid("no program is named") };
    let numbers = streams.map(AsRawFd::as_raw_fd);
    if numbers != [3, 4, 5] {
        return Error::new(format!(
            "descriptors are {numbers:?}: one was inherited that should not have been"
        ));
    }
    for stream in streams {
        if let Err(e) = rustix::io::fcntl_setfd(stream, FdFlags::empty()) {
            return e.into();
        }
    }
    let mut command = Command::new(program);
    command.args(words).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.exec().into()
}

/// The arguments of a query: each name, and its value.
pub fn query_arguments(query: &str) -> Vec<String> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    let words = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    words.flat_map(|(name, value)| [name, value].map(|word| decode(&word.replace('+', " ")))).collect()
}

/// Takes the percent-encoding off a part of a URI.
pub fn decode(text: &str) -> String {
    percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned()
}
