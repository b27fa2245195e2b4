//! The program that a process executes: where it is found, and its environment.
//!
//! Nothing here asks name services or the locale: the files of a container must never load code into us.

use crate::failure::{Result, failure, text};
use crate::ffi;
use rustix::fs::{Access, FileType};
use rustix::io::Errno;
use std::ffi::CString;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use vm_protocol::message::{Failure, FailureKind};
use vm_protocol::spec::Process;

/// Longest `/etc/passwd` that is searched for a home directory, in bytes.
const MAX_PASSWD: u64 = 1 << 20;

/// Executes the program of a process; returns only when that fails.
pub fn execute(process: &Process) -> Failure {
    let path = match find(process) {
        Ok(path) => path,
        Err(e) => return e,
    };
    let strings = |all: &[String]| all.iter().filter_map(|text| CString::new(text.as_str()).ok()).collect();
    let args: Vec<CString> = strings(&process.args);
    let env: Vec<CString> = strings(&environment(process));
    let Ok(file) = CString::new(path.into_os_string().into_encoded_bytes()) else {
        return exec_failed(process, "the name of the program contains a nul byte");
    };
    let error = ffi::execve(&file, &args, &env);
    exec_failed(process, &text(&error))
}

fn exec_failed(process: &Process, cause: &str) -> Failure {
    failure(FailureKind::ExecFailed, format!("exec: {:?}: {cause}", process.args[0]))
}

fn name_of(pair: &str) -> &str {
    pair.split('=').next().unwrap_or(pair)
}

fn variable<'a>(process: &'a Process, name: &str) -> Option<&'a str> {
    process.env.iter().rev().find(|pair| name_of(pair) == name).map(|pair| &pair[name.len() + 1..])
}

/// The last of each name, and a HOME if there is none.
fn environment(process: &Process) -> Vec<String> {
    let mut all: Vec<String> = Vec::with_capacity(process.env.len() + 1);
    for pair in process.env.iter().rev() {
        if !all.iter().any(|other| name_of(other) == name_of(pair)) {
            all.push(pair.clone());
        }
    }
    all.reverse();
    if variable(process, "HOME").is_none_or(str::is_empty) {
        all.retain(|pair| name_of(pair) != "HOME");
        all.push(format!("HOME={}", home(process.uid).unwrap_or_else(|| "/".to_owned())));
    }
    all
}

fn home(uid: u32) -> Option<String> {
    let mut passwd = String::new();
    std::fs::File::open("/etc/passwd").ok()?.take(MAX_PASSWD).read_to_string(&mut passwd).ok()?;
    let line = passwd.lines().find(|line| line.split(':').nth(2) == Some(&uid.to_string()))?;
    line.split(':').nth(5).filter(|home| home.starts_with('/')).map(str::to_owned)
}

fn find(process: &Process) -> Result<PathBuf> {
    let name = &process.args[0];
    if name.contains('/') {
        return match executable(Path::new(name)) {
            Ok(()) => Ok(PathBuf::from(name)),
            Err(Errno::ACCESS) => Err(exec_failed(process, "permission denied")),
            Err(e) => Err(exec_failed(process, &format!("stat {name}: {}", text(&e.into())))),
        };
    }
    let mut denied = false;
    for directory in variable(process, "PATH").unwrap_or_default().split(':') {
        let path = Path::new(if directory.is_empty() { "." } else { directory }).join(name);
        match executable(&path) {
            Ok(()) => return Ok(path),
            Err(e) => denied |= e == Errno::ACCESS,
        }
    }
    let cause = if denied { "permission denied" } else { "executable file not found in $PATH" };
    Err(exec_failed(process, cause))
}

fn executable(path: &Path) -> rustix::io::Result<()> {
    let stat = rustix::fs::stat(path)?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        return Err(Errno::ACCESS);
    }
    rustix::fs::accessat(rustix::fs::CWD, path, Access::EXEC_OK, rustix::fs::AtFlags::EACCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(args: &[&str], env: &[&str]) -> Process {
        let own = |all: &[&str]| all.iter().map(|text| (*text).to_owned()).collect();
        Process { args: own(args), env: own(env), cwd: "/".to_owned(), ..Process::default() }
    }

    #[test]
    fn a_program_is_found_in_path_or_missed_in_the_words_of_runc() {
        assert_eq!(find(&process(&["sh"], &["PATH=/nonexistent:/bin"])).unwrap(), Path::new("/bin/sh"));
        let missing = find(&process(&["no-such-program"], &["PATH=/bin"])).unwrap_err();
        assert_eq!(missing.message, "exec: \"no-such-program\": executable file not found in $PATH");
        let missing = find(&process(&["/no/such"], &[])).unwrap_err();
        assert_eq!(missing.message, "exec: \"/no/such\": stat /no/such: no such file or directory");
        let denied = find(&process(&["/etc"], &[])).unwrap_err();
        assert_eq!(denied.message, "exec: \"/etc\": permission denied");
    }

    #[test]
    fn the_last_variable_of_a_name_counts_and_there_is_a_home() {
        let all = environment(&process(&["x"], &["A=1", "B=2", "A=3"]));
        assert_eq!(all[..2], ["B=2", "A=3"]);
        assert!(all[2].starts_with("HOME=/"));
        assert_eq!(environment(&process(&["x"], &["HOME=/h"])), ["HOME=/h"]);
    }
}
