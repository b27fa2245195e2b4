//! The program that a process executes: where it is found, and its environment.
//!
//! Nothing here asks name services or the locale: the files of a container must never load code into us.

use crate::failure::{Result, failure, text};
use crate::ffi;
use std::ffi::CString;
use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};
use vm_protocol::message::{Failure, FailureKind};
use vm_protocol::spec::Process;

/// Longest `/etc/passwd` that is searched for a home directory, in bytes.
const MAX_PASSWD: u64 = 1 << 20;

/// Executes the program of a process; returns only when that fails.
///
/// Each place where it may be is tried, and looked at only when none has it: the share of the host answers each question, and each is an
/// exit of the virtual machine.
pub fn execute(process: &Process) -> Failure {
    let strings = |all: &[String]| all.iter().filter_map(|text| CString::new(text.as_str()).ok()).collect();
    let args: Vec<CString> = strings(&process.args);
    let env: Vec<CString> = strings(&environment(process));
    let mut tried = Vec::new();
    for path in places(process) {
        let Ok(file) = CString::new(path.as_os_str().as_encoded_bytes()) else {
            return exec_failed(process, "the name of the program contains a nul byte");
        };
        let error = ffi::execve(&file, &args, &env);
        if !matches!(
            error.kind(),
            ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::PermissionDenied
        ) && let Err(failure) = missing(process, &path, &error)
        {
            return failure;
        }
        tried.push((path, error));
    }
    let found = tried.iter().find_map(|(path, error)| missing(process, path, error).err());
    if let Some(failure) = found {
        return failure;
    }
    let denied = tried.iter().any(|(_, error)| error.kind() == ErrorKind::PermissionDenied);
    let cause = if denied { "permission denied" } else { "executable file not found in $PATH" };
    exec_failed(process, cause)
}

/// Where the program may be: what its name says, or in the directories of `PATH`.
fn places(process: &Process) -> Vec<PathBuf> {
    let name = &process.args[0];
    if name.contains('/') {
        return vec![PathBuf::from(name)];
    }
    let directories = variable(process, "PATH").unwrap_or_default().split(':');
    directories
        .map(|directory| Path::new(if directory.is_empty() { "." } else { directory }).join(name))
        .collect()
}

/// Whether there is no program to execute at a path that was tried; otherwise why it cannot be executed.
fn missing(process: &Process, path: &Path, error: &std::io::Error) -> Result<()> {
    let found = rustix::fs::stat(path);
    match (error.kind(), found) {
        (ErrorKind::PermissionDenied, _) => Ok(()),
        (_, Err(e)) if process.args[0].contains('/') => {
            Err(exec_failed(process, &format!("stat {}: {}", process.args[0], text(&e.into()))))
        }
        (_, Err(_)) => Ok(()),
        // It is there, and something else is wrong, as with its interpreter.
        _ => Err(exec_failed(process, &text(error))),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn process(args: &[&str], env: &[&str]) -> Process {
        let own = |all: &[&str]| all.iter().map(|text| (*text).to_owned()).collect();
        Process { args: own(args), env: own(env), cwd: "/".to_owned(), ..Process::default() }
    }

    #[test]
    fn a_program_is_looked_for_in_path_or_missed_in_the_words_of_runc() {
        assert_eq!(
            places(&process(&["sh"], &["PATH=/a::/b"])),
            ["/a/sh", "./sh", "/b/sh"].map(PathBuf::from)
        );
        assert_eq!(places(&process(&["./sh"], &["PATH=/a"])), [Path::new("./sh")]);
        let message = |args: &[&str], env: &[&str]| execute(&process(args, env)).message;
        let missing = "exec: \"no-such-program\": executable file not found in $PATH";
        assert_eq!(message(&["no-such-program"], &["PATH=/bin:/etc/passwd"]), missing);
        assert_eq!(message(&["no-such-program"], &[]), missing);
        let missing = "exec: \"/no/such\": stat /no/such: no such file or directory";
        assert_eq!(message(&["/no/such"], &[]), missing);
        assert_eq!(message(&["/etc"], &[]), "exec: \"/etc\": permission denied");
        assert_eq!(message(&["group"], &["PATH=/no:/etc"]), "exec: \"group\": permission denied");
        let script = std::env::temp_dir().join(format!("vminit-script-{}", std::process::id()));
        std::fs::write(&script, "#!/no/such/interpreter\n").unwrap();
        std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let path = script.to_str().unwrap();
        assert_eq!(message(&[path], &[]), format!("exec: {path:?}: no such file or directory"));
        let (directory, name) = path.rsplit_once('/').unwrap();
        let variable = format!("PATH=/no:{directory}:/none");
        let without = format!("exec: {name:?}: no such file or directory");
        assert_eq!(message(&[name], &[&variable]), without);
        std::fs::remove_file(&script).unwrap();
    }

    #[test]
    fn the_last_variable_of_a_name_counts_and_there_is_a_home() {
        let all = environment(&process(&["x"], &["A=1", "B=2", "A=3"]));
        assert_eq!(all[..2], ["B=2", "A=3"]);
        assert!(all[2].starts_with("HOME=/"));
        assert_eq!(environment(&process(&["x"], &["HOME=/h"])), ["HOME=/h"]);
    }
}
