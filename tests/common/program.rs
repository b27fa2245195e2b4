//! Programs that a test makes and executes.

use super::finish;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;

/// Copies a program to where it can be executed at once. A process of its own does that: a child that another thread of this one
/// starts meanwhile has everything that is open here until it executes its program, and nothing is executed that can be written to.
#[track_caller]
pub fn copy_program(from: &Path, to: &Path) {
    let mut install = Command::new("install");
    install.args(["-m", "755"]).args([from, to]);
    finish(install, None).success();
}

/// Makes a script that can be executed at once.
#[track_caller]
pub fn write_script(path: &Path, text: &str) {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(text.as_bytes()).expect("the script is written");
    copy_program(file.path(), path);
}
