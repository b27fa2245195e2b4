//! File systems in user space: containerd's types `fuse.NAME` and `fuse3.NAME` are mounted by a program, mount(8)'s helper.

use crate::error::{Error, Result};
use crate::reaper::Reaper;
use crate::runtime::MemoryFile;
use containerd_shim_protos::types::mount::Mount;
use std::io::ErrorKind;
use std::path::Path;
use std::process::{Command, Stdio};

/// The types, and the programs that mount them.
const PROGRAMS: [(&str, &str); 2] = [("fuse.", "mount.fuse"), ("fuse3.", "mount.fuse3")];

/// The program for a type of mounts, and the file system that it is told.
pub fn find(kind: &str) -> Option<(&'static str, &str)> {
    PROGRAMS.into_iter().find_map(|(prefix, program)| Some((program, kind.strip_prefix(prefix)?)))
}

/// Mounts by a program. The server of the file system, which it leaves running, ends when it is unmounted.
pub fn mount(reaper: &Reaper, program: &str, name: &str, mount: &Mount, target: &Path) -> Result<()> {
    let log = MemoryFile::new(&[])?;
    let mut command = command(program, name, mount, target);
    command.stdin(Stdio::null()).stdout(log.writer()?).stderr(log.writer()?);
    let (_child, end) = reaper.spawn(&mut command).map_err(|e| missing(program, e))?;
    let exit = end.recv().map_err(|_| Error::new("the reaper is gone"))?;
    if exit.status == 0 {
        return Ok(());
    }
    let text = log.text();
    Err(Error::new(format!("'{program}' failed with exit status {}: {}", exit.status, text.trim())))
}

fn command(program: &str, name: &str, mount: &Mount, target: &Path) -> Command {
    let mut command = Command::new(program);
    command.arg(&mount.source).arg(target);
    command.args(mount.options.iter().flat_map(|option| ["-o", option])).args(["-t", name]);
    command
}

fn missing(program: &str, e: std::io::Error) -> Error {
    let help = if e.kind() == ErrorKind::NotFound {
        " (the packages of FUSE have it; it must be on PATH)"
    } else {
        ""
    };
    Error::from(e).wrap(format!("cannot execute '{program}'{help}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overlay() -> Mount {
        Mount {
            type_: "fuse3.fuse-overlayfs".to_owned(),
            source: "overlay".to_owned(),
            options: ["lowerdir=/a:/b", "ro"].map(str::to_owned).to_vec(),
            ..Mount::default()
        }
    }

    #[test]
    fn types_have_a_program_and_a_name() {
        assert_eq!(find("fuse3.fuse-overlayfs"), Some(("mount.fuse3", "fuse-overlayfs")));
        assert_eq!(find("fuse.a.b"), Some(("mount.fuse", "a.b")));
        for other in ["fuse", "fuseblk", "overlay", "fuse2.x"] {
            assert_eq!(find(other), None);
        }
    }

    #[test]
    fn the_command_line_is_that_of_containerd() {
        let command = command("mount.fuse3", "fuse-overlayfs", &overlay(), Path::new("/t"));
        let words: Vec<_> = command.get_args().map(|word| word.to_str().unwrap()).collect();
        assert_eq!(words.join(" "), "overlay /t -o lowerdir=/a:/b -o ro -t fuse-overlayfs");
    }

    #[test]
    fn what_a_program_says_is_in_the_error() {
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("script");
        // Both streams, in their order, and not until the server that it leaves behind closes them.
        std::fs::write(&script, "sleep 600 &\necho $!\necho \"no: $*\" >&2\nexit 3\n").unwrap();
        let run = |program: &str| {
            let mount = Mount { source: script.display().to_string(), ..overlay() };
            super::mount(&Reaper::shared(), program, "x", &mount, Path::new("/t")).unwrap_err().to_string()
        };
        let missing = run("mount.none");
        let expected = "cannot execute 'mount.none' (the packages of FUSE have it; it must be on PATH): no such file or directory";
        assert_eq!(missing, expected);
        // It takes the source for its script.
        let error = run("sh");
        let (start, rest) = error.split_once(": ").unwrap();
        assert_eq!(start, "'sh' failed with exit status 3");
        let (pid, rest) = rest.split_once('\n').unwrap();
        assert_eq!(rest, "no: /t -o lowerdir=/a:/b -o ro -t x");
        let pid = rustix::process::Pid::from_raw(pid.parse().unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    }
}
