//! Puts the commit into the binary, for `--version`.

use std::path::Path;
use std::process::Command;

fn main() {
    // What changes with each commit and checkout; in a worktree it is not below `.git`, which is a file there.
    for name in ["HEAD", "logs/HEAD"] {
        let path = git(&["rev-parse", "--git-path", name]);
        if let Some(path) = path.filter(|path| Path::new(path).exists()) {
            println!("cargo:rerun-if-changed={path}");
        }
    }
    println!("cargo:rerun-if-env-changed=MAGIKRUN_COMMIT");
    let commit = std::env::var("MAGIKRUN_COMMIT").ok();
    let commit = commit.or_else(|| git(&["describe", "--always", "--abbrev=40", "--dirty"]));
    println!("cargo:rustc-env=MAGIKRUN_COMMIT={}", commit.unwrap_or_else(|| "unknown".to_owned()));
}

fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}
