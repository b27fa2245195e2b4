//! Programs that cargo builds for the suites.

use crate::debian::run as execute;
use anyhow::{Context as _, Result, anyhow};
use serde_json::Value;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A program: the name of its target, and where it is.
pub(crate) type Program = (String, PathBuf);

/// Builds test programs of magikrun, and magikrun itself, with the features of `make test`: nothing is built a second time.
pub(crate) fn tests(names: &[&str]) -> Result<Vec<Program>> {
    let arguments = names.iter().flat_map(|name| ["--test", name]);
    let fixed = ["test", "--locked", "--all-features", "--no-run"];
    build(fixed.into_iter().chain(arguments).collect()).context("cannot build the tests")
}

/// Builds the programs of another package of the workspace. Each on its own, so that the features of one are not those of the
/// others, which would build everything twice.
pub(crate) fn package(name: &str, targets: &[&str]) -> Result<Vec<Program>> {
    let fixed = ["build", "--locked", "--package", name];
    build(fixed.into_iter().chain(targets.iter().copied()).collect())
        .with_context(|| format!("cannot build '{name}'"))
}

/// Builds them as they are released.
pub(crate) fn released(name: &str, targets: &[&str]) -> Result<Vec<Program>> {
    package(name, &["--release"].iter().chain(targets).copied().collect::<Vec<_>>())
}

/// The program with a name.
pub(crate) fn find(programs: &[Program], name: &str) -> Result<PathBuf> {
    programs
        .iter()
        .find(|(target, _)| target == name)
        .map(|(_, path)| path.clone())
        .ok_or_else(|| anyhow!("cargo did not build '{name}'"))
}

/// The names of the tests in a program.
pub(crate) fn list(program: &Path) -> Result<Vec<String>> {
    let text = execute(Command::new(program).args(["--list", "--format", "terse"]))?;
    Ok(text.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect())
}

/// Builds the program with libkrun for one of the system, into a folder with that library.
pub(crate) fn with_system_libkrun(folder: &Path) -> Result<()> {
    let mut script = in_repository("tools/krun-system.sh".into());
    script.env("CARGO", program()).arg(folder);
    execute(&mut script).context("cannot build 'magikrun-krun' for a libkrun of the system").map(drop)
}

fn program() -> OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

fn build(arguments: Vec<&str>) -> Result<Vec<Program>> {
    let mut cargo = in_repository(program());
    cargo.args(arguments).arg("--message-format=json");
    Ok(execute(&mut cargo)?.lines().filter_map(executable).collect())
}

/// A command that runs in the repository.
fn in_repository(name: OsString) -> Command {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."));
    let mut command = Command::new(name);
    command.current_dir(repository);
    // `cargo run` tells us about our own package: build scripts that look at it would all run again, and what depends on them.
    let told = |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(told)) {
        command.env_remove(name);
    }
    command
}

/// The program in one of cargo's messages.
fn executable(message: &str) -> Option<Program> {
    let message: Value = serde_json::from_str(message).ok()?;
    let path = message["executable"].as_str()?;
    Some((message["target"]["name"].as_str()?.to_owned(), path.into()))
}
