//! The program that a process of a container executes: arguments, environment, directory, and where it is found.
//!
//! Nothing here asks the name services or the locale: after entering a container's root, its files must never
//! load code into us.

use crate::error::{Context as _, Error, ErrorKind, Result};
use nix::fcntl::AtFlags;
use oci_spec::runtime::Process;
use rustix::fs::{Access, FileType, Mode, OFlags, ResolveFlags};
use std::convert::Infallible;
use std::ffi::CString;
use std::io::Read as _;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

/// Longest `/etc/passwd` that is searched for a home directory, in bytes.
const MAX_PASSWD: u64 = 1 << 20;

/// What to execute.
#[derive(Debug)]
pub struct Program {
    args: Vec<String>,
    env: Vec<String>,
    cwd: PathBuf,
}

impl Program {
    /// Checks the process object; `extra_env` is added to its environment.
    pub fn new(process: &Process, extra_env: &[String]) -> Result<Self> {
        let args = process.args().clone().unwrap_or_default();
        if args.is_empty() {
            crate::bail!(InvalidBundle, "process.args: must not be empty");
        }
        let cwd = process.cwd().clone();
        if !cwd.is_absolute() {
            crate::bail!(InvalidBundle, "Cwd must be an absolute path: process.cwd is '{}'", cwd.display());
        }
        let env: Vec<String> = process.env().iter().flatten().chain(extra_env).cloned().collect();
        for text in args.iter().chain(&env) {
            if text.contains('\0') {
                crate::bail!(InvalidBundle, "process: '{}' contains a nul byte", text.escape_debug());
            }
        }
        for pair in &env {
            if pair.find('=').is_none_or(|at| at == 0) {
                crate::bail!(InvalidBundle, "invalid environment variable '{pair}': must be NAME=VALUE");
            }
        }
        Ok(Self { args, env: last_of_each_name(env), cwd })
    }

    /// Adds a variable; it replaces one of the same name.
    pub fn set_env(&mut self, name: &str, value: &str) {
        self.env.retain(|pair| name_of(pair) != name);
        self.env.push(format!("{name}={value}"));
    }

    /// Arguments, the name of the program first.
    pub fn args(&self) -> &[String] {
        &self.args
    }

    /// Environment: names and values.
    pub fn env(&self) -> impl Iterator<Item = (&str, &str)> {
        self.env.iter().filter_map(|pair| pair.split_once('='))
    }

    fn var(&self, name: &str) -> Option<&str> {
        self.env.iter().rev().find(|pair| name_of(pair) == name).map(|pair| &pair[name.len() + 1..])
    }

    /// In the container: gives the process a HOME if the configuration does not, as runc does.
    pub fn set_home(&mut self, uid: u32) {
        if self.var("HOME").is_none_or(str::is_empty) {
            let home = home_below(Path::new("/"), uid);
            self.set_env("HOME", &home);
        }
    }

    /// In the container: changes to the working directory. Fails with `EACCES` before the user is switched where only
    /// the user may enter it.
    pub fn enter_directory(&self) -> Result<()> {
        rustix::process::chdir(&self.cwd).map_err(|e| {
            Error::from(e)
                .wrap(format!("chdir to cwd (\"{}\") set in config.json failed", self.cwd.display()))
        })?;
        // A directory outside the root has no path here: a leaked descriptor under /proc/self/fd (CVE-2024-21626).
        let inside = rustix::process::getcwd(Vec::new()).is_ok_and(|path| path.to_bytes().starts_with(b"/"));
        if !inside {
            return Err(Error::new(
                ErrorKind::CreateFailed,
                "current working directory is outside of container mount namespace root -- possible container breakout detected",
            ));
        }
        Ok(())
    }

    /// In the container: finds the executable, in runc's words when it is not there.
    pub fn find(&self) -> Result<PathBuf> {
        let name = &self.args[0];
        let quote = |e: Error| {
            let text = format!("exec: {name:?}: {}", e.message());
            Error::from_parts(ErrorKind::ExecFailed, text, e.errno())
        };
        if name.contains('/') {
            return match executable(Path::new(name)) {
                Ok(()) => Ok(PathBuf::from(name)),
                Err(e) if e == rustix::io::Errno::ACCESS => Err(quote(e.into())),
                Err(e) => Err(quote(Error::from(e).wrap(format!("stat {name}")))),
            };
        }
        let mut denied = false;
        for dir in self.var("PATH").unwrap_or_default().split(':') {
            let path = Path::new(if dir.is_empty() { "." } else { dir }).join(name);
            match executable(&path) {
                Ok(()) => return Ok(path),
                Err(e) => denied |= e == rustix::io::Errno::ACCESS,
            }
        }
        if denied {
            return Err(quote(Error::from_errno(libc::EACCES)));
        }
        let missing = "executable file not found in $PATH".to_owned();
        Err(quote(Error::from_parts(ErrorKind::ExecFailed, missing, Some(libc::ENOENT))))
    }

    /// Executes the program; returns only when that fails.
    pub fn execute(&self, path: &Path) -> Result<Infallible> {
        use std::os::unix::ffi::OsStrExt as _;
        let file = CString::new(path.as_os_str().as_bytes()).map_err(|_| Error::from_errno(libc::EINVAL))?;
        let (args, env) = (c_strings(&self.args)?, c_strings(&self.env)?);
        nix::unistd::execve(&file, &args, &env)
            .or_kind(ErrorKind::ExecFailed, || format!("exec {}", path.display()))
    }

