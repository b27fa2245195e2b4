//! A user namespace, which tells the kernel how the ids of a mount are mapped. It needs a process until somebody holds a descriptor of it,
//! and a program with threads cannot make one for itself: this program, once more.

use super::idmap::Mappings;
use crate::error::{Context as _, Error, Result};
use crate::reaper::Reaper;
use nix::sched::{CloneFlags, unshare};
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::process::{ChildStdout, Command, Stdio};

/// The first argument of this program when it is to become such a process.
pub const ARGUMENT: &str = "become-user-namespace";
/// What it says when it is in its namespace.
const READY: &str = "ready";

/// Waits in a new user namespace until standard input ends. An error goes to standard output, where somebody waits for it.
pub fn become_user_namespace() {
    let word = unshare(CloneFlags::CLONE_NEWUSER)
        .map_or_else(|e| Error::from(std::io::Error::from(e)).to_string(), |()| READY.to_owned());
    // Without a reader, nobody wants the namespace, and standard input has ended too.
    let _ = writeln!(std::io::stdout(), "{word}");
    let _ = std::io::stdin().read(&mut [0]);
}

/// Makes a user namespace with these mappings, which nothing holds but the descriptor.
pub fn make(reaper: &Reaper, mappings: &Mappings) -> Result<OwnedFd> {
    held_by(reaper, holder(), mappings).context(|| "cannot make a user namespace")
}

#[cfg(not(test))]
fn holder() -> Command {
    /// This program, also when its file has been replaced.
    const OWN: &str = "/proc/self/exe";
    let mut command = Command::new(OWN);
    command.arg(ARGUMENT);
    command
}

/// The program of unit tests has another main function.
#[cfg(test)]
fn holder() -> Command {
    tests::script("echo ready; read word")
}

/// Takes over the namespace of a command that says when it is in it, and ends when its standard input does.
fn held_by(reaper: &Reaper, mut command: Command, mappings: &Mappings) -> Result<OwnedFd> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let (mut child, end) = reaper.spawn(&mut command).context(|| "cannot execute this program")?;
    let stdout = child.stdout.take();
    let opened = stdout.ok_or_else(|| Error::new("no pipe")).and_then(|out| open(child.id(), out, mappings));
    drop(child.stdin.take());
    // How it ended does not matter, only that it has.
    let _ = end.recv();
    opened
}

fn open(pid: u32, stdout: ChildStdout, mappings: &Mappings) -> Result<OwnedFd> {
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line).context(|| "cannot read from a pipe")?;
    match line.trim_end() {
        READY => {}
        "" => return Err(Error::new("its process has ended")),
        error => return Err(Error::new(error)),
    }
    for (name, text) in [("gid_map", mappings.gids()), ("uid_map", mappings.uids())] {
        std::fs::write(format!("/proc/{pid}/{name}"), &text)
            .context(|| format!("cannot write '{}' to its {name}", text.trim_end().replace('\n', ", ")))?;
    }
    let file = File::open(format!("/proc/{pid}/ns/user")).context(|| "cannot open it")?;
    Ok(file.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    pub fn script(text: &str) -> Command {
        let mut command = Command::new("unshare");
        command.args(["--user", "sh", "-c", text]);
        command
    }

    #[test]
    fn what_goes_wrong_is_told() {
        let mappings = Mappings::parse("0:100000:10", "0:100000:10").unwrap();
        let error = |text: &str, mappings: &Mappings| {
            held_by(&Reaper::shared(), script(text), mappings).unwrap_err().to_string()
        };
        assert_eq!(error("echo no space left on device", &mappings), "no space left on device");
        assert_eq!(error("exit 1", &mappings), "its process has ended");
        // Two ranges that overlap.
        let wrong = Mappings::parse("0:100000:10,5:200000:10", "0:100000:10").unwrap();
        let text = error("echo ready; read word", &wrong);
        let expected = "cannot write '0 100000 10, 5 200000 10' to its uid_map: invalid argument";
        assert_eq!(text, expected);
    }
}
