//! Commands of a document, executed as somebody would who follows it, on a machine of which nothing is left afterwards.

use super::{Output, finish, runtime_path};
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;
use tempfile::TempDir;

/// Where the commands of a document are executed.
pub struct Commands(TempDir);

impl Commands {
    /// A folder with magikrun as a program in `bin`, and with `here`, where the commands begin.
    pub fn new() -> Self {
        let commands = Self(tempfile::Builder::new().prefix("mkt").tempdir().unwrap());
        for name in ["etc", "etc-work", "bin", "here"] {
            std::fs::create_dir(commands.at(name)).unwrap();
        }
        symlink(runtime_path(), commands.at("bin/magikrun")).unwrap();
        commands
    }

    /// A path in the folder.
    pub fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Executes a script, in which `$WORK` is the folder, in namespaces of its own. The last that is printed is its status.
    pub fn execute(&self, script: &str) -> Output {
        std::fs::write(self.at("script"), script).unwrap();
        let path = format!("{}:{}:/usr/sbin:/sbin", self.at("bin").display(), std::env::var("PATH").unwrap());
        let mut unshare = Command::new("unshare");
        // The first process of the pid namespace takes daemons and everything else with it.
        unshare.args(["--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]);
        unshare.args(["--propagation", "private", "sh", "-c", "sh \"$WORK/script\"; echo \"== status $?\""]);
        unshare.env("WORK", self.0.path()).env("PATH", path);
        unshare.env("HOME", self.at("here")).env("TMPDIR", self.0.path());
        unshare.current_dir(self.at("here"));
        finish(unshare, None)
    }
}