    /// Executes the program that `executable` is open on, with the same arguments and environment and one more variable.
    pub fn execute_descriptor(&self, executable: impl AsFd, variable: &str) -> Result<Infallible> {
        let (args, mut env) = (c_strings(&self.args)?, c_strings(&self.env)?);
        env.extend(c_strings(&[variable.to_owned()])?);
        nix::unistd::execveat(executable, c"", &args, &env, AtFlags::AT_EMPTY_PATH)
            .or_kind(ErrorKind::ExecFailed, || "exec the WebAssembly engine")
    }
}

fn c_strings(texts: &[String]) -> Result<Vec<CString>> {
    texts
        .iter()
        .map(|text| CString::new(text.as_str()).map_err(|_| Error::from_errno(libc::EINVAL)))
        .collect()
}

fn name_of(pair: &str) -> &str {
    pair.split('=').next().unwrap_or(pair)
}

/// The last of several values wins, in its place, as a shell would see it.
fn last_of_each_name(env: Vec<String>) -> Vec<String> {
    let mut seen = std::collections::HashSet::new();
    let mut unique: Vec<String> =
        env.into_iter().rev().filter(|pair| seen.insert(name_of(pair).to_owned())).collect();
    unique.reverse();
    unique
}

/// Tells why a file cannot be executed, in the way of Go's `LookPath`: a directory or a file without any execute
/// permission is "permission denied".
fn executable(path: &Path) -> std::result::Result<(), rustix::io::Errno> {
    let stat = rustix::fs::stat(path)?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        return Err(rustix::io::Errno::ACCESS);
    }
    match rustix::fs::accessat(rustix::fs::CWD, path, Access::EXEC_OK, rustix::fs::AtFlags::EACCESS) {
        // Kernels before 5.8 do not know faccessat2(2).
        Err(rustix::io::Errno::NOSYS) if stat.st_mode & 0o111 != 0 => Ok(()),
        Err(rustix::io::Errno::NOSYS) => Err(rustix::io::Errno::ACCESS),
        result => result,
    }
}

/// The home directory of a user in a container whose root is a directory that this process can reach.
pub fn home_below(root: &Path, uid: u32) -> String {
    home_directory(root, uid).unwrap_or_else(|| "/".to_owned())
}

/// The home directory that the container's `/etc/passwd` gives a user.
fn home_directory(root: &Path, uid: u32) -> Option<String> {
    // Not blocking, since the image may hold a FIFO there; and only a regular file is read.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(root, directory, Mode::empty()).ok()?;
    let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let fd = rustix::fs::openat2(&root, "etc/passwd", flags, Mode::empty(), inside).ok()?;
    if FileType::from_raw_mode(rustix::fs::fstat(&fd).ok()?.st_mode) != FileType::RegularFile {
        return None;
    }
    let mut data = Vec::new();
    std::fs::File::from(fd).take(MAX_PASSWD).read_to_end(&mut data).ok()?;
    home_in(&String::from_utf8_lossy(&data), uid)
}

/// name:password:uid:gid:gecos:home:shell, passwd(5).
fn home_in(passwd: &str, uid: u32) -> Option<String> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let found = fields.nth(2)?.parse::<u32>().ok()? == uid;
        let home = fields.nth(2)?;
        (found && !home.is_empty()).then(|| home.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn program(process: Value) -> Result<Program> {
        let mut full = json!({"user": {}, "cwd": "/", "args": ["sh"]});
        full.as_object_mut().unwrap().extend(process.as_object().unwrap().clone());
        Program::new(&serde_json::from_value(full).unwrap(), &[])
    }

    #[test]
    fn the_last_value_of_a_variable_wins() {
        let p = program(json!({"env": ["A=1", "B=2", "A=3"]})).unwrap();
        assert_eq!(p.env, ["B=2", "A=3"]);
        assert_eq!(p.var("A"), Some("3"));
    }

    #[test]
    fn a_bad_process_object_is_refused_with_its_place() {
        for (process, word) in [
            (json!({"args": []}), "process.args"),
            (json!({"cwd": "tmp"}), "process.cwd"),
            (json!({"env": ["novalue"]}), "novalue"),
            (json!({"env": ["=x"]}), "=x"),
            (json!({"args": ["a\0b"]}), "nul byte"),
        ] {
            let e = program(process).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::InvalidBundle);
            assert!(e.message().contains(word), "{e}");
        }
    }

    #[test]
    fn what_cannot_be_executed_is_told_in_the_words_of_runc() {
        let find = |args: &str, path: &str| {
            program(json!({"args": [args], "env": [format!("PATH={path}")]})).unwrap().find()
        };
        assert_eq!(find("sh", "/nonexistent:/bin").unwrap(), Path::new("/bin/sh"));
        let e = find("nope", "/bin").unwrap_err();
        assert_eq!(e.message(), "exec: \"nope\": executable file not found in $PATH");
        let e = find("/nope", "/bin").unwrap_err();
        assert_eq!(e.message(), "exec: \"/nope\": stat /nope: no such file or directory");
        let e = find("/etc/passwd", "").unwrap_err();
        assert_eq!(e.message(), "exec: \"/etc/passwd\": permission denied");
        let e = find("/etc", "").unwrap_err();
        assert_eq!(e.message(), "exec: \"/etc\": permission denied");
    }

    #[test]
    fn the_home_directory_is_found_by_user_id() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nbad line\nuser:x:1000:1000::/home/user:/bin/sh\nnohome:x:7:7:::\n";
        assert_eq!(home_in(passwd, 1000).as_deref(), Some("/home/user"));
        assert_eq!(home_in(passwd, 0).as_deref(), Some("/root"));
        assert_eq!(home_in(passwd, 7), None);
        assert_eq!(home_in(passwd, 1), None);
    }
}
