//! Puts the commit into the binary, for `--version`.

use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=.git/HEAD");
    println!("cargo:rerun-if-changed=.git/refs/heads");
    println!("cargo:rerun-if-env-changed=MAGIKRUN_COMMIT");
    let commit = std::env::var("MAGIKRUN_COMMIT").ok().or_else(git_commit);
    println!("cargo:rustc-env=MAGIKRUN_COMMIT={}", commit.unwrap_or_else(|| "unknown".to_owned()));
}

fn git_commit() -> Option<String> {
    let output =
        Command::new("git").args(["describe", "--always", "--abbrev=40", "--dirty"]).output().ok()?;
    let commit = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !commit.is_empty()).then_some(commit)
}
